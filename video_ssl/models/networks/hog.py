"""Histograms of oriented gradients as features: what hand-made edges tell of a clip, without any learning.

An encoder that is to have learned something must beat them, and not only raw pixels: they see shapes whatever their
color.  What is kept of the frames tells how much of a task needs order, or time at all.

Source: Dalal and Triggs, "Histograms of oriented gradients for human detection" (CVPR 2005): bins over half a turn,
cells, and overlapping blocks of 2 x 2 of them brought to length 1 ("L2-Hys"); no interpolation between bins and cells,
as in `skimage.feature.hog`, which needs scipy and is some ten times slower than all frames of a batch at once.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from video_ssl.models.contract import CLIP, MOMENTS
from video_ssl.models.networks.hog_config import HogConfig
from video_ssl.models.torch_encoder import TorchEncoder

_BLOCK = 2  # cells of a block in height and in width
_MOST, _EPS = 0.2, 1e-5  # of L2-Hys


class HogEncoder(TorchEncoder, nn.Module):
    """Oriented gradients of frames with the interface of an encoder; see `HogConfig`.  It has no weights.

    Gradients are those of the normalised video, of which each pixel gives its strongest color.
    """

    def __init__(self, config: HogConfig) -> None:
        super().__init__()
        self.config = config
        self.num_frames = config.num_frames
        self.frames_stand_alone = config.shows == "each"
        # No weight, but it moves with the module and so has the device of the gradients.
        self.register_buffer("place", torch.empty(0), persistent=False)
        blocks = (config.grid - _BLOCK + 1) ** 2
        self.embed_dim = self._width(blocks * _BLOCK**2 * config.orientations)

    def _width(self, frame: int) -> int:
        """The width of a moment, where that of a frame is `frame`."""
        frames = {
            "order": self.num_frames,
            "differences": self.num_frames - 1,
            "window": 2 * self.config.reach + 1,
        }
        return frame * frames.get(self.config.shows, 1)

    def outputs(
        self,
        inputs: Tensor,
        names: Sequence[str],
        *,
        cells: int = 1,
        layer: int | None = None,
        pooling: str = "mean",
    ) -> dict[str, Tensor]:
        """Returns of a normalised video (B, C, T, H, W) "moments" (B, T', D), one for the clip or T for the frames, and
        "clip" (B, D), their mean.  A histogram already keeps where edges are, so `cells` changes nothing."""
        self.check_outputs(names, layer=layer, pooling=pooling)
        self.check_input(inputs)
        moments = self._moments(inputs.transpose(1, 2).float())
        found = {CLIP: moments.mean(1), MOMENTS: moments}
        return {name: found[name] for name in names}

    def frame_positions(self, num_frames: int) -> np.ndarray:
        """Returns float64 (T',): the frames themselves, or where in the clip its one moment lies."""
        if self.config.shows in ("each", "window"):
            return np.arange(num_frames, dtype=np.float64)
        middle = num_frames // 2 if self.config.shows == "frame" else (num_frames - 1) / 2
        return np.array([middle], np.float64)

    def forward(self, video: Tensor) -> Tensor:
        return self.outputs(video, (CLIP,))[CLIP]

    def _moments(self, frames: Tensor) -> Tensor:
        """Returns (B, T', D) of frames (B, T, C, H, W)."""
        shows = self.config.shows
        if shows == "frame":
            middle = frames.shape[1] // 2
            return self.gradients(frames[:, middle : middle + 1])
        if shows == "differences":
            return self.gradients(frames[:, 1:] - frames[:, :-1]).flatten(1)[:, None]
        each = self.gradients(frames)
        if shows == "bag":
            return each.mean(1, keepdim=True)
        if shows == "order":
            return each.flatten(1)[:, None]
        if shows == "window":
            return self._windows(each)
        return each

    def _windows(self, each: Tensor) -> Tensor:
        """Returns (B, T, n * D) of (B, T, D): every frame between its neighbours, the first and the last repeated."""
        reach, length = self.config.reach, each.shape[1]
        around = torch.arange(-reach, reach + 1, device=each.device)
        places = torch.arange(length, device=each.device)[:, None] + around
        return each[:, places.clamp(0, length - 1)].flatten(2)

    def gradients(self, frames: Tensor) -> Tensor:
        """Returns float32 (B, T, D): the histograms of frames (B, T, C, H, W)."""
        config, flat = self.config, frames.flatten(0, 1)
        if flat.shape[-2:] != (config.size, config.size):
            flat = F.adaptive_avg_pool2d(flat, config.size)
        found = oriented_gradients(flat, grid=config.grid, orientations=config.orientations)
        return found.unflatten(0, frames.shape[:2])


def oriented_gradients(images: Tensor, *, grid: int, orientations: int = 9) -> Tensor:
    """Returns float32 (N, D): histograms of oriented gradients, blocks before cells before bins, rows before columns.

    The same numbers as `skimage.feature.hog` with these settings, blocks of 2 x 2 cells, "L2-Hys" and a channel axis.

    Args:
        images: float32 (N, C, H, W); rows and columns that fill no cell are left out of the histograms.
        grid: cells along the shorter side of the image, which makes them squares of so many pixels.
        orientations: bins over half a turn; 0 is an edge whose brightness changes from left to right.
    """
    strength, bins = _strongest(images, orientations)
    cell = min(images.shape[-2:]) // grid
    rows, columns = images.shape[-2] // cell, images.shape[-1] // cell
    strength = strength[:, : rows * cell, : columns * cell]
    bins = bins[:, : rows * cell, : columns * cell]
    row = torch.arange(rows * cell, device=images.device) // cell
    column = torch.arange(columns * cell, device=images.device) // cell
    place = (row[:, None] * columns + column) * orientations + bins
    flat = strength.new_zeros(len(images), rows * columns * orientations)
    flat.scatter_add_(1, place.flatten(1), strength.flatten(1))
    histograms = flat.unflatten(1, (rows, columns, orientations)) / cell**2
    parts = [
        histograms[:, i : rows - _BLOCK + 1 + i, j : columns - _BLOCK + 1 + j]
        for i in range(_BLOCK)
        for j in range(_BLOCK)
    ]
    blocks = torch.stack(parts, dim=3).flatten(3)
    return _unit(_unit(blocks).clamp(max=_MOST)).flatten(1)


def _strongest(images: Tensor, orientations: int) -> tuple[Tensor, Tensor]:
    """Returns float32 and int64 (N, H, W): how strong the gradient of the strongest channel is, and its bin.

    Differences of the two neighbours; none at the border of the image, along the axis that leaves it.
    """
    down, right = torch.zeros_like(images), torch.zeros_like(images)
    down[..., 1:-1, :] = images[..., 2:, :] - images[..., :-2, :]
    right[..., 1:-1] = images[..., 2:] - images[..., :-2]
    squared, channel = (down.square() + right.square()).max(dim=1, keepdim=True)
    down, right = (part.gather(1, channel)[:, 0] for part in (down, right))
    # An angle and its opposite are one: turned into [0, pi) first, no rounding can bring one to pi, the bin of 0.
    turned = (down < 0) | ((down == 0) & (right < 0))
    sign = torch.where(turned, -1.0, 1.0)
    angle = torch.atan2(down * sign, right * sign)
    bins = (angle * (orientations / torch.pi)).long().clamp_(max=orientations - 1)
    return squared[:, 0].sqrt(), bins


def _unit(blocks: Tensor) -> Tensor:
    """Returns (..., D) of length 1, or 0 where there is nothing."""
    return blocks / (blocks.square().sum(-1, keepdim=True) + _EPS**2).sqrt()
