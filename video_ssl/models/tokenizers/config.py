"""Settings of the tokenizers beside the one of `vq_config`, free of torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from video_ssl.models.config import ImageViTConfig


@dataclass(frozen=True, kw_only=True)
class DalleConfig:
    """The encoder of OpenAI's discrete VAE.

    Attributes:
        width: channels of the first group, 256 in the published one; each further group has twice as many.
        vocab_size: words, 8192 in the published one.
        blocks_per_group: 2 in the published one.

    Source: papers/bevt.md section 10.
    """

    width: int = 256
    vocab_size: int = 8192
    blocks_per_group: int = 2

    def __post_init__(self) -> None:
        for name in ("width", "vocab_size", "blocks_per_group"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1.")
        if self.width % 4:
            raise ValueError(f"width={self.width} must be a multiple of 4.")

    @property
    def num_frames(self) -> int:
        """It sees frames one by one."""
        return 1


@dataclass(frozen=True, kw_only=True)
class PatchWordsConfig:
    """Words are squares of 8 x 8 pixels themselves, means of those of many pictures (k-means): no network.

    Source: papers/bevt.md section 11 B, our own specification.

    Attributes:
        vocab_size: words.
    """

    architecture: Literal["patch_words"] = "patch_words"
    vocab_size: int = 512

    def __post_init__(self) -> None:
        if self.vocab_size < 2:
            raise ValueError(f"vocab_size={self.vocab_size} must be at least 2.")

    @property
    def width(self) -> int:
        """Numbers of a square."""
        return 3 * 8 * 8

    @property
    def num_frames(self) -> int:
        """It sees frames one by one."""
        return 1


@dataclass(frozen=True, kw_only=True)
class VQKDConfig:
    """The tokenizer of BEiT v2: a ViT whose tokens, brought to few dimensions, are told by their nearest word.

    Attributes:
        vit: the ViT; its patches are the cells.
        dim: of the words.
        vocab_size: words.

    Source: papers/bevt.md section 10 (arXiv:2208.06366 and its code).
    """

    vit: ImageViTConfig = field(
        default_factory=lambda: ImageViTConfig(image_size=224, positions="learned", qkv_bias="q_v")
    )
    dim: int = 32
    vocab_size: int = 8192

    def __post_init__(self) -> None:
        for name in ("dim", "vocab_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1.")

    @property
    def num_frames(self) -> int:
        """It sees frames one by one."""
        return 1
