"""Kinetics-400, 600 and 700: ten-second clips of videos from the web, 400 to 700 actions."""

from __future__ import annotations

import math
from pathlib import Path

from video_ssl.datasets.errors import TableError, shown
from video_ssl.datasets.lists.text_files import csv_rows
from video_ssl.datasets.public.annotations import (
    Annotations,
    Split,
    find_annotation,
    shared_between,
    without_doubles,
)

Rows = list[tuple[int, dict[str, str]]]

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
    found: dict[str, Rows] = {}
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
        found[split] = csv_rows(file, _COLUMNS, "label,youtube_id,time_start,time_end,split")
        _refuse_labels_that_are_none(file, found[split], may_lack=split == "test")
    class_names = sorted(
        {row["label"] for rows in found.values() for _, row in rows if row.get("label")}
    )
    if len(class_names) != classes:
        raise TableError(
            f"{root}: the annotation files name {len(class_names)} classes, not {classes}: "
            "they belong to another version of Kinetics."
        )
    number = {name: label for label, name in enumerate(class_names)}
    notes: list[str] = []
    splits = {
        split: without_doubles(split, _split(split, file, rows, number, untrimmed), notes)
        for file, (split, rows) in zip(files, found.items(), strict=True)
    }
    shared_between(splits, notes)
    return Annotations(
        splits=splits,
        notes=notes,
        files=files,
        class_names=class_names,
        source=source,
        layout=_LAYOUT,
    )


def _refuse_labels_that_are_none(file: Path, rows: Rows, *, may_lack: bool) -> None:
    for line, row in rows:
        label = row.get("label") or ""
        if label.strip().isdecimal():
            raise TableError(
                f"{file} line {line}: the label is the number {label}, but numbers are given to names in sorted order: "
                "give the names of the classes, as the official files do."
            )
        if not label and not may_lack:
            raise TableError(f"{file} line {line} has no label: {shown(','.join(row.values()))}.")


def _split(split: str, file: Path, rows: Rows, number: dict[str, int], untrimmed: bool) -> Split:
    names, others, ids, starts, ends = [], [], [], [], []
    for line, row in rows:
        start, end = _times(file, line, row)
        folder = f"{split}/{row.get('label') or ''}/"
        stem = f"{row['youtube_id']}_{int(start):06d}_{int(end):06d}"
        names.append(f"{folder}{row['youtube_id'] if untrimmed else stem}")
        others.append(f"{folder}{row['youtube_id']}")
        ids.append(stem)
        starts.append(start)
        ends.append(end)
    columns: dict[str, list] = {
        "id": ids,
        "label": [number.get(row.get("label") or "") for _, row in rows],
        "group": [row["youtube_id"] for _, row in rows],
    }
    if untrimmed:
        columns |= {"start_sec": starts, "end_sec": ends}
    return Split(names=names, columns=columns, other_names=() if untrimmed else others)


def _times(file: Path, line: int, row: dict[str, str]) -> tuple[float, float]:
    """Start and end of a clip in seconds; some files write them with a fraction of zero."""
    try:
        start, end = float(row["time_start"]), float(row["time_end"])
    except ValueError:
        start = end = math.nan
    if not (0 <= start < end < math.inf):
        raise TableError(
            f"{file} line {line} ({row['youtube_id']}): time_start={row['time_start']!r}, time_end={row['time_end']!r} "
            "are no stretch of a video: both must be seconds, the end after the start. Mend or remove the line."
        )
    return start, end
