"""Chapters of a video: the stretches in which its frames stay alike, so that a long one can be leafed through.

The division into k stretches that leaves least variance within them, found exactly (dynamic programming over all
divisions); k grows as long as one more chapter explains a twentieth of the whole.  Numpy only.
"""

from __future__ import annotations

import numpy as np

__all__ = ["chapters"]

#: Share of the variance of all frames that one more chapter must explain.
_WORTH = 0.05
#: A chapter is at least so many frames, or this share of the video.
_LEAST, _LEAST_SHARE = 2, 1 / 60


def chapters(embs: np.ndarray, *, most: int = 12) -> list[int]:
    """Returns the first frames of the chapters, increasing, 0 first; `[0]` where nothing changes or all always does.

    Args:
        embs: float (L, D), at equal steps of time.
        most: chapters.

    >>> chapters(np.repeat([[0.0, 1.0], [1.0, 0.0], [0.0, 1.0]], [5, 3, 4], axis=0))
    [0, 5, 8]
    """
    x = np.asarray(embs, np.float64)
    count = len(x)
    least = max(_LEAST, round(count * _LEAST_SHARE))
    most = min(most, count // least)
    cost = _costs(x - x.mean(axis=0), least)
    total = cost[0, count] if count >= least else 0.0
    if most < 2 or total <= 1e-12 * max(1.0, float((x**2).sum())):
        return [0]
    best = [cost[0]]  # best[k - 1][j]: least variance of the first j frames in k chapters
    last = []
    for _ in range(1, most):
        options = best[-1][:, None] + cost
        last.append(options.argmin(axis=0))
        best.append(options.min(axis=0))
    left = [float(b[count]) for b in best]
    number = 1
    while number < most and left[number - 1] - left[number] >= _WORTH * total:
        number += 1
    return _begins(last, number, count)


def _costs(x: np.ndarray, least: int) -> np.ndarray:
    """(L + 1, L + 1): the variance within frames i .. j - 1, infinite where they are too few for a chapter."""
    sums = np.concatenate([np.zeros((1, x.shape[1])), np.cumsum(x, axis=0)])
    squares = np.concatenate([[0.0], np.cumsum((x**2).sum(axis=1))])
    products = sums @ sums.T
    norms = np.diag(products)
    lengths = np.arange(len(sums))[None] - np.arange(len(sums))[:, None]
    means = (norms[None] + norms[:, None] - 2 * products) / np.maximum(lengths, 1)
    cost = np.maximum(squares[None] - squares[:, None] - means, 0)
    return np.where(lengths >= least, cost, np.inf)


def _begins(last: list[np.ndarray], number: int, count: int) -> list[int]:
    begins, end = [], count
    for table in reversed(last[: number - 1]):
        end = int(table[end])
        begins.append(end)
    return [0, *reversed(begins)]
