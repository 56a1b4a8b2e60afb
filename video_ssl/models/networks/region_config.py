"""Settings of what regions of a feature map are decoded with, free of torch and jax."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class DecoderConfig:
    """Settings of `RegionDecoder`: layers of complete units that work side by side.

    Attributes:
        num_layers, num_heads, num_channels: of the decoder; its result is num_heads * num_channels wide.
        norm_eps: of the layer norms, which are computed in float32: 1e-12 is 0 in lower precisions.

    Source: papers/const_cl.md section 3.3.
    """

    num_layers: int = 3
    num_heads: int = 3
    num_channels: int = 128
    norm_eps: float = 1e-12

    def __post_init__(self) -> None:
        for name in ("num_layers", "num_heads", "num_channels"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1.")
        if self.norm_eps <= 0:
            raise ValueError(f"norm_eps={self.norm_eps} must be positive.")

    @property
    def width(self) -> int:
        """Of the result."""
        return self.num_heads * self.num_channels


#: Hidden and output widths of the two small networks of the position channels.
POSITION_HIDDEN, POSITION_OUT = 4, 8


def memory_frames(num_moments: int, context_level: int) -> list[int]:
    """Returns which moments of a feature map are the memory: `context_level` of them around the middle.

    >>> memory_frames(8, 5)
    [2, 3, 4, 5, 6]

    Raises:
        ValueError: an even level, or fewer moments than that.
    """
    if context_level < 1 or context_level % 2 == 0:
        raise ValueError(f"context_level={context_level} must be odd, so that there is a middle.")
    if num_moments < context_level:
        raise ValueError(
            f"context_level={context_level} needs as many moments, but a clip has {num_moments}: take longer clips or "
            "a lower level."
        )
    step, half = num_moments // context_level, context_level // 2
    return [num_moments // 2 + k * step for k in range(-half, half + 1)]
