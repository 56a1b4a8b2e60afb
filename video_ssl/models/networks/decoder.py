"""The decoder of masked objectives: from visible tokens to a prediction at hidden ones, and at themselves if asked."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from video_ssl.models.config import DecoderConfig
from video_ssl.models.networks.layers import (
    LAYER_NORM_EPS,
    init_transformer,
    make_blocks,
    take,
)
from video_ssl.models.networks.position_tables import PositionTable
from video_ssl.models.networks.positions import Grid


class MaskedDecoder(nn.Module):
    """Predicts `out_dim` values at chosen tokens from the encoder's visible ones.

    Its sequence is [prefix | visible + table[visible] | mask_token + table[wanted]]; it is not put
    back into token order, which attention would not notice.  A prefix (a class token) has no
    position.

    Args:
        config: complete, as `DecoderConfig.resolve` gives it.
        in_dim: width of the encoder.
        out_dim: values per token.
        table: kind of the position table.
        grid: tokens along time, rows, columns.
        embed_bias: whether the projection into the decoder has a bias (MAE, MVD) or not (VideoMAE).
        qkv_bias: as in the encoder.
    """

    def __init__(
        self,
        config: DecoderConfig,
        *,
        in_dim: int,
        out_dim: int,
        table: str,
        grid: Grid,
        embed_bias: bool = True,
        qkv_bias: Literal["q_v", "full", "none"] = "q_v",
    ) -> None:
        super().__init__()
        dim, heads, rate = config.embed_dim, config.num_heads, config.drop_path
        assert dim is not None
        assert heads is not None
        assert rate is not None
        self.embed = nn.Linear(in_dim, dim, bias=embed_bias)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, dim))
        # Decoders keep a formula where the encoder learns its positions, as the references do.
        self.positions = PositionTable("sincos_1d" if table == "learned" else table, dim, grid)
        self.blocks = make_blocks(
            dim,
            config.depth,
            heads,
            mlp_ratio=config.mlp_ratio,
            qkv_bias=qkv_bias,
            drop_path=rate,
            cosine=config.cosine_attention,
        )
        self.norm = nn.LayerNorm(dim, eps=LAYER_NORM_EPS)
        self.head = nn.Linear(dim, out_dim)
        init_transformer(self)
        nn.init.trunc_normal_(self.mask_token, std=0.02, a=-0.02, b=0.02)

    def forward(
        self, encoded: Tensor, visible: Tensor, wanted: Tensor, *, at_visible: bool = False
    ) -> Tensor:
        """Returns predictions (B, M, out_dim) at the tokens `wanted`; with `at_visible` (B, K+M, out_dim), those at
        the tokens `visible` first.

        Args:
            encoded: (B, P+K, D), the encoder's output; the last K belong to `visible`.
            visible: int64 (B, K), token indices.
            wanted: int64 (B, M), token indices.
        """
        x = self.embed(encoded)
        table = self.positions()
        prefix = x.shape[1] - visible.shape[1]
        seen = x[:, prefix:] + take(table, visible)
        asked = self.mask_token + take(table, wanted)
        parts = [seen, asked] if prefix == 0 else [x[:, :prefix].to(seen.dtype), seen, asked]
        x = torch.cat(parts, dim=1)
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x[:, prefix if at_visible else -wanted.shape[1] :]))
