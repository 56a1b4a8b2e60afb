"""Settings of raw pixels as features, free of torch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class PixelsConfig:
    """Settings of `PixelEncoder`.

    Attributes:
        num_frames: frames of a clip.
        size: frames are averaged down to `size` x `size` pixels.
        grey: the three colors are joined to their mean.
    """

    num_frames: int = 16
    size: int = 16
    grey: bool = False

    def __post_init__(self) -> None:
        if self.num_frames < 1 or self.size < 1:
            raise ValueError(
                f"num_frames={self.num_frames} and size={self.size} must both be at least 1."
            )
