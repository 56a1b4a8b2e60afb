"""DAVIS-2017: short videos as folders of pictures, with the masks of their objects beside them."""

from __future__ import annotations

from pathlib import Path

from video_ssl.datasets.lists.text_files import numbered_lines
from video_ssl.datasets.public.annotations import Annotations, Split
from video_ssl.datasets.table import TableError

_SOURCE = "https://davischallenge.org/davis2017/code.html (TrainVal, 480p)"
_LAYOUT = (
    "JPEGImages/480p/NAME/00000.jpg, Annotations/480p/NAME/00000.png and ImageSets/2017/val.txt"
)


def read_davis(root: Path) -> Annotations:
    """Returns the splits of ImageSets/2017, a record for every video; masks stay in their folder.

    Raises:
        TableError: no list of a split; a video that has no folder of pictures.
    """
    lists = sorted((root / "ImageSets" / "2017").glob("*.txt"))
    if not lists:
        raise TableError(
            f"{root} has no file ImageSets/2017/*.txt with the names of a split. Get it from {_SOURCE}; laid out as "
            f"{_LAYOUT}."
        )
    splits = {}
    for file in lists:
        names = [
            f"JPEGImages/480p/{line.strip()}" for _, line in numbered_lines(file) if line.strip()
        ]
        lacking = [name for name in names if not (root / name).is_dir()]
        if lacking:
            raise TableError(
                f"{file} names {len(lacking)} of {len(names)} videos that have no folder, such as {root / lacking[0]}: "
                "unpack all of the archive, of 480p."
            )
        splits[file.stem] = Split(names=names, columns={"group": names})
    return Annotations(
        splits=splits,
        files=lists,
        class_names=[],
        source=_SOURCE,
        layout=_LAYOUT,
    )
