"""3-D residual networks of basic blocks: R(2+1)D and R2D3D, as HiCo builds them.

Source: papers/hico.md section 3.2.  Parameters are called `stem.*` and `stages.S.B.*`; those of the
reference are mapped by `from_hico`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np
import torch.nn.functional as F
from torch import Tensor, nn

from video_ssl.models.networks.r2plus1d_config import R2Plus1DConfig
from video_ssl.models.networks.token_features import MapFeatures

Triple = tuple[int, int, int]


def middle_width(width_in: int, width_out: int, kernel: Triple) -> int:
    """Returns the channels between the spatial and the temporal part of a convolution: about as many weights as whole.

    >>> middle_width(3, 64, (3, 7, 7)), middle_width(64, 128, (3, 3, 3))
    (83, 230)
    """
    t, h, w = kernel
    whole = t * h * w * width_in * width_out
    return whole // (h * w * width_in + t * width_out)


class ConvNorm(nn.Sequential):
    """A convolution without bias, padded so that a stride of 1 keeps the size, and a batch norm."""

    def __init__(
        self, width_in: int, width_out: int, kernel: Triple, stride: Triple, eps: float
    ) -> None:
        pad = (kernel[0] // 2, kernel[1] // 2, kernel[2] // 2)
        super().__init__()
        self.conv = nn.Conv3d(width_in, width_out, kernel, stride, pad, bias=False)
        self.norm = nn.BatchNorm3d(width_out, eps=eps)


def factored(
    width_in: int, width_out: int, kernel: Triple, stride: Triple, eps: float
) -> nn.Sequential:
    """Returns a (2+1)-D convolution: space, norm, ReLU, time, norm."""
    (t, h, w), (st, sh, sw) = kernel, stride
    middle = middle_width(width_in, width_out, kernel)
    space = ConvNorm(width_in, middle, (1, h, w), (1, sh, sw), eps)
    time = ConvNorm(middle, width_out, (t, 1, 1), (st, 1, 1), eps)
    layers = nn.Sequential()
    layers.add_module("space", space)
    layers.add_module("relu", nn.ReLU(inplace=True))
    layers.add_module("time", time)
    return layers


class Stem(nn.Module):
    """The first layers: space is halved (R(2+1)D) or quartered (R2D3D), time is kept."""

    def __init__(self, config: R2Plus1DConfig) -> None:
        super().__init__()
        width, eps = config.channels[0], config.norm_eps
        self.pool = config.stem == "r2d3d"
        self.layers: nn.Module
        if self.pool:
            self.layers = ConvNorm(3, width, (1, 7, 7), (1, 2, 2), eps)
        else:
            self.layers = factored(3, width, (3, 7, 7), (1, 2, 2), eps)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.layers(x), inplace=True)
        return F.max_pool3d(x, (1, 3, 3), (1, 2, 2), (0, 1, 1)) if self.pool else x


class BasicBlock(nn.Module):
    """Two convolutions and a shortcut, which has a 1x1x1 convolution where width or size changes."""

    def __init__(
        self,
        width_in: int,
        width_out: int,
        *,
        kind: str,
        kernel: Triple,
        stride: Triple,
        eps: float,
    ) -> None:
        super().__init__()
        make = factored if kind == "r2plus1d" else ConvNorm
        self.a = make(width_in, width_out, kernel, stride, eps)
        self.b = make(width_out, width_out, kernel, (1, 1, 1), eps)
        same = width_in == width_out and stride == (1, 1, 1)
        self.shortcut = None if same else ConvNorm(width_in, width_out, (1, 1, 1), stride, eps)

    def forward(self, x: Tensor) -> Tensor:
        beside = x if self.shortcut is None else self.shortcut(x)
        return F.relu(self.b(F.relu(self.a(x), inplace=True)) + beside, inplace=True)


class R2Plus1D(MapFeatures, nn.Module):
    """A 3-D residual network; see `R2Plus1DConfig` for its settings.

    Videos are float (B, C, T, H, W), normalised; clips of any length and size are welcome.  Its
    tokens are the cells of the last feature map.
    """

    def __init__(self, config: R2Plus1DConfig) -> None:
        super().__init__()
        self.config = config
        self.embed_dim = config.width
        self.stem = Stem(config)
        self.stages = nn.ModuleList(_stage(config, i) for i in range(4))

    def forward(self, video: Tensor) -> Tensor:
        """Returns the last feature map, (B, D, T', h, w)."""
        x = self.stem(video)
        for stage in self.stages:
            x = stage(x)
        return x

    def grid(self, video: Tensor) -> Triple:
        """Returns (T', h, w) of the last feature map of a video (B, C, T, H, W)."""
        t, h, w = video.shape[2:]
        for stride in self.config.strides:
            t = -(-t // stride)
        halvings = 5 if self.config.stem == "r2d3d" else 4
        for _ in range(halvings):
            h, w = -(-h // 2), -(-w // 2)
        return t, h, w

    def frame_positions(self, num_frames: int) -> np.ndarray:
        """Returns float64 (T',): the centres of what the features see, in units of sampled frames.

        With odd kernels and symmetric padding, feature j is centred at frame j * (product of the
        strides).
        """
        step, count = 1, num_frames
        for stride in self.config.strides:
            step, count = step * stride, -(-count // stride)
        return np.arange(count, dtype=np.float64) * step


def _stage(config: R2Plus1DConfig, i: int) -> nn.Sequential:
    """Stage i = 0..3; its first block changes width and size (the first stage keeps the size)."""
    space = 1 if i == 0 else 2
    blocks = []
    for number in range(config.blocks_per_stage):
        first = number == 0
        blocks.append(
            BasicBlock(
                config.channels[i] if first else config.channels[i + 1],
                config.channels[i + 1],
                kind=config.block or "",
                kernel=(config.kernels[i], 3, 3),
                stride=(config.strides[i], space, space) if first else (1, 1, 1),
                eps=config.norm_eps,
            )
        )
    return nn.Sequential(*blocks)


# Weights of the reference -----------------------------------------------------------------------

_HICO_KEY = re.compile(
    r"backbone\.conv(?P<stage>\d)\.(?:res_(?P<block>\d+)\.)?(?:conv_branch\.)?"
    r"(?P<layer>short_cut|[ab])(?P<part>[12]?)(?P<norm>_bn)?\.(?P<kind>\w+)"
)
_HICO_PARTS = {"": "", "1": "space.", "2": "time."}


def from_hico(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns the backbone of a HiCo ResNet under the keys of `R2Plus1D`; heads are left out.

    Keys there: `backbone.conv1.a1`, `backbone.conv3.res_1.short_cut_bn`, `...conv_branch.b2`
    (papers/hico.md section 8).
    """
    found = {}
    for key, value in state.items():
        match = _HICO_KEY.fullmatch(key)
        if match is None:
            continue
        kind = f"{'norm' if match['norm'] else 'conv'}.{match['kind']}"
        if match["block"] is None:
            layer = "stem.layers"
        else:
            name = "shortcut" if match["layer"] == "short_cut" else match["layer"]
            layer = f"stages.{int(match['stage']) - 2}.{int(match['block']) - 1}.{name}"
        found[f"{layer}.{_HICO_PARTS[match['part']]}{kind}"] = value
    return found


def to_hico(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns our weights under the names of HiCo: the inverse of `from_hico`.

    >>> import torch
    >>> list(to_hico({"stages.0.1.a.space.norm.bias": torch.zeros(4)}))
    ['backbone.conv2.res_2.conv_branch.a1_bn.bias']
    """
    return {_hico_key(key): value for key, value in state.items()}


def _hico_key(key: str) -> str:
    *layer, module, kind = key.split(".")
    part = {"space": "1", "time": "2"}.get(layer[-1], "")
    layer = layer[:-1] if part else layer
    end = f"{part}{'_bn' if module == 'norm' else ''}.{kind}"
    if layer == ["stem", "layers"]:
        return f"backbone.conv1.a{end}"
    _, stage, block, name = layer
    inside = "short_cut" if name == "shortcut" else f"conv_branch.{name}"
    return f"backbone.conv{int(stage) + 2}.res_{int(block) + 1}.{inside}{end}"
