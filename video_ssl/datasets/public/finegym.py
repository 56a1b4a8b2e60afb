"""FineGym as CARL cuts it: videos of single events (a routine on one apparatus), an element or none for every frame."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

from video_ssl.datasets.lists.text_files import numbered_lines
from video_ssl.datasets.public.annotations import Annotations, Split, find_annotation
from video_ssl.datasets.public.frame_items import Item, item_split
from video_ssl.datasets.table import TableError

_SOURCE = (
    "https://github.com/minghchen/CARL_code (event videos with gym99_*.pkl and gym288_*.pkl); the data set itself: "
    "https://sdolivia.github.io/FineGym/"
)
_LAYOUT = (
    "processed_videos/VIDEO_E_START_END.mp4, or files of that name in any folder below the root."
)

_CATEGORY = re.compile(r"Clabel:\s*(\d+)\s*;(?:.*?Glabel:\s*\d+\s*;)?\s*(.*)")


def read_finegym(root: Path, classes: int) -> Annotations:
    """Returns the splits train and val of CARL's item lists, and `additional` where `additional_v1.0.pkl` is there.

    Read are `gymN_train_v1.0.pkl` (or v1.1) and `gymN_val.pkl`, N the number of classes.  `label` is the apparatus,
    called "event N" after its number there; `frame_labels` are elements, whose names come from FineGym's
    `gymN_categories.txt` where that is there.

    Args:
        root: of the data set.
        classes: 99 or 288 elements.

    Raises:
        TableError: other `classes`, no item list, or one that is damaged or has labels beyond the classes.
    """
    if classes not in (99, 288):
        raise TableError(f"classes={classes}: FineGym has sets of 99 and of 288 elements.")
    found = {
        "train": [f"gym{classes}_train_v1.0.pkl", f"gym{classes}_train_v1.1.pkl"],
        "val": [f"gym{classes}_val.pkl"],
    }
    splits: dict[str, Split] = {}
    files = []
    for split, names in found.items():
        files.append(find_annotation(root, names, source=_SOURCE))
        splits[split] = _split(files[-1], classes)
    more = root / "additional_v1.0.pkl"
    files.append(more)
    if more.is_file():
        splits["additional"] = _split(more, classes, labelled=False)
    categories = root / f"gym{classes}_categories.txt"
    elements = [f"element {number}" for number in range(classes)]
    files.append(categories)
    if categories.is_file():
        elements = _names(categories, classes)
    numbers = {e for listed in splits.values() for e in listed.columns["label"]}
    events = sorted(numbers - {None})
    splits = {split: _renumbered(listed, events) for split, listed in splits.items()}
    return Annotations(
        splits=splits,
        files=files,
        class_names=[f"event {event}" for event in events],
        source=_SOURCE,
        layout=_LAYOUT,
        metadata={"phase_names": elements},
    )


def _split(file: Path, classes: int, *, labelled: bool = True) -> Split:
    return item_split(
        file, label_of=_event_of, phases_of=lambda label: range(classes), labelled=labelled
    )


def _renumbered(listed: Split, events: list[int]) -> Split:
    """The split with places in `events` as labels."""
    given = listed.columns["label"]
    labels = [None if event is None else events.index(event) for event in given]
    return replace(listed, columns={**listed.columns, "label": labels})


def _event_of(item: Item) -> int | None:
    return None if item.get("event_label") is None else int(item["event_label"])


def _names(file: Path, classes: int) -> list[str]:
    """Lines `Clabel: 0; set: 1; Glabel: 1; (VT) round-off, ...`."""
    names: dict[int, str] = {}
    for number, line in numbered_lines(file):
        match = _CATEGORY.fullmatch(line)
        if match is None or not match[2]:
            raise TableError(
                f"{file} line {number}: {line!r} is not `Clabel: 0; set: 1; Glabel: 1; NAME`."
            )
        names[int(match[1])] = match[2]
    if sorted(names) != list(range(classes)):
        raise TableError(f"{file} names {len(names)} elements, not 0..{classes - 1}.")
    return [names[number] for number in range(classes)]
