"""ESC-50: 2,000 recordings of 5 seconds of 50 sounds, in five folds; sound alone."""

from __future__ import annotations

from pathlib import Path

from video_ssl.datasets.errors import TableError, shown
from video_ssl.datasets.lists.text_files import csv_rows
from video_ssl.datasets.paths import SOUND_SUFFIXES
from video_ssl.datasets.public.annotations import Annotations, Split, find_annotation

_SOURCE = "https://github.com/karolpiczak/ESC-50 (audio/*.wav, meta/esc50.csv)"
_LAYOUT = "audio/NAME.wav, or NAME.wav in any folder below the root."
_COLUMNS = ("filename", "fold", "target", "category", "src_file")
_FOLDS = 5


def read_esc50(root: Path) -> Annotations:
    """Returns the splits train1, test1, ..., train5, test5 of meta/esc50.csv: each fold is tested by the four others.

    The columns are filename, fold, target, category, esc10, src_file, take.  `group` is the recording that a file was
    cut out of.

    Raises:
        TableError: the file is missing or has another form, or two numbers for one class.
    """
    file = find_annotation(root, ["meta/esc50.csv", "esc50.csv"], source=_SOURCE)
    rows = csv_rows(file, _COLUMNS, "filename,fold,target,category,esc10,src_file,take")
    names: dict[int, str] = {}
    folds: list[int] = []
    for line, row in rows:
        fold, target = row["fold"], row["target"]
        if not (fold.isdecimal() and target.isdecimal() and 1 <= int(fold) <= _FOLDS):
            raise TableError(
                f"{file} line {line}: fold {shown(fold)} must be 1 to {_FOLDS}, target {shown(target)} a number."
            )
        if names.setdefault(int(target), row["category"]) != row["category"]:
            raise TableError(
                f"{file} line {line}: class {target} is {row['category']!r}, but was {names[int(target)]!r} before."
            )
        folds.append(int(fold))
    if sorted(names) != list(range(len(names))):
        raise TableError(f"{file}: targets must number {len(names)} classes from 0, each of them.")
    plain = [row for _, row in rows]
    splits = {
        f"{kind}{fold}": _split(
            [
                row
                for row, own in zip(plain, folds, strict=True)
                if (own == fold) == (kind == "test")
            ]
        )
        for fold in range(1, _FOLDS + 1)
        for kind in ("train", "test")
    }
    return Annotations(
        splits=splits,
        files=[file],
        class_names=[names[number] for number in range(len(names))],
        source=_SOURCE,
        layout=_LAYOUT,
        suffixes=SOUND_SUFFIXES,
    )


def _split(rows: list[dict[str, str]]) -> Split:
    return Split(
        names=[row["filename"].rpartition(".")[0] for row in rows],
        columns={
            "label": [int(row["target"]) for row in rows],
            "group": [row["src_file"] for row in rows],
        },
    )
