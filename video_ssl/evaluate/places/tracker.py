"""A tracker that needs to learn nothing: where in the next frame are the features most like those of the box?

In every frame a window around the last box, about twice as large as the box with its surroundings, is encoded.  Boxes
at a grid of places in it are compared with the target's features of the first frame by their cosine, then three sizes
at the best place; a Hann window and a penalty on changes of size keep the track calm.  Windows and constants are
SiamFC's; that features are compared as they are, box by box, is ours (papers/const_cl.md section 6.2).
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

from video_ssl.evaluate.places.siam import SiamHead
from video_ssl.models.contract import TOKENS
from video_ssl.models.networks.regions import roi_align

Floats = NDArray[np.float64]

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


class Windows:
    """Encodes windows, and knows where boxes lie in them.

    Args:
        encoder: frozen, of videos, with tokens on a grid.
        config: see there.
        layer: whose features; null = the encoder's output.
    """

    def __init__(self, encoder: Any, config: TrackerConfig, *, layer: int | None = None) -> None:
        self.encoder, self.config, self.layer = encoder, config, layer
        self.side = config.window_px or encoder.preprocess.size
        self.frames = config.frames or encoder.preprocess.num_frames
        self.grid = encoder.token_grid((self.frames, self.side, self.side, 3), layer=layer)
        offsets = np.linspace(-0.25, 0.25, config.steps)
        down, across = np.meshgrid(offsets, offsets, indexing="ij")
        #: Places of the grid, (x, y) from the middle in shares of the window.
        self.offsets: Floats = np.stack([across.ravel(), down.ravel()], 1)

    def spans(self, sizes: Floats) -> Floats:
        """Returns the sides of the windows in pixels of the videos, (B,), of boxes (B, 2) wide and high."""
        padded = sizes + self.config.context * sizes.sum(1, keepdims=True)
        return np.asarray(self.config.search * np.sqrt(padded.prod(1)))

    def maps(self, pictures: list[NDArray[np.uint8]], centers: Floats, spans: Floats) -> Tensor:
        """Returns the feature maps of windows, the mean over time, float32 (B, h, w, D)."""
        windows = [
            cut_window(picture, center, float(span), self.side)
            for picture, center, span in zip(pictures, centers, spans, strict=True)
        ]
        return self.encoded(np.stack(windows))

    def encoded(self, windows: NDArray[np.uint8]) -> Tensor:
        """Returns the feature maps of windows that are cut already, uint8 (B, side, side, 3), in one pass."""
        clips = np.repeat(windows[:, None], self.frames, 1)
        tokens = self.encoder.outputs_of_arrays(clips, [TOKENS], layer=self.layer)[TOKENS]
        return torch.from_numpy(tokens).unflatten(1, self.grid).mean(1)

    def candidates(self, sizes: Floats, spans: Floats, offsets: Floats, scales: Floats) -> Tensor:
        """Returns boxes in shares of the windows, (B, scales * places, 4).

        Args:
            sizes: of the boxes in pixels, (B, 2) wide and high.
            spans: of the windows in pixels, (B,).
            offsets: of the boxes' middles from those of the windows, in shares, (places, 2) or (B, places, 2).
            scales: factors of the sizes, (scales,).
        """
        half = (sizes / spans[:, None])[:, None] * scales[:, None] / 2  # (B, scales, 2)
        middle = 0.5 + offsets[..., None, :, :]
        low = middle - half[:, :, None]
        high = middle + half[:, :, None]
        boxes = np.concatenate([low, high], -1).reshape(len(sizes), -1, 4)
        return torch.from_numpy(boxes.clip(0, 1).astype(np.float32))


def samples(maps: Tensor, boxes: Tensor) -> Tensor:
    """Returns what is at boxes, (B, N, n, n, D)."""
    return roi_align(maps, boxes, _BINS)


class CorrelationTracker:
    """Tracks one box in each of B videos, all of them frame by frame.

    Args:
        windows: of the encoder.
        pictures: the first frames, uint8 (H, W, 3) each, of any sizes.
        boxes: float (B, 4), left, top, width, height in pixels.
        head: what tells how alike boxes are; None = the cosine of their features.
    """

    def __init__(
        self,
        windows: Windows,
        pictures: list[NDArray[np.uint8]],
        boxes: NDArray[np.floating],
        head: SiamHead | None = None,
    ) -> None:
        self.windows, self.config, self.head = windows, windows.config, head
        given = np.asarray(boxes, np.float64)
        self.size = np.maximum(given[:, 2:], 1.0)
        self.center = given[:, :2] + given[:, 2:] / 2
        spans = windows.spans(self.size)
        maps = windows.maps(pictures, self.center, spans)
        # The target, and everything around it, which tells what is not the target.
        self.mean = maps.mean((1, 2), keepdim=True)
        own = windows.candidates(self.size, spans, np.zeros((1, 2)), np.ones(1))
        self.template = samples(self._cells(maps), own)[:, 0]
        self.scales = self.config.scale_step ** np.array([-1.0, 0.0, 1.0])
        hann = np.hanning(self.config.steps + 2)[1:-1]
        self.hann = (hann[:, None] * hann).ravel() / hann.max() ** 2

    def step(self, pictures: list[NDArray[np.uint8]]) -> Floats:
        """Returns the boxes of the next frames, float64 (B, 4) as left, top, width, height in pixels."""
        config, windows = self.config, self.windows
        spans = windows.spans(self.size)
        cells = self._cells(windows.maps(pictures, self.center, spans))
        # First the place, at the size of before; then the size at that place.
        alike = self._alike(
            cells, windows.candidates(self.size, spans, windows.offsets, np.ones(1))
        )
        low = alike.min(1, keepdims=True)
        room = np.maximum(alike.max(1, keepdims=True) - low, 1e-12)
        share = (1 - config.hann) * (alike - low) / room + config.hann * self.hann
        place = windows.offsets[share.argmax(1)]
        boxes = windows.candidates(self.size, spans, place[:, None], self.scales)
        # Penalised as a share of what there is between the least and the most alike place.
        share = (self._alike(cells, boxes) - low) / room
        share *= np.where(self.scales == 1, 1.0, config.scale_penalty)
        scale = self.scales[share.argmax(1)]
        self.center = self.center + place * spans[:, None]
        sizes = np.array([picture.shape[1::-1] for picture in pictures], np.float64)
        self.center = np.clip(self.center, 0, sizes)
        factor = 1 + config.scale_rate * (scale - 1)
        self.size = np.clip(self.size * factor[:, None], 2.0, sizes)
        return np.concatenate([self.center - self.size / 2, self.size], 1)

    def _cells(self, maps: Tensor) -> Tensor:
        """The cells of maps as they are compared: against the mean of the first window, as the head projects them."""
        with torch.no_grad():
            centered = maps - self.mean
            out: Tensor = centered if self.head is None else self.head.project(centered)
        return out

    def _alike(self, cells: Tensor, boxes: Tensor) -> Floats:
        """How alike boxes (B, N, 4) are to the target, (B, N)."""
        found = samples(cells, boxes)
        if self.head is not None:
            with torch.no_grad():
                return np.asarray(self.head(self.template, found).double().numpy())
        cosine = F.cosine_similarity(found.flatten(2), self.template.flatten(1)[:, None], dim=-1)
        return np.asarray(cosine.double().numpy())


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
