"""Parts of VATT's transformers in torch; the flax twin is `vatt_layers_flax.py`, with parameters of the same names.

Source: papers/vatt.md section 3 (arXiv:2104.11178).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from video_ssl.models.contract import COMMON_SOUND, COMMON_TEXT
from video_ssl.models.networks.r3d import BatchNorm
from video_ssl.models.networks.vatt_config import VattHeadsConfig
from video_ssl.models.networks.vatt_tables import relative_buckets, spline_matrix

LAYER_NORM_EPS = 1e-6
#: A logit of a word that is padding.
MASKED = -1e9


class RMSNorm(nn.Module):
    """x / root of the mean square, times a weight."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, self.weight.shape, self.weight, LAYER_NORM_EPS)


class Attention(nn.Module):
    """Multi-head self-attention, x (B, L, D) -> (B, L, D); see the flax twin."""

    def __init__(self, dim: int, num_heads: int, dropout: float, *, is_t5: bool) -> None:
        super().__init__()
        self.num_heads, self.dropout, self.is_t5 = num_heads, dropout, is_t5
        self.q, self.k, self.v, self.o = (linear(dim, dim, bias=not is_t5) for _ in range(4))
        if is_t5:
            nn.init.normal_(self.q.weight, std=(dim * (dim // num_heads)) ** -0.5)

    def forward(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """Returns (B, L, D); `bias` is added to the logits (B, heads, L, L)."""
        q, k, v = (
            layer(x).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for layer in (self.q, self.k, self.v)
        )
        y = F.scaled_dot_product_attention(
            q,
            k,
            v,
            attn_mask=None if bias is None else bias.to(q.dtype),
            dropout_p=self.dropout if self.training else 0.0,
            scale=1.0 if self.is_t5 else None,
        )
        return self.o(y.transpose(1, 2).flatten(2))


class FeedForward(nn.Module):
    """Linear, exact GELU, dropout, linear."""

    def __init__(self, dim: int, hidden: int, dropout: float, *, bias: bool) -> None:
        super().__init__()
        self.fc1 = linear(dim, hidden, bias=bias)
        self.drop = nn.Dropout(dropout)
        self.fc2 = linear(hidden, dim, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.drop(F.gelu(self.fc1(x))))


class Block(nn.Module):
    """x += drop(attn(norm1 x)); x += drop(mlp(norm2 x)); see the flax twin."""

    def __init__(
        self, dim: int, hidden: int, num_heads: int, dropout: float, *, is_t5: bool
    ) -> None:
        super().__init__()
        self.norm1 = RMSNorm(dim) if is_t5 else nn.LayerNorm(dim, eps=LAYER_NORM_EPS)
        self.attn = Attention(dim, num_heads, dropout, is_t5=is_t5)
        self.norm2 = nn.LayerNorm(dim, eps=LAYER_NORM_EPS)
        self.mlp = FeedForward(dim, hidden, dropout, bias=not is_t5)
        self.drop = nn.Dropout(dropout)

    def forward(self, x: Tensor, bias: Tensor | None) -> Tensor:
        x = x + self.drop(self.attn(self.norm1(x), bias))
        return x + self.drop(self.mlp(self.norm2(x)))


class Transformer(nn.Module):
    """Blocks, a last norm and dropout; (B, L, D) -> (B, L, D)."""

    def __init__(
        self,
        dim: int,
        depth: int,
        hidden: int,
        num_heads: int,
        dropout: float = 0.0,
        *,
        is_t5: bool = False,
    ) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            Block(dim, hidden, num_heads, dropout, is_t5=is_t5) for _ in range(depth)
        )
        self.norm = RMSNorm(dim) if is_t5 else nn.LayerNorm(dim, eps=LAYER_NORM_EPS)
        self.drop = nn.Dropout(dropout)

    def forward(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        for block in self.blocks:
            x = block(x, bias)
        return self.drop(self.norm(x))


class RelativeBias(nn.Module):
    """A learned number for every head and bucket of distances, (heads, L, L) of L."""

    def __init__(self, num_heads: int, num_buckets: int, max_distance: int) -> None:
        super().__init__()
        self.num_buckets, self.max_distance = num_buckets, max_distance
        self.table = nn.Parameter(torch.empty(num_buckets, num_heads))
        nn.init.trunc_normal_(self.table, std=0.05, a=-0.1, b=0.1)

    def forward(self, length: int) -> Tensor:
        buckets = relative_buckets(
            length, num_buckets=self.num_buckets, max_distance=self.max_distance
        )
        return self.table[torch.from_numpy(buckets).long().to(self.table.device)].movedim(-1, 0)


class Positions(nn.Module):
    """The layer norm of the sum of one learned table for each axis of a grid, (L, D); see the flax twin."""

    def __init__(self, table: tuple[int, ...], width: int) -> None:
        super().__init__()
        names = ("temporal", "vertical", "horizontal")[: len(table)]
        self._names = names
        for name, rows in zip(names, table, strict=True):
            values = nn.Parameter(torch.empty(rows, width))
            normal_(values, width**-0.5)
            self.register_parameter(name, values)
        self.norm = nn.LayerNorm(width, eps=LAYER_NORM_EPS)

    def forward(self, grid: tuple[int, ...]) -> Tensor:
        total: Tensor | None = None
        for axis, (name, wanted) in enumerate(zip(self._names, grid, strict=True)):
            table: Tensor = getattr(self, name)
            if wanted != len(table):
                matrix = torch.from_numpy(spline_matrix(len(table), wanted).copy())
                table = matrix.to(table.device, table.dtype) @ table
            shape = [1] * len(grid) + [table.shape[-1]]
            shape[axis] = wanted
            total = table.reshape(shape) if total is None else total + table.reshape(shape)
        assert total is not None
        return self.norm(total.flatten(0, -2))


class VideoHeads(nn.Module):
    """From the clip feature of video into the space of sound, and from there into that of words."""

    def __init__(self, width: int, config: VattHeadsConfig) -> None:
        super().__init__()
        self.relu_before_text = config.relu_before_text
        self.hidden = linear(width, config.sound_dim, bias=False)
        self.hidden_norm = batch_norm(config.sound_dim)
        self.sound = linear(config.sound_dim, config.sound_dim, bias=False)
        self.sound_norm = batch_norm(config.sound_dim)
        self.text = linear(config.sound_dim, config.text_dim, bias=False)
        self.text_norm = batch_norm(config.text_dim)

    def forward(self, clip: Tensor) -> dict[str, Tensor]:
        """Returns both embeddings (B, D') of (B, D)."""
        hidden = F.relu(self.hidden_norm(self.hidden(clip)))
        sound = self.sound_norm(self.sound(hidden))
        text = self.text(F.relu(sound) if self.relu_before_text else sound)
        return {COMMON_SOUND: sound, COMMON_TEXT: self.text_norm(text)}


class OtherHead(nn.Module):
    """From the clip feature of sound or words into a common space, (B, D) -> (B, D')."""

    def __init__(self, width_in: int, width: int, *, with_norm: bool) -> None:
        super().__init__()
        self.dense = linear(width_in, width)
        self.norm = batch_norm(width) if with_norm else None

    def forward(self, clip: Tensor) -> Tensor:
        x: Tensor = self.dense(clip)
        return x if self.norm is None else self.norm(x)


def batch_norm(width: int) -> BatchNorm:
    """Returns the batch norm of the heads."""
    return BatchNorm(width, eps=1e-5, momentum=0.9, unbiased=False)


def linear(width_in: int, width: int, *, bias: bool = True) -> nn.Linear:
    """Returns a linear layer whose weight is xavier uniform, and whose bias 0."""
    layer = nn.Linear(width_in, width, bias=bias)
    nn.init.xavier_uniform_(layer.weight)
    if bias:
        nn.init.zeros_(layer.bias)
    return layer


def normal_(values: Tensor, std: float) -> None:
    """Fills with a normal that is cut at two deviations."""
    nn.init.trunc_normal_(values, std=std, a=-2 * std, b=2 * std)
