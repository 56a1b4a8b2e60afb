"""Settings of the 3-D ResNets of bottlenecks: R3D (CVRL, TeG, ConST-CL) and 3D ResNet-RS, free of torch and jax."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from video_ssl.clips.sampling.two_clips import dense_feature_times

Four = tuple[int, int, int, int]

#: depth -> bottlenecks of the four groups
DEPTHS: dict[int, Four] = {
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
    200: (3, 24, 36, 3),
    270: (4, 29, 53, 4),
    300: (4, 36, 54, 4),
    350: (4, 36, 72, 4),
}
_RS = {"stem": "v1", "se_ratio": 0.25, "self_gating": True}
#: preset -> the fields that it fills.
R3D_PRESETS: dict[str, dict[str, Any]] = {
    **{f"r3d_{depth}": {"blocks": DEPTHS[depth]} for depth in (50, 101, 152, 200)},
    **{f"r3d_rs_{depth}": {"blocks": blocks, **_RS} for depth, blocks in DEPTHS.items()},
}
PRESETS = Literal[
    "r3d_50",
    "r3d_101",
    "r3d_152",
    "r3d_200",
    "r3d_rs_50",
    "r3d_rs_101",
    "r3d_rs_152",
    "r3d_rs_200",
    "r3d_rs_270",
    "r3d_rs_300",
    "r3d_rs_350",
]


@dataclass(frozen=True, kw_only=True)
class R3DConfig:
    """A stem and four groups of bottlenecks, "res2" to "res5"; `preset` fills what is left empty.

    A bottleneck of F filters is: temporal convolution (k,1,1) to F channels, spatial (1,3,3) with the stride, (1,1,1)
    to 4F, each with batch norm.  Convolutions and pools are padded as TensorFlow's "SAME", which is not symmetric:
    weights trained one way give other features the other way.

    Source: papers/cvrl.md section 3, papers/const_cl.md section 3.1 (arXiv:2008.03800, 2109.01696, 2112.05181).

    Attributes:
        preset: "r3d_50", 101, 152, 200; "r3d_rs_50" to "r3d_rs_350"; or null (then `blocks` must be given).
        blocks: bottlenecks of the groups.
        filters: F of the groups; the features are 4 * filters[3] wide.
        time_kernels: temporal kernel of the groups, odd.
        stem: "v0" is one 5x7x7 convolution, "v1" (ResNet-D, of RS) 5x3x3 and two of 1x3x3.
        stem_width: channels after the stem; "v1" has half of them before its last convolution.
        stem_time_stride, pool_time_stride: the clip features have the product of them fewer frames (rounded up).
        se_ratio: squeeze-and-excitation with int(4 * F * se_ratio) channels in every bottleneck; 0 = none.
        self_gating: a learned gate in the last bottleneck of each group, before squeeze-and-excitation, as the code has
            it (summaries of the paper say: in every one, after it).
        drop_path: stochastic depth at the network's end; group g = 0..3 drops with drop_path * (g + 2) / 5.
        second_branch: a second res5 beside the first, endpoint "5_1" (R3DY, of ConST-CL).
        endpoint: which of the two the features are taken from.
        norm_momentum: share of the old moving statistics that an update keeps (TensorFlow's meaning).
        norm_eps: of all batch norms.
        moving_variance: what batch variance enters the moving variance: "biased" (divided by n, synchronised batch norm
            of the reference's training) or "unbiased" (n - 1, the fused one on one device).
        num_frames: of the clips that it is made for; empty = the clip of the objective.
    """

    architecture: Literal["r3d"] = "r3d"
    preset: PRESETS | None = "r3d_50"
    blocks: Four | None = None
    filters: Four = (64, 128, 256, 512)
    time_kernels: Four = (1, 1, 3, 3)
    stem: Literal["v0", "v1"] | None = None
    stem_width: int = 64
    stem_time_stride: int = 2
    pool_time_stride: int = 1
    se_ratio: float | None = None
    self_gating: bool | None = None
    drop_path: float = 0.0
    second_branch: bool = False
    endpoint: Literal["5", "5_1"] = "5"
    norm_momentum: float = 0.9
    norm_eps: float = 1e-5
    moving_variance: Literal["biased", "unbiased"] = "biased"
    num_frames: int | None = None

    def __post_init__(self) -> None:
        if self.preset is not None and self.preset not in R3D_PRESETS:
            raise ValueError(f"preset={self.preset!r} must be one of {list(R3D_PRESETS)} or null.")
        fill: dict[str, Any] = {"stem": "v0", "se_ratio": 0.0, "self_gating": False}
        fill |= R3D_PRESETS[self.preset] if self.preset else {}
        for name in ("blocks", "stem", "se_ratio", "self_gating"):
            if getattr(self, name) is None:
                if name not in fill:
                    raise ValueError(
                        f"{name} is not set: give a preset ({', '.join(R3D_PRESETS)}), or {name}."
                    )
                object.__setattr__(self, name, fill[name])
        self._check()

    def _check(self) -> None:
        for name in ("blocks", "filters", "time_kernels"):
            values = getattr(self, name)
            if len(values) != 4 or min(values) < 1:
                raise ValueError(
                    f"{name}={tuple(values)} must be 4 numbers of at least 1, one for each group."
                )
        if any(kernel % 2 == 0 for kernel in self.time_kernels):
            raise ValueError(
                f"time_kernels={self.time_kernels} must be odd, so that frames stay in place."
            )
        if self.stem not in ("v0", "v1"):
            raise ValueError(f"stem={self.stem!r} must be 'v0' or 'v1'.")
        if self.stem_width < 1 or (self.stem == "v1" and self.stem_width % 2):
            raise ValueError(
                f"stem_width={self.stem_width} must be positive, and even for stem='v1'."
            )
        for name in ("stem_time_stride", "pool_time_stride"):
            if getattr(self, name) not in (1, 2):
                raise ValueError(f"{name}={getattr(self, name)} must be 1 or 2.")
        if not 0 <= self.ratio <= 1:
            raise ValueError(
                f"se_ratio={self.se_ratio} must lie in [0, 1]; 0 = no squeeze-and-excitation."
            )
        if not 0 <= self.drop_path < 1 or not 0 <= self.norm_momentum < 1:
            raise ValueError(
                f"drop_path={self.drop_path} and norm_momentum={self.norm_momentum} must lie in [0, 1)."
            )
        if self.norm_eps <= 0:
            raise ValueError(f"norm_eps={self.norm_eps} must be positive.")
        if self.endpoint not in ("5", "5_1") or (self.endpoint == "5_1" and not self.second_branch):
            raise ValueError(
                f"endpoint={self.endpoint!r} must be '5', or '5_1' where second_branch is true."
            )
        if self.num_frames is not None and self.num_frames < 1:
            raise ValueError(f"num_frames={self.num_frames} must be at least 1.")

    @property
    def repeats(self) -> Four:
        assert self.blocks is not None
        return self.blocks

    @property
    def ratio(self) -> float:
        assert self.se_ratio is not None
        return self.se_ratio

    @property
    def width(self) -> int:
        """Width of the features."""
        return 4 * self.filters[3]

    def grid(self, num_frames: int, height: int, width: int) -> tuple[int, int, int]:
        """Returns (T', h, w) of the last feature map.

        >>> R3DConfig().grid(16, 224, 224)
        (8, 7, 7)
        """
        for stride in (self.stem_time_stride, self.pool_time_stride):
            num_frames = -(-num_frames // stride)
        for _ in range(5):
            height, width = -(-height // 2), -(-width // 2)
        return num_frames, height, width

    def frame_positions(self, num_frames: int) -> np.ndarray:
        """Returns float64 (T',): the mean time of the frames of each feature, in units of sampled frames.

        Source: papers/teg.md section 4.1 (tau, with start 0 and stride 1).
        """
        count = self.grid(num_frames, 1, 1)[0]
        return dense_feature_times(0, num_frames=num_frames, frame_stride=1, num_positions=count)


@dataclass(frozen=True, kw_only=True)
class BottleneckSpec:
    """One bottleneck of a network.

    Attributes:
        name: of its parameters, in torch and in flax.
        width_in: channels that come in.
        filters: F.
        time_kernel, stride: of its first and its second convolution.
        project: the shortcut has a convolution; else it is the input, every `stride`-th pixel of it.
        squeeze: channels of squeeze-and-excitation, 0 = none.
        self_gating: has the gate.
        drop_path: chance that a sample skips it in training.
    """

    name: str
    width_in: int
    filters: int
    time_kernel: int
    stride: int
    project: bool
    squeeze: int
    self_gating: bool
    drop_path: float


def bottleneck_specs(config: R3DConfig) -> dict[str, list[BottleneckSpec]]:
    """Returns the bottlenecks by endpoint: "2", "3", "4", "5" and, with a second branch, "5_1" (fed by "4")."""
    specs: dict[str, list[BottleneckSpec]] = {}
    width = config.stem_width
    for group in range(4):
        specs[str(group + 2)] = _group_specs(config, group, width, f"res{group + 2}")
        if group == 3 and config.second_branch:
            specs["5_1"] = _group_specs(config, group, width, "res5_1")
        width = 4 * config.filters[group]
    return specs


def _group_specs(config: R3DConfig, group: int, width: int, name: str) -> list[BottleneckSpec]:
    filters, count = config.filters[group], config.repeats[group]
    return [
        BottleneckSpec(
            name=f"{name}_block{i}",
            width_in=width if i == 0 else 4 * filters,
            filters=filters,
            time_kernel=config.time_kernels[group],
            stride=2 if i == 0 and group > 0 else 1,
            project=i == 0 and width != 4 * filters,
            squeeze=int(4 * filters * config.ratio),
            self_gating=bool(config.self_gating) and i == count - 1,
            drop_path=config.drop_path * (group + 2) / 5,
        )
        for i in range(count)
    ]


@dataclass(frozen=True, kw_only=True)
class StemSpec:
    """One convolution of the stem, followed by batch norm and ReLU; `name` and `norm` name their parameters."""

    name: str
    norm: str
    width_in: int
    width: int
    kernel: tuple[int, int, int]
    stride: tuple[int, int, int]


def stem_specs(config: R3DConfig) -> list[StemSpec]:
    """Returns the convolutions of the stem in order."""
    width, time = config.stem_width, config.stem_time_stride
    if config.stem == "v0":
        sizes = [(3, width, (5, 7, 7), (time, 2, 2))]
    else:
        half = width // 2
        sizes = [
            (3, half, (5, 3, 3), (time, 2, 2)),
            (half, half, (1, 3, 3), (1, 1, 1)),
            (half, width, (1, 3, 3), (1, 1, 1)),
        ]
    return [
        StemSpec(
            name=f"stem_conv{i}", norm=f"stem_norm{i}", width_in=a, width=b, kernel=k, stride=s
        )
        for i, (a, b, k, s) in enumerate(sizes)
    ]


def pool_window(config: R3DConfig) -> tuple[int, int, int]:
    """Returns the window of the max-pool behind the stem; its stride is (pool_time_stride, 2, 2)."""
    return (3 if config.pool_time_stride == 2 else 1), 3, 3
