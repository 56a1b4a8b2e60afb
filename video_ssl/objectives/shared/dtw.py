"""Dynamic time warping, once for everything that aligns: the weak loss, `video-ssl align` and the pictures.

    acc[i, j] = cost[i, j] + min(acc[i-1, j-1], acc[i-1, j], acc[i, j-1])

Both sequences are matched from end to end.  Where the three are equal the path goes diagonally, else back along i, else
along j.  Cells of one anti-diagonal do not depend on each other, so a whole anti-diagonal of a whole batch of
matrices is one numpy operation: n + m - 1 of them instead of n * m.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, eq=False)
class DtwResult:
    """Alignments of a batch of pairs of sequences.

    Attributes:
        distance: float64 (...), the cost along the path; not divided by its length.
        acc_cost: float64 (..., n, m), the accumulated cost; meaningless outside the lengths of a pair.
        path_i, path_j: int64 (..., P), the cells of the path from (0, 0) to the end of both sequences; -1 fills up
            paths shorter than the longest one of the batch.
    """

    distance: Floats
    acc_cost: Floats
    path_i: Ints
    path_j: Ints


def dtw(
    cost: ArrayLike, *, rows: ArrayLike | None = None, columns: ArrayLike | None = None
) -> DtwResult:
    """Returns the cheapest monotone alignment of every pair of sequences.

    Args:
        cost: (..., n, m), the cost of matching element i of the one with element j of the other.
        rows, columns: int (...), lengths of the sequences where the matrices are padded; all of it by default.

    Raises:
        ValueError: no rows or columns, lengths out of range, or a cost that is not finite.

    >>> result = dtw([[0.0, 1.0, 2.0], [2.0, 1.0, 0.0]])
    >>> result.path_i.tolist(), result.path_j.tolist(), float(result.distance)
    ([0, 0, 1], [0, 1, 2], 1.0)
    """
    given = np.asarray(cost, np.float64)
    if given.ndim < 2 or 0 in given.shape[-2:]:
        raise ValueError(
            f"cost must be (..., n, m) with n and m at least 1, got shape {given.shape}."
        )
    batch, (n, m) = given.shape[:-2], given.shape[-2:]
    flat = given.reshape(-1, n, m)
    num_rows = _lengths(rows, batch, n, "rows")
    num_columns = _lengths(columns, batch, m, "columns")
    inside = (np.arange(n)[:, None] < num_rows[:, None, None]) & (
        np.arange(m) < num_columns[:, None, None]
    )
    if not np.isfinite(flat[inside]).all():
        raise ValueError(
            "the cost of an alignment is not finite: remove frames whose features are NaN or infinite."
        )
    acc = _accumulate(np.where(inside, flat, 0.0))
    path_i, path_j = _trace(acc, num_rows, num_columns)
    distance = acc[np.arange(len(flat)), num_rows, num_columns]
    return DtwResult(
        distance=distance.reshape(batch),
        acc_cost=acc[:, 1:, 1:].reshape(*batch, n, m),
        path_i=path_i.reshape(*batch, -1),
        path_j=path_j.reshape(*batch, -1),
    )


def first_match(path_i: ArrayLike, path_j: ArrayLike, num_rows: int) -> Ints:
    """Returns int64 (num_rows,): for every i the first j on one path (P,)."""
    i, j = _one_path(path_i, path_j)
    rows, first = np.unique(i, return_index=True)
    if len(rows) != num_rows:
        raise ValueError(f"the path visits {len(rows)} rows, but num_rows={num_rows}.")
    return j[first]


def warped_times(path_i: ArrayLike, path_j: ArrayLike, times: ArrayLike, num_rows: int) -> Floats:
    """Returns float64 (..., num_rows): for every i the mean time of its matches.

    Args:
        path_i, path_j: int (..., P), -1 where a path has ended.
        times: (..., m), the time of every j.
        num_rows: the n of the cost; rows that a path does not visit get NaN.
    """
    i, j = np.asarray(path_i, np.int64), np.asarray(path_j, np.int64)
    batch = i.shape[:-1]
    i, j = i.reshape(-1, i.shape[-1]), j.reshape(-1, j.shape[-1])
    values = np.asarray(times, np.float64).reshape(len(i), -1)
    on_path = i >= 0
    pair = np.broadcast_to(np.arange(len(i))[:, None], i.shape)[on_path]
    cell = pair * num_rows + i[on_path]
    total = np.bincount(cell, values[pair, j[on_path]], minlength=len(i) * num_rows)
    count = np.bincount(cell, minlength=len(i) * num_rows)
    with np.errstate(invalid="ignore"):
        return (total / np.where(count > 0, count, np.nan)).reshape(*batch, num_rows)


def _accumulate(cost: Floats) -> Floats:
    """(K, n, m) -> (K, n + 1, m + 1), the accumulated cost behind a border of infinity."""
    k, n, m = cost.shape
    acc = np.full((k, n + 1, m + 1), np.inf)
    acc[:, 0, 0] = 0.0
    for diagonal in range(n + m - 1):
        i = np.arange(max(0, diagonal - m + 1), min(n, diagonal + 1))
        j = diagonal - i
        best = np.minimum(np.minimum(acc[:, i, j], acc[:, i, j + 1]), acc[:, i + 1, j])
        acc[:, i + 1, j + 1] = cost[:, i, j] + best
    return acc


def _trace(acc: Floats, rows: Ints, columns: Ints) -> tuple[Ints, Ints]:
    """The paths of all pairs at once, from their ends back to (0, 0)."""
    every = np.arange(len(acc))
    i, j = rows - 1, columns - 1
    steps_i, steps_j = [i], [j]
    alive = (i > 0) | (j > 0)
    while alive.any():
        # argmin takes the first of equals: diagonal, then i - 1, then j - 1.  Ended paths stay at (0, 0).
        choice = np.argmin([acc[every, i, j], acc[every, i, j + 1], acc[every, i + 1, j]], axis=0)
        i = np.where(alive & (choice != 2), i - 1, i)
        j = np.where(alive & (choice != 1), j - 1, j)
        steps_i.append(np.where(alive, i, -1))
        steps_j.append(np.where(alive, j, -1))
        alive = (i > 0) | (j > 0)
    back_i, back_j = np.stack(steps_i, 1), np.stack(steps_j, 1)
    length = (back_i >= 0).sum(1)
    place = length[:, None] - 1 - np.arange(back_i.shape[1])
    keep = place >= 0
    place = np.maximum(place, 0)
    path_i = np.where(keep, np.take_along_axis(back_i, place, 1), -1)
    path_j = np.where(keep, np.take_along_axis(back_j, place, 1), -1)
    return path_i, path_j


def _lengths(given: ArrayLike | None, batch: tuple[int, ...], full: int, name: str) -> Ints:
    lengths = np.full(batch, full) if given is None else np.asarray(given)
    lengths = np.broadcast_to(lengths, batch).reshape(-1).astype(np.int64)
    if lengths.size and (lengths.min() < 1 or lengths.max() > full):
        raise ValueError(
            f"{name} must lie in 1..{full}, got {lengths.min()}..{lengths.max()}: leave out pairs without an element."
        )
    return lengths


def _one_path(path_i: ArrayLike, path_j: ArrayLike) -> tuple[Ints, Ints]:
    i, j = np.asarray(path_i, np.int64), np.asarray(path_j, np.int64)
    if i.ndim != 1 or i.shape != j.shape:
        raise ValueError(f"one path (P,) is expected, got shapes {i.shape} and {j.shape}.")
    return i[i >= 0], j[i >= 0]
