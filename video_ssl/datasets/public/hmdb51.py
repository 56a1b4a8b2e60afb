"""HMDB51: 6,766 clips of 51 actions, three splits of 70 training and 30 test clips per class."""

from __future__ import annotations

import re
from pathlib import Path

from video_ssl.datasets.errors import TableError
from video_ssl.datasets.lists.text_files import numbered_lines
from video_ssl.datasets.public.annotations import Annotations, Split

_SOURCE = (
    "https://serre-lab.clps.brown.edu/resource/hmdb-a-large-human-motion-database/ "
    "(hmdb51_org.rar, test_train_splits.rar)"
)
_LAYOUT = "CLASS/NAME.avi in any folder below the root."
_KINDS = {"1": "train", "2": "test"}


def read_hmdb51(root: Path) -> Annotations:
    """Returns the splits train1, test1, ..., train3, test3 of the files `CLASS_test_splitN.txt`.

    A line is `NAME.avi K`: K is 1 for training, 2 for test, 0 for neither.  The files may lie in
    `testTrainMulti_7030_splits`, `splits`, `annotations` or the root.

    Raises:
        TableError: no such file, one missing for a class, or a line of another form.
    """
    found: dict[int, dict[str, Path]] = {1: {}, 2: {}, 3: {}}
    for folder in ("testTrainMulti_7030_splits", "splits", "annotations", "."):
        for file in sorted((root / folder).glob("*_test_split[123].txt")):
            name = re.fullmatch(r"(.+)_test_split([123])", file.stem)
            if name:
                found[int(name[2])].setdefault(name[1], file)
    classes = sorted({name for files in found.values() for name in files})
    lacking = [f"{c}_test_split{n}.txt" for n in found for c in classes if c not in found[n]]
    if not classes or lacking:
        what = (
            f"no {lacking[0]} ({len(lacking)} are missing)"
            if lacking
            else "no file CLASS_test_splitN.txt"
        )
        raise TableError(f"{root} has {what}. Get it from {_SOURCE}.")
    splits: dict[str, Split] = {}
    for number, files in found.items():
        splits |= _splits(number, classes, files)
    every = [file for files in found.values() for file in files.values()]
    return Annotations(
        splits=splits, files=every, class_names=classes, source=_SOURCE, layout=_LAYOUT
    )


def _splits(number: int, classes: list[str], files: dict[str, Path]) -> dict[str, Split]:
    names: dict[str, list[str]] = {"train": [], "test": []}
    labels: dict[str, list[int]] = {"train": [], "test": []}
    for label, name in enumerate(classes):
        for at, line in numbered_lines(files[name]):
            video, _, kind = line.rpartition(" ")
            if kind not in ("0", "1", "2") or not video:
                raise TableError(f"{files[name]} line {at}: {line!r} is not `NAME.avi 0|1|2`.")
            if kind != "0":
                names[_KINDS[kind]].append(f"{name}/{video.strip().rpartition('.')[0]}")
                labels[_KINDS[kind]].append(label)
    return {
        f"{kind}{number}": Split(names=names[kind], columns={"label": labels[kind]})
        for kind in names
    }
