"""The classes of two tables are the same where their names are, whatever numbers each table gives them; numpy only."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

_NAMED = 8


def numbers_by_name(ours: Sequence[str], theirs: Sequence[str]) -> np.ndarray | None:
    """Returns int64 (len(theirs) + 1,): the number that `ours` has for each name of `theirs`; the last is -1, for -1.

    Names that ours does not have get numbers behind its own.  None where the numbers of both mean the same: the names
    are equal, or one side has none, or has one twice.

    >>> numbers_by_name(["run", "sit"], ["sit", "eat", "run"]).tolist()
    [1, 2, 0, -1]
    """
    if list(ours) == list(theirs) or not ours or not theirs:
        return None
    if len(set(ours)) < len(ours) or len(set(theirs)) < len(theirs):
        return None  # numbers are all there is
    place = {name: number for number, name in enumerate(ours)}
    return np.array([place.setdefault(name, len(place)) for name in theirs] + [-1], np.int64)


def used_names(names: Sequence[str], labels: np.ndarray) -> set[str]:
    """Returns the names of the labels that occur; labels without a name count for nothing."""
    return {names[label] for label in np.unique(labels).tolist() if 0 <= label < len(names)}


def listed(names: Sequence[str]) -> str:
    """Returns names as they stand in a sentence; of many the first.

    >>> listed(["run", "sit"])
    'run, sit'
    """
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more
