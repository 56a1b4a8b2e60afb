"""YouCook2: 2,000 cooking videos, cut into some 14,000 steps with a sentence each."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from video_ssl.datasets.errors import TableError
from video_ssl.datasets.lists.text_files import read_json
from video_ssl.datasets.public.annotations import Annotations, Split, find_annotation

_SOURCE = "http://youcook2.eecs.umich.edu/download (youcookii_annotations_trainval.json; address unverified)"
_LAYOUT = "ID.mp4 (or .mkv, .webm), the whole video, in any folder below the root."
_SUBSETS = {"training": "train", "validation": "val"}


def read_youcook2(root: Path) -> Annotations:
    """Returns the splits train and val of youcookii_annotations_trainval.json: a record for each step of a video.

    The file holds {"database": {ID: {"subset": "training" or "validation", "annotations": [{"segment": [start, end],
    "id": number, "sentence": text}]}}}, times in seconds; other subsets are passed over.  `group` is the video.  Form
    of the file: (unverified).

    Raises:
        TableError: the file is missing or has another form, or a step is no stretch of time.
    """
    names = [
        "youcookii_annotations_trainval.json",
        "annotations/youcookii_annotations_trainval.json",
    ]
    file = find_annotation(root, names, source=_SOURCE)
    found: dict[str, list[dict[str, Any]]] = {split: [] for split in _SUBSETS.values()}
    try:
        for key, video in read_json(file, dict)["database"].items():
            split = _SUBSETS.get(video["subset"])
            if split is not None:
                found[split] += [_step(file, key, step) for step in video["annotations"]]
    except (KeyError, TypeError, AttributeError, ValueError) as err:
        if isinstance(err, TableError):
            raise
        raise TableError(
            f"{file} must hold a `database` of videos with `subset` and `annotations`, each with `segment`, `id` and "
            f"`sentence` ({err!r})."
        ) from err
    return Annotations(
        splits={split: _split(rows) for split, rows in found.items()},
        files=[file],
        class_names=(),
        source=_SOURCE,
        layout=_LAYOUT,
    )


def _step(file: Path, key: str, step: Any) -> dict[str, Any]:
    start, end = (float(second) for second in step["segment"])
    if not 0 <= start < end < math.inf:
        raise TableError(
            f"{file}: step {step['id']} of {key} lasts from {start} to {end} s, which is no stretch of a video. Mend "
            "or remove it."
        )
    captions = [{"text": str(step["sentence"]).strip(), "start_sec": start, "end_sec": end}]
    return {
        "name": key,
        "id": f"{key}_{int(step['id']):02d}",
        "start_sec": start,
        "end_sec": end,
        "group": key,
        "captions": captions,
    }


def _split(rows: list[dict[str, Any]]) -> Split:
    columns = ("id", "start_sec", "end_sec", "group", "captions")
    return Split(
        names=[row["name"] for row in rows],
        columns={name: [row[name] for row in rows] for name in columns},
    )
