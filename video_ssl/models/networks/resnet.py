"""ResNet-50 in torchvision's layout, the part of it that stays frozen, and a small conv net for CPU recipes."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from video_ssl.models.networks.frame_config import PARTS, BackboneInit
from video_ssl.models.weights import LoadReport, Renames, WeightsError, load_weights, read_state

#: kind of `BackboneInit` -> renaming rules from its file to torchvision's names.
INIT_RENAMES: dict[str, Renames] = {
    "torchvision": (("fc.", None),),
    "byol": (("encoder_k.", None), ("encoder.fc.", None), ("encoder.", "")),
}


class Bottleneck(nn.Module):
    """1x1, 3x3 (with the stride), 1x1 convolutions, and a shortcut."""

    expansion = 4

    def __init__(self, in_dim: int, width: int, stride: int = 1) -> None:
        super().__init__()
        out_dim = width * self.expansion
        self.conv1 = nn.Conv2d(in_dim, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, out_dim, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out_dim)
        self.relu = nn.ReLU(inplace=True)
        self.downsample: nn.Module | None = None
        if stride != 1 or in_dim != out_dim:
            self.downsample = nn.Sequential(
                nn.Conv2d(in_dim, out_dim, 1, stride, bias=False), nn.BatchNorm2d(out_dim)
            )

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.relu(self.bn2(self.conv2(x)))
        return self.relu(self.bn3(self.conv3(x)) + shortcut)

    def frozen(self, x: Tensor) -> Tensor:
        """Returns `forward` in evaluation mode, each batch norm within the convolution before it."""
        shortcut = x
        if isinstance(self.downsample, nn.Sequential):
            shortcut = _frozen(self.downsample, x)
        x = self.relu(_folded(self.conv1, self.bn1, x))
        x = self.relu(_folded(self.conv2, self.bn2, x))
        return self.relu(_folded(self.conv3, self.bn3, x).add_(shortcut))


class FrameBackbone(nn.Module):
    """A conv net over single frames whose first parts may be frozen.

    Frozen parts take no gradient, hold nothing for the backward pass, and keep their batch norm in evaluation mode
    whatever `train()` says.  There a batch norm is a factor and a summand, which are put into the convolution before
    it: a pass over the maps less for each, the same numbers up to rounding.  Channels lie last in memory, which the
    convolutions of CPUs and of tensor cores like best; shapes are as ever.
    """

    out_dim: int

    def __init__(self) -> None:
        super().__init__()
        self.frozen_parts = 0

    def parts(self) -> list[tuple[nn.Module, ...]]:
        """Returns the parts in the order of the forward pass, each a sequence of modules."""
        raise NotImplementedError

    def freeze(self, frozen_parts: int) -> None:
        """Freezes the first parts, as many as requested, and frees the others."""
        self.frozen_parts = frozen_parts
        for i, part in enumerate(self.parts()):
            for module in part:
                module.requires_grad_(i >= frozen_parts)
        self.train(self.training)

    def train(self, mode: bool = True) -> FrameBackbone:
        super().train(mode)
        for part in self.parts()[: self.frozen_parts]:
            for module in part:
                module.eval()
        return self

    def forward(self, frames: Tensor) -> Tensor:
        """Returns float (N, C', h, w) for normalised frames (N, 3, H, W)."""
        parts, x = self.parts(), frames.contiguous(memory_format=torch.channels_last)
        with torch.no_grad():
            for part in parts[: self.frozen_parts]:
                x = _frozen(part, x)
        for part in parts[self.frozen_parts :]:
            x = _through(part, x)
        return x


def _through(part: Iterable[nn.Module], x: Tensor) -> Tensor:
    for module in part:
        x = module(x)
    return x


def _frozen(part: Iterable[nn.Module], x: Tensor) -> Tensor:
    """Returns `_through` of modules in evaluation mode, without gradients."""
    modules = list(part)
    while modules:
        module = modules.pop(0)
        if isinstance(module, nn.Sequential):
            x = _frozen(module, x)
        elif isinstance(module, Bottleneck):
            x = module.frozen(x)
        elif isinstance(module, nn.Conv2d) and modules and isinstance(modules[0], _BatchNorm):
            x = _folded(module, modules.pop(0), x)
        else:
            x = module(x)
    return x


def _folded(conv: nn.Conv2d, norm: nn.Module, x: Tensor) -> Tensor:
    """A batch norm in evaluation mode behind a convolution without bias, in one.

    The weights are put together again for every batch, since they may be loaded or moved at any time; that is nothing
    beside the products.
    """
    assert isinstance(norm, _BatchNorm)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    factor = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
    weight = conv.weight * factor[:, None, None, None]
    bias = norm.bias - norm.running_mean * factor
    weight = weight.contiguous(memory_format=torch.channels_last)
    return F.conv2d(x, weight, bias, conv.stride, conv.padding)


class ResNet50(FrameBackbone):
    """ResNet-50 v1 (stride in the 3x3 convolutions) without its classifier; `until` is the last layer that runs."""

    def __init__(self, until: str = "layer4") -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        in_dim = 64
        self.names = PARTS[1 : PARTS.index(until) + 1]
        for name, blocks, width in zip(self.names, (3, 4, 6, 3), (64, 128, 256, 512), strict=False):
            layers = []
            for i in range(blocks):
                layers.append(Bottleneck(in_dim, width, 2 if i == 0 and width > 64 else 1))
                in_dim = width * Bottleneck.expansion
            setattr(self, name, nn.Sequential(*layers))
        self.out_dim = in_dim
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def parts(self) -> list[tuple[nn.Module, ...]]:
        stem = (self.conv1, self.bn1, self.relu, self.maxpool)
        return [stem, *((getattr(self, name),) for name in self.names)]


class SmallNet(FrameBackbone):
    """Five 3x3 convolutions with batch norm, four of them halving the frame; ours, for recipes that run on a CPU."""

    def __init__(self, width: int = 24) -> None:
        super().__init__()
        dims = (3, width, 2 * width, 4 * width, 8 * width, 8 * width)
        layers: list[nn.Module] = []
        for i, (a, b) in enumerate(pairwise(dims)):
            layers += [
                nn.Conv2d(a, b, 3, 2 if i < 4 else 1, 1, bias=False),
                nn.BatchNorm2d(b),
                nn.ReLU(inplace=True),
            ]
        self.layers = nn.Sequential(*layers)
        self.out_dim = dims[-1]

    def parts(self) -> list[tuple[nn.Module, ...]]:
        return [(self.layers,)]


def init_backbone(backbone: FrameBackbone, init: BackboneInit, path: str | Path) -> LoadReport:
    """Returns the report of filling a ResNet-50 with a file; all of it is filled, or an error raised.

    Files from before batch norm counted its batches have no `num_batches_tracked`: those are 0 then.

    Raises:
        WeightsError: an unreadable file, one of another network or of another kind than `init.kind` says; the small
            net, which nobody publishes weights of.
    """
    if not isinstance(backbone, ResNet50):
        raise WeightsError(
            f"init.kind={init.kind!r} is for backbone='resnet50': the small net has no published weights. "
            "Use init.kind=random."
        )
    rename = INIT_RENAMES[init.kind]
    state = read_state(path)
    prefix = "encoder." if init.kind == "byol" else ""
    for key, value in backbone.state_dict().items():
        layer, _, name = (prefix + key).rpartition(".")
        if name == "num_batches_tracked" and f"{layer}.running_var" in state:
            state.setdefault(prefix + key, torch.zeros_like(value))
    return load_weights(backbone, state, rename=rename, min_share=1.0)
