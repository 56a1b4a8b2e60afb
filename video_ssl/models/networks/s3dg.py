"""S3D-G: inception blocks of separable 3-D convolutions, every branch gated by its own mean.

Source: papers/hico.md section 3.1.  Parameters are called `layers.NAME.*`; those of the reference, where every tensor
stands twice, are mapped by `from_hico`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from video_ssl.models.networks.s3dg_config import GROUPS, STEM, Mixed, S3DGConfig
from video_ssl.models.networks.token_features import MapFeatures


class Pointwise(nn.Module):
    """A 1x1x1 convolution without bias, batch norm, ReLU."""

    def __init__(self, width_in: int, width_out: int, config: S3DGConfig) -> None:
        super().__init__()
        self.conv = nn.Conv3d(width_in, width_out, 1, bias=False)
        self.norm = nn.BatchNorm3d(width_out, eps=config.pointwise_norm_eps)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.norm(self.conv(x)), inplace=True)


class Separable(nn.Module):
    """A convolution in space and one in time, each without bias and with batch norm and ReLU behind it."""

    def __init__(
        self, width_in: int, width_out: int, config: S3DGConfig, *, kernel: int = 3, stride: int = 1
    ) -> None:
        super().__init__()
        k, p, s = kernel, kernel // 2, stride
        self.space = nn.Conv3d(width_in, width_out, (1, k, k), (1, s, s), (0, p, p), bias=False)
        self.space_norm = nn.BatchNorm3d(width_out, eps=config.norm_eps)
        self.time = nn.Conv3d(width_out, width_out, (k, 1, 1), (s, 1, 1), (p, 0, 0), bias=False)
        self.time_norm = nn.BatchNorm3d(width_out, eps=config.norm_eps)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.space_norm(self.space(x)), inplace=True)
        return F.relu(self.time_norm(self.time(x)), inplace=True)


class Gate(nn.Module):
    """Scales every channel by the sigmoid of a linear map of the means of all channels."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        weight = torch.sigmoid(self.linear(x.mean((2, 3, 4))))
        return x * weight[:, :, None, None, None]


class MixedBlock(nn.Module):
    """Four branches side by side, each gated: pointwise; narrowed and separable, twice; a pool and pointwise."""

    def __init__(self, width_in: int, widths: tuple[int, ...], config: S3DGConfig) -> None:
        super().__init__()
        a, b, c, d, e, f = (config.divided(channels) for channels in widths)
        self.branches = nn.ModuleList([
            nn.Sequential(Pointwise(width_in, a, config)),
            nn.Sequential(Pointwise(width_in, b, config), Separable(b, c, config)),
            nn.Sequential(Pointwise(width_in, d, config), Separable(d, e, config)),
            nn.Sequential(nn.MaxPool3d(3, 1, 1), Pointwise(width_in, f, config)),
        ])  # fmt: skip
        self.gates = nn.ModuleList(Gate(width) for width in (a, c, e, f))
        self.width = a + c + e + f

    def forward(self, x: Tensor) -> Tensor:
        pairs = zip(self.gates, self.branches, strict=True)
        return torch.cat([gate(branch(x)) for gate, branch in pairs], 1)


class S3DG(MapFeatures, nn.Module):
    """See `S3DGConfig` for its settings.

    Videos are float (B, C, T, H, W), normalised, of at least as many frames and pixels as its settings say
    (`refuse_small`).  Time and space are divided by 8 and 32.  Its tokens are the cells of the last feature map.
    """

    def __init__(self, config: S3DGConfig) -> None:
        super().__init__()
        self.config = config
        self.embed_dim = config.width
        a, b, c = (config.divided(channels) for channels in STEM)
        space = nn.MaxPool3d((1, 3, 3), (1, 2, 2), (0, 1, 1))
        layers: dict[str, nn.Module] = {
            "conv_1a": Separable(3, a, config, kernel=7, stride=2),
            "pool_2a": space,
            "conv_2b": Pointwise(a, b, config),
            "conv_2c": Separable(b, c, config),
        }
        pools = (space, nn.MaxPool3d(3, 2, 1), nn.MaxPool3d(2, 2, 0))
        width = c
        for number, (pool, group) in enumerate(zip(pools, GROUPS, strict=True), 3):
            layers[f"pool_{number}a"] = pool
            for name, block in _blocks(group, width, config):
                layers[name], width = block, block.width
        self.layers = nn.ModuleDict(layers)
        for module in self.modules():
            if isinstance(module, nn.Conv3d):
                nn.init.normal_(module.weight, std=0.01)

    def stages(self, video: Tensor) -> dict[str, Tensor]:
        """Returns the outputs of all layers by name, (B, D, T', h, w) each.

        Raises:
            ValueError: frames too small, or too few of them.
        """
        t, h, w = video.shape[2:]
        self.config.refuse_small(num_frames=t, height=h, width=w)
        found: dict[str, Tensor] = {}
        for name, layer in self.layers.items():
            video = found[name] = layer(video)
        return found

    def forward(self, video: Tensor) -> Tensor:
        """Returns the last feature map, (B, D, T', h, w)."""
        return list(self.stages(video).values())[-1]

    def grid(self, video: Tensor) -> tuple[int, int, int]:
        """Returns (T', h, w) of the last feature map of a video (B, C, T, H, W)."""
        t, h, w = video.shape[2:]
        return _halved(t, 2) // 2, _halved(h, 4) // 2, _halved(w, 4) // 2

    def frame_positions(self, num_frames: int) -> np.ndarray:
        """Returns float64 (T',): the centres of what the features see, in units of sampled frames.

        Padded layers of stride 2 keep frame 0 in the middle of what output 0 sees; the last pool, of two and without
        padding, lies between two of its inputs, which are 4 frames apart.
        """
        return np.arange(_halved(num_frames, 2) // 2, dtype=np.float64) * 8 + 2


def _blocks(
    group: tuple[Mixed, ...], width: int, config: S3DGConfig
) -> list[tuple[str, MixedBlock]]:
    blocks = []
    for name, widths in group:
        block = MixedBlock(width, widths, config)
        blocks.append((name, block))
        width = block.width
    return blocks


def _halved(length: int, times: int) -> int:
    """Length behind so many padded layers of stride 2."""
    for _ in range(times):
        length = -(-length // 2)
    return length


# Weights of the reference -----------------------------------------------------------------------

#: Alias -> name: the reference keeps every layer in a sequence of its block, too.
_ALIASES = {
    "block1.0": "Conv_1a", "block2.1": "Conv_2b", "block2.2": "Conv_2c",
    **{
        f"block{number}.{place}": name.capitalize()
        for number, group in enumerate(GROUPS, 3)
        for place, (name, _) in enumerate(group, 1)
    },
}  # fmt: skip
_ALIAS = re.compile(r"backbone\.(block\d\.\d+)\.(.+)")
_KEY = re.compile(r"backbone\.(?P<layer>(?:Conv|Mixed)_\d[a-f])\.(?P<rest>.+)")
#: Names within a layer: (theirs, ours), and (ours, theirs), each as a pattern and what it becomes.
_TO_OURS = (
    (r"^branch(\d)\.", r"branches.\1."),
    (r"^gating_b(\d)\.fc\.", r"gates.\1.linear."),
    (r"\bconv1\.", "space."),
    (r"\bconv2\.", "time."),
    (r"\bbn1\.", "space_norm."),
    (r"\bbn2\.", "time_norm."),
    (r"\bbn\.", "norm."),
)
_TO_THEIRS = (
    (r"^branches\.(\d)\.", r"branch\1."),
    (r"^gates\.(\d)\.linear\.", r"gating_b\1.fc."),
    (r"\bspace\.", "conv1."),
    (r"\btime\.", "conv2."),
    (r"\bspace_norm\.", "bn1."),
    (r"\btime_norm\.", "bn2."),
    (r"\bnorm\.", "bn."),
)


def from_hico(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns the S3D-G of a HiCo checkpoint under our keys; heads are left out.

    Every tensor stands there as `backbone.Mixed_3b...` and as `backbone.block3.1...`: either will do.

    Raises:
        ValueError: the two differ, so that nobody can say which was meant.
    """
    found: dict[str, Tensor] = {}
    for key, value in state.items():
        name = _our_key(key)
        if name is None:
            continue
        if name in found and not torch.equal(found[name], value):
            raise ValueError(
                f"{key} differs from its alias: the two are one tensor in checkpoints of HiCo. The file was changed; "
                "take out one of the two families of keys (backbone.blockN. or backbone.Conv_/Mixed_)."
            )
        found[name] = value
    return found


def to_hico(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns our weights under the reference's names, each under both of its keys.

    >>> list(to_hico({"layers.conv_2b.norm.bias": torch.zeros(64)}))
    ['backbone.Conv_2b.bn.bias', 'backbone.block2.1.bn.bias']
    """
    found: dict[str, Tensor] = {}
    aliases = {name: alias for alias, name in _ALIASES.items()}
    for key, value in state.items():
        _, layer, rest = key.split(".", 2)
        name, rest = layer.capitalize(), _renamed(rest, _TO_THEIRS)
        found[f"backbone.{name}.{rest}"] = value
        found[f"backbone.{aliases[name]}.{rest}"] = value
    return found


def _our_key(key: str) -> str | None:
    alias = _ALIAS.fullmatch(key)
    if alias is not None and alias[1] in _ALIASES:
        key = f"backbone.{_ALIASES[alias[1]]}.{alias[2]}"
    match = _KEY.fullmatch(key)
    if match is None:
        return None
    return f"layers.{match['layer'].lower()}.{_renamed(match['rest'], _TO_OURS)}"


def _renamed(name: str, table: tuple[tuple[str, str], ...]) -> str:
    for pattern, becomes in table:
        name = re.sub(pattern, becomes, name)
    return name
