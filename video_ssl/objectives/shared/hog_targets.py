"""Histograms of oriented gradients as targets of masked objectives: MaskFeat (arXiv:2112.09133).

Source: the reference code as described in papers/maskfeat.md.  It takes the gradients of the normalised frame; here
they are those of the levels 0 .. 255, which are exact: the histograms of a cell have unit length, so that mean and
standard deviation do not change them, but their rounding throws gradients that are exactly 0 along x into the first or
the last bin by chance.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from video_ssl.models.config import Normalization
from video_ssl.objectives.shared.masked_config import HogConfig

_LEVELS = 255
#: Below this length, the histogram of a cell is divided by it instead.
_EPS = 1e-12


def levels_of(video: Tensor, normalization: Normalization | None = None) -> Tensor:
    """Returns the levels 0 .. 255 that a video was made of, float32, whole numbers.

    Args:
        video: float (N, 3, T, H, W), in [0, 1], or normalised with `normalization`.  What rounding has added is taken
            away again.
    """
    video = video.float()
    if normalization is not None:
        parts = zip(video.unbind(1), normalization.mean, normalization.std, strict=True)
        video = torch.stack([color * std + mean for color, mean, std in parts], dim=1)
    return (video * _LEVELS).round()


def hog_targets(levels: Tensor, config: HogConfig, *, tubelet_size: int, patch_size: int) -> Tensor:
    """Returns the target of every token, float32 (N, L, E), L in the order time, row, column.

    E is in the order color, bin, row and column of the cell inside the token; of a tubelet, the first frame counts,
    the others give no target.

    Args:
        levels: float (N, 3, T, H, W), 0 .. 255; H and W are multiples of `patch_size`, T of `tubelet_size`.
    """
    frames = levels[:, :, ::tubelet_size].transpose(1, 2)
    cells = hog(frames.flatten(0, 1), config)
    u = patch_size // config.cell_px
    tokens = cells.unflatten(4, (-1, u)).unflatten(3, (-1, u))  # (N t, 3, bins, h, u, w, u)
    tokens = tokens.permute(0, 3, 5, 1, 2, 4, 6).flatten(3).flatten(1, 2)
    return tokens.unflatten(0, (len(levels), -1)).flatten(1, 2)


def hog(frames: Tensor, config: HogConfig) -> Tensor:
    """Returns a histogram per color and cell, float32 (N, 3, bins, H // cell_px, W // cell_px).

    A pixel adds the length of its gradient (Sobel) to the bin of its angle, without sign and without interpolation;
    each histogram is divided by its length.  A cell without any gradient gives zeros.  Rows and columns beyond a
    multiple of the cell are left out.

    Args:
        frames: float (N, 3, H, W), levels 0 .. 255 as whole numbers; at least 2 x 2 pixels.
    """
    with torch.autocast(frames.device.type, enabled=False):
        gx, gy = _gradients(frames.float())
        lengths = (gx.square() + gy.square()).sqrt()
        if config.gaussian_window:
            lengths = lengths * _windows(frames, config.gaussian_window)
        bins = _bins(gx, gy, config.bins)
        sums = [
            _cell_sums(torch.where(bins == k, lengths, 0), config.cell_px)
            for k in range(config.bins)
        ]
        return F.normalize(torch.stack(sums, dim=2), dim=2, eps=_EPS)


def _gradients(frames: Tensor) -> tuple[Tensor, Tensor]:
    """Sobel along x and y with reflected borders, exact in float32 for levels."""
    padded = F.pad(frames, (1, 1, 1, 1), mode="reflect")
    along_y = padded[..., :-2, :] + 2 * padded[..., 1:-1, :] + padded[..., 2:, :]
    along_x = padded[..., :-2] + 2 * padded[..., 1:-1] + padded[..., 2:]
    return along_y[..., :-2] - along_y[..., 2:], along_x[..., :-2, :] - along_x[..., 2:, :]


def _bins(gx: Tensor, gy: Tensor, bins: int) -> Tensor:
    """Half a turn from the y axis in equal bins.  The gradient is turned into the half-plane x > 0 first; on its edge,
    x = 0, it belongs to bin 0, whichever way it points."""
    angle = torch.atan2(gx.abs(), torch.where(gx < 0, -gy, gy))
    found = (angle * (bins / math.pi)).floor()
    return torch.where(gx == 0, 0, found)


def _windows(frames: Tensor, side: int) -> Tensor:
    """A Gaussian with sum 1 and standard deviation side // 2 in every window, (H, W)."""
    n = torch.arange(side, dtype=torch.float32, device=frames.device)
    row = torch.exp(-0.5 * ((n - n.mean()) / (side // 2)).square())
    window = row[:, None] * row
    window = window / window.sum()
    return window.repeat(frames.shape[-2] // side, frames.shape[-1] // side)


def _cell_sums(values: Tensor, side: int) -> Tensor:
    """(N, 3, H, W) -> (N, 3, H // side, W // side)"""
    h, w = (length // side for length in values.shape[-2:])
    whole = values[..., : h * side, : w * side]
    return whole.unflatten(3, (w, side)).sum(-1).unflatten(2, (h, side)).sum(3)
