"""Fixed sin-cos position tables, and their interpolation to other grids.

All tables are computed in float64 and rounded once to float32.  Tokens are in the order time, row,
column; a grid is (t, h, w).
"""

from __future__ import annotations

from typing import Literal

import numpy as np

Grid = tuple[int, int, int]


def halves(dim: int, positions: np.ndarray) -> np.ndarray:
    """Returns [sin(p w_0..), cos(p w_0..)], float64 (N, dim), w_i = 10000^(-i / (dim/2)).

    The two halves are concatenated, not interleaved (MAE, MVD).
    """
    rates = 10000.0 ** (-np.arange(dim // 2, dtype=np.float64) / (dim / 2))
    angles = np.asarray(positions, dtype=np.float64)[:, None] * rates
    return np.concatenate([np.sin(angles), np.cos(angles)], axis=1)


def sincos_1d(dim: int, grid: Grid) -> np.ndarray:
    """Returns VideoMAE's table over the flat token index, float32 (t*h*w, dim).

    Even channels are sines, odd ones cosines, of p / 10000^(2 floor(j/2) / dim).
    """
    positions = np.arange(grid[0] * grid[1] * grid[2], dtype=np.float64)
    exponents = 2 * (np.arange(dim) // 2) / dim
    angles = positions[:, None] / 10000.0**exponents
    table = np.where(np.arange(dim) % 2 == 0, np.sin(angles), np.cos(angles))
    return table.astype(np.float32)


def sincos_2d(dim: int, grid: Grid) -> np.ndarray:
    """Returns MAE's table of one frame, float32 (h*w, dim): half of the channels for the column,
    then half for the row.  The class token has no position, that is a row of zeros."""
    _, h, w = grid
    rows, columns = np.divmod(np.arange(h * w), w)
    parts = [halves(dim // 2, columns), halves(dim // 2, rows)]
    return np.concatenate(parts, axis=1).astype(np.float32)


def sincos_3d(dim: int, grid: Grid) -> np.ndarray:
    """Returns MVD's table, float32 (t*h*w, dim): a quarter of the channels for time, three eighths
    for the column, three eighths for the row.  `dim` is a multiple of 16."""
    t, h, w = grid
    tokens = np.arange(t * h * w)
    times, rows, columns = tokens // (h * w), tokens // w % h, tokens % w
    space = dim // 8 * 3
    parts = [halves(dim // 4, times), halves(space, columns), halves(space, rows)]
    return np.concatenate(parts, axis=1).astype(np.float32)


TABLES = {"sincos_1d": sincos_1d, "sincos_2d": sincos_2d, "sincos_3d": sincos_3d}


def position_table(kind: str, dim: int, grid: Grid) -> np.ndarray:
    """Returns the table of a kind named in `TABLES`, float32 (tokens, dim)."""
    return TABLES[kind](dim, grid)


def interpolate_table(table: np.ndarray, old: Grid, new: Grid) -> np.ndarray:
    """Returns a table for another grid: cubic over rows and columns, linear over time.

    Works for every kind of table, also learned ones.  The same grid gives the same table, bit by
    bit.  Edges repeat; `align_corners` is False, as in the usual resizing of ViT positions.

    Args:
        table: float (t*h*w, D) for the grid `old`.
        old, new: (t, h, w).
    """
    if old == new:
        return table
    dim = table.shape[1]
    volume = table.astype(np.float64).reshape(*old, dim)
    kinds: tuple[Literal["linear", "cubic"], ...] = ("linear", "cubic", "cubic")
    for axis, kind in enumerate(kinds):
        matrix = resampling_matrix(old[axis], new[axis], kind)
        volume = np.moveaxis(np.tensordot(matrix, volume, axes=(1, axis)), 0, axis)
    return volume.reshape(-1, dim).astype(np.float32)


def resampling_matrix(old: int, new: int, kind: Literal["linear", "cubic"]) -> np.ndarray:
    """Returns the float64 (new, old) matrix that resamples a line of `old` values; rows sum to 1.

    Cubic is the convolution kernel with a = -0.75.  No antialiasing when it shrinks.
    """
    if old == new:
        return np.eye(old)
    centres = (np.arange(new) + 0.5) * old / new - 0.5
    if kind == "linear":
        centres = np.clip(centres, 0, old - 1)
    first = np.floor(centres).astype(int)
    offsets = (0, 1) if kind == "linear" else (-1, 0, 1, 2)
    matrix = np.zeros((new, old))
    for offset in offsets:
        distance = np.abs(centres - (first + offset))
        weight = 1 - distance if kind == "linear" else _cubic(distance)
        np.add.at(matrix, (np.arange(new), np.clip(first + offset, 0, old - 1)), weight)
    return matrix


def _cubic(x: np.ndarray, a: float = -0.75) -> np.ndarray:
    near = (a + 2) * x**3 - (a + 3) * x**2 + 1
    far = a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a
    return np.where(x <= 1, near, np.where(x < 2, far, 0.0))
