"""UCF101: 13,320 clips of 101 actions, three splits into training and test videos."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from video_ssl.datasets.errors import TableError
from video_ssl.datasets.lists.text_files import numbered_lines
from video_ssl.datasets.public.annotations import Annotations, Split, find_annotation

_SOURCE = "https://www.crcv.ucf.edu/data/UCF101.php (UCF101.rar, UCF101TrainTestSplits-RecognitionTask.zip)"
_LAYOUT = "CLASS/v_CLASS_gNN_cNN.avi in any folder below the root."


def read_ucf101(root: Path) -> Annotations:
    """Returns the splits train1, test1, ..., train3, test3 of `classInd.txt`, `trainlist0N.txt` and `testlist0N.txt`.

    The files may lie in `ucfTrainTestlist`, `annotations` or the root.  `group` is the class and the g-number: clips
    of one group were cut from one video.

    Raises:
        TableError: a file is missing or has a line of another form.
    """
    classes = _find(root, "classInd.txt")
    label_of = _numbered_classes(classes)
    class_names = sorted(label_of, key=lambda name: label_of[name])
    splits, files = {}, [classes]
    for number in (1, 2, 3):
        for kind in ("train", "test"):
            file = _find(root, f"{kind}list{number:02d}.txt")
            files.append(file)
            splits[f"{kind}{number}"] = _split(file, label_of)
    return Annotations(
        splits=splits, files=files, class_names=class_names, source=_SOURCE, layout=_LAYOUT
    )


def _find(root: Path, name: str) -> Path:
    folders = ("ucfTrainTestlist/", "annotations/", "")
    return find_annotation(root, [folder + name for folder in folders], source=_SOURCE)


def _numbered_classes(file: Path) -> dict[str, int]:
    """Class -> its number from 0, of lines `NUMBER CLASS` that count from 1."""
    label_of: dict[str, int] = {}
    numbers = []
    for line, fields in _fields(file, (2,), "`NUMBER CLASS`"):
        number, name = fields
        if not number.isdecimal() or name in label_of:
            raise TableError(
                f"{file} line {line}: {' '.join(fields)!r} must be `NUMBER CLASS`, every class once."
            )
        label_of[name] = int(number) - 1
        numbers.append(int(number))
    if sorted(numbers) != list(range(1, len(numbers) + 1)):
        raise TableError(
            f"{file} must number its {len(numbers)} classes from 1 to {len(numbers)}, each once, as the official file "
            f"does, but has the numbers {min(numbers, default=0)} to {max(numbers, default=0)}. Get it from {_SOURCE}."
        )
    return label_of


def _fields(file: Path, counts: tuple[int, ...], form: str) -> Iterator[tuple[int, list[str]]]:
    for number, line in numbered_lines(file):
        fields = line.split()
        if len(fields) not in counts:
            raise TableError(f"{file} line {number}: {line!r} is not {form}.")
        yield number, fields


def _split(file: Path, label_of: dict[str, int]) -> Split:
    names, others, labels, groups = [], [], [], []
    for line, (path, *stated) in _fields(
        file, (1, 2), "`CLASS/VIDEO.avi` or `CLASS/VIDEO.avi NUMBER`"
    ):
        folder, _, name = path.rpartition("/")
        if folder not in label_of:
            raise TableError(
                f"{file} line {line}: {path} is of the class {folder!r}, which classInd.txt lacks."
            )
        if stated and stated[0] != str(label_of[folder] + 1):  # training lists repeat the number
            raise TableError(
                f"{file} line {line}: {path} has the number {stated[0]}, but classInd.txt gives {label_of[folder] + 1} "
                f"to {folder}: the two do not belong together, or one of them counts from 0."
            )
        stem = name.rpartition(".")[0]
        group = re.search(r"_g(\d+)_c\d+$", stem)
        names.append(f"{folder}/{stem}")
        others.append(f"{folder}/{_other_case(stem)}")
        labels.append(label_of[folder])
        groups.append(f"{folder}_g{group[1]}" if group else None)
    return Split(names=names, columns={"label": labels, "group": groups}, other_names=others)


def _other_case(stem: str) -> str:
    """The lists call videos HandStandPushups that lie in HandstandPushups; some copies call them so, too."""
    if "HandStandPushups" in stem:
        return stem.replace("HandStandPushups", "HandstandPushups")
    return stem.replace("HandstandPushups", "HandStandPushups")
