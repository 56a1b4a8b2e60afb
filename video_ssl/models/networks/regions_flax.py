"""Regions of feature maps in flax: RoIAlign, position channels and the decoder of ConST-CL; torch's are `regions.py`.

Feature maps are (B, T', h, w, D), boxes [x_min, y_min, x_max, y_max] as shares of width and height.
Source: papers/const_cl.md section 3.3.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import Array

from video_ssl.models.networks.r3d_flax import DENSE_INIT
from video_ssl.models.networks.region_config import (
    POSITION_HIDDEN,
    POSITION_OUT,
    DecoderConfig,
)


def roi_align(features: Array, boxes: Array, size: int) -> Array:
    """Returns the bins of every box, float32 (B, N, size, size, D), of maps (B, h, w, D) and boxes (B, N, 4).

    A bin is one bilinear sample at its middle, without a shift by half a pixel.  Beyond the last pixel that pixel is
    repeated; sides of boxes may be shorter than a cell.  Boxes are meant to lie in [0, 1].
    """
    down, across = _taps(features, boxes, size)
    return _sampled("bnyh,bnxw,bhwd->bnyxd", down, across, features)


def roi_mean(features: Array, boxes: Array, size: int) -> Array:
    """Returns the mean over the bins of `roi_align`, float32 (B, N, D), without making them."""
    down, across = _taps(features, boxes, size)
    return _sampled("bnh,bnw,bhwd->bnd", down.mean(2), across.mean(2), features)


def _taps(features: Array, boxes: Array, size: int) -> tuple[Array, Array]:
    """How much of every row and every column is in each bin, (B, N, size, h) and (B, N, size, w)."""
    height, width = features.shape[1:3]
    x0, y0, x1, y1 = jnp.moveaxis(boxes.astype(jnp.float32), -1, 0)
    return _weights(y0, y1, height, size), _weights(x0, x1, width, size)


def _weights(low: Array, high: Array, cells: int, size: int) -> Array:
    middles = (jnp.arange(size) + 0.5) / size
    at = (low[..., None] + (high - low)[..., None] * middles) * cells
    first = jnp.clip(jnp.floor(at), 0, cells - 1)
    second = jnp.minimum(first + 1, cells - 1)
    share = (at - first)[..., None]
    places = jnp.arange(cells)
    return (places == first[..., None]) * (1 - share) + (places == second[..., None]) * share


def _sampled(equation: str, down: Array, across: Array, features: Array) -> Array:
    return jnp.einsum(
        equation, down, across, features.astype(jnp.float32), precision=jax.lax.Precision.HIGHEST
    )


class PositionChannels(nn.Module):
    """Appends 16 channels to a map (B, t, h, w, D): 8 of the place in time and 8 of that in the frame.

    Places are counted in cells from the middle of this map.
    """

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Returns float32 (B, t, h, w, D + 16)."""
        time, down, across = (jnp.arange(n, dtype=jnp.float32) - (n - 1) / 2 for n in x.shape[1:4])
        places = jnp.stack(jnp.meshgrid(down, across, indexing="ij"), -1)
        shape = (*x.shape[:4], POSITION_OUT)
        parts = [
            jnp.broadcast_to(self._mlp("temporal", time[:, None])[:, None, None], shape),
            jnp.broadcast_to(self._mlp("spatial", places), shape),
        ]
        return jnp.concatenate([x.astype(jnp.float32), *parts], -1)

    def _mlp(self, name: str, places: Array) -> Array:
        hidden = nn.Dense(POSITION_HIDDEN, kernel_init=DENSE_INIT, name=f"{name}0")(places)
        out: Array = nn.Dense(POSITION_OUT, kernel_init=DENSE_INIT, name=f"{name}1")(
            nn.relu(hidden)
        )
        return out


class DecoderUnit(nn.Module):
    """One head: attention to the memory, added to the query, a layer norm, and two dense layers with nothing around.

    Attributes:
        config: of the decoder.
        dtype: of products; softmax and norm are float32.
    """

    config: DecoderConfig
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, query: Array, memory: Array) -> tuple[Array, Array]:
        """Returns (B, N, num_channels) and the attention (B, N, L), of (B, N, Dq) and (B, L, Dm)."""
        q = self._dense("query")(query)
        k, v = self._dense("key")(memory), self._dense("value")(memory)
        logits = jnp.einsum("bnd,bld->bnl", q, k, preferred_element_type=jnp.float32)
        attention = jax.nn.softmax(logits / np.sqrt(self.config.num_channels), axis=-1)
        x = jnp.einsum(
            "bnl,bld->bnd", attention.astype(self.dtype), v, preferred_element_type=jnp.float32
        )
        norm = nn.LayerNorm(
            epsilon=self.config.norm_eps, dtype=jnp.float32, use_fast_variance=False, name="norm"
        )
        x = norm(x + q.astype(jnp.float32))
        x = jax.nn.gelu(self._dense("ffn1")(x), approximate=False)
        return self._dense("ffn2")(x), attention

    def _dense(self, name: str) -> nn.Dense:
        return nn.Dense(
            self.config.num_channels, dtype=self.dtype, kernel_init=DENSE_INIT, name=name
        )


class RegionDecoder(nn.Module):
    """Layers of units side by side; their results, joined, are the queries of the next layer.  Not a usual multi-head
    attention: every unit has its own norm and feed-forward part, and nothing mixes them but the next layer."""

    config: DecoderConfig
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, query: Array, memory: Array) -> tuple[Array, Array]:
        """Returns (B, N, heads * channels), and the attention of the first layer (heads, B, N, L).

        Args:
            query: (B, N, Dq); queries do not see each other.
            memory: (B, L, Dm).
        """
        first = None
        for layer in range(self.config.num_layers):
            units = [
                DecoderUnit(self.config, self.dtype, name=f"layer{layer}_unit{head}")(query, memory)
                for head in range(self.config.num_heads)
            ]
            query = jnp.concatenate([x for x, _ in units], -1)
            if first is None:
                first = jnp.stack([attention for _, attention in units])
        assert first is not None
        return query, first
