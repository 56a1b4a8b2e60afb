"""Settings of the autoencoders of pictures that we train ourselves, free of torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class VQConfig:
    """An autoencoder of pictures with a vocabulary in the middle: a word for every cell of 8 x 8 pixels.

    Source: papers/bevt.md section 11 A, our own specification (the codebook and its rules after BEiT v2,
    arXiv:2208.06366).

    Attributes:
        width: channels of the convolutions; 64 is small, 256 the size for 8192 words.
        dim: of the vectors that the words are.
        vocab_size: words.
        decay: of the running counts and sums that the words are the means of.
        restart_below: a word whose running count is smaller, and smaller than half of the mean, becomes a vector of the
            batch; 0 = never.
    """

    architecture: Literal["vq_tokenizer"] = "vq_tokenizer"
    width: int = 64
    dim: int = 16
    vocab_size: int = 512
    decay: float = 0.99
    restart_below: float = 1.0

    def __post_init__(self) -> None:
        for name, least in (("width", 2), ("dim", 1), ("vocab_size", 2)):
            if getattr(self, name) < least:
                raise ValueError(f"{name}={getattr(self, name)} must be at least {least}.")
        if self.width % 2:
            raise ValueError(f"width={self.width} must be even: the first layer has half of it.")
        if not 0 <= self.decay < 1 or self.restart_below < 0:
            raise ValueError(
                f"decay={self.decay} must lie in [0, 1) and restart_below={self.restart_below} not be negative."
            )

    @property
    def num_frames(self) -> int:
        """It sees frames one by one."""
        return 1


@dataclass(frozen=True, kw_only=True)
class DiscreteVAEConfig:
    """An autoencoder of pictures that draws a word for every cell of 8 x 8 pixels.  For experts: it may use few words.

    Source: papers/bevt.md sections 10 and 11 C; the network and the defaults are our own.

    Attributes:
        width: channels of the convolutions.
        vocab_size: words.
        temperatures: of what is drawn, at first and at last.
        cooling: share of the training in which the temperature falls.
    """

    architecture: Literal["discrete_vae"] = "discrete_vae"
    width: int = 64
    vocab_size: int = 512
    temperatures: tuple[float, float] = (1.0, 1 / 16)
    cooling: float = 0.5

    def __post_init__(self) -> None:
        if self.width < 2 or self.width % 2:
            raise ValueError(f"width={self.width} must be even: the first layer has half of it.")
        if self.vocab_size < 2:
            raise ValueError(f"vocab_size={self.vocab_size} must be at least 2.")
        if not 0 < self.temperatures[1] <= self.temperatures[0]:
            raise ValueError(
                f"temperatures={self.temperatures} must be positive, the second not above the first."
            )
        if not 0 < self.cooling <= 1:
            raise ValueError(f"cooling={self.cooling} must lie in (0, 1].")

    @property
    def num_frames(self) -> int:
        """It sees frames one by one."""
        return 1
