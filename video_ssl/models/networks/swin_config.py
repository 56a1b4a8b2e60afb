"""Settings of Video Swin, free of torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

#: preset -> the fields that it fills.
SWIN_PRESETS: dict[str, dict[str, Any]] = {
    "T": {"embed_dim": 96, "depths": (2, 2, 6, 2), "num_heads": (3, 6, 12, 24)},
    "S": {"embed_dim": 96, "depths": (2, 2, 18, 2), "num_heads": (3, 6, 12, 24)},
    "B": {"embed_dim": 128, "depths": (2, 2, 18, 2), "num_heads": (4, 8, 16, 32)},
    "L": {"embed_dim": 192, "depths": (2, 2, 18, 2), "num_heads": (6, 12, 24, 48)},
}


@dataclass(frozen=True, kw_only=True)
class SwinConfig:
    """Four stages of attention within windows of space and time; `preset` fills what is left empty.

    Source: papers/bevt.md section 3 (arXiv:2112.01529, arXiv:2106.13230 and their code).

    Attributes:
        preset: "T", "S", "B", "L", or null (then embed_dim, depths and num_heads must be given).
        embed_dim: width of the first stage; every further one is twice as wide.
        depths: blocks of the stages, half of them with shifted windows.
        num_heads: of the stages.
        window: frames, rows and columns of tokens that see each other.  (16, 7, 7) for Something-Something v2.
        patch: frames, rows and columns of pixels that make a token.
        mlp_ratio: width of the MLP over that of the stage.
        drop_path: stochastic depth of the last block; rises linearly from 0 at the first.
        images: it takes pictures too, through the same blocks, with an embedding of their own (BEVT).
        image_shift_mask: where windows of pictures are cut at the border of the shifted picture: in "every_block", as
            BEVT's weights were trained, or in "shifted_blocks" only, as one would expect.
        num_frames: of the clips that it is made for; empty = the clip of the objective.
    """

    #: What weights are made to fit when they go from one Swin to another.
    adaptable: ClassVar[tuple[str, ...]] = ("window", "images", "image_shift_mask")
    #: What only the pre-training needs.
    only_pretraining: ClassVar[tuple[str, ...]] = ("images", "image_shift_mask")

    architecture: Literal["swin"] = "swin"
    preset: Literal["T", "S", "B", "L"] | None = "B"
    embed_dim: int | None = None
    depths: tuple[int, int, int, int] | None = None
    num_heads: tuple[int, int, int, int] | None = None
    window: tuple[int, int, int] = (8, 7, 7)
    patch: tuple[int, int, int] = (2, 4, 4)
    mlp_ratio: float = 4.0
    drop_path: float = 0.0
    images: bool = False
    image_shift_mask: Literal["every_block", "shifted_blocks"] = "every_block"
    num_frames: int | None = None

    def __post_init__(self) -> None:
        fill = SWIN_PRESETS.get(self.preset or "", {})
        if self.preset is not None and not fill:
            raise ValueError(f"preset={self.preset!r} must be one of {list(SWIN_PRESETS)} or null.")
        for name in ("embed_dim", "depths", "num_heads"):
            if getattr(self, name) is None:
                if name not in fill:
                    raise ValueError(
                        f"{name} is not set: give a preset ({', '.join(SWIN_PRESETS)}), or embed_dim, depths and "
                        "num_heads."
                    )
                object.__setattr__(self, name, fill[name])
        self._check()

    def _check(self) -> None:
        for name, least in (("depths", 1), ("num_heads", 1), ("window", 1), ("patch", 1)):
            values = getattr(self, name)
            if min(values) < least:
                raise ValueError(f"{name}={tuple(values)} must be numbers of at least {least}.")
        for width, heads in zip(self.widths, self.heads, strict=True):
            if width < 1 or width % heads:
                raise ValueError(
                    f"num_heads={self.heads} must divide the widths of the stages, {self.widths}."
                )
        if not 0 <= self.drop_path < 1:
            raise ValueError(f"drop_path={self.drop_path} must lie in [0, 1).")
        if self.mlp_ratio <= 0:
            raise ValueError(f"mlp_ratio={self.mlp_ratio} must be positive.")
        if self.num_frames is not None and self.num_frames < 1:
            raise ValueError(f"num_frames={self.num_frames} must be at least 1.")

    @property
    def widths(self) -> tuple[int, int, int, int]:
        assert self.embed_dim is not None
        w = self.embed_dim
        return w, 2 * w, 4 * w, 8 * w

    @property
    def heads(self) -> tuple[int, int, int, int]:
        assert self.num_heads is not None
        return self.num_heads

    @property
    def blocks(self) -> tuple[int, int, int, int]:
        """Blocks of the stages."""
        assert self.depths is not None
        return self.depths

    @property
    def width(self) -> int:
        """Width of the features."""
        return self.widths[-1]
