"""Moments: the stretch of a long video that goes like a short one.

Subsequence time warping with bounded speed: every query frame is matched once, in order; from one to
the next the key goes on by one frame or by two, and after a step by one it may stay once.  The stretch may begin
and end anywhere.  Without the bound a single similar frame would match all of the query.

    D[0, j] = c[0, j]
    D[i, j] = c[i, j] + min(D[i-1, j-1], D[i-1, j-2], D[i-2, j-1] + c[i-1, j])

The cost of a moment that ends at j is D[n-1, j] / n, the mean over the query frames.  Ours; the steps are
those of Sakoe and Chiba 1978 for slopes from 1/2 to 2.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray


class Stretch(NamedTuple):
    """Frames `first` to `last` (both in it) of the key, and the cost for each frame of the query."""

    first: int
    last: int
    cost: float


def subsequence_costs(cost: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Returns the cost D[n-1, j] of the best match that ends at each j, (m,), and where it begins, (m,).

    Infinite where no match fits.  Among equal ones the step by one wins, then by two.

    Args:
        cost: (n, m), n at least 1.
    """
    given = np.asarray(cost, np.float64)
    here = np.arange(given.shape[1])
    # Before the first row: nothing paid, and a match that enters at j begins at j.
    before = (np.zeros(len(here)), here)
    last = (given[0], here)
    for i in range(1, len(given)):
        stay = (_moved(before[0], 1) if i > 1 else before[0]) + given[i - 1]
        stay_start = _moved(before[1], 1) if i > 1 else here
        totals = np.stack([_moved(last[0], 1), _moved(last[0], 2), stay])
        starts = np.stack([_moved(last[1], 1), _moved(last[1], 2), stay_start])
        choice = totals.argmin(axis=0)
        before, last = last, (totals[choice, here] + given[i], starts[choice, here].astype(int))
    return last


def _moved(values: np.ndarray, by: int) -> np.ndarray:
    """values[j - by], infinity where there is none (0 for whole numbers)."""
    border = np.inf if values.dtype.kind == "f" else 0
    return np.concatenate([np.full(min(by, len(values)), border, values.dtype), values[:-by]])


def best_stretches(cost: ArrayLike, count: int) -> list[Stretch]:
    """Returns up to `count` stretches that do not overlap, the cheapest first; earlier ones among equals.

    >>> best_stretches([[9.0, 0.0, 9.0, 1.0, 9.0], [9.0, 9.0, 0.0, 9.0, 1.0]], 2)
    [Stretch(first=1, last=2, cost=0.0), Stretch(first=3, last=4, cost=1.0)]
    """
    given = np.asarray(cost, np.float64)
    if not given.size:
        return []
    total, start = subsequence_costs(given)
    free = np.ones(len(total), bool)
    found: list[Stretch] = []
    for last in np.argsort(total, kind="stable").tolist():
        first = int(start[last])
        if np.isfinite(total[last]) and free[first : last + 1].all():
            found.append(Stretch(first, last, float(total[last]) / len(given)))
            free[first : last + 1] = False
            if len(found) == count:
                break
    return found
