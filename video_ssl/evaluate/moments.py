"""Moments: the stretch of a long video that goes like a short one.

Subsequence dynamic time warping: all frames of the query are matched in order, the stretch of the key
may begin and end anywhere.

    D[0, j] = c[0, j]      D[i, j] = c[i, j] + min(D[i-1, j-1], D[i-1, j], D[i, j-1])

The cost of a moment ending at j is D[n-1, j] / n.  Ours; the step rule is that of `objectives.dtw`.
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
    """Returns the cost D[n-1, j] of the best match ending at each j, (m,), and where it begins, (m,).

    Args:
        cost: (n, m), finite, at least 0.
    """
    given = np.asarray(cost, np.float64)
    total, start = given[0].copy(), np.arange(given.shape[1])
    for row in given[1:]:
        diagonal = np.concatenate([[np.inf], total[:-1]])
        step = np.minimum(diagonal, total)
        begin = np.where(diagonal <= total, np.concatenate([[0], start[:-1]]), start)
        # Along a row D_j = c_j + min(e_j, D_{j-1}); with sums C_j of the costs, D_j - C_j is the
        # running minimum of e_j - C_{j-1}.
        sums = np.cumsum(row)
        entered = step - (sums - row)
        lowest = np.minimum.accumulate(entered)
        here = entered <= np.concatenate([[np.inf], lowest[:-1]])
        total = lowest + sums
        start = begin[np.maximum.accumulate(np.where(here, np.arange(len(row)), 0))]
    return total, start


def best_stretches(cost: ArrayLike, count: int) -> list[Stretch]:
    """Returns up to `count` stretches that do not overlap, the cheapest first.

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
        if free[first : last + 1].all():
            found.append(Stretch(first, last, float(total[last]) / len(given)))
            free[first : last + 1] = False
            if len(found) == count:
                break
    return found
