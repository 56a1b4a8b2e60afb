"""UCF101: 13,320 clips of 101 actions, three splits into training and test videos."""

from __future__ import annotations

import re
from pathlib import Path

from video_ssl.datasets.public import Annotations, Split, find_annotation
from video_ssl.datasets.table import TableError

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
    names = dict(_fields(classes, 2, first_is_number=True))
    label_of = {name: int(number) - 1 for number, name in names.items()}
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


def _fields(file: Path, count: int, *, first_is_number: bool = False) -> list[list[str]]:
    rows = []
    for number, line in enumerate(file.read_text(encoding="utf-8-sig").splitlines(), 1):
        fields = line.split()
        if not fields:
            continue
        if len(fields) > count or (first_is_number and not fields[0].isdecimal()):
            raise TableError(f"{file} line {number}: {line!r} is not a line of such a file.")
        rows.append(fields)
    return rows


def _split(file: Path, label_of: dict[str, int]) -> Split:
    names, labels, groups = [], [], []
    for path, *_ in _fields(file, 2):  # training lists repeat the label (from 1), test lists do not
        folder, _, name = path.rpartition("/")
        if folder not in label_of:
            raise TableError(
                f"{file}: {path} is of the class {folder!r}, which classInd.txt lacks."
            )
        stem = name.rpartition(".")[0]
        group = re.search(r"_g(\d+)_c\d+$", stem)
        names.append(f"{folder}/{stem}")
        labels.append(label_of[folder])
        groups.append(f"{folder}_g{group[1]}" if group else None)
    return Split(names=names, columns={"label": labels, "group": groups})
