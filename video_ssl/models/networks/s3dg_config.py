"""Settings of S3D-G, free of torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

#: A mixed block: its name, and the channels of its convolutions: those of the four branches are the 1st, 3rd, 5th and
#: last; the 2nd and 4th narrow the input of the separable ones.
Mixed = tuple[str, tuple[int, int, int, int, int, int]]

#: Smallest frames and clips of which a cell of the last feature map is left.
LEAST_SIZE, LEAST_FRAMES = 17, 5

#: Channels of the three convolutions of the stem.
STEM = (64, 64, 192)
#: The mixed blocks behind the second, third and fourth pool.
GROUPS: tuple[tuple[Mixed, ...], ...] = (
    (("mixed_3b", (64, 96, 128, 16, 32, 32)), ("mixed_3c", (128, 128, 192, 32, 96, 64))),
    (
        ("mixed_4b", (192, 96, 208, 16, 48, 64)),
        ("mixed_4c", (160, 112, 224, 24, 64, 64)),
        ("mixed_4d", (128, 128, 256, 24, 64, 64)),
        ("mixed_4e", (112, 144, 288, 32, 64, 64)),
        ("mixed_4f", (256, 160, 320, 32, 128, 128)),
    ),
    (("mixed_5b", (256, 160, 320, 32, 128, 128)), ("mixed_5c", (384, 192, 384, 48, 128, 128))),
)


@dataclass(frozen=True, kw_only=True)
class S3DGConfig:
    """Separable 3-D inception blocks whose branches are gated: S3D-G as HiCo builds it.

    Source: papers/hico.md section 3.1 (arXiv:2204.03017 and its code).

    Attributes:
        width_divisor: every number of channels but that of the video is divided by it, rounded down; 1 = as published
            (9.1 million parameters), at most 16.
        norm_eps: of the batch norms of separable convolutions.
        pointwise_norm_eps: of those of 1x1x1 convolutions, which the reference has smaller.
        num_frames: of the clips that it is made for; empty = the clip of the objective.
    """

    architecture: Literal["s3dg"] = "s3dg"
    width_divisor: int = 1
    norm_eps: float = 1e-3
    pointwise_norm_eps: float = 1e-5
    num_frames: int | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.width_divisor <= 16:
            raise ValueError(
                f"width_divisor={self.width_divisor} must lie in 1..16: the narrowest of all layers has 16 channels."
            )
        if self.norm_eps <= 0 or self.pointwise_norm_eps <= 0:
            raise ValueError(
                f"norm_eps={self.norm_eps} and pointwise_norm_eps={self.pointwise_norm_eps} must be positive."
            )
        if self.num_frames is not None and self.num_frames < 1:
            raise ValueError(f"num_frames={self.num_frames} must be at least 1.")

    def refuse_small(self, *, num_frames: int, height: int, width: int) -> None:
        """Raises ValueError for clips of which no cell of the last feature map is left."""
        if num_frames < LEAST_FRAMES or min(height, width) < LEAST_SIZE:
            raise ValueError(
                f"S3D-G was given clips of {num_frames} frames of {height}x{width} pixels: nothing is left of fewer "
                f"than {LEAST_FRAMES} frames or {LEAST_SIZE} pixels. Use longer clips or a larger crop."
            )

    def divided(self, channels: int) -> int:
        """Returns a number of channels of the published network in this one."""
        return channels // self.width_divisor

    @property
    def width(self) -> int:
        """Width of the features."""
        _, (a, _, b, _, c, d) = GROUPS[-1][-1]
        return sum(self.divided(channels) for channels in (a, b, c, d))
