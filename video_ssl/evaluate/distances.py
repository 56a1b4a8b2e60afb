"""Squared Euclidean distances that are equal for equal vectors, to the last bit.

Alignment and retrieval take the *first* of equally near frames.  The usual expansion of the square
into products may round equal distances differently (it depends on the BLAS), so that still pictures
are matched by chance.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

#: Numbers (of 8 bytes) in one intermediate array.
BLOCK = 2**21


def squared_distances(a: ArrayLike, b: ArrayLike) -> NDArray[np.float64]:
    """Returns float64 (n, m): |a_i - b_j|^2 of the rows of `a` (n, D) and `b` (m, D).

    The result is all that grows: intermediate arrays hold at most `BLOCK` numbers, or D.

    >>> squared_distances([[0.0, 0.0]], [[3.0, 4.0], [0.0, 1.0]]).tolist()
    [[25.0, 1.0]]
    """
    left, right = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if left.ndim != 2 or right.ndim != 2 or left.shape[1] != right.shape[1]:
        raise ValueError(
            f"frame features must be (frames, width) of one width, but are {left.shape} and "
            f"{right.shape}."
        )
    found = np.empty((len(left), len(right)))
    width = max(1, left.shape[1])
    columns = max(1, min(len(right), BLOCK // width))
    rows = max(1, BLOCK // (columns * width))
    for j in range(0, len(right), columns):
        for i in range(0, len(left), rows):
            difference = left[i : i + rows, None] - right[None, j : j + columns]
            found[i : i + rows, j : j + columns] = np.einsum(
                "ijd,ijd->ij", difference, difference, optimize=False
            )
    return found


def nearest_in_each(query: ArrayLike, keys: Sequence[ArrayLike]) -> NDArray[np.int64]:
    """Returns int64 (V, n): for every key video (m, D) the frame nearest to each frame of `query`.

    The first among equally near ones; -1 in a video without frames.
    """
    asked = np.asarray(query, np.float64)
    found = np.full((len(keys), len(asked)), -1, np.int64)
    for v, key in enumerate(keys):
        frames = np.asarray(key)
        step = max(1, BLOCK // max(1, len(frames)))
        for i in range(0, len(asked) if len(frames) else 0, step):
            found[v, i : i + step] = squared_distances(asked[i : i + step], frames).argmin(axis=1)
    return found
