"""OTB2015: a target in every frame of 100 sequences, some of which have two of them.

The layout and the special frame ranges are those that trackers' toolkits know (from memory, unverified).
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from video_ssl.datasets.lists.text_files import numbered_lines
from video_ssl.datasets.paths import PICTURE_SUFFIXES, natural_key
from video_ssl.datasets.public.annotations import Annotations, Split
from video_ssl.datasets.table import TableError

_SOURCE = "http://cvlab.hanyang.ac.kr/tracker_benchmark/datasets.html"
_LAYOUT = "SEQUENCE/img/0001.jpg and SEQUENCE/groundtruth_rect.txt (.1.txt, .2.txt for two targets)"
#: Sequence -> first and last picture (from 1) that its boxes are of, where that is not all of them.
FRAME_RANGES = {
    "david": (300, 770),
    "football1": (1, 74),
    "freeman3": (1, 460),
    "freeman4": (1, 283),
    "diving": (1, 215),
}


def read_otb(root: Path) -> Annotations:
    """Returns the split test, a record for every sequence with its targets as the boxes of its pictures.

    Boxes of the files are left, top, width, height in pixels that count from 1, with commas, tabs or spaces between.
    Pictures without boxes (before and behind the range of a sequence, or where the file ends early) have NaN.

    Raises:
        TableError: no sequence; a line that is no box; more boxes than pictures.
    """
    sequences = sorted(
        {file.parent for file in root.glob("*/groundtruth_rect*.txt")},
        key=lambda folder: natural_key(folder.name),
    )
    if not sequences:
        raise TableError(
            f"{root} has no file SEQUENCE/groundtruth_rect.txt. Get it from {_SOURCE}; laid out as {_LAYOUT}."
        )
    names, boxes, counts, files, notes = [], [], [], [], []
    for folder in sequences:
        pictures = sorted(
            (p for p in (folder / "img").glob("*") if p.suffix.lower() in PICTURE_SUFFIXES),
            key=lambda p: natural_key(p.name),
        )
        own = sorted(folder.glob("groundtruth_rect*.txt"), key=lambda p: natural_key(p.name))
        files += own
        if not pictures:
            notes.append(f"{folder.name} has no pictures in img and is left out")
            continue
        found, note = _targets(folder.name, own, pictures)
        notes += note
        names.append(f"{folder.name}/img")
        boxes.append(found)
        counts.append(len(pictures))
    columns: dict[str, list[Any]] = {"boxes": boxes, "num_frames": counts, "group": names}
    return Annotations(
        splits={"test": Split(names=names, columns=columns)},
        files=files,
        class_names=[],
        source=_SOURCE,
        layout=_LAYOUT,
        notes=notes,
    )


def _targets(name: str, files: list[Path], pictures: list[Path]) -> tuple[np.ndarray, list[str]]:
    """Boxes of all targets in all pictures as tables have them, float32 (T, K, 4), and what is odd."""
    first, last = FRAME_RANGES.get(name.lower(), (1, len(pictures)))
    room = min(last, len(pictures)) - first + 1
    with Image.open(pictures[0]) as picture:
        width, height = picture.size
    found = np.full((len(pictures), len(files), 4), np.nan, np.float32)
    notes = []
    for k, file in enumerate(files):
        rows = read_rectangles(file)
        if len(rows) > room:
            raise TableError(
                f"{file} has {len(rows)} boxes, but {name} has {room} pictures from number {first} on: is the folder "
                "img complete?"
            )
        if len(rows) < room:
            notes.append(
                f"{file.name} of {name} has {len(rows)} boxes of {room} pictures: the rest is not judged"
            )
        left, top, w, h = (rows - [1, 1, 0, 0]).T
        corners = np.stack([left, top, left + w, top + h], -1) / [width, height, width, height]
        found[first - 1 : first - 1 + len(rows), k] = corners
    return found, notes


def read_rectangles(file: Path) -> np.ndarray:
    """Returns the boxes of a ground truth file, float64 (T, 4): left, top, width, height, as they are there.

    Raises:
        TableError: a line without four numbers; none at all.
    """
    rows = []
    for number, line in numbered_lines(file):
        fields = [field for field in re.split(r"[,\t ]+", line) if field]
        try:
            row = [float(field) for field in fields]
        except ValueError:
            row = []
        if len(row) != 4 or not np.isfinite(row).all() or min(row[2:]) < 0:
            raise TableError(
                f"{file}, line {number} is {line[:60]!r}: left, top, width and height are needed, with commas, tabs or "
                "spaces between."
            )
        rows.append(row)
    if not rows:
        raise TableError(f"{file} has no boxes: copy it again.")
    return np.array(rows)
