"""Metrics of retrieval between two senses, where every query has one right answer: pure functions on numpy arrays.

Q queries (texts, sounds, videos) are looked for in a gallery of V items.  The rank of a query counts from 0: how many
items come before the right one.  Equal similarities are ordered by their place in the gallery, so a constant
similarity gives the ranks of the places themselves, which is what guessing gives, and never an advantage.  R@k is the
share of ranks below k; MedR is the median rank counted from 1.

Source: papers/vatt.md section 6 (zero-shot retrieval); its reference averages windows in two orders.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

Average = Literal["embd", "cosine"]

_EPSILON = 1e-12


def unit_vectors(vectors: np.ndarray) -> np.ndarray:
    """Returns the vectors (..., D) scaled to length 1, of the same dtype; vectors of zeros stay.

    >>> unit_vectors(np.array([[3.0, 4.0], [0.0, 0.0]])).tolist()
    [[0.6, 0.8], [0.0, 0.0]]
    """
    length = np.sqrt(np.maximum((vectors**2).sum(axis=-1, keepdims=True), _EPSILON))
    return np.asarray(vectors / length)


def window_similarity(
    asked: np.ndarray, windows: np.ndarray, *, average: Average = "embd"
) -> np.ndarray:
    """Returns (Q, V): the cosine of every query with every item that is seen in several windows.

    Args:
        asked: (Q, D), not normalised.
        windows: (V, W, D), not normalised; one window is a window like others, and is normalised too.
        average: "embd": the mean of the vectors of the windows is scaled to length 1, as the paper has it; "cosine":
            the mean of the cosines of the windows.

    Source: papers/vatt.md section 6.  Its reference normalises nothing with "embd" and one window; this does.

    >>> windows = np.array([[[1.0, 0.0], [0.0, 3.0]]])
    >>> [round(float(window_similarity(np.array([[2.0, 0.0]]), windows, average=a)[0, 0]), 3) for a in ("embd", "cosine")]
    [0.316, 0.5]
    """
    if asked.ndim != 2 or windows.ndim != 3 or asked.shape[1] != windows.shape[2]:
        raise ValueError(
            f"asked must be (queries, width) and windows (items, windows, width), but are {asked.shape} and "
            f"{windows.shape}."
        )
    if average not in ("embd", "cosine"):
        raise ValueError(f"average={average!r} must be 'embd' or 'cosine'.")
    items = windows.mean(axis=1) if average == "embd" else unit_vectors(windows).mean(axis=1)
    return np.asarray(unit_vectors(asked) @ (unit_vectors(items) if average == "embd" else items).T)


def pair_ranks(similarity: np.ndarray, own: np.ndarray) -> np.ndarray:
    """Returns int64 (Q,): how many items come before the right one of each query.

    Args:
        similarity: (Q, V), larger is better.
        own: int (Q,), the column of the right item.

    >>> pair_ranks(np.array([[0.1, 0.9, 0.9], [0.5, 0.2, 0.1]]), np.array([2, 0])).tolist()
    [1, 0]
    """
    if similarity.ndim != 2 or own.shape != similarity.shape[:1] or 0 in similarity.shape:
        raise ValueError(
            f"similarity must be (queries, items) and own (queries,), but are {similarity.shape} and {own.shape}."
        )
    if not np.isfinite(similarity).all():
        raise ValueError("similarities are not finite.")
    right = np.take_along_axis(similarity, own[:, None], axis=1)
    before = (similarity == right) & (np.arange(similarity.shape[1]) < own[:, None])
    return np.asarray(((similarity > right) | before).sum(axis=1), np.int64)


def ranked_shares(ranks: np.ndarray, ks: Sequence[int]) -> tuple[dict[int, float], float]:
    """Returns for every k the share of ranks below it, R@k, and the median rank counted from 1, MedR.

    >>> ranked_shares(np.array([0, 4, 20]), [1, 5, 10])
    ({1: 0.3333333333333333, 5: 0.6666666666666666, 10: 0.6666666666666666}, 5.0)
    """
    if ranks.ndim != 1 or len(ranks) == 0:
        raise ValueError(f"ranks must be (queries,) of at least one query, but are {ranks.shape}.")
    return {k: float((ranks < k).mean()) for k in ks}, float(np.median(ranks)) + 1


def chance_shares(num_items: int, ks: Sequence[int]) -> tuple[dict[int, float], float]:
    """Returns R@k and MedR of a gallery of `num_items` in random order, where one item is right.

    >>> chance_shares(40, [1, 10])
    ({1: 0.025, 10: 0.25}, 20.5)
    """
    return {k: min(k, num_items) / num_items for k in ks}, (num_items + 1) / 2
