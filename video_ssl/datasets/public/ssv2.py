"""Something-Something v2: 220,847 clips of 174 actions with things; left and right matter."""

from __future__ import annotations

import csv
import re
from pathlib import Path

from video_ssl.datasets.errors import TableError, shown
from video_ssl.datasets.lists.text_files import numbered_lines, read_json
from video_ssl.datasets.public.annotations import Annotations, Split, find_annotation

_SOURCE = (
    "https://www.qualcomm.com/developer/software/something-something-v-2-dataset "
    "(free account; unverified address)"
)
_LAYOUT = "ID.webm (or ID.mp4, or a folder ID of frames) in any folder below the root."


def read_ssv2(root: Path) -> Annotations:
    """Returns the splits train, val and test (where its answers are there).

    Read are train.json, validation.json, labels.json and test-answers.csv of the present release, or
    something-something-v2-train.json ... of the older one, in `labels`, `annotations` or the root.  The class is the
    template without its brackets, the sentence with the things named becomes the caption.  Tables say `no_flip`:
    a mirrored "from left to right" is another class.

    Raises:
        TableError: a file is missing or has another form.
    """
    labels_file = _find(root, "labels.json")
    label_of = _numbered_templates(labels_file)
    class_names = sorted(label_of, key=lambda name: label_of[name])
    files, splits = [labels_file], {}
    for split, name in (("train", "train.json"), ("val", "validation.json")):
        file = _find(root, name)
        files.append(file)
        splits[split] = _listed(file, label_of)
    answers = [f for f in _candidates("test-answers.csv") if (root / f).is_file()]
    if answers:
        files.append(root / answers[0])
        splits["test"] = _answers(root / answers[0], label_of)
    return Annotations(
        splits=splits,
        files=files,
        class_names=class_names,
        source=_SOURCE,
        layout=_LAYOUT,
        metadata={"no_flip": True},
    )


def _candidates(name: str) -> list[str]:
    folders = ("labels/", "annotations/", "")
    return [f + begin + name for f in folders for begin in ("", "something-something-v2-")]


def _find(root: Path, name: str) -> Path:
    return find_annotation(root, _candidates(name), source=_SOURCE)


def _numbered_templates(file: Path) -> dict[str, int]:
    """Template -> number, of a file that counts from 0."""
    found: dict[str, int] = {}
    for name, number in read_json(file, dict).items():
        if not re.fullmatch(r"\d{1,6}", str(number)):
            raise TableError(
                f"{file}: {name!r} has the number {shown(number)}: an integer is wanted."
            )
        found[str(name)] = int(number)
    if sorted(found.values()) != list(range(len(found))):
        raise TableError(
            f"{file} must number its {len(found)} templates from 0 to {len(found) - 1}, each once, but has the numbers "
            f"{min(found.values(), default=0)} to {max(found.values(), default=0)}. Get it from {_SOURCE}."
        )
    return found


def _label(template: str, label_of: dict[str, int], file: Path) -> int:
    name = template.replace("[", "").replace("]", "")
    if name not in label_of:
        raise TableError(f"{file}: the template {template!r} is not in labels.json.")
    return label_of[name]


def _listed(file: Path, label_of: dict[str, int]) -> Split:
    items = read_json(file, list)
    try:
        names = [str(item["id"]) for item in items]
        labels = [_label(item["template"], label_of, file) for item in items]
    except (KeyError, TypeError) as err:
        raise TableError(f"{file}: every item must have `id` and `template` ({err!r}).") from err
    captions = [[{"text": item["label"]}] if item.get("label") else None for item in items]
    return Split(names=names, columns={"label": labels, "captions": captions})


def _answers(file: Path, label_of: dict[str, int]) -> Split:
    """Lines `ID;template without brackets`."""
    names, labels = [], []
    for number, line in numbered_lines(file):
        row = next(csv.reader([line], delimiter=";"))
        if len(row) != 2:
            raise TableError(f"{file} line {number}: {shown(line)} is not `ID;CLASS`.")
        names.append(row[0])
        labels.append(_label(row[1], label_of, file))
    return Split(names=names, columns={"label": labels})
