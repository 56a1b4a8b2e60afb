"""R3D and 3D ResNet-RS in flax; the torch twin is `r3d.py`, with parameters of the same names.

Videos are float (B, T, H, W, C).  Under `jax.jit` over a sharded batch all arrays are global, so every batch norm here
is synchronised without further ado.  Source: papers/cvrl.md section 3.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from video_ssl.models.networks.r3d_config import (
    BottleneckSpec,
    R3DConfig,
    bottleneck_specs,
    pool_window,
    stem_specs,
)

Triple = tuple[int, int, int]
#: TensorFlow's default of these models: variance 1 / fan_in, normal cut at two standard deviations.
CONV_INIT = nn.initializers.variance_scaling(1.0, "fan_in", "truncated_normal")
DENSE_INIT = nn.initializers.glorot_uniform()


class BatchNorm(nn.Module):
    """Batch norm over all axes but the last, in float32 whatever the input; the result has the input's dtype.

    Attributes:
        momentum: share of the old moving statistics that an update keeps.
        epsilon: added to the variance.
        unbiased: the moving variance takes the batch variance divided by n - 1, as TensorFlow's fused batch norm does
            for inputs of four and five axes on one device; else by n, as its others do.
    """

    momentum: float = 0.9
    epsilon: float = 1e-5
    unbiased: bool = False

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        width = x.shape[-1]
        mean = self.variable("batch_stats", "mean", jnp.zeros, (width,), jnp.float32)
        var = self.variable("batch_stats", "var", jnp.ones, (width,), jnp.float32)
        scale = self.param("scale", nn.initializers.ones, (width,), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (width,), jnp.float32)
        x32 = x.astype(jnp.float32)
        if not train:
            return self._apply(x32, mean.value, var.value, scale, bias).astype(x.dtype)
        axes = tuple(range(x.ndim - 1))
        now_mean = x32.mean(axes)
        now_var = jnp.square(x32 - now_mean).mean(axes)
        if not self.is_initializing():
            count = x.size // width
            kept = now_var * (count / max(count - 1, 1)) if self.unbiased else now_var
            mean.value = self.momentum * mean.value + (1 - self.momentum) * now_mean
            var.value = self.momentum * var.value + (1 - self.momentum) * kept
        return self._apply(x32, now_mean, now_var, scale, bias).astype(x.dtype)

    def _apply(self, x: Array, mean: Array, var: Array, scale: Array, bias: Array) -> Array:
        return (x - mean) * (jax.lax.rsqrt(var + self.epsilon) * scale) + bias


class SameConv(nn.Module):
    """A 3-D convolution without bias, padded as TensorFlow's "SAME", made of 2-D ones and of matrix products.

    Time is folded into the batch, or into the channels where the kernel reaches over several frames.  The results are
    those of a 3-D convolution up to rounding; on a CPU a training step is several times as fast.
    """

    features: int
    kernel_size: Triple
    strides: Triple = (1, 1, 1)
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Returns (B, T', h, w, features) of (B, T, H, W, C), each side divided by its stride and rounded up."""
        shape = (*self.kernel_size, x.shape[-1], self.features)
        kernel = self.param("kernel", CONV_INIT, shape, jnp.float32).astype(self.dtype)
        moments = self._moments(x.astype(self.dtype))
        if self.kernel_size[1:] == (1, 1):
            _, down, across = self.strides
            products = [
                jnp.einsum(
                    "bthwc,cd->bthwd",
                    moment[:, :, ::down, ::across],
                    kernel[i, 0, 0],
                    preferred_element_type=jnp.float32,
                )
                for i, moment in enumerate(moments)
            ]
            return sum(products[1:], products[0]).astype(self.dtype)
        flat = jnp.concatenate(moments, -1) if len(moments) > 1 else moments[0]
        frames = jax.lax.conv_general_dilated(
            flat.reshape(-1, *flat.shape[2:]),
            kernel.transpose(1, 2, 0, 3, 4).reshape(*shape[1:3], -1, self.features),
            self.strides[1:],
            "SAME",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        return frames.reshape(*flat.shape[:2], *frames.shape[1:])

    def _moments(self, x: Array) -> list[Array]:
        """What each temporal tap of the kernel sees, (B, T', H, W, C) each."""
        size, stride = self.kernel_size[0], self.strides[0]
        count = -(-x.shape[1] // stride)
        total = max((count - 1) * stride + size - x.shape[1], 0)
        if total:
            x = jnp.pad(x, ((0, 0), (total // 2, total - total // 2), (0, 0), (0, 0), (0, 0)))
        return [x[:, i : i + (count - 1) * stride + 1 : stride] for i in range(size)]


class Bottleneck(nn.Module):
    """A bottleneck, see `R3DConfig` and `BottleneckSpec`."""

    spec: BottleneckSpec
    config: R3DConfig
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        spec, width = self.spec, 4 * self.spec.filters
        stride = (1, spec.stride, spec.stride)
        if spec.project:
            shortcut = self._norm(
                "norm0", self._conv("shortcut_conv", x, width, (1, 1, 1), stride), train
            )
        else:
            shortcut = x[:, :, :: spec.stride, :: spec.stride]
        y = self._conv("temporal_conv", x, spec.filters, (spec.time_kernel, 1, 1))
        y = nn.relu(self._norm("norm1", y, train))
        y = self._conv("spatial_conv", y, spec.filters, (1, 3, 3), stride)
        y = nn.relu(self._norm("norm2", y, train))
        y = self._norm("norm3", self._conv("expand_conv", y, width, (1, 1, 1)), train)
        if spec.self_gating:
            init = nn.initializers.truncated_normal(0.01)
            gate = self._dense("self_gating", y.mean((1, 2, 3), keepdims=True), width, init)
            y = y * nn.sigmoid(gate)
        if spec.squeeze:
            gate = self._dense(
                "se_reduce", y.mean((1, 2, 3), keepdims=True), spec.squeeze, CONV_INIT
            )
            y = y * nn.sigmoid(self._dense("se_expand", nn.relu(gate), width, CONV_INIT))
        if spec.drop_path and train:
            keep = 1.0 - spec.drop_path
            shape = (len(y), 1, 1, 1, 1)
            kept = jax.random.bernoulli(self.make_rng("dropout"), keep, shape)
            y = jnp.where(kept, y / keep, 0.0)
        return nn.relu(y + shortcut)

    def _conv(
        self, name: str, x: Array, width: int, kernel: Triple, stride: Triple = (1, 1, 1)
    ) -> Array:
        return SameConv(width, kernel, stride, self.dtype, name=name)(x)

    def _norm(self, name: str, x: Array, train: bool) -> Array:
        return _norm(name, x, self.config, train)

    def _dense(self, name: str, x: Array, width: int, init: Any) -> Array:
        return nn.Dense(width, dtype=self.dtype, kernel_init=init, name=name)(x)


class R3D(nn.Module):
    """A 3-D residual network; see `R3DConfig` for its settings.

    Attributes:
        config: sizes and settings.
        dtype: of activations and products (bfloat16 on accelerators); parameters and statistics are float32.
        remat: recompute the bottlenecks in the backward pass instead of keeping their activations.
    """

    config: R3DConfig
    dtype: Any = jnp.float32
    remat: bool = False

    @nn.compact
    def __call__(self, video: Array, *, train: bool = False) -> dict[str, Array]:
        """Returns the feature maps by name: "2" to "5" (and "5_1"), (B, T', h, w, D) each.

        Args:
            video: normalised, (B, T, H, W, 3).
            train: batch statistics instead of moving ones (collection `batch_stats` must be mutable); stochastic depth
                draws from the rng stream "dropout".
        """
        config = self.config
        x = video.astype(self.dtype)
        for stem in stem_specs(config):
            x = SameConv(stem.width, stem.kernel, stem.stride, self.dtype, name=stem.name)(x)
            x = nn.relu(_norm(stem.norm, x, config, train))
        x = nn.max_pool(x, pool_window(config), (config.pool_time_stride, 2, 2), "SAME")
        block = nn.remat(Bottleneck, static_argnums=(2,)) if self.remat else Bottleneck
        endpoints: dict[str, Array] = {}
        for name, specs in bottleneck_specs(config).items():
            if name == "5_1":
                x = endpoints["4"]
            for spec in specs:
                x = block(spec, config, self.dtype, name=spec.name)(x, train)
            endpoints[name] = x
        return endpoints

    def feature_map(self, video: Array, *, train: bool = False) -> Array:
        """Returns the map that the features are taken from, (B, T', h, w, D)."""
        maps: dict[str, Array] = self(video, train=train)
        return maps[self.config.endpoint]

    @staticmethod
    def smallest_input() -> Array:
        """Returns the smallest batch that shows all weights; their sizes do not depend on those of clips."""
        return jnp.zeros((1, 4, 32, 32, 3), jnp.float32)


def l2_normalize(x: Array) -> Array:
    """Returns x / sqrt(max(sum x², 1e-12)) along the last axis, float32."""
    x = x.astype(jnp.float32)
    return x * jax.lax.rsqrt(jnp.maximum(jnp.sum(x * x, -1, keepdims=True), 1e-12))


class ProjectionHead(nn.Module):
    """Dense, batch norm and ReLU, three times, then a dense layer: what a contrastive loss looks at.

    Works along the last axis; batch norm is over all others, so positions of dense features count as samples.

    Attributes:
        hidden_dims: widths of the hidden layers.
        out_dim: width of the result.
        hidden_bias: biases before the batch norms (CVRL has them, ConST-CL has not).
        norm_momentum, norm_eps: of the batch norms (CVRL 0.997, ConST-CL 0.9); their moving variance is biased.
        normalize_inputs: what comes in is brought to unit length first (an option of ConST-CL's code).

    Source: papers/cvrl.md section 3.3, papers/const_cl.md section 3.2.
    """

    hidden_dims: tuple[int, ...] = (2048, 2048, 2048)
    out_dim: int = 128
    hidden_bias: bool = True
    norm_momentum: float = 0.997
    norm_eps: float = 1e-5
    normalize_inputs: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array, *, train: bool = False) -> Array:
        """Returns (..., out_dim) of (..., D), not normalised."""
        if self.normalize_inputs:
            x = l2_normalize(x)
        for i, width in enumerate(self.hidden_dims):
            dense = nn.Dense(
                width,
                use_bias=self.hidden_bias,
                dtype=self.dtype,
                kernel_init=DENSE_INIT,
                name=f"dense{i}",
            )
            norm = BatchNorm(momentum=self.norm_momentum, epsilon=self.norm_eps, name=f"norm{i}")
            x = nn.relu(norm(dense(x), train=train))
        return nn.Dense(self.out_dim, dtype=self.dtype, kernel_init=DENSE_INIT, name="dense_out")(x)


def _norm(name: str, x: Array, config: R3DConfig, train: bool) -> Array:
    norm = BatchNorm(
        momentum=config.norm_momentum,
        epsilon=config.norm_eps,
        unbiased=config.moving_variance == "unbiased",
        name=name,
    )
    return norm(x, train=train)
