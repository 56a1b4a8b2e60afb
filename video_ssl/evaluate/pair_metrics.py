"""Metrics of retrieval between two senses: pure functions on numpy arrays.

Q queries (texts, sounds, videos) are looked for in a gallery of V items, of which one is right, or some are (the
captions of a video).  The rank of a query counts from 0: how many items come before the first right one.  Equal
similarities are ordered by their place in the gallery, so a constant similarity gives the ranks of the places
themselves, which is what guessing gives, and never an advantage.  R@k is the share of ranks below k; MedR is the
median rank counted from 1.

Source: papers/vatt.md section 6 (zero-shot retrieval); its reference averages windows in two orders.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from video_ssl.evaluate.videos import mean_by

Average = Literal["embd", "cosine"]

_EPSILON = 1e-12


def unit_vectors(vectors: np.ndarray) -> np.ndarray:
    """Returns the vectors (..., D) scaled to length 1, of the same dtype; vectors of zeros stay.

    >>> unit_vectors(np.array([[3.0, 4.0], [0.0, 0.0]])).tolist()
    [[0.6, 0.8], [0.0, 0.0]]
    """
    length = np.sqrt(np.maximum((vectors**2).sum(axis=-1, keepdims=True), _EPSILON))
    return np.asarray(vectors / length)


def window_vectors(
    windows: np.ndarray, index: np.ndarray, *, average: Average = "embd"
) -> np.ndarray:
    """Returns (V, D): a vector for every item, by which its inner product with a query of length 1 is their similarity.

    Args:
        windows: (N, D), not normalised, N >= V; one window is a window like others, and is normalised too.
        index: int (N,), the item 0..V-1 of each window; every item has at least one.
        average: "embd": the mean of the vectors of the windows is scaled to length 1, as the paper has it, so that the
            similarity is a cosine; "cosine": the mean of vectors that are scaled each, so that it is the mean of the
            cosines of the windows.

    Source: papers/vatt.md section 6.  Its reference normalises nothing with "embd" and one window; this does.

    >>> windows, index = np.array([[1.0, 0.0], [0.0, 3.0]]), np.array([0, 0])
    >>> window_vectors(windows, index).round(3).tolist()
    [[0.316, 0.949]]
    >>> window_vectors(windows, index, average="cosine").tolist()
    [[0.5, 0.5]]
    """
    if windows.ndim != 2 or index.shape != windows.shape[:1] or not len(windows):
        raise ValueError(
            f"windows must be (windows, width) and index (windows,), but are {windows.shape} and {index.shape}."
        )
    if average not in ("embd", "cosine"):
        raise ValueError(f"average={average!r} must be 'embd' or 'cosine'.")
    if average == "embd":
        return unit_vectors(mean_by(windows, index))
    return mean_by(unit_vectors(windows), index)


def first_ranks(similarity: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Returns int64 (Q,): how many items come before the first right one of each query.

    Args:
        similarity: (Q, V), larger is better.
        right: bool (Q, V), at least one in each row.

    >>> first_ranks(np.array([[0.1, 0.9, 0.9], [0.5, 0.2, 0.1]]), np.array([[0, 0, 1], [1, 0, 1]], bool)).tolist()
    [1, 0]
    """
    if similarity.ndim != 2 or right.shape != similarity.shape or 0 in similarity.shape:
        raise ValueError(
            f"similarity and right must be (queries, items), but are {similarity.shape} and {right.shape}."
        )
    if not np.isfinite(similarity).all():
        raise ValueError("similarities are not finite.")
    if not right.any(axis=1).all():
        raise ValueError("a query has no right item.")
    best = np.where(right, similarity, -np.inf).max(axis=1, keepdims=True)
    equal = similarity == best
    place = (equal & right).argmax(axis=1)[:, None]
    before = equal & (np.arange(similarity.shape[1]) < place)
    return np.asarray(((similarity > best) | before).sum(axis=1), np.int64)


def ranked_shares(ranks: np.ndarray, ks: Sequence[int]) -> tuple[dict[int, float], float]:
    """Returns for every k the share of ranks below it, R@k, and the median rank counted from 1, MedR.

    >>> ranked_shares(np.array([0, 4, 19, 30]), [1, 5, 10])
    ({1: 0.25, 5: 0.5, 10: 0.5}, 12.5)
    """
    if ranks.ndim != 1 or len(ranks) == 0:
        raise ValueError(f"ranks must be (queries,) of at least one query, but are {ranks.shape}.")
    return {k: float((ranks < k).mean()) for k in ks}, float(np.median(ranks)) + 1


def chance_median(right: np.ndarray, num_items: int) -> int:
    """Returns MedR of a gallery of `num_items` in random order: the least k whose R@k is a half at least.

    Args:
        right: int (Q,), how many items are right for each query.

    >>> chance_median(np.array([1, 1]), 40), chance_median(np.array([2]), 40)
    (20, 12)
    """
    many, counts = np.unique(np.asarray(right, np.int64), return_counts=True)
    miss, shares = np.ones(len(many)), counts / counts.sum()
    for k in range(num_items):
        miss *= np.maximum(num_items - many - k, 0) / (num_items - k)
        if 1 - float(shares @ miss) >= 0.5 - 1e-12:
            return k + 1
    return num_items
