"""Parts of VATT's transformers in flax; the torch twin is `vatt_layers.py`, with parameters of the same names.

Logits, norms and heads are float32 whatever the dtype of the products.  Source: papers/vatt.md section 3
(arXiv:2104.11178), whose numbers come from the reference code.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from video_ssl.models.contract import COMMON_SOUND, COMMON_TEXT
from video_ssl.models.networks.r3d_flax import BatchNorm
from video_ssl.models.networks.vatt_config import VattHeadsConfig
from video_ssl.models.networks.vatt_tables import relative_buckets, spline_matrix

LAYER_NORM_EPS = 1e-6
KERNEL_INIT = nn.initializers.glorot_uniform()
#: A logit of a word that is padding.
MASKED = -1e9


def normal(std: float) -> Any:
    """Returns an initializer: normal with this deviation, cut at two of them."""
    return nn.initializers.truncated_normal(std)


class Attention(nn.Module):
    """Multi-head self-attention.

    Attributes:
        num_heads: of equal width.
        dropout: of the attention weights.
        is_t5: no biases, and logits that are not divided by the root of the head's width; the queries start smaller by
            it (as T5 does it; what VATT's code does is unverified).
        dtype: of the products.
    """

    num_heads: int
    dropout: float = 0.0
    is_t5: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array, bias: Array | None, train: bool) -> Array:
        """Returns (B, L, D) of x (B, L, D); `bias` is added to the logits (B, heads, L, L)."""
        q, k, v = (self._dense(x, name) for name in "qkv")
        parts = (*x.shape[:2], self.num_heads, -1)
        q, k, v = q.reshape(parts), k.reshape(parts), v.reshape(parts)
        scale = 1.0 if self.is_t5 else q.shape[-1] ** -0.5
        logits = jnp.einsum("bqhd,bkhd->bhqk", q * scale, k).astype(jnp.float32)
        if bias is not None:
            logits = logits + bias
        weights = jax.nn.softmax(logits).astype(self.dtype)
        weights = nn.Dropout(self.dropout)(weights, deterministic=not train)
        out = jnp.einsum("bhqk,bkhd->bqhd", weights, v)
        return self._dense(out.reshape(x.shape), "o")

    def _dense(self, x: Array, name: str) -> Array:
        width = x.shape[-1]
        small = nn.initializers.normal((width * (width // self.num_heads)) ** -0.5)
        init = small if self.is_t5 and name == "q" else KERNEL_INIT
        return nn.Dense(
            width, use_bias=not self.is_t5, kernel_init=init, dtype=self.dtype, name=name
        )(x)


class FeedForward(nn.Module):
    """Dense, exact GELU, dropout, dense."""

    hidden: int
    dropout: float = 0.0
    use_bias: bool = True
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        options: dict[str, Any] = {
            "use_bias": self.use_bias,
            "kernel_init": KERNEL_INIT,
            "dtype": self.dtype,
        }
        y = nn.gelu(nn.Dense(self.hidden, name="fc1", **options)(x), approximate=False)
        y = nn.Dropout(self.dropout)(y, deterministic=not train)
        return nn.Dense(x.shape[-1], name="fc2", **options)(y)


class Block(nn.Module):
    """x += drop(attn(norm1 x)); x += drop(mlp(norm2 x)).

    A block of T5 has an RMS norm before the attention, and before the MLP a layer norm with a bias all the same, as in
    VATT's code.
    """

    hidden: int
    num_heads: int
    dropout: float = 0.0
    is_t5: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array, bias: Array | None, train: bool) -> Array:
        drop = nn.Dropout(self.dropout, deterministic=not train)
        norm = nn.RMSNorm if self.is_t5 else nn.LayerNorm
        attend = Attention(self.num_heads, self.dropout, self.is_t5, self.dtype, name="attn")
        y = norm(epsilon=LAYER_NORM_EPS, dtype=self.dtype, name="norm1")(x)
        x = x + drop(attend(y, bias, train))
        y = nn.LayerNorm(epsilon=LAYER_NORM_EPS, dtype=self.dtype, name="norm2")(x)
        mlp = FeedForward(self.hidden, self.dropout, not self.is_t5, self.dtype, name="mlp")
        return x + drop(mlp(y, train))


class Transformer(nn.Module):
    """Blocks, a last norm and dropout; (B, L, D) -> (B, L, D).

    Attributes:
        depth, hidden, num_heads, dropout: sizes.
        is_t5: blocks and last norm of T5.
        dtype: of the products.
        remat: recompute the blocks in the backward pass.
    """

    depth: int
    hidden: int
    num_heads: int
    dropout: float = 0.0
    is_t5: bool = False
    dtype: Any = jnp.float32
    remat: bool = False

    @nn.compact
    def __call__(self, x: Array, bias: Array | None = None, *, train: bool = False) -> Array:
        cls = nn.remat(Block, static_argnums=(3,)) if self.remat else Block
        for i in range(self.depth):
            block = cls(
                self.hidden,
                self.num_heads,
                self.dropout,
                self.is_t5,
                self.dtype,
                name=f"blocks_{i}",
            )
            x = block(x, bias, train)
        norm = nn.RMSNorm if self.is_t5 else nn.LayerNorm
        x = norm(epsilon=LAYER_NORM_EPS, dtype=self.dtype, name="norm")(x)
        return nn.Dropout(self.dropout)(x, deterministic=not train)


class RelativeBias(nn.Module):
    """A learned number for every head and bucket of distances.

    Attributes:
        num_heads, num_buckets, max_distance: as `relative_buckets` takes them.
    """

    num_heads: int
    num_buckets: int
    max_distance: int

    @nn.compact
    def __call__(self, length: int) -> Array:
        """Returns float32 (heads, L, L)."""
        table = self.param("table", normal(0.05), (self.num_buckets, self.num_heads))
        buckets = relative_buckets(
            length, num_buckets=self.num_buckets, max_distance=self.max_distance
        )
        return jnp.moveaxis(table[buckets], -1, 0)


class Positions(nn.Module):
    """The layer norm of the sum of one learned table for each axis of a grid.

    Attributes:
        table: rows of the tables, in the order of `names`.
        width: of the tokens.
        dtype: of the result.
    """

    table: tuple[int, ...]
    width: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, grid: tuple[int, ...]) -> Array:
        """Returns (L, D), the last axis of the grid fastest; tables of another size are resampled, see
        `spline_matrix`."""
        total = jnp.zeros((*grid, self.width), jnp.float32)
        names = ("temporal", "vertical", "horizontal")
        for axis, (name, rows, wanted) in enumerate(zip(names, self.table, grid, strict=False)):
            table = self.param(name, normal(self.width**-0.5), (rows, self.width))
            if wanted != rows:
                matrix = jnp.asarray(spline_matrix(rows, wanted), jnp.float32)
                table = jnp.matmul(matrix, table, precision=jax.lax.Precision.HIGHEST)
            shape = [1] * len(grid) + [self.width]
            shape[axis] = wanted
            total = total + table.reshape(shape)
        norm = nn.LayerNorm(epsilon=LAYER_NORM_EPS, dtype=self.dtype, name="norm")
        return norm(total.reshape(-1, self.width))


class VideoHeads(nn.Module):
    """From the clip feature of video into the space of sound, and from there into that of words."""

    config: VattHeadsConfig

    @nn.compact
    def __call__(self, clip: Array, *, train: bool = False) -> dict[str, Array]:
        """Returns both embeddings, float32 (B, D'), of (B, D)."""
        config = self.config
        x = _plain(config.sound_dim, "hidden")(clip.astype(jnp.float32))
        x = nn.relu(BatchNorm(name="hidden_norm")(x, train=train))
        x = _plain(config.sound_dim, "sound")(x)
        sound = BatchNorm(name="sound_norm")(x, train=train)
        x = nn.relu(sound) if config.relu_before_text else sound
        text = BatchNorm(name="text_norm")(_plain(config.text_dim, "text")(x), train=train)
        return {COMMON_SOUND: sound, COMMON_TEXT: text}


class OtherHead(nn.Module):
    """From the clip feature of sound or words into a common space, (B, D) -> float32 (B, D')."""

    width: int
    with_norm: bool

    @nn.compact
    def __call__(self, clip: Array, *, train: bool = False) -> Array:
        dense = nn.Dense(self.width, kernel_init=KERNEL_INIT, name="dense")
        x = dense(clip.astype(jnp.float32))
        return BatchNorm(name="norm")(x, train=train) if self.with_norm else x


def _plain(width: int, name: str) -> nn.Dense:
    return nn.Dense(width, use_bias=False, kernel_init=KERNEL_INIT, name=name)


def aggregation_init(width: int) -> Any:
    """Returns the initializer of an aggregation token: Keras' glorot_normal of a vector, deviation width ** -0.5."""
    cut = 0.87962566103423978  # deviation of a standard normal that is cut at two deviations
    return normal(width**-0.5 / cut)


def kept_rows(rows: Array, keep: Array | None) -> Array:
    """Returns the tokens that stay, (B, K, D) of (B, L, D), or (R, K, D) of what all samples share, (L, D).

    Args:
        rows: (B, L, D), or (L, D).
        keep: int (R, K): part r of the batch, in order, keeps these, in this order; None = all.
    """
    if keep is None:
        return rows
    if rows.ndim == 2:
        return rows[keep]
    if len(keep) == 1:
        return rows[:, keep[0]]
    parts = rows.reshape(len(keep), -1, *rows.shape[1:])
    return jax.vmap(lambda part, index: part[:, index])(parts, keep).reshape(
        len(rows), -1, rows.shape[-1]
    )


def for_all_samples(shared: Array, batch: int) -> Array:
    """Returns what every sample of a batch gets of (L, D) or, by parts of the batch, (R, K, D), to be added."""
    if shared.ndim == 2:
        return shared[None]
    return jnp.repeat(shared, math.ceil(batch / len(shared)), axis=0)
