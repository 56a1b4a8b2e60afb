"""The head of V-JEPA's attentive probe: blocks over the tokens, a learned query that looks at them, a linear layer.

    self block     x <- x + proj(attention(LN x));  x <- x + MLP(LN x)
    cross block    q <- q + attention(q W_q, LN(x) W_kv);  q <- q + MLP(LN q)

The query is not normalised and its attention has no output projection.  In version 2 (V-JEPA 2) the `depth` - 1 self
blocks go over the tokens before the cross block; in version 1 (V-JEPA) they follow it and act on the query.  Keys of
the state dict are those of the reference.

Source: papers/frozen_protocols.md section 1 (arXiv:2404.08471, 2506.09985).
"""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Version = Literal[1, 2]

_EPS = 1e-5
_STD = 0.02


class AttentiveClassifier(nn.Module):
    """Logits of all tokens of a clip.

    Args:
        width: D of the tokens.
        num_classes: K.
        num_heads: of every attention; divides `width`.
        depth: 1 = the cross block alone.
        version: see the head of this file.

    Raises:
        ValueError: heads that do not divide the width.
    """

    def __init__(
        self, width: int, num_classes: int, *, num_heads: int, depth: int, version: Version = 2
    ) -> None:
        super().__init__()
        check_heads(width, num_heads)
        self.pooler = AttentivePooler(width, num_heads=num_heads, depth=depth, version=version)
        self.linear = nn.Linear(width, num_classes)

    def forward(self, tokens: Tensor) -> Tensor:
        """Returns (B, K) of tokens (B, N, D)."""
        return self.linear(self.pooler(tokens)[:, 0])


class AttentivePooler(nn.Module):
    """From tokens (B, N, D) to one vector, (B, 1, D)."""

    def __init__(self, width: int, *, num_heads: int, depth: int, version: Version) -> None:
        super().__init__()
        self.version = version
        self.query_tokens = nn.Parameter(torch.zeros(1, 1, width))
        self.cross_attention_block = _CrossBlock(width, num_heads, unused_proj=version == 1)
        self.blocks = nn.ModuleList(_SelfBlock(width, num_heads) for _ in range(depth - 1))
        nn.init.trunc_normal_(self.query_tokens, std=_STD, a=-2.0, b=2.0)
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=_STD, a=-2.0, b=2.0)
                nn.init.zeros_(layer.bias)
        weights = dict(self.named_parameters())
        with torch.no_grad():
            for name, divisor in init_divisors(depth, version).items():
                weights[name].div_(divisor)

    def forward(self, tokens: Tensor) -> Tensor:
        query = self.query_tokens.expand(len(tokens), -1, -1)
        if self.version == 2:
            for block in self.blocks:
                tokens = block(tokens)
            return self.cross_attention_block(query, tokens)
        query = self.cross_attention_block(query, tokens)
        for block in self.blocks:
            query = block(query)
        return query


def init_divisors(depth: int, version: Version) -> dict[str, float]:
    """Returns by what fresh weights of a pooler are divided, by name: the deeper, the smaller.

    >>> init_divisors(1, 2)
    {'cross_attention_block.mlp.fc2.weight': 1.4142135623730951}
    """
    shift = 0 if version == 2 else 1
    cross = max(1, depth - 1) if version == 2 else 1
    names = ("xattn.proj", "mlp.fc2") if version == 1 else ("mlp.fc2",)
    found = {f"cross_attention_block.{name}.weight": math.sqrt(2 * cross) for name in names}
    for i in range(depth - 1):
        for name in ("attn.proj", "mlp.fc2"):
            found[f"blocks.{i}.{name}.weight"] = math.sqrt(2 * (i + 1 + shift))
    return found


def check_heads(width: int, num_heads: int) -> None:
    """Raises ValueError where `num_heads` does not divide the width."""
    if num_heads < 1 or width % num_heads:
        fitting = [n for n in range(1, 33) if width % n == 0]
        raise ValueError(
            f"num_heads={num_heads} does not divide the width {width} of the tokens: use one of {fitting}."
        )


def usual_heads(width: int, wanted: int) -> int:
    """Returns `wanted`, or the largest number below it that divides the width.

    >>> usual_heads(1024, 16), usual_heads(40, 16)
    (16, 10)
    """
    return next(n for n in range(wanted, 0, -1) if width % n == 0)


class _MLP(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, 4 * width)
        self.fc2 = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class _SelfAttention(nn.Module):
    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (apart(part, self.num_heads) for part in self.qkv(x).chunk(3, dim=-1))
        return self.proj(together(F.scaled_dot_product_attention(q, k, v)))


class _CrossAttention(nn.Module):
    """Has an output projection in version 1, which nothing uses."""

    def __init__(self, width: int, num_heads: int, *, unused_proj: bool) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.q = nn.Linear(width, width)
        self.kv = nn.Linear(width, 2 * width)
        if unused_proj:
            self.proj = nn.Linear(width, width)

    def forward(self, query: Tensor, x: Tensor) -> Tensor:
        q = apart(self.q(query), self.num_heads)
        k, v = (apart(part, self.num_heads) for part in self.kv(x).chunk(2, dim=-1))
        return together(F.scaled_dot_product_attention(q, k, v))


class _SelfBlock(nn.Module):
    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=_EPS)
        self.attn = _SelfAttention(width, num_heads)
        self.norm2 = nn.LayerNorm(width, eps=_EPS)
        self.mlp = _MLP(width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class _CrossBlock(nn.Module):
    def __init__(self, width: int, num_heads: int, *, unused_proj: bool) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=_EPS)
        self.xattn = _CrossAttention(width, num_heads, unused_proj=unused_proj)
        self.norm2 = nn.LayerNorm(width, eps=_EPS)
        self.mlp = _MLP(width)

    def forward(self, query: Tensor, x: Tensor) -> Tensor:
        query = query + self.xattn(query, self.norm1(x))
        return query + self.mlp(self.norm2(query))


def apart(x: Tensor, num_heads: int) -> Tensor:
    """(B, N, D) -> (B, heads, N, D / heads)"""
    return x.unflatten(-1, (num_heads, -1)).transpose(1, 2)


def together(x: Tensor) -> Tensor:
    """(B, heads, N, d) -> (B, N, heads * d)"""
    return x.transpose(1, 2).flatten(2)
