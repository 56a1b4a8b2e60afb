"""VATT's encoders of video, sound and words in torch; the flax twins are in `vatt_flax.py`, with the same names
(`vatt_bridge.py` carries weights over).

Source: papers/vatt.md section 3 (arXiv:2104.11178).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from video_ssl.models.contract import CLIP, COMMON_SOUND, COMMON_TEXT, MOMENTS, TOKENS
from video_ssl.models.networks.layers import cut, spatial_cells
from video_ssl.models.networks.vatt_config import (
    VattAudioConfig,
    VattTextConfig,
    VattVideoConfig,
    VattWordsConfig,
)
from video_ssl.models.networks.vatt_layers import (
    MASKED,
    OtherHead,
    Positions,
    RelativeBias,
    Transformer,
    VideoHeads,
    linear,
    normal_,
)
from video_ssl.models.torch_encoder import TorchEncoder


class _VattEncoder(TorchEncoder, nn.Module):
    """What all of them share: `encoded` gives clip and tokens, and what the heads make of the clip."""

    heads: nn.Module | None

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config = config
        self.embed_dim = config.width
        self.output_names = tuple(config.output_widths)
        self.transformer = Transformer(
            config.inner,
            config.layers,
            config.hidden,
            config.heads_of_attention,
            config.dropout,
            is_t5=isinstance(config, VattTextConfig),
        )
        wide = config.word_dim if isinstance(config, VattTextConfig) else config.inner
        self.agg = nn.Parameter(torch.empty(wide))
        normal_(self.agg, wide**-0.5 / 0.87962566103423978)
        self.agg_position: nn.Parameter | None = None
        if config.aggregation_position:
            self.agg_position = nn.Parameter(torch.empty(config.inner))
            normal_(self.agg_position, config.inner**-0.5)
        projected = config.projection_dim
        self.post_proj = None if projected is None else linear(config.inner, projected)
        self.drop = nn.Dropout(config.dropout)

    def encoded(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Returns clip (B, D) and tokens (B, L, D)."""
        raise NotImplementedError

    def forward(self, inputs: Tensor) -> Tensor:
        """Returns all outputs of the transformer, (B, 1 + L, D), the aggregation token first."""
        clip, tokens = self.encoded(inputs)
        return torch.cat([clip[:, None], tokens], dim=1)

    def outputs(
        self,
        inputs: Tensor,
        names: Sequence[str],
        *,
        cells: int = 1,
        layer: int | None = None,
        pooling: str = "mean",
    ) -> dict[str, Tensor]:
        """Returns the outputs of these names, see `Encoder.outputs`.

        "clip" is the aggregation token, one vector for all of the frame, and "moments" are as wide: `cells` do nothing.

        Raises:
            ValueError: a name, layer or pooling that the encoder does not have, or inputs of another shape.
        """
        self.check_outputs(names, layer=layer, pooling=pooling)
        self._check(inputs)
        clip, tokens = self.encoded(inputs)
        found = {CLIP: clip, TOKENS: tokens}
        if MOMENTS in names:
            found[MOMENTS] = spatial_cells(tokens.unflatten(1, self._grid(inputs)), 1)
        if any(name not in (CLIP, MOMENTS, TOKENS) for name in names):
            found |= self.common(clip)
        return {name: found[name] for name in names}

    def common(self, clip: Tensor) -> dict[str, Tensor]:
        """Returns the embeddings in common spaces of (B, D)."""
        raise NotImplementedError

    def output_dim(self, name: str, *, cells: int = 1, layer: int | None = None) -> int:
        """Returns the width of an output, whatever `cells`."""
        self.check_outputs([name], layer=layer)
        width: int = self.config.output_widths[name]
        return width

    def frame_positions(self, num_frames: int) -> np.ndarray:
        """Returns float64 (T',), see `Encoder.frame_positions`."""
        positions: np.ndarray = self.config.frame_positions(num_frames)
        return positions

    def _check(self, inputs: Tensor) -> None:
        """Raises ValueError for inputs that do not fit."""
        is_integer = not inputs.is_floating_point()
        largest = int(inputs.amax()) if is_integer and inputs.numel() else None
        self.config.check_input(tuple(inputs.shape), largest=largest)

    def _grid(self, inputs: Tensor) -> tuple[int, int, int]:
        grid: tuple[int, int, int] = self.config.grid(inputs.shape[1])
        return grid

    def token_grid(self, shape: Sequence[int], *, layer: int | None = None) -> tuple[int, int, int]:
        """Returns the (t, h, w) of the tokens of a clip as it is read."""
        grid: tuple[int, int, int] = self.config.grid(*shape[:3])
        return grid

    def _encoded(
        self, tokens: Tensor, positions: Tensor, bias: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Clip and tokens of tokens before their positions."""
        tokens = self.drop(tokens + positions.to(tokens.dtype))
        first = self.agg if self.agg_position is None else self.agg + self.agg_position
        x = self.transformer(_with_first(first, tokens), bias)
        if self.post_proj is not None:
            x = F.gelu(self.post_proj(x))
        return x[:, 0], x[:, 1:]


class VattVideo(_VattEncoder):
    """The encoder of clips; see `VattVideoConfig`."""

    config: VattVideoConfig

    def __init__(self, config: VattVideoConfig) -> None:
        super().__init__(config)
        size = (config.tubelet_size, config.patch_size, config.patch_size)
        self.patch_embed = nn.Conv3d(3, config.inner, size, stride=size)
        self.pre_proj = (
            None if config.projection_dim is None else linear(config.inner, config.inner)
        )
        self.positions = Positions(config.table_grid, config.inner)
        self.heads = None if config.heads is None else VideoHeads(config.width, config.heads)
        _init_patches(self.patch_embed)

    @property
    def num_frames(self) -> int:
        """Frames of the clips that it is made for."""
        assert self.config.num_frames is not None
        return self.config.num_frames

    def encoded(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Returns clip (B, D) and tokens (B, L, D) of (B, 3, T, H, W)."""
        t, h, w = self._grid(inputs)
        tubelet, patch = self.config.tubelet_size, self.config.patch_size
        filled = inputs[:, :, : t * tubelet, : h * patch, : w * patch]
        cubes = cut(filled, tubelet, patch, "channels_first")
        tokens = F.linear(cubes, self.patch_embed.weight.flatten(1), self.patch_embed.bias)
        if self.pre_proj is not None:
            tokens = F.gelu(self.pre_proj(tokens))
        return self._encoded(tokens, self.positions((t, h, w)))

    def common(self, clip: Tensor) -> dict[str, Tensor]:
        assert self.heads is not None
        found: dict[str, Tensor] = self.heads(clip)
        return found

    def _check(self, inputs: Tensor) -> None:
        self.check_input(inputs)
        self.config.check_input((len(inputs), *inputs.shape[2:], 3))

    def _grid(self, inputs: Tensor) -> tuple[int, int, int]:
        t, h, w = inputs.shape[2:]
        return self.config.grid(t, h, w)


class VattAudio(_VattEncoder):
    """The encoder of sounds; see `VattAudioConfig`."""

    config: VattAudioConfig
    modality = "sound"

    def __init__(self, config: VattAudioConfig) -> None:
        super().__init__(config)
        size = config.patch_samples
        self.patch_embed = nn.Conv1d(1, config.inner, size, stride=size)
        self.pre_proj = (
            None if config.projection_dim is None else linear(config.inner, config.inner)
        )
        self.positions = Positions(config.table_grid, config.inner)
        self.heads = _other_head(config, COMMON_SOUND)
        _init_patches(self.patch_embed)

    def encoded(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Returns clip (B, D) and tokens (B, L, D) of (B, N)."""
        size = self.config.patch_samples
        count = inputs.shape[1] // size
        pieces = inputs[:, : count * size].unflatten(1, (count, size))
        tokens = F.linear(pieces, self.patch_embed.weight.flatten(1), self.patch_embed.bias)
        if self.pre_proj is not None:
            tokens = F.gelu(self.pre_proj(tokens))
        return self._encoded(tokens, self.positions((count,)))

    def common(self, clip: Tensor) -> dict[str, Tensor]:
        assert self.heads is not None
        return {COMMON_SOUND: self.heads(clip)}


class VattText(_VattEncoder):
    """The T5 encoder of texts; see `VattTextConfig`."""

    config: VattTextConfig
    modality = "text"

    def __init__(self, config: VattTextConfig) -> None:
        super().__init__(config)
        self.words = WordVectors(config.places, config.word_dim, frozen=config.freeze_words)
        self.pre_proj = linear(config.word_dim, config.inner, bias=False)
        self.relative = RelativeBias(
            config.heads_of_attention, config.num_buckets, config.max_distance
        )
        self.heads = _other_head(config, COMMON_TEXT)

    def encoded(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Returns clip (B, D) and tokens (B, L, D) of int64 (B, L)."""
        x = F.gelu(self.pre_proj(_with_first(self.agg, self.words(inputs))))
        bias = self.relative(x.shape[1])[None] + padding_bias(inputs)
        x = self.transformer(self.drop(x), bias)
        return x[:, 0], x[:, 1:]

    def common(self, clip: Tensor) -> dict[str, Tensor]:
        assert self.heads is not None
        return {COMMON_TEXT: self.heads(clip)}


class VattWords(_VattEncoder):
    """The encoder of texts of the modality-agnostic model; see `VattWordsConfig`."""

    config: VattWordsConfig
    modality = "text"

    def __init__(self, config: VattWordsConfig) -> None:
        super().__init__(config)
        self.words = WordVectors(config.places, config.word_dim, frozen=config.freeze_words)
        projected = config.projection_dim is not None
        if not projected and config.word_dim != config.inner:
            raise ValueError(
                f"word_dim={config.word_dim}, but the transformer has embed_dim={config.inner}: set projection_dim."
            )
        self.pre_proj = linear(config.word_dim, config.inner) if projected else None
        self.positions = Positions(config.table_grid, config.inner)
        self.heads = _other_head(config, COMMON_TEXT)

    def encoded(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Returns clip (B, D) and tokens (B, L, D) of int64 (B, L)."""
        tokens = self.words(inputs)
        if self.pre_proj is not None:
            tokens = F.gelu(self.pre_proj(tokens))
        return self._encoded(tokens, self.positions(self.config.table_grid), padding_bias(inputs))

    def common(self, clip: Tensor) -> dict[str, Tensor]:
        assert self.heads is not None
        return {COMMON_TEXT: self.heads(clip)}


class WordVectors(nn.Module):
    """A vector for every place of the vocabulary, (B, L, D) of int64 (B, L); frozen ones are no parameter."""

    def __init__(self, places: int, width: int, *, frozen: bool) -> None:
        super().__init__()
        values = torch.empty(places, width)
        normal_(values, width**-0.5)
        self.frozen = frozen
        if frozen:
            self.register_buffer("frozen_table", values)
        else:
            self.table = nn.Parameter(values)

    def forward(self, words: Tensor) -> Tensor:
        table: Tensor = self.get_buffer("frozen_table") if self.frozen else self.table
        return F.embedding(words, table)


def padding_bias(words: Tensor) -> Tensor:
    """Returns float32 (B, 1, 1, 1 + L), what is added to logits; see the flax twin."""
    there = F.pad(words != 0, (1, 0), value=True)
    return torch.where(there, 0.0, MASKED)[:, None, None]


def _with_first(first: Tensor, tokens: Tensor) -> Tensor:
    return torch.cat([first.to(tokens.dtype).expand(len(tokens), 1, -1), tokens], dim=1)


def _other_head(config: Any, space: str) -> OtherHead | None:
    """The head of sound or words into a common space, where the settings have one."""
    if config.heads is None:
        return None
    return OtherHead(config.width, config.output_widths[space], with_norm=config.heads.norm_all)


def _init_patches(conv: nn.Conv1d | nn.Conv3d) -> None:
    nn.init.xavier_uniform_(conv.weight)
    assert conv.bias is not None
    nn.init.zeros_(conv.bias)
