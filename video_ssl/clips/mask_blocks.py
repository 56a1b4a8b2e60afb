"""Masks of MaskFeat (arXiv:2112.09133): cuboids of a clip, rectangles of a frame.

Source: the reference code as described in papers/maskfeat.md section 3, draw for draw.
"""

from __future__ import annotations

import math
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]

#: The sides of a rectangle differ by this factor at most.
_MAX_ASPECT = 1 / 0.3
_CUBOID_TRIES, _RECTANGLE_TRIES = 100, 10


class Draws(Protocol):
    """What these masks need of a random generator: a `numpy.random.Generator` has it."""

    def random(self) -> float: ...

    def integers(self, low: int, high: int) -> int:
        """Of low .. high - 1."""


def sample_cuboids(grid: tuple[int, int, int], count: int, rng: Draws) -> Mask:
    """Returns cells (t, h, w) covered by cuboids that are drawn one after the other, True = hidden.

    A cuboid lasts any number of moments and covers a fifth of a frame or more, but never a whole side.  One that would
    hide more than `count` in all, or nothing new, is drawn again, 100 times at most; then it ends, so often a few cells
    fewer than `count` are hidden, never more.
    """
    t, h, w = grid
    mask = np.zeros(grid, dtype=bool)
    while (missing := count - int(mask.sum())) > 0:
        for _ in range(_CUBOID_TRIES):
            sides = _sample_sides(h * w // 5, h * w, rng)
            if _cover(mask, (1 + int(rng.integers(0, t)), *sides), missing, rng):
                break
        else:
            return mask
    return mask


def sample_rectangles(
    grid: tuple[int, int], count: int, rng: Draws, *, least: int | None = None
) -> Mask:
    """Returns cells (h, w) covered by rectangles, as `sample_cuboids`, True = hidden.

    A rectangle has `least` cells or more (BEiT's and BEVT's masks: 16; count // 5 where it is not given), but not more
    than are missing; after 10 that do not fit, it ends.
    """
    least = count // 5 if least is None else least
    mask = np.zeros((1, *grid), dtype=bool)
    while (missing := count - int(mask.sum())) > 0:
        for _ in range(_RECTANGLE_TRIES):
            if _cover(mask, (1, *_sample_sides(least, missing, rng)), missing, rng):
                break
        else:
            break
    return mask[0]


def _sample_sides(least: int, most: int, rng: Draws) -> tuple[int, int]:
    """Rows and columns of a rectangle with `least` .. `most` cells, up to rounding."""
    area = least + (most - least) * rng.random()
    largest = math.log(_MAX_ASPECT)
    aspect = math.exp(-largest + 2 * largest * rng.random())
    return round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))


def _cover(mask: Mask, size: tuple[int, int, int], most: int, rng: Draws) -> bool:
    """Hides a cuboid of this size somewhere; False = it does not fit, and nothing is hidden."""
    t, h, w = size
    moments, rows, columns = mask.shape
    if h >= rows or w >= columns:
        return False
    top, left = int(rng.integers(0, rows - h + 1)), int(rng.integers(0, columns - w + 1))
    # Where there is one moment, the reference has no axis of time to draw a place on.
    front = int(rng.integers(0, moments - t + 1)) if moments > 1 else 0
    part = mask[front : front + t, top : top + h, left : left + w]
    if not 0 < part.size - int(part.sum()) <= most:
        return False
    part[:] = True
    return True
