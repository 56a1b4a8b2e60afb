"""AudioSet: some 2 million stretches of ten seconds of videos from the web, each with any of 527 sounds."""

from __future__ import annotations

import csv
import math
from pathlib import Path

from video_ssl.datasets.errors import TableError, shown
from video_ssl.datasets.lists.text_files import csv_rows, read_text
from video_ssl.datasets.paths import SOUND_SUFFIXES, VIDEO_SUFFIXES
from video_ssl.datasets.public.annotations import (
    Annotations,
    Split,
    find_annotation,
    shared_between,
    without_doubles,
)

_SOURCE = "https://research.google.com/audioset/download.html (the CSV files; the videos are on YouTube, many are gone)"
_LAYOUT = (
    "ID_START_END.mp4 (milliseconds: abc_30000_40000.mp4) or ID.mp4, or sound alone (.wav, .flac, ...), in any folder "
    "below the root."
)
_FILES = {
    "train": "balanced_train_segments.csv",
    "unbalanced": "unbalanced_train_segments.csv",
    "test": "eval_segments.csv",
}


def read_audioset(root: Path) -> Annotations:
    """Returns the splits train (balanced), unbalanced and test of the published CSV files, those that are there.

    Lines are `ID, start, end, "MID,MID,..."` in seconds, behind lines of comments (#); class_labels_indices.csv has
    index, mid and display_name.  Files below the root are the stretches, not whole videos; how copies name them is
    (unverified).  `labels` are all classes of a stretch.

    Raises:
        TableError: the classes or the evaluation file are missing, or a file has another form.
    """
    classes = _find(root, "class_labels_indices.csv")
    numbers, class_names = _classes(classes)
    files, notes, splits = [classes], list[str](), dict[str, Split]()
    for split, name in _FILES.items():
        file = _find(root, name) if split == "test" else _beside(root, name)
        files.append(file)
        if file.is_file():
            splits[split] = without_doubles(split, _split(split, file, numbers), notes)
    shared_between(splits, notes)
    return Annotations(
        splits=splits,
        files=files,
        class_names=class_names,
        source=_SOURCE,
        layout=_LAYOUT,
        suffixes=(*VIDEO_SUFFIXES, *SOUND_SUFFIXES),
        notes=notes,
    )


def _find(root: Path, name: str) -> Path:
    return find_annotation(root, [f"annotations/{name}", name], source=_SOURCE)


def _beside(root: Path, name: str) -> Path:
    """The file where it is, or where it would be looked for."""
    places = [root / "annotations" / name, root / name]
    return next((place for place in places if place.is_file()), places[0])


def _classes(file: Path) -> tuple[dict[str, int], list[str]]:
    """Identifier of each class -> its number, and the names by number."""
    rows = csv_rows(file, ("index", "mid", "display_name"), "index,mid,display_name")
    numbers: dict[str, int] = {}
    for place, (line, row) in enumerate(rows):
        if row["index"] != str(place) or row["mid"] in numbers:
            raise TableError(
                f"{file} line {line}: {shown(','.join(row.values()))} must have the index {place} and a mid of its "
                "own. Get the file again."
            )
        numbers[row["mid"]] = place
    return numbers, [row["display_name"] for _, row in rows]


def _split(split: str, file: Path, numbers: dict[str, int]) -> Split:
    names, others, ids, groups, labels = [], [], [], [], []
    lines = read_text(file).splitlines(keepends=True)
    reader = csv.reader(lines, skipinitialspace=True)
    for fields in reader:
        if not fields or fields[0].startswith("#"):
            continue
        key, start, end, own = _row(file, reader.line_num, fields, numbers)
        stem = f"{key}_{round(1000 * start)}_{round(1000 * end)}"
        names.append(f"{split}/{stem}")
        others.append(f"{split}/{key}")
        ids.append(stem)
        groups.append(key)
        labels.append(own)
    return Split(
        names=names,
        columns={"id": ids, "group": groups, "labels": labels},
        other_names=others,
    )


def _row(
    file: Path, line: int, fields: list[str], numbers: dict[str, int]
) -> tuple[str, float, float, list[int]]:
    where = f"{file} line {line}"
    if len(fields) != 4:
        raise TableError(
            f'{where}: {shown(",".join(fields))} has {len(fields)} fields, not `ID, start, end, "MID,..."`.'
        )
    try:
        start, end = float(fields[1]), float(fields[2])
    except ValueError:
        start = end = math.nan
    if not 0 <= start < end < math.inf:
        raise TableError(
            f"{where}: {fields[1]!r} to {fields[2]!r} is no stretch of a video: both must be seconds."
        )
    mids = [mid.strip() for mid in fields[3].split(",")]
    unknown = [mid for mid in mids if mid not in numbers]
    if unknown:
        raise TableError(
            f"{where}: the class {unknown[0]!r} is not in class_labels_indices.csv: the two do not belong together."
        )
    return fields[0], start, end, sorted(numbers[mid] for mid in mids)
