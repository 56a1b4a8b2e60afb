"""GOT-10k: one target in every picture of about 10,000 sequences.

The layout is from memory (unverified).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from video_ssl.datasets.lists.text_files import numbered_lines
from video_ssl.datasets.paths import PICTURE_SUFFIXES, natural_key
from video_ssl.datasets.public.annotations import Annotations, Split
from video_ssl.datasets.public.otb import read_rectangles
from video_ssl.datasets.table import TableError

_SOURCE = "http://got-10k.aitestunion.com/downloads"
_LAYOUT = "{train,val}/GOT-10k_Train_000001/00000001.jpg with groundtruth.txt and, where it is there, absence.label"


def read_got10k(root: Path) -> Annotations:
    """Returns the splits train and val, as far as they are there: a record for every sequence.

    `groundtruth.txt` has left, top, width, height in pixels, taken as they are; pictures that `absence.label` marks
    with 1 have no box.

    Raises:
        TableError: no sequence; another number of boxes or marks than pictures; a line that is no box.
    """
    splits, files = {}, []
    for split in ("train", "val"):
        folders = sorted(
            (file.parent for file in (root / split).glob("*/groundtruth.txt")),
            key=lambda folder: natural_key(folder.name),
        )
        if not folders:
            continue
        columns: dict[str, list[Any]] = {"boxes": [], "num_frames": []}
        for folder in folders:
            boxes = _boxes(folder)
            columns["boxes"].append(boxes)
            columns["num_frames"].append(len(boxes))
            files += [folder / "groundtruth.txt", folder / "absence.label"]
        names = [f"{split}/{folder.name}" for folder in folders]
        splits[split] = Split(names=names, columns=columns)
    if not splits:
        raise TableError(
            f"{root} has no file SEQUENCE/groundtruth.txt in train or val. Get it from {_SOURCE}; laid out "
            f"as {_LAYOUT}."
        )
    return Annotations(splits=splits, files=files, class_names=[], source=_SOURCE, layout=_LAYOUT)


def _boxes(folder: Path) -> np.ndarray:
    """Boxes of a sequence as tables have them, float32 (T, 1, 4), NaN where the target is not to be seen."""
    pictures = sorted(p for p in folder.iterdir() if p.suffix.lower() in PICTURE_SUFFIXES)
    rows = read_rectangles(folder / "groundtruth.txt")
    if len(rows) != len(pictures):
        raise TableError(
            f"{folder} has {len(pictures)} pictures, but {len(rows)} boxes: copy it again."
        )
    with Image.open(pictures[0]) as picture:
        width, height = picture.size
    left, top, w, h = rows.T
    corners = np.stack([left, top, left + w, top + h], -1) / [width, height, width, height]
    absence = folder / "absence.label"
    if absence.is_file():
        marks = [line for _, line in numbered_lines(absence)]
        if len(marks) != len(rows) or set(marks) - {"0", "1"}:
            raise TableError(f"{absence} must have a 0 or a 1 for each of {len(rows)} pictures.")
        corners[np.array(marks) == "1"] = np.nan
    return corners[:, None].astype(np.float32)
