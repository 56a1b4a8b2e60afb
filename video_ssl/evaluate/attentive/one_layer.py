"""Poolers of one attention, without MLP and without a residual: those of VideoGLUE and of VideoPrism.

    VideoGLUE     LN of the tokens (eps 1e-6); query, key, value and output with bias; dropout 0.5; linear
    VideoPrism    the tokens as they are; the query times softplus(s) / (ln 2 * sqrt(d)) in every dimension, s learned;
                  LN of the result (eps 1e-6, its weight is 1 + `scale`); linear

The query is learned and not normalised.

Source: papers/frozen_protocols.md section 2 (arXiv:2307.03166, 2402.13217).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from video_ssl.evaluate.attentive.poolers import apart, check_heads, together

_EPS = 1e-6


class VideoGLUEPooler(nn.Module):
    """Logits (B, K) of tokens (B, N, D).

    Args:
        width: D.
        num_classes: K.
        num_heads: divides `width`, which is the width of all heads together.
        dropout: of the pooled vector.
    """

    def __init__(
        self, width: int, num_classes: int, *, num_heads: int, dropout: float = 0.5
    ) -> None:
        super().__init__()
        check_heads(width, num_heads)
        self.num_heads = num_heads
        self.query_token = nn.Parameter(torch.zeros(1, 1, width))
        self.norm = nn.LayerNorm(width, eps=_EPS)
        self.query, self.key, self.value, self.output = (nn.Linear(width, width) for _ in range(4))
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(width, num_classes)
        for layer in (self.query, self.key, self.value, self.output):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)
        nn.init.uniform_(self.linear.weight, -0.05, 0.05)
        nn.init.zeros_(self.linear.bias)

    def forward(self, tokens: Tensor) -> Tensor:
        """Returns the logits."""
        x = self.norm(tokens)
        q, k, v = (
            apart(layer(part), self.num_heads)
            for layer, part in (
                (self.query, self.query_token.expand(len(tokens), -1, -1)),
                (self.key, x),
                (self.value, x),
            )
        )
        pooled = self.output(together(F.scaled_dot_product_attention(q, k, v)))[:, 0]
        return self.linear(self.dropout(pooled))


class VideoPrismPooler(nn.Module):
    """Logits (B, K) of tokens (B, N, D); arguments as of `VideoGLUEPooler`, without dropout."""

    def __init__(self, width: int, num_classes: int, *, num_heads: int) -> None:
        super().__init__()
        check_heads(width, num_heads)
        self.num_heads = num_heads
        self.query_token = nn.Parameter(torch.randn(1, 1, width) / math.sqrt(width))
        self.query, self.key, self.value, self.post = (nn.Linear(width, width) for _ in range(4))
        self.per_dim_scale = nn.Parameter(torch.zeros(width // num_heads))
        self.norm = nn.LayerNorm(width, eps=_EPS)
        self.linear = nn.Linear(width, num_classes)
        for layer in (self.query, self.key, self.value, self.post, self.linear):
            nn.init.trunc_normal_(layer.weight, std=1 / math.sqrt(width))
            nn.init.zeros_(layer.bias)

    def forward(self, tokens: Tensor) -> Tensor:
        """Returns the logits."""
        return self.linear(self.pooled(tokens))

    def pooled(self, tokens: Tensor) -> Tensor:
        """Returns (B, D), what the linear layer reads."""
        query = self.query(self.query_token.expand(len(tokens), -1, -1))
        q, k, v = (apart(x, self.num_heads) for x in (query, self.key(tokens), self.value(tokens)))
        q = q * (F.softplus(self.per_dim_scale) / math.log(2))
        found = self.post(together(F.scaled_dot_product_attention(q, k, v)))
        return self.norm(found)[:, 0]
