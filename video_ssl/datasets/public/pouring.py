"""Pouring (TCN's multi-view pouring as TCC cut and labelled it): one action, five phases."""

from __future__ import annotations

from pathlib import Path

from video_ssl.datasets.public.annotations import Annotations, Split, find_annotation
from video_ssl.datasets.public.frame_items import item_split, stretches

_SOURCE = (
    "https://github.com/minghchen/CARL_code (videos with train.pkl and val.pkl), rewritten from TCC's TFRecords at "
    "https://storage.googleapis.com/tcc-pouring (address unverified)"
)
_LAYOUT = "videos/NAME.mp4, or NAME.mp4 in any folder below the root."

#: Source: papers/carl.md section 2.1.
KEY_EVENTS = (
    "hand touches bottle",
    "liquid starts exiting",
    "pouring complete",
    "bottle back on table",
)


def read_pouring(root: Path) -> Annotations:
    """Returns the splits train and val (and test, where it is there) of CARL's item lists `SPLIT.pkl`.

    All videos have the label 0, so that objectives that pair videos of a label may pair them.

    Raises:
        TableError: no train.pkl or val.pkl, or one that is damaged or has labels beyond the five phases.
    """
    splits: dict[str, Split] = {}
    files = []
    for split in ("train", "val", "test"):
        if split == "test" and not (root / "test.pkl").is_file():
            files.append(root / "test.pkl")
            continue
        files.append(find_annotation(root, [f"{split}.pkl"], source=_SOURCE))
        splits[split] = item_split(
            files[-1], label_of=lambda item: 0, phases_of=lambda label: range(len(KEY_EVENTS) + 1)
        )
    return Annotations(
        splits=splits,
        files=files,
        class_names=("pouring",),
        source=_SOURCE,
        layout=_LAYOUT,
        metadata={"phase_names": stretches(KEY_EVENTS)},
    )
