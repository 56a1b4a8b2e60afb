"""Raw pixels as features: the encoder that has learned nothing and has nothing to learn.

Every frame is averaged down to `size` x `size` and flattened.  What a probe reads from these
features can be read from the pixels themselves, so an encoder is worth only what it gives beyond
them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from video_ssl.models.contract import CLIP, MOMENTS, TOKENS
from video_ssl.models.networks.pixels_config import PixelsConfig
from video_ssl.models.torch_encoder import TorchEncoder


class PixelEncoder(TorchEncoder, nn.Module):
    """Down-sampled frames with the interface of an encoder; see `PixelsConfig`.  It has no weights.

    `embed_dim` is size * size * 3 (or * 1 when grey).  Its tokens are the down-sampled pixels, of 3 (or 1) numbers.
    """

    output_names = (CLIP, MOMENTS, TOKENS)
    frames_stand_alone = True

    def __init__(self, config: PixelsConfig) -> None:
        super().__init__()
        self.config = config
        self.num_frames = config.num_frames
        self.embed_dim = config.size**2 * self.channels
        # No weight, but it moves with the module and so has the device of the pixels.
        self.register_buffer("place", torch.empty(0), persistent=False)

    @property
    def channels(self) -> int:
        """Colors of a pixel."""
        return 1 if self.config.grey else 3

    def small(self, video: Tensor) -> Tensor:
        """Returns (B, T, C, size, size): the down-sampled frames of a normalised `video` (B, C, T, H, W)."""
        frames = video.transpose(1, 2)
        if self.config.grey:
            frames = frames.mean(dim=2, keepdim=True)
        small = F.adaptive_avg_pool2d(frames.flatten(0, 1).float(), self.config.size)
        return small.unflatten(0, video.shape[:1] + video.shape[2:3])

    def outputs(
        self,
        inputs: Tensor,
        names: Sequence[str],
        *,
        cells: int = 1,
        layer: int | None = None,
        pooling: str = "mean",
    ) -> dict[str, Tensor]:
        """Returns of a normalised video (B, C, T, H, W) "clip" (B, D), the mean frame, "moments" (B, T, D), the frames,
        and "tokens" (B, T * size * size, C).  A frame already keeps all its parts, so `cells` changes nothing."""
        self.check_outputs(names, layer=layer, pooling=pooling)
        self.check_input(inputs)
        small = self.small(inputs)
        moments = small.flatten(2)
        found = {CLIP: moments.mean(1), MOMENTS: moments}
        found[TOKENS] = small.permute(0, 1, 3, 4, 2).flatten(1, 3)
        return {name: found[name] for name in names}

    def output_dim(self, name: str, *, cells: int = 1, layer: int | None = None) -> int:
        """Returns the width of an output."""
        return self.channels if name == TOKENS else super().output_dim(name, layer=layer)

    def token_grid(self, shape: Sequence[int], *, layer: int | None = None) -> tuple[int, int, int]:
        """Returns (T, size, size) of a clip of shape (T, H, W, 3)."""
        return shape[0], self.config.size, self.config.size

    def frame_positions(self, num_frames: int) -> np.ndarray:
        """Returns float64 (T,): 0, 1, 2, ..., because every sampled frame has its own feature."""
        return np.arange(num_frames, dtype=np.float64)

    def forward(self, video: Tensor) -> Tensor:
        return self.outputs(video, (CLIP,))[CLIP]
