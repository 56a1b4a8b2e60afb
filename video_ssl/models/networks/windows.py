"""Windows of tokens in time and space: how Swin cuts a map into them, shifts it, and tells positions within one.

A map is (B, D, H, W, C).  Windows of (d, h, w) tokens follow each other in reading order, and so do the tokens of each.
For shifted windows the map is rolled, and tokens that only the roll has brought together do not see each other.

Source: papers/bevt.md section 3 (arXiv:2106.13230 and its code).
"""

from __future__ import annotations

import functools

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

Triple = tuple[int, int, int]


def fitted(size: Triple, window: Triple, shift: Triple) -> tuple[Triple, Triple]:
    """Returns window and shift for a map of this size: where it is no larger than the window, one window takes all.

    >>> fitted((4, 7, 14), (8, 7, 7), (4, 3, 3))
    ((4, 7, 7), (0, 0, 3))
    """
    small = [s <= w for s, w in zip(size, window, strict=True)]
    fit = tuple(s if is_small else w for s, w, is_small in zip(size, window, small, strict=True))
    moved = tuple(0 if is_small else s for s, is_small in zip(shift, small, strict=True))
    return (fit[0], fit[1], fit[2]), (moved[0], moved[1], moved[2])


@functools.lru_cache(maxsize=64)
def relative_index(window: Triple) -> NDArray[np.int64]:
    """Returns for each pair of tokens of a window the row of the table of biases: int64 (N, N), N tokens.

    The row is ((dt + d - 1)(2h - 1) + dh + h - 1)(2w - 1) + dw + w - 1, differences query minus key.

    >>> relative_index((1, 1, 2)).tolist()
    [[1, 0], [2, 1]]
    """
    d, h, w = window
    axes = np.meshgrid(np.arange(d), np.arange(h), np.arange(w), indexing="ij")
    t, y, x = (axis.reshape(-1) for axis in axes)
    dt, dh, dw = (a[:, None] - a for a in (t, y, x))
    return (((dt + d - 1) * (2 * h - 1) + dh + h - 1) * (2 * w - 1) + dw + w - 1).astype(np.int64)


def table_rows(window: Triple) -> int:
    """Returns the rows of the table of biases of a window: all differences between two of its tokens."""
    d, h, w = window
    return (2 * d - 1) * (2 * h - 1) * (2 * w - 1)


def may_attend(
    size: Triple, window: Triple, shift: Triple, device: torch.device | None = None
) -> Tensor:
    """Returns which tokens of each window of a rolled map were neighbours before: bool (windows, N, N).

    Args:
        size: of the map, multiples of the window.
        window: of the windows.
        shift: by which the map was rolled; 0 = not along that axis.
        device: of the result.
    """
    regions = torch.zeros(1, *size, 1, dtype=torch.int64, device=device)
    for axis, (length, w, s) in enumerate(zip(size, window, shift, strict=True), 1):
        place = torch.arange(length, device=device)
        # Before the last window, in what is left of it, and in what the roll has brought there.
        part = (place >= length - w).long() + (place >= length - s).long() if s else 0 * place
        regions = 3 * regions + part.view([length if i == axis else 1 for i in range(5)])
    rows = cut(regions.expand(1, *size, 1).contiguous(), window)[..., 0]
    return rows[:, :, None] == rows[:, None]


def cut(x: Tensor, window: Triple) -> Tensor:
    """Returns the windows of a map (B, D, H, W, C) whose sides they divide: (B * windows, N, C)."""
    b, *size, c = x.shape
    counts = [s // w for s, w in zip(size, window, strict=True)]
    d, h, w = window
    x = x.view(b, counts[0], d, counts[1], h, counts[2], w, c)
    return x.permute(0, 1, 3, 5, 2, 4, 6, 7).reshape(-1, d * h * w, c)


def joined(windows: Tensor, window: Triple, size: Triple) -> Tensor:
    """Returns the map (B, D, H, W, C) of its windows: the inverse of `cut`."""
    counts = [s // w for s, w in zip(size, window, strict=True)]
    x = windows.view(-1, *counts, *window, windows.shape[-1])
    return x.permute(0, 1, 4, 2, 5, 3, 6, 7).reshape(-1, *size, windows.shape[-1])


def padded(x: Tensor, window: Triple) -> Tensor:
    """Returns a map (B, D, H, W, C) with zeros at the ends, up to multiples of the window."""
    missing = [-s % w for s, w in zip(x.shape[1:4], window, strict=True)]
    if not any(missing):
        return x
    d, h, w = missing
    return F.pad(x, (0, 0, 0, w, 0, h, 0, d))
