"""Raw pixels as features: the encoder that has learned nothing and has nothing to learn.

Every frame is averaged down to `size` x `size` and flattened.  What a probe reads from these
features can be read from the pixels themselves, so an encoder is worth only what it gives beyond
them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True, kw_only=True)
class PixelsConfig:
    """Settings of `PixelEncoder`.

    Attributes:
        num_frames: frames of a clip.
        size: frames are averaged down to `size` x `size` pixels.
        grey: the three colours are joined to their mean.
    """

    num_frames: int = 16
    size: int = 16
    grey: bool = False

    def __post_init__(self) -> None:
        if self.num_frames < 1 or self.size < 1:
            raise ValueError(
                f"num_frames={self.num_frames} and size={self.size} must both be at least 1."
            )


class PixelEncoder(nn.Module):
    """Down-sampled frames with the interface of an encoder; it has no weights.

    `embed_dim` is size * size * 3 (or * 1 when grey).
    """

    #: Whether the features of a frame depend on that frame alone.
    frames_stand_alone = True

    def __init__(self, config: PixelsConfig) -> None:
        super().__init__()
        self.config = config
        self.num_frames = config.num_frames
        self.embed_dim = config.size**2 * (1 if config.grey else 3)

    def tokens(self, video: Tensor) -> Tensor:
        """Returns (B, T, D): the down-sampled frames of a normalised `video` (B, C, T, H, W)."""
        frames = video.transpose(1, 2)
        if self.config.grey:
            frames = frames.mean(dim=2, keepdim=True)
        small = F.adaptive_avg_pool2d(frames.flatten(0, 1).float(), self.config.size)
        return small.reshape(video.shape[0], video.shape[2], self.embed_dim)

    def frame_features(self, video: Tensor) -> Tensor:
        """Returns (B, T, D): one feature for every frame."""
        return self.tokens(video)

    def clip_features(self, video: Tensor) -> Tensor:
        """Returns (B, D): the mean frame."""
        return self.tokens(video).mean(dim=1)

    def features(self, video: Tensor, cells: int = 1) -> tuple[Tensor, Tensor]:
        """Returns clip features (B, D) and frame features (B, T', D) of one forward pass.

        A frame already keeps all its parts, so `cells` changes nothing.
        """
        frames = self.frame_features(video)
        return frames.mean(1), frames

    def feature_dim(self, cells: int = 1) -> int:
        """Returns the width of what `features` gives."""
        return self.embed_dim

    def frame_positions(self, num_frames: int) -> np.ndarray:
        """Returns float64 (T,): 0, 1, 2, ..., because every sampled frame has its own feature."""
        return np.arange(num_frames, dtype=np.float64)

    def forward(self, video: Tensor) -> Tensor:
        return self.clip_features(video)
