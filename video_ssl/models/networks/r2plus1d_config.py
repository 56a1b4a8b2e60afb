"""Settings of the 3-D residual networks R(2+1)D and R2D3D, free of torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

#: preset -> the fields that it fills.
R2PLUS1D_PRESETS: dict[str, dict[str, Any]] = {
    "r2plus1d_10": {
        "depth": 10,
        "widths": (64, 64, 128, 256, 512),
        "block": "r2plus1d",
        "time_kernels": (3, 3, 3, 3),
        "time_strides": (1, 2, 2, 2),
    },
    "r2d3d_18": {
        "depth": 18,
        "widths": (64, 64, 128, 256, 256),
        "block": "r2d3d",
        "time_kernels": (1, 1, 3, 3),
        "time_strides": (1, 1, 2, 2),
    },
    "r3d_18": {
        "depth": 18,
        "widths": (64, 64, 128, 256, 512),
        "block": "r2d3d",
        "time_kernels": (3, 3, 3, 3),
        "time_strides": (1, 2, 2, 2),
    },
}


@dataclass(frozen=True, kw_only=True)
class R2Plus1DConfig:
    """A stem and four stages of basic residual blocks; `preset` fills what is left empty.

    Source: papers/hico.md section 3.2 (arXiv:2204.03017 and its code).

    Attributes:
        preset: "r2plus1d_10", "r2d3d_18", "r3d_18" (kernels 3x3x3; no config of it is published: stem and strides are
            ours), or null (then depth, widths and block must be given).
        depth: 10 = one block in each stage, 18 = two.
        widths: of the stem and of the four stages.
        block: "r2plus1d" splits every convolution into a spatial and a temporal one with a norm and ReLU between them;
            "r2d3d" keeps whole ones, whose extent in time `time_kernels` gives.
        stem: "r2plus1d" (1x7x7, then 3x1x1) or "r2d3d" (1x7x7, then a pool of stride 2); empty = as `block`.
        time_kernels: of the stages, odd.
        time_strides: of the stages; the clip features have the product of them fewer frames.
        norm_eps: of all batch norms.
        num_frames: of the clips that it is made for; empty = the clip of the objective.
    """

    architecture: Literal["r2plus1d"] = "r2plus1d"
    preset: Literal["r2plus1d_10", "r2d3d_18", "r3d_18"] | None = "r2plus1d_10"
    depth: Literal[10, 18] | None = None
    widths: tuple[int, int, int, int, int] | None = None
    block: Literal["r2plus1d", "r2d3d"] | None = None
    stem: Literal["r2plus1d", "r2d3d"] | None = None
    time_kernels: tuple[int, int, int, int] | None = None
    time_strides: tuple[int, int, int, int] | None = None
    norm_eps: float = 1e-3
    num_frames: int | None = None

    def __post_init__(self) -> None:
        if self.preset is not None and self.preset not in R2PLUS1D_PRESETS:
            raise ValueError(
                f"preset={self.preset!r} must be one of {list(R2PLUS1D_PRESETS)} or null."
            )
        named = f"r2{'d3d' if self.block == 'r2d3d' else 'plus1d'}_"
        kind = next(p for name, p in R2PLUS1D_PRESETS.items() if name.startswith(named))
        fill = R2PLUS1D_PRESETS[self.preset] if self.preset else {}
        # The shape in time goes with the kind of block; depth and widths are for the user to say.
        fill = {"time_kernels": kind["time_kernels"], "time_strides": kind["time_strides"], **fill}
        for name in ("depth", "widths", "block", "time_kernels", "time_strides"):
            if getattr(self, name) is None:
                if name not in fill:
                    raise ValueError(
                        f"{name} is not set: give a preset ({', '.join(R2PLUS1D_PRESETS)}), or depth, widths and block."
                    )
                object.__setattr__(self, name, fill[name])
        if self.stem is None:
            object.__setattr__(self, "stem", self.block)
        self._check()

    def _check(self) -> None:
        if self.depth not in (10, 18):
            raise ValueError(f"depth={self.depth} must be 10 or 18.")
        for name, length in (("widths", 5), ("time_kernels", 4), ("time_strides", 4)):
            values = getattr(self, name)
            if len(values) != length or min(values) < 1:
                raise ValueError(
                    f"{name}={tuple(values)} must be {length} numbers of at least 1: "
                    f"{'the stem and ' if length == 5 else ''}the four stages."
                )
        if any(kernel % 2 == 0 for kernel in self.kernels):
            raise ValueError(
                f"time_kernels={self.kernels} must be odd, so that frames stay in place."
            )
        if self.norm_eps <= 0:
            raise ValueError(f"norm_eps={self.norm_eps} must be positive.")
        if self.num_frames is not None and self.num_frames < 1:
            raise ValueError(f"num_frames={self.num_frames} must be at least 1.")

    @property
    def channels(self) -> tuple[int, int, int, int, int]:
        assert self.widths is not None
        return self.widths

    @property
    def width(self) -> int:
        """Width of the features."""
        return self.channels[-1]

    @property
    def blocks_per_stage(self) -> int:
        return 1 if self.depth == 10 else 2

    @property
    def kernels(self) -> tuple[int, int, int, int]:
        assert self.time_kernels is not None
        return self.time_kernels

    @property
    def strides(self) -> tuple[int, int, int, int]:
        assert self.time_strides is not None
        return self.time_strides
