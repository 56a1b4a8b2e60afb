"""R3D and 3D ResNet-RS in torch, with TensorFlow's arithmetic; the flax twin is `r3d_flax.py`, with parameters of the
same names (`r3d_bridge.py` carries weights over).

Source: papers/cvrl.md section 3.
"""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from video_ssl.models.networks.r3d_config import (
    BottleneckSpec,
    R3DConfig,
    bottleneck_specs,
    pool_window,
    stem_specs,
)
from video_ssl.models.networks.token_features import MapFeatures

Triple = tuple[int, int, int]


def same_padding(size: tuple[int, ...], kernel: Triple, stride: Triple) -> list[tuple[int, int]]:
    """Returns (before, after) for each axis as TensorFlow's "SAME" pads: the odd one goes behind.

    >>> same_padding((16, 224, 224), (5, 7, 7), (2, 2, 2))
    [(1, 2), (2, 3), (2, 3)]
    """
    pads = []
    for n, k, s in zip(size, kernel, stride, strict=True):
        total = max((-(-n // s) - 1) * s + k - n, 0)
        pads.append((total // 2, total - total // 2))
    return pads


class SameConv3d(nn.Conv3d):
    """A convolution without bias, padded with zeros as TensorFlow's "SAME"; initialised as there."""

    def __init__(
        self, width_in: int, width_out: int, kernel: Triple, stride: Triple = (1, 1, 1)
    ) -> None:
        super().__init__(width_in, width_out, kernel, stride, bias=False)

    def reset_parameters(self) -> None:
        _variance_scaling(self.weight, self.weight[0].numel())

    def forward(self, x: Tensor) -> Tensor:
        kernel, stride = _triple(self.kernel_size), _triple(self.stride)
        pads = same_padding(tuple(x.shape[2:]), kernel, stride)
        if any(before != after for before, after in pads):
            x, pads = F.pad(x, _flat(pads)), [(0, 0)] * 3
        return F.conv3d(x, self.weight, None, stride, [before for before, _ in pads])


class BatchNorm(nn.BatchNorm3d):
    """Batch norm whose moving variance may take the biased batch variance, as TensorFlow's synchronised one does.

    Also takes (..., D) of two or more axes with `last=True`.  `nn.SyncBatchNorm.convert_sync_batchnorm` knows it (the
    moving variance is unbiased then).
    """

    def __init__(
        self, width: int, *, eps: float, momentum: float, unbiased: bool, last: bool = False
    ) -> None:
        super().__init__(width, eps=eps, momentum=1 - momentum)
        self.unbiased, self.last = unbiased, last

    def _check_input_dim(self, input: Tensor) -> None:
        """Any number of axes."""

    def forward(self, x: Tensor) -> Tensor:
        if self.last:
            return self._norm(x.flatten(0, -2)).unflatten(0, x.shape[:-1])
        return self._norm(x)

    def _norm(self, x: Tensor) -> Tensor:
        count = x.numel() // x.shape[1]
        if not self.training or self.unbiased or count < 2 or not self.track_running_stats:
            return super().forward(x)
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        # The backward pass keeps the statistics it was given, so these are copies.
        mean, var = self.running_mean.clone(), self.running_var.clone()
        y = F.batch_norm(x, mean, var, self.weight, self.bias, True, self.momentum, self.eps)
        with torch.no_grad():
            kept = (1 - self.momentum) * self.running_var
            self.running_mean.copy_(mean)
            self.running_var.copy_(kept + (var - kept) * ((count - 1) / count))
            self.num_batches_tracked.add_(1)
        return y


class Bottleneck(nn.Module):
    """A bottleneck, see `R3DConfig` and `BottleneckSpec`."""

    def __init__(self, spec: BottleneckSpec, config: R3DConfig) -> None:
        super().__init__()
        self.spec = spec
        width, stride = 4 * spec.filters, (1, spec.stride, spec.stride)
        if spec.project:
            self.shortcut_conv = SameConv3d(spec.width_in, width, (1, 1, 1), stride)
            self.norm0 = _norm(width, config)
        self.temporal_conv = SameConv3d(spec.width_in, spec.filters, (spec.time_kernel, 1, 1))
        self.norm1 = _norm(spec.filters, config)
        self.spatial_conv = SameConv3d(spec.filters, spec.filters, (1, 3, 3), stride)
        self.norm2 = _norm(spec.filters, config)
        self.expand_conv = SameConv3d(spec.filters, width, (1, 1, 1))
        self.norm3 = _norm(width, config)
        if spec.self_gating:
            self.self_gating = nn.Linear(width, width)
            nn.init.trunc_normal_(self.self_gating.weight, std=0.01, a=-0.02, b=0.02)
            nn.init.zeros_(self.self_gating.bias)
        if spec.squeeze:
            self.se_reduce = _scaled_linear(width, spec.squeeze)
            self.se_expand = _scaled_linear(spec.squeeze, width)

    def forward(self, x: Tensor) -> Tensor:
        spec = self.spec
        if spec.project:
            shortcut = self.norm0(self.shortcut_conv(x))
        else:
            shortcut = x[:, :, :, :: spec.stride, :: spec.stride]
        y = F.relu(self.norm1(self.temporal_conv(x)), inplace=True)
        y = F.relu(self.norm2(self.spatial_conv(y)), inplace=True)
        y = self.norm3(self.expand_conv(y))
        if spec.self_gating:
            y = y * _gate(self.self_gating(y.mean((2, 3, 4))))
        if spec.squeeze:
            y = y * _gate(self.se_expand(F.relu(self.se_reduce(y.mean((2, 3, 4))))))
        if self.training and spec.drop_path:
            keep = 1.0 - spec.drop_path
            kept = torch.rand(len(y), 1, 1, 1, 1, device=y.device) < keep
            y = torch.where(kept, y / keep, 0.0)
        return F.relu(y + shortcut)


class R3D(MapFeatures, nn.Module):
    """A 3-D residual network; see `R3DConfig` for its settings.

    Videos are float (B, C, T, H, W), normalised; clips of any length and size are welcome.  Its tokens are the cells of
    the last feature map.
    """

    def __init__(self, config: R3DConfig) -> None:
        super().__init__()
        self.config = config
        self.embed_dim = config.width
        for stem in stem_specs(config):
            self.add_module(
                stem.name, SameConv3d(stem.width_in, stem.width, stem.kernel, stem.stride)
            )
            self.add_module(stem.norm, _norm(stem.width, config))
        for specs in bottleneck_specs(config).values():
            for spec in specs:
                self.add_module(spec.name, Bottleneck(spec, config))

    @property
    def block_names(self) -> list[str]:
        """What repeats, for what is done block by block (recomputation, dividing weights)."""
        groups = bottleneck_specs(self.config).values()
        return [spec.name for specs in groups for spec in specs]

    def endpoints(self, video: Tensor) -> dict[str, Tensor]:
        """Returns the feature maps by name: "2" to "5" (and "5_1"), (B, D, T', h, w) each."""
        return self._run(video, tuple(bottleneck_specs(self.config)))

    def forward(self, video: Tensor) -> Tensor:
        """Returns the map that the features are taken from, (B, D, T', h, w)."""
        last = self.config.endpoint
        return self._run(video, ("2", "3", "4", last))[last]

    def _run(self, video: Tensor, wanted: tuple[str, ...]) -> dict[str, Tensor]:
        config, x = self.config, video
        for stem in stem_specs(config):
            x = self.get_submodule(stem.norm)(self.get_submodule(stem.name)(x))
            x = F.relu(x, inplace=True)
        window, stride = pool_window(config), (config.pool_time_stride, 2, 2)
        pads = same_padding(tuple(x.shape[2:]), window, stride)
        x = F.max_pool3d(F.pad(x, _flat(pads), value=-math.inf), window, stride)
        found: dict[str, Tensor] = {}
        for name, specs in bottleneck_specs(config).items():
            if name not in wanted:
                continue
            x = found["4"] if name.startswith("5") else x
            for spec in specs:
                x = self.get_submodule(spec.name)(x)
            found[name] = x
        return found

    def grid(self, video: Tensor) -> Triple:
        """Returns (T', h, w) of the last feature map of a video (B, C, T, H, W)."""
        t, h, w = video.shape[2:]
        return self.config.grid(t, h, w)

    def frame_positions(self, num_frames: int) -> np.ndarray:
        """Returns float64 (T',): the mean time of the frames of each feature, in units of sampled frames."""
        return self.config.frame_positions(num_frames)


class ProjectionHead(nn.Sequential):
    """The twin of `r3d_flax.ProjectionHead`: works along the last axis, batch norm over all others."""

    def __init__(
        self,
        in_dim: int,
        *,
        hidden_dims: tuple[int, ...] = (2048, 2048, 2048),
        out_dim: int = 128,
        hidden_bias: bool = True,
        norm_momentum: float = 0.997,
        norm_eps: float = 1e-5,
        normalize_inputs: bool = False,
    ) -> None:
        super().__init__()
        self.normalize_inputs = normalize_inputs
        for i, width in enumerate(hidden_dims):
            norm = BatchNorm(width, eps=norm_eps, momentum=norm_momentum, unbiased=False, last=True)
            self.add_module(f"dense{i}", nn.Linear(in_dim, width, bias=hidden_bias))
            self.add_module(f"norm{i}", norm)
            self.add_module(f"relu{i}", nn.ReLU(inplace=True))
            in_dim = width
        self.add_module("dense_out", nn.Linear(in_dim, out_dim))
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Returns (..., out_dim) of (..., D), not normalised."""
        if self.normalize_inputs:
            x = x.float() * x.float().square().sum(-1, keepdim=True).clamp(min=1e-12).rsqrt()
        return super().forward(x)


def _norm(width: int, config: R3DConfig) -> BatchNorm:
    return BatchNorm(
        width,
        eps=config.norm_eps,
        momentum=config.norm_momentum,
        unbiased=config.moving_variance == "unbiased",
    )


def _gate(x: Tensor) -> Tensor:
    return x.sigmoid()[:, :, None, None, None]


def _scaled_linear(width_in: int, width_out: int) -> nn.Linear:
    layer = nn.Linear(width_in, width_out)
    _variance_scaling(layer.weight, width_in)
    nn.init.zeros_(layer.bias)
    return layer


def _variance_scaling(weight: Tensor, fan_in: int) -> None:
    """TensorFlow's default: variance 1 / fan_in, normal cut at two standard deviations (which 0.8796 makes up for)."""
    std = math.sqrt(1 / fan_in) / 0.87962566103423978
    nn.init.trunc_normal_(weight, std=std, a=-2 * std, b=2 * std)


def _triple(values: tuple[int, ...]) -> Triple:
    t, h, w = values
    return t, h, w


def _flat(pads: list[tuple[int, int]]) -> list[int]:
    """The order of `F.pad`: last axis first."""
    return [side for pair in reversed(pads) for side in pair]
