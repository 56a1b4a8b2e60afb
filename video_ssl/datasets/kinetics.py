"""Kinetics-400, 600 and 700: ten-second clips of videos from the web, 400 to 700 actions."""

from __future__ import annotations

import csv
from pathlib import Path

from video_ssl.datasets.public import Annotations, Split, find_annotation
from video_ssl.datasets.table import TableError
from video_ssl.recipes import nearest

_LAYOUT = (
    "ID_START_END.mp4 (seconds, six digits: abc_000010_000020.mp4) or ID.mp4 in any folder below the root; "
    "of several with one name that in a folder called like the split or the class."
)
_FILES = {
    "train": ("train",),
    "val": ("val", "validate", "validation"),
    "test": ("test",),
}
_COLUMNS = ("youtube_id", "time_start", "time_end")


def read_kinetics(root: Path, classes: int, untrimmed: bool = False) -> Annotations:
    """Returns the splits train, val and test (where its file is there) of the official CSV files.

    Their columns are label, youtube_id, time_start, time_end, split and sometimes is_cc; test files may have no label.
    Labels number the names in sorted order, as published models do.  The files are called train.csv, val.csv or
    validate.csv, test.csv (or kinetics400_train.csv ...), in `annotations` or the root.

    Args:
        root: of the data set.
        classes: 400, 600 or 700.
        untrimmed: the files are whole videos, and records are the stretches from time_start to time_end.

    Raises:
        TableError: train or val file missing, one of its columns, or classes in another number.
    """
    source = (
        "https://github.com/cvdfoundation/kinetics-dataset (videos and annotation files; the videos on the web "
        f"vanish, so sets differ between copies) for Kinetics-{classes}"
    )
    found: dict[str, list[dict[str, str]]] = {}
    files = []
    for split, words in _FILES.items():
        names = [
            f"{folder}{begin}{word}.csv"
            for word in words
            for folder in ("annotations/", "")
            for begin in ("", f"kinetics{classes}_", f"kinetics-{classes}_", f"kinetics_{classes}_")
        ]
        try:
            file = find_annotation(root, names, source=source)
        except TableError:
            if split == "test":
                continue
            raise
        files.append(file)
        found[split] = _rows(file)
    class_names = sorted(
        {row["label"] for rows in found.values() for row in rows if row.get("label")}
    )
    if len(class_names) != classes:
        raise TableError(
            f"{root}: the annotation files name {len(class_names)} classes, not {classes}: "
            "they belong to another version of Kinetics."
        )
    number = {name: label for label, name in enumerate(class_names)}
    return Annotations(
        splits={split: _split(split, rows, number, untrimmed) for split, rows in found.items()},
        files=files,
        class_names=class_names,
        source=source,
        layout=_LAYOUT,
    )


def _rows(file: Path) -> list[dict[str, str]]:
    with open(file, newline="", encoding="utf-8-sig") as lines:
        reader = csv.DictReader(lines)
        columns = reader.fieldnames or []
        for name in _COLUMNS:
            if name not in columns:
                raise TableError(
                    f"{file} has no column {name!r}, only {list(columns)}.{nearest(name, columns)} "
                    "A Kinetics file has label,youtube_id,time_start,time_end,split."
                )
        return list(reader)


def _split(
    split: str, rows: list[dict[str, str]], number: dict[str, int], untrimmed: bool
) -> Split:
    names, others, ids, starts, ends = [], [], [], [], []
    for row in rows:
        # Some files write seconds with a fraction of zero.
        start, end = float(row["time_start"]), float(row["time_end"])
        folder = f"{split}/{row.get('label') or ''}/"
        stem = f"{row['youtube_id']}_{int(start):06d}_{int(end):06d}"
        names.append(f"{folder}{row['youtube_id'] if untrimmed else stem}")
        others.append(f"{folder}{row['youtube_id']}")
        ids.append(stem)
        starts.append(start)
        ends.append(end)
    columns: dict[str, list] = {
        "id": ids,
        "label": [number.get(row.get("label") or "") for row in rows],
        "group": [row["youtube_id"] for row in rows],
    }
    if untrimmed:
        columns |= {"start_sec": starts, "end_sec": ends}
    return Split(names=names, columns=columns, other_names=() if untrimmed else others)
