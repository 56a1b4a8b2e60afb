"""Tables of VATT's transformers, numpy only: resampled positions, and buckets of distances between words."""

from __future__ import annotations

import functools
import math

import numpy as np
from numpy.typing import NDArray


@functools.lru_cache(maxsize=64)
def spline_matrix(num_in: int, num_out: int) -> NDArray[np.float64]:
    """Returns float64 (num_out, num_in): times a table of `num_in` rows it is the table of `num_out` rows.

    Row i lies at i / num_in, row j of the result at j / num_out.  Between rows the natural cubic spline holds, beyond
    the last row its straight continuation.  One row is repeated, two are a line.

    Source: papers/vatt.md section 3; the polyharmonic spline of order 3 with a linear term of tfa.interpolate_spline.

    >>> spline_matrix(2, 4).round(2).tolist()
    [[1.0, 0.0], [0.5, 0.5], [0.0, 1.0], [-0.5, 1.5]]
    """
    values = np.eye(num_in)
    if num_in == 1:
        return np.ones((num_out, 1))
    bends = _second_derivatives(values)
    at = np.arange(num_out) * (num_in / num_out)
    left = np.minimum(at.astype(int), num_in - 2)
    right, t = left + 1, (at - left)[:, None]
    inside = (1 - t) * values[left] + t * values[right]
    inside += ((1 - t) ** 3 - (1 - t)) / 6 * bends[left] + (t**3 - t) / 6 * bends[right]
    slope = values[-1] - values[-2] + bends[-2] / 6
    return np.where(t > 1, values[-1] + (t - 1) * slope, inside)


def _second_derivatives(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Second derivatives at rows a distance of 1 apart; 0 at both ends."""
    inner = len(values) - 2
    bends = np.zeros_like(values)
    if inner:
        system = 4 * np.eye(inner) + np.eye(inner, k=1) + np.eye(inner, k=-1)
        bends[1:-1] = np.linalg.solve(system, 6 * np.diff(values, 2, axis=0))
    return bends


@functools.lru_cache(maxsize=64)
def relative_buckets(length: int, *, num_buckets: int, max_distance: int) -> NDArray[np.int32]:
    """Returns int32 (length, length): the bucket of the distance from each word (row) to each word (column).

    Words behind have the second half of the buckets.  In each half the first half are single distances, the others
    grow as logarithms up to `max_distance`; what is farther has the last one.

    Source: papers/vatt.md section 3.

    >>> relative_buckets(3, num_buckets=32, max_distance=64).tolist()
    [[0, 17, 18], [1, 0, 17], [2, 1, 0]]
    """
    distance = np.arange(length)[None] - np.arange(length)[:, None]
    half = num_buckets // 2
    exact = half // 2
    far = np.maximum(np.abs(distance), 1)
    grown = np.log(far / exact) / math.log(max_distance / exact) * (half - exact)
    coarse = np.minimum(exact + grown.astype(int), half - 1)
    bucket = np.where(np.abs(distance) < exact, np.abs(distance), coarse)
    return (bucket + half * (distance > 0)).astype(np.int32)
