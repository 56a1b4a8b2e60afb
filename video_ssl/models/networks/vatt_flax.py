"""VATT's encoders of video, sound and words in flax; the torch twins are in `vatt.py`.

    patches or words -> tokens -> + positions -> [aggregation token, tokens] -> transformer -> heads

Videos are float (B, T, H, W, 3), sounds float (B, N), texts int (B, L) with 0 for padding.  Everything that comes out
is named as in `contract`: "clip", the aggregation token, "tokens", and the embeddings in common spaces.

Source: papers/vatt.md section 3 (arXiv:2104.11178).
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from video_ssl.models.contract import CLIP, COMMON_SOUND, COMMON_TEXT, TOKENS
from video_ssl.models.networks.vatt_config import (
    VattAudioConfig,
    VattTextConfig,
    VattVideoConfig,
    VattWordsConfig,
)
from video_ssl.models.networks.vatt_layers_flax import (
    KERNEL_INIT,
    MASKED,
    OtherHead,
    Positions,
    RelativeBias,
    Transformer,
    VideoHeads,
    aggregation_init,
    for_all_samples,
    kept_rows,
    normal,
)

Outputs = dict[str, Array]


def transformer_of(config: Any, *, dtype: Any = jnp.float32, remat: bool = False) -> Transformer:
    """Returns the transformer of an encoder, or the one that several share, under its name."""
    return Transformer(
        config.layers,
        config.hidden,
        config.heads_of_attention,
        config.dropout,
        isinstance(config, VattTextConfig),
        dtype,
        remat,
        name="transformer",
    )


class _Encoder(nn.Module):
    """What all encoders share.

    Attributes:
        config: settings.
        dtype: of the products.
        remat: recompute the blocks in the backward pass.
        shared: the transformer, where several encoders have the same one; None = its own.
    """

    config: Any
    dtype: Any = jnp.float32
    remat: bool = False
    shared: Transformer | None = None

    def named_outputs(self, inputs: Array) -> Outputs:
        """Returns all outputs but "moments", which are means of the tokens."""
        found: Outputs = self(inputs)
        return found

    def _encoded(
        self, tokens: Array, positions: Array, *, train: bool, bias: Array | None = None
    ) -> Outputs:
        """Clip and tokens of tokens before their positions: everything behind the embedding."""
        config = self.config
        tokens = tokens.astype(self.dtype) + for_all_samples(positions, len(tokens))
        tokens = nn.Dropout(config.dropout)(tokens, deterministic=not train)
        first = self.param("agg", aggregation_init(config.inner), (config.inner,))
        if config.aggregation_position:
            place = self.param("agg_position", normal(config.inner**-0.5), (config.inner,))
            first = first + place
        x = _with_first(first, tokens)
        own = self.shared is None
        run = transformer_of(config, dtype=self.dtype, remat=self.remat) if own else self.shared
        x = run(x, bias, train=train)  # type: ignore[misc]
        if config.projection_dim is not None:
            x = self._projected(x, config.projection_dim, "post_proj")
        return {CLIP: x[:, 0], TOKENS: x[:, 1:]}

    def _before(self, tokens: Array) -> Array:
        """The dense layer before the transformer, where there is one."""
        if self.config.projection_dim is None:
            return tokens
        return self._projected(tokens, self.config.inner, "pre_proj")

    def _projected(self, x: Array, width: int, name: str) -> Array:
        dense = nn.Dense(width, kernel_init=KERNEL_INIT, dtype=self.dtype, name=name)
        return nn.gelu(dense(x), approximate=False)


class VattVideo(_Encoder):
    """The encoder of clips; see `VattVideoConfig`."""

    config: VattVideoConfig

    @nn.compact
    def __call__(self, video: Array, *, train: bool = False, keep: Array | None = None) -> Outputs:
        """Returns "clip" (B, D), "tokens" (B, L, D) and, with heads, both common spaces (B, D').

        Args:
            video: (B, T, H, W, 3), normalised.
            train: with dropout, and batch norms of the batch.
            keep: int (R, K), see `kept_rows`; tokens come out in this order.
        """
        config = self.config
        cubes = cut(video, config.tubelet_size, config.patch_size)
        embed = PatchEmbed(
            (config.tubelet_size, config.patch_size, config.patch_size, 3),
            config.inner,
            self.dtype,
            name="patch_embed",
        )
        tokens = self._before(embed(kept_rows(cubes, keep)))
        positions = Positions(config.table_grid, config.inner, self.dtype, name="positions")
        places = kept_rows(positions(config.grid(*video.shape[1:4])), keep)
        found = self._encoded(tokens, places, train=train)
        if config.heads is not None:
            found |= VideoHeads(config.heads, name="heads")(found[CLIP], train=train)
        return found

    def smallest_input(self) -> Array:
        config = self.config
        return jnp.zeros((1, config.tubelet_size, config.patch_size, config.patch_size, 3))


class VattAudio(_Encoder):
    """The encoder of sounds; see `VattAudioConfig`."""

    config: VattAudioConfig

    @nn.compact
    def __call__(self, sound: Array, *, train: bool = False, keep: Array | None = None) -> Outputs:
        """Returns "clip" (B, D), "tokens" (B, L, D) and, with heads, "common_sound" (B, D') of (B, N); arguments as
        of `VattVideo`."""
        config, size = self.config, self.config.patch_samples
        count = sound.shape[1] // size
        pieces = sound[:, : count * size].reshape(len(sound), count, size)
        embed = PatchEmbed((size, 1), config.inner, self.dtype, name="patch_embed")
        tokens = self._before(embed(kept_rows(pieces, keep)))
        positions = Positions(config.table_grid, config.inner, self.dtype, name="positions")
        found = self._encoded(tokens, kept_rows(positions((count,)), keep), train=train)
        if config.heads is not None:
            head = OtherHead(config.heads.sound_dim, config.heads.norm_all, name="heads")
            found[COMMON_SOUND] = head(found[CLIP], train=train)
        return found

    def smallest_input(self) -> Array:
        return jnp.zeros((1, self.config.patch_samples))


class VattText(_Encoder):
    """The T5 encoder of texts; see `VattTextConfig`."""

    config: VattTextConfig

    @nn.compact
    def __call__(self, words: Array, *, train: bool = False) -> Outputs:
        """Returns "clip" (B, D), "tokens" (B, L, D) and, with heads, "common_text" (B, D') of words int (B, L)."""
        config = self.config
        vectors = WordVectors(config.places, config.word_dim, config.freeze_words, name="words")
        first = self.param("agg", aggregation_init(config.word_dim), (config.word_dim,))
        x = _with_first(first, vectors(words).astype(self.dtype))
        dense = nn.Dense(
            config.inner,
            use_bias=False,
            kernel_init=KERNEL_INIT,
            dtype=self.dtype,
            name="pre_proj",
        )
        x = nn.gelu(dense(x), approximate=False)
        x = nn.Dropout(config.dropout)(x, deterministic=not train)
        relative = RelativeBias(
            config.heads_of_attention, config.num_buckets, config.max_distance, name="relative"
        )
        run = transformer_of(config, dtype=self.dtype, remat=self.remat)
        x = run(x, relative(x.shape[1])[None] + padding_bias(words), train=train)
        return _with_text_head({CLIP: x[:, 0], TOKENS: x[:, 1:]}, config, train)

    def smallest_input(self) -> Array:
        return jnp.zeros((1, 1), jnp.int32)


class VattWords(_Encoder):
    """The encoder of texts of the modality-agnostic model; see `VattWordsConfig`."""

    config: VattWordsConfig

    @nn.compact
    def __call__(self, words: Array, *, train: bool = False) -> Outputs:
        """Returns what `VattText` does, of texts of `num_words` words.

        Raises:
            ValueError: texts of another length.
        """
        config = self.config
        config.check_input(words.shape)
        vectors = WordVectors(config.places, config.word_dim, config.freeze_words, name="words")
        tokens = self._before(vectors(words).astype(self.dtype))
        positions = Positions(config.table_grid, config.inner, self.dtype, name="positions")
        bias = padding_bias(words)
        found = self._encoded(tokens, positions(config.table_grid), train=train, bias=bias)
        return _with_text_head(found, config, train)

    def smallest_input(self) -> Array:
        return jnp.zeros((1, self.config.num_words), jnp.int32)


class PatchEmbed(nn.Module):
    """One dense layer on the elements of a patch; its kernel has their axes.

    Attributes:
        patch: axes of a patch.
        width: of the tokens.
        dtype: of the products.
    """

    patch: tuple[int, ...]
    width: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, patches: Array) -> Array:
        """Returns (B, L, D) of (B, L, elements)."""
        kernel = self.param("kernel", KERNEL_INIT, (*self.patch, self.width))
        bias = self.param("bias", nn.initializers.zeros, (self.width,))
        flat = kernel.reshape(-1, self.width).astype(self.dtype)
        return patches.astype(self.dtype) @ flat + bias.astype(self.dtype)


class WordVectors(nn.Module):
    """A vector for every place of the vocabulary; frozen ones are variables of the collection "frozen"."""

    places: int
    width: int
    frozen: bool

    @nn.compact
    def __call__(self, words: Array) -> Array:
        """Returns (B, L, D) of int (B, L)."""
        shape, init = (self.places, self.width), normal(self.width**-0.5)
        if self.frozen:
            made = self.variable(
                "frozen", "frozen_table", lambda: init(self.make_rng("params"), shape)
            )
            return jnp.asarray(made.value)[words]
        return self.param("table", init, shape)[words]


def cut(video: Array, tubelet_size: int, patch_size: int) -> Array:
    """Returns the cubes of a video (B, T, H, W, C), (B, L, elements): tokens by time, row, column, elements by time,
    row, column, color.  What does not fill a cube is left out."""
    b, frames, height, width, c = video.shape
    t, h, w = frames // tubelet_size, height // patch_size, width // patch_size
    x = video[:, : t * tubelet_size, : h * patch_size, : w * patch_size]
    x = x.reshape(b, t, tubelet_size, h, patch_size, w, patch_size, c)
    return x.transpose(0, 1, 3, 5, 2, 4, 6, 7).reshape(b, t * h * w, -1)


def padding_bias(words: Array) -> Array:
    """Returns float32 (B, 1, 1, 1 + L): what is added to logits, so that nothing looks at padding; the aggregation
    token in front is always looked at."""
    there = jnp.pad(words != 0, ((0, 0), (1, 0)), constant_values=True)
    return jnp.where(there, 0.0, MASKED)[:, None, None]


def _with_first(first: Array, tokens: Array) -> Array:
    row = jnp.broadcast_to(first.astype(tokens.dtype), (len(tokens), 1, tokens.shape[-1]))
    return jnp.concatenate([row, tokens], axis=1)


def _with_text_head(
    found: Outputs, config: VattTextConfig | VattWordsConfig, train: bool
) -> Outputs:
    """Adds "common_text"; called inside of a module, whose part the head is."""
    if config.heads is not None:
        head = OtherHead(config.heads.text_dim, config.heads.norm_all, name="heads")
        found[COMMON_TEXT] = head(found[CLIP], train=train)
    return found
