"""A tracker that learns nothing: where in the next frame are the features most like those of the box?

In every frame a window around the last box, about twice as large as the box with its surroundings, is encoded.  Boxes
of three sizes at a grid of places in it are compared with the target's features of the first frame by their cosine; a
Hann window and a penalty on changes of size keep the track calm.  Windows and constants are SiamFC's; that features are
compared as they are, box by box, is ours (papers/const_cl.md section 6.2).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from video_ssl.models.contract import TOKENS
from video_ssl.models.networks.regions import roi_align

#: Samples of a box along each side.
_BINS = 3


@dataclass(frozen=True, kw_only=True)
class TrackerConfig:
    """Settings of the tracker.

    Attributes:
        window_px: side of the square windows that are encoded; null = that of the encoder's clips.  Networks that take
            frames of any size have finer maps with larger ones.
        frames: of a clip, which all are the same frame; null = as many as the encoder was made for.  Convolutions and
            encoders of single frames take 1.
        context: of the sides' mean that is added around a box.
        search: side of the window in sides of the box with its context (SiamFC: 255 / 127).
        steps: places of the grid along each side, odd; they cover half of the window.
        scale_step, scale_penalty, scale_rate: factor between the sizes that are tried, factor of the similarity of
            another size, share of a change that is taken over.
        hann: weight of the Hann window.
    """

    window_px: int | None = None
    frames: int | None = None
    context: float = 0.5
    search: float = 255 / 127
    steps: int = 17
    scale_step: float = 1.0375
    scale_penalty: float = 0.9745
    scale_rate: float = 0.59
    hann: float = 0.176

    def __post_init__(self) -> None:
        for name in ("window_px", "frames"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name}={value} must be at least 1, or null.")
        if self.steps < 3 or self.steps % 2 == 0:
            raise ValueError(f"steps={self.steps} must be odd and at least 3.")
        if self.context < 0 or self.search <= 1 or self.scale_step < 1:
            raise ValueError(
                f"context={self.context} must not be negative, search={self.search} be above 1, "
                f"scale_step={self.scale_step} at least 1."
            )
        for name in ("scale_penalty", "scale_rate", "hann"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}={getattr(self, name)} must lie in [0, 1].")


class CorrelationTracker:
    """Tracks one box in each of B videos, all of them frame by frame.

    Args:
        encoder: frozen, of videos, with tokens on a grid.
        config: see there.
        pictures: the first frames, uint8 (H, W, 3) each, of any sizes.
        boxes: float (B, 4), left, top, width, height in pixels.
    """

    def __init__(
        self,
        encoder: Any,
        config: TrackerConfig,
        pictures: list[NDArray[np.uint8]],
        boxes: NDArray[np.floating],
    ) -> None:
        self.encoder, self.config = encoder, config
        self.side = config.window_px or encoder.preprocess.size
        self.frames = config.frames or encoder.preprocess.num_frames
        self.grid = encoder.token_grid((self.frames, self.side, self.side, 3))
        given = np.asarray(boxes, np.float64)
        self.size = np.maximum(given[:, 2:], 1.0)
        self.center = given[:, :2] + given[:, 2:] / 2
        # The target, and everything around it, which tells what is not the target.
        maps = self._maps(pictures)
        self.mean = maps.mean((1, 2), keepdim=True)
        self.template = self._features(maps, self._candidates(np.zeros((1, 2)), np.ones(1)))[:, 0]
        offsets = np.linspace(-0.25, 0.25, config.steps)
        down, across = np.meshgrid(offsets, offsets, indexing="ij")
        self.offsets = np.stack([across.ravel(), down.ravel()], 1)
        self.scales = config.scale_step ** np.array([-1.0, 0.0, 1.0])
        window = np.hanning(config.steps + 2)[1:-1]
        self.window = (window[:, None] * window).ravel() / window.max() ** 2

    def step(self, pictures: list[NDArray[np.uint8]]) -> NDArray[np.float64]:
        """Returns the boxes of the next frames, float64 (B, 4) as left, top, width, height in pixels."""
        config = self.config
        maps = self._maps(pictures)
        found = self._features(maps, self._candidates(self.offsets, self.scales))
        alike = F.cosine_similarity(found, self.template[:, None], dim=-1).double().numpy()
        alike = alike.reshape(len(alike), len(self.scales), -1)
        # Penalised as a share of what there is between the least and the most alike place.
        low = alike.min((1, 2), keepdims=True)
        share = (alike - low) / np.maximum(alike.max((1, 2), keepdims=True) - low, 1e-12)
        share *= np.where(self.scales == 1, 1.0, config.scale_penalty)[:, None]
        share = (1 - config.hann) * share + config.hann * self.window
        best = share.reshape(len(share), -1).argmax(1)
        scale, place = np.divmod(best, share.shape[2])
        self.center = self.center + self.offsets[place] * self._span()[:, None]
        sizes = np.array([picture.shape[1::-1] for picture in pictures], np.float64)
        self.center = np.clip(self.center, 0, sizes)
        factor = 1 + config.scale_rate * (self.scales[scale] - 1)
        self.size = np.clip(self.size * factor[:, None], 2.0, sizes)
        return np.concatenate([self.center - self.size / 2, self.size], 1)

    def _span(self) -> NDArray[np.float64]:
        """Sides of the windows in pixels of the videos, (B,)."""
        padded = self.size + self.config.context * self.size.sum(1, keepdims=True)
        return np.asarray(self.config.search * np.sqrt(padded.prod(1)))

    def _maps(self, pictures: list[NDArray[np.uint8]]) -> Tensor:
        """Feature maps of the windows, the mean over time, float32 (B, h, w, D)."""
        windows = np.stack(
            [
                cut_window(picture, center, float(span), self.side)
                for picture, center, span in zip(pictures, self.center, self._span(), strict=True)
            ]
        )
        clips = np.repeat(windows[:, None], self.frames, 1)
        tokens = self.encoder.outputs_of_arrays(clips, [TOKENS])[TOKENS]
        return torch.from_numpy(tokens).unflatten(1, self.grid).mean(1)

    def _candidates(self, offsets: NDArray[Any], scales: NDArray[Any]) -> Tensor:
        """Boxes in shares of the windows, (B, scales * places, 4)."""
        share = self.size / self._span()[:, None]
        half = share[:, None] * scales[:, None] / 2  # (B, scales, 2)
        middle = 0.5 + offsets
        low = middle[None, None] - half[:, :, None]
        high = middle[None, None] + half[:, :, None]
        boxes = np.concatenate([low, high], -1).reshape(len(share), -1, 4)
        return torch.from_numpy(boxes.clip(0, 1).astype(np.float32))

    def _features(self, maps: Tensor, boxes: Tensor) -> Tensor:
        """What is at boxes, against the mean of the first window: (B, N, bins * bins * D)."""
        return roi_align(maps - self.mean, boxes, _BINS).flatten(2)


def cut_window(
    picture: NDArray[np.uint8], center: NDArray[np.floating], span: float, side: int
) -> NDArray[np.uint8]:
    """Returns a square of `span` pixels around a centre (x, y), scaled to (side, side, 3).

    What lies outside the picture has its mean colour.
    """
    mean = tuple(picture.mean((0, 1)).round().astype(int).tolist())
    left, top = center - span / 2
    box = (left, top, left + span, top + span)
    image = Image.fromarray(picture)
    # An affine map samples beyond the border where a crop would not; the last column tells inside from outside.
    scale = span / side
    matrix = (scale, 0, box[0], 0, scale, box[1])
    size = (side, side)
    return np.asarray(
        image.transform(
            size,
            Image.Transform.AFFINE,
            matrix,
            resample=Image.Resampling.BILINEAR,
            fillcolor=mean,
        )
    )
