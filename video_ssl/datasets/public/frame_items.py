"""What data sets with a label for every frame share: the item lists of CARL, and arrays of labels checked.

CARL (arXiv:2203.14957) ships its data sets as videos beside `SPLIT.pkl`, a list of items {id, name, video_file,
frame_label, seq_len}; some have more entries.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from video_ssl.datasets.frame_labels import resampled_labels
from video_ssl.datasets.public.annotations import Split
from video_ssl.datasets.public.item_pickles import array_of, read_items
from video_ssl.datasets.table import TableError

Item = Mapping[str, Any]
_NEEDED = ("name", "video_file", "frame_label")


def item_split(
    file: Path,
    *,
    label_of: Callable[[Item], int | None],
    phases_of: Callable[[int | None], range],
    labelled: bool = True,
) -> Split:
    """Returns the videos of an item list, with `label` and `frame_labels`.

    An array of labels of another length than the item's `seq_len` is resampled to it.

    Args:
        file: the pickle: a list of items, or a tuple that begins with one.
        label_of: an item -> its label; a KeyError, TypeError or ValueError says that it has none.
        phases_of: a label -> the numbers in the table of its phases 0, 1, ...
        labelled: items must have labels of frames.

    Raises:
        TableError: an unreadable file, an item without what it needs, labels that are none.
    """
    items = read_items(file)
    if isinstance(items, tuple) and items and isinstance(items[0], list):
        items = items[0]
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        raise TableError(
            f"{file} must hold a list of items (dictionaries), or a tuple that begins with one."
        )
    if not items:
        raise TableError(f"{file} holds an empty list of items.")
    names, ids, labels, frame_labels = [], [], [], []
    for number, item in enumerate(items):
        where = f"{file} item {number} ({item.get('name')!r})"
        lacking = [key for key in _NEEDED[: 3 if labelled else 2] if item.get(key) is None]
        if lacking:
            raise TableError(f"{where} has no {', '.join(lacking)}, only {sorted(map(str, item))}.")
        names.append(os.path.splitext(str(item["video_file"]))[0])
        ids.append(str(item["name"]))
        try:
            label = label_of(item)
        except (KeyError, TypeError, ValueError) as err:
            raise TableError(f"{where}: {err}.") from err
        labels.append(label)
        frame_labels.append(_labels_of_item(item, phases_of(label), where))
    return Split(names=names, columns={"id": ids, "label": labels, "frame_labels": frame_labels})


def _labels_of_item(item: Item, phases: range, where: str) -> NDArray[np.int16] | None:
    if item.get("frame_label") is None:
        return None
    labels = checked_labels(item["frame_label"], phases, where=where)
    length = item.get("seq_len", len(labels))
    try:
        wanted = int(length)
    except (TypeError, ValueError) as err:
        raise TableError(f"{where}: seq_len={length!r} is no number of frames.") from err
    if wanted < 1:
        raise TableError(f"{where}: seq_len={wanted} must be at least 1.")
    return labels if wanted == len(labels) else resampled_labels(labels, wanted).astype(np.int16)


def checked_labels(values: Any, phases: range, *, where: str) -> NDArray[np.int16]:
    """Returns int16 (L,): the labels of the frames of a video as the table numbers them, -1 for none.

    Args:
        values: numbers of phases from 0, -1 for none; an array, list or tuple.
        phases: their numbers in the table.
        where: what errors call the array.

    Raises:
        TableError: not one row of whole numbers, an empty one, or a number beyond the phases.
    """
    try:
        given = np.asarray(array_of(values))
        if given.ndim != 1 or given.dtype.kind not in "iufb":
            raise TypeError(f"an array {given.shape} of {given.dtype}")
    except TypeError as err:
        raise TableError(
            f"{where}: labels of frames must be one row of numbers, found {err}."
        ) from err
    if not len(given):
        raise TableError(
            f"{where}: the array of labels is empty. Copy the file again, or leave the video out."
        )
    numbers = given.astype(np.float64)
    if not (np.isfinite(numbers).all() and (numbers == np.floor(numbers)).all()):
        raise TableError(f"{where}: labels of frames must be whole numbers.")
    if not -1 <= numbers.min() <= numbers.max() < len(phases):
        raise TableError(
            f"{where}: labels {numbers.min():g}..{numbers.max():g}, but there are {len(phases)} phases: "
            f"0..{len(phases) - 1}, and -1 for none."
        )
    found = np.where(numbers < 0, -1, numbers + phases.start)
    return found.astype(np.int16)


def stretches(events: Sequence[str]) -> list[str]:
    """Returns the names of the phases between key events.

    >>> stretches(["bat fully back", "bat hits ball"])
    ['start to bat fully back', 'bat fully back to bat hits ball', 'bat hits ball to end']
    """
    borders = ["start", *events, "end"]
    return [f"{a} to {b}" for a, b in itertools.pairwise(borders)]
