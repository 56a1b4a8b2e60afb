"""JHMDB: short videos as folders of pictures, with the places of 15 joints beside them.

The layout is known from memory (unverified).
"""

from __future__ import annotations

from pathlib import Path

from video_ssl.datasets.lists.text_files import numbered_lines
from video_ssl.datasets.public.annotations import Annotations, Split
from video_ssl.datasets.table import TableError

_SOURCE = "http://jhmdb.is.tue.mpg.de (Rename_Images, joint_positions, splits)"
_LAYOUT = (
    "Rename_Images/ACTION/NAME/00001.png, joint_positions/ACTION/NAME/joint_positions.mat and "
    "splits/ACTION_test_split1.txt"
)
_SETS = {"1": "train", "2": "test"}


def read_jhmdb(root: Path) -> Annotations:
    """Returns the splits train1 .. test3: labels number the actions in sorted order; joints stay in their folder.

    Raises:
        TableError: no list of a split, or a line of one that is not a name and 0, 1 or 2.
    """
    lists = sorted((root / "splits").glob("*_test_split[123].txt"))
    if not lists:
        raise TableError(
            f"{root} has no file splits/ACTION_test_split1.txt. Get it from {_SOURCE}; laid out as {_LAYOUT}."
        )
    actions = sorted({file.stem.rpartition("_test_split")[0] for file in lists})
    names: dict[str, list[str]] = {}
    labels: dict[str, list[int]] = {}
    for file in lists:
        action, _, number = file.stem.rpartition("_test_split")
        for row, line in numbered_lines(file):
            name, _, which = line.strip().rpartition(" ")
            if not name or which not in ("0", *_SETS):
                raise TableError(
                    f"{file}, line {row} is {line[:60]!r}: a video and 1 (training) or 2 (test) are needed, as in the "
                    "published lists."
                )
            if which in _SETS:
                split = _SETS[which] + number
                names.setdefault(split, []).append(
                    f"Rename_Images/{action}/{Path(name.strip()).stem}"
                )
                labels.setdefault(split, []).append(actions.index(action))
    return Annotations(
        splits={
            split: Split(names=own, columns={"label": labels[split], "group": own})
            for split, own in sorted(names.items())
        },
        files=lists,
        class_names=actions,
        source=_SOURCE,
        layout=_LAYOUT,
    )
