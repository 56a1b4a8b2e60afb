"""VIP: videos of people as folders of pictures, with masks of the parts of their bodies and clothes beside them.

The layout is known from memory (unverified).
"""

from __future__ import annotations

from pathlib import Path

from video_ssl.datasets.lists.text_files import numbered_lines
from video_ssl.datasets.public.annotations import Annotations, Split
from video_ssl.datasets.table import TableError

_SOURCE = "https://sysu-hcp.net/lip/video_parsing.php (VIP_Fine)"
_LAYOUT = (
    "Images/NAME/*.jpg, Annotations/Category_ids/NAME/*.png and lists/val_videos.txt below VIP_Fine"
)


def read_vip(root: Path) -> Annotations:
    """Returns a split for every list lists/SPLIT_videos.txt, a record for every video; masks stay in their folder.

    Raises:
        TableError: no such list.
    """
    lists = sorted((root / "lists").glob("*_videos.txt"))
    if not lists:
        raise TableError(
            f"{root} has no file lists/val_videos.txt. Get it from {_SOURCE}; laid out as {_LAYOUT}."
        )
    splits = {}
    for file in lists:
        names = [f"Images/{line.strip()}" for _, line in numbered_lines(file) if line.strip()]
        splits[file.stem.removesuffix("_videos")] = Split(names=names, columns={"group": names})
    return Annotations(splits=splits, files=lists, class_names=[], source=_SOURCE, layout=_LAYOUT)
