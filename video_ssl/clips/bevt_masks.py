"""Masks of BEVT: rectangles over a picture, the same over a stretch of moments that may run over the end of a clip.

Source: papers/bevt.md section 2 (arXiv:2112.01529, as its code draws them; the rectangles are BEiT's).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from video_ssl.clips.mask_blocks import Draws, sample_rectangles

Mask = NDArray[np.bool_]


def sample_tubes(
    grid: tuple[int, int, int],
    count: int,
    rng: Draws,
    *,
    least: int,
    share: tuple[float, float],
) -> Mask:
    """Returns which cells of a clip are hidden, bool (t, h, w): one mask of rectangles on some moments in a row.

    Args:
        grid: moments, rows and columns.
        count: cells of a moment that rectangles hide, at most.
        rng: draws the rectangles, then the first moment, then how many.
        least: cells of a rectangle.
        share: bounds of the share of the moments; after the last moment it goes on at the first.
    """
    t, h, w = grid
    picture = sample_rectangles((h, w), count, rng, least=least)
    start = int(rng.integers(0, t))
    shortest, longest = (int(t * s) for s in share)
    length = int(rng.integers(shortest, longest + 1))
    mask = np.zeros(grid, bool)
    mask[(start + np.arange(length)) % t] = picture
    return mask


def per_frame(mask: Mask, frames: int) -> Mask:
    """Returns a mask of moments (t, h, w) for every frame, (t * frames, h, w): what the loss is taken of."""
    return mask.repeat(frames, axis=0)
