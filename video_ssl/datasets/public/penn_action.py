"""Penn Action with the key events of TCC: 13 actions, a phase for every frame.

Source of actions and events: papers/carl.md section 2.1.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from video_ssl.datasets.paths import natural_key
from video_ssl.datasets.public.annotations import Annotations, Split, find_annotation
from video_ssl.datasets.public.frame_items import Item, checked_labels, item_split, stretches
from video_ssl.datasets.table import TableError
from video_ssl.recipes import nearest

_SOURCE = (
    "https://github.com/minghchen/CARL_code (videos with train.pkl and val.pkl), or "
    "http://dreamdragon.github.io/PennAction/ (frames) with TCC's label files, which CARL's README links"
)
_LAYOUT = (
    "videos/ID_ACTION.mp4 as CARL has them, or frames/ID/000001.jpg as the original, in any folder."
)
_LABEL_FOLDERS = ("penn_action_labels", "labels", ".")

#: Action -> the key events between its phases, in the order of CARL's numbers.
KEY_EVENTS: dict[str, tuple[str, ...]] = {
    "baseball_pitch": ("knee fully up", "arm fully stretched", "ball release"),
    "baseball_swing": ("bat fully back", "bat hits ball"),
    "bench_press": ("bar fully down",),
    "bowl": ("ball fully back", "release"),
    "clean_and_jerk": (
        "bar at hip",
        "fully squatting",
        "standing",
        "begin thrusting",
        "beginning balance",
    ),
    "golf_swing": ("stick fully back", "hits ball"),
    "jumping_jacks": ("hands at shoulder up", "above head", "at shoulder down"),
    "pushup": ("head at floor",),
    "pullup": ("chin above bar",),
    "situp": ("abs fully crunched",),
    "squat": ("hips at knees down", "at floor", "at knees up"),
    "tennis_forehand": ("racket fully back", "touches ball"),
    "tennis_serve": ("ball released", "racket fully back", "ball touches racket"),
}
ACTIONS = tuple(KEY_EVENTS)
_WITHOUT_PHASES = ("strum_guitar", "jump_rope")


def read_penn_action(root: Path) -> Annotations:
    """Returns the splits train and val of CARL's item lists or, where these are absent, of TCC's label files.

    Read are `{train,val}.pkl`, or `SPLIT/ACTION/ID*.npy` (one number a frame) below `penn_action_labels`, `labels` or
    the root.  `label` is the action.  `frame_labels` count through the phases of all actions, as `phase_names` does:
    those of an action follow each other in its own order.

    Raises:
        TableError: no annotation file, or one that is damaged, empty, or has labels that the action has not.
    """
    files: list[Path] = []
    splits: dict[str, Split] = {}
    lists = [split for split in ("train", "val") if (root / f"{split}.pkl").is_file()]
    if lists:
        for split in ("train", "val"):
            files.append(find_annotation(root, [f"{split}.pkl"], source=_SOURCE))
            splits[split] = item_split(files[-1], label_of=_action_of, phases_of=phases_of)
    else:
        folder = _label_folder(root)
        files += [root / "train.pkl", root / "val.pkl"]  # are preferred as soon as they are there
        for split in ("train", "val"):
            splits[split], read = _npy_split(folder / split)
            files += read
    return Annotations(
        splits=splits,
        files=files,
        class_names=ACTIONS,
        source=_SOURCE,
        layout=_LAYOUT,
        metadata={"phase_names": phase_names()},
    )


def phase_names() -> list[str]:
    """Returns "ACTION: FROM to UNTIL" of the phases of all actions, in order."""
    return [f"{a}: {phase}" for a, events in KEY_EVENTS.items() for phase in stretches(events)]


def phases_of(action: int | None) -> range:
    """Returns the numbers of the phases of an action.

    >>> phases_of(0), phases_of(2)
    (range(0, 4), range(7, 9))
    """
    assert action is not None, "every item has an action"
    sizes = [len(events) + 1 for events in KEY_EVENTS.values()]
    start = sum(sizes[:action])
    return range(start, start + sizes[action])


def _action_of(item: Item) -> int:
    if "action_label" not in item:
        raise ValueError("has no action_label, the number of its action")
    action = int(item["action_label"])
    if not 0 <= action < len(ACTIONS):
        raise ValueError(f"action_label={action} must be one of 0..{len(ACTIONS) - 1}")
    # The names say the action too (0001_baseball_pitch), so a list that counts otherwise shows.
    named = [other for other in ACTIONS if str(item.get("name")).endswith(f"_{other}")]
    if named and ACTIONS[action] not in named:
        raise ValueError(
            f"action_label={action} is {ACTIONS[action]} (counted from 0), but the name says {named[0]}"
        )
    return action


def _label_folder(root: Path) -> Path:
    for name in _LABEL_FOLDERS:
        if all((root / name / split).is_dir() for split in ("train", "val")):
            return root / name
    raise TableError(
        f"{root} has no annotation file train.pkl, nor the folders train and val of npy files in "
        f"{' or '.join(_LABEL_FOLDERS[:2])}. Get it from {_SOURCE}."
    )


def _npy_split(folder: Path) -> tuple[Split, list[Path]]:
    """The split of one folder, and its files and folders."""
    actions = sorted(path for path in folder.iterdir() if path.is_dir())
    columns: dict[str, list[Any]] = {"id": [], "label": [], "frame_labels": []}
    names, others, files = [], [], [folder, *actions]
    for path in actions:
        if path.name in _WITHOUT_PHASES:
            continue
        if path.name not in KEY_EVENTS:
            raise TableError(
                f"{path} is not the folder of an action: allowed are {list(ACTIONS)}.{nearest(path.name, ACTIONS)}"
            )
        action = ACTIONS.index(path.name)
        for file in sorted(path.glob("*.npy"), key=lambda file: natural_key(file.name)):
            # Names may go on behind the four digits of the video, as CARL reads them.
            video = file.stem[:4] if file.stem[:4].isdecimal() else file.stem
            names.append(f"{path.name}/{video}")
            others.append(f"{path.name}/{video}_{path.name}")
            columns["id"].append(f"{video}_{path.name}")
            columns["label"].append(action)
            columns["frame_labels"].append(
                checked_labels(_load(file), phases_of(action), where=str(file))
            )
            files.append(file)
    if not names:
        raise TableError(f"{folder} has no file ACTION/ID.npy. Get it from {_SOURCE}.")
    return Split(names=names, columns=columns, other_names=others), files


def _load(file: Path) -> np.ndarray:
    try:
        loaded = np.load(file, allow_pickle=False)
    except (OSError, ValueError, EOFError, MemoryError) as err:
        raise TableError(f"{file} is not a readable npy file of numbers: {err}.") from err
    if not isinstance(loaded, np.ndarray):
        raise TableError(f"{file} is an archive of arrays: give one npy array.")
    return loaded
