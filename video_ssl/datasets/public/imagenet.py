"""ImageNet-1K as folders of pictures: every picture is a video of one frame."""

from __future__ import annotations

import os
from pathlib import Path

from video_ssl.datasets.errors import TableError, shown
from video_ssl.datasets.lists.text_files import csv_rows, numbered_lines
from video_ssl.datasets.paths import PICTURE_SUFFIXES
from video_ssl.datasets.public.annotations import Annotations, Split

_SOURCE = (
    "https://image-net.org/download.php (account; ILSVRC2012_img_train.tar, ILSVRC2012_img_val.tar)"
)
_LAYOUT = (
    "train/nXXXXXXXX/*.JPEG and val/nXXXXXXXX/*.JPEG, or val/*.JPEG with LOC_val_solution.csv in the root "
    "(the Kaggle archive: link or move its Data/CLS-LOC/train and val)."
)
_EXPECTED = {"train": 1_281_167, "val": 50_000}


def read_imagenet(root: Path, classes: int = 1000) -> Annotations:
    """Returns the splits train and val: labels number the class folders (nXXXXXXXX) in sorted order.

    Class names are the words of LOC_synset_mapping.txt where it is there, the folder names otherwise.

    Args:
        root: of the data set.
        classes: how many class folders there must be.

    Raises:
        TableError: no folder train, another number of classes, or val pictures that nothing labels.
    """
    if not (root / "train").is_dir():
        raise TableError(f"{root} has no folder train. Expected: {_LAYOUT} From: {_SOURCE}.")
    folders = sorted(entry.name for entry in os.scandir(root / "train") if entry.is_dir())
    if len(folders) != classes:
        raise TableError(f"{root / 'train'} has {len(folders)} class folders, not {classes}.")
    splits = {"train": _of_folders(root, "train", folders)}
    files = []
    if (root / "val").is_dir():
        solution = root / "LOC_val_solution.csv"
        if any(entry.is_dir() for entry in os.scandir(root / "val")):
            splits["val"] = _of_folders(root, "val", folders)
        elif solution.is_file():
            files.append(solution)
            splits["val"] = _of_solution(solution, folders)
        else:
            raise TableError(
                f"{root / 'val'} has no class folders, and there is no {solution} that says the labels."
            )
    words = root / "LOC_synset_mapping.txt"
    if words.is_file():
        files.append(words)
    return Annotations(
        splits=splits,
        files=files,
        class_names=_names(words, folders),
        source=_SOURCE,
        layout=_LAYOUT,
        suffixes=PICTURE_SUFFIXES,
        expected=_EXPECTED if classes == 1000 else {},
        metadata={"pictures": True},
    )


def _of_folders(root: Path, split: str, folders: list[str]) -> Split:
    number = {name: label for label, name in enumerate(folders)}
    names, labels = [], []
    for folder in sorted(entry.name for entry in os.scandir(root / split) if entry.is_dir()):
        if folder not in number:
            raise TableError(f"{root / split / folder} is a class that train lacks.")
        for file in sorted(os.listdir(root / split / folder)):
            if file.lower().endswith(PICTURE_SUFFIXES) and not file.startswith("."):
                names.append(f"{split}/{folder}/{os.path.splitext(file)[0]}")
                labels.append(number[folder])
    return Split(names=names, columns={"label": labels})


def _of_solution(file: Path, folders: list[str]) -> Split:
    """Lines `ImageId,PredictionSet`: the first word of the second is the class."""
    number = {name: label for label, name in enumerate(folders)}
    names, labels = [], []
    for line, row in csv_rows(file, ("ImageId", "PredictionSet"), "ImageId,PredictionSet"):
        words = row["PredictionSet"].split()
        if not row["ImageId"] or not words or words[0] not in number:
            raise TableError(
                f"{file} line {line}: {shown(','.join(row.values()))} is not `ImageId,CLASS x y x y ...`."
            )
        names.append(f"val/{row['ImageId']}")
        labels.append(number[words[0]])
    return Split(names=names, columns={"label": labels})


def _names(file: Path, folders: list[str]) -> list[str]:
    if not file.is_file():
        return folders
    words = dict(line.split(" ", 1) for _, line in numbered_lines(file) if " " in line)
    return [words.get(folder, folder).split(",")[0] for folder in folders]
