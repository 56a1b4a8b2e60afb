"""The video ViT of VideoMAE and MVD.

Keys of the state dict are those of the reference codes (`patch_embed.proj`, `blocks.N.attn.qkv`,
...), so that published weights map by prefix alone.  The position table is computed, not stored.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from video_ssl.models.config import ViTConfig
from video_ssl.models.networks.layers import (
    LAYER_NORM_EPS,
    init_transformer,
    make_blocks,
    make_stem,
    take,
)
from video_ssl.models.networks.position_tables import make_positions
from video_ssl.models.networks.positions import Grid
from video_ssl.models.networks.token_features import TokenFeatures, tubelet_middles


class VideoViT(TokenFeatures, nn.Module):
    """A ViT over space-time cubes; see `ViTConfig` for its settings.

    Videos are float (B, C, T, H, W), normalised.  Frames of another size or clips of another length
    are welcome if they divide into tokens: the position table is interpolated.
    """

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        assert config.num_frames is not None or config.grid
        self.config = config
        self.embed_dim = config.width
        self.num_prefix = int(config.cls_token)
        self.patch_embed = make_stem(
            config.stem, config.width, config.patch_size, config.tubelet_size
        )
        self.positions = make_positions(
            config.positions, config.width, config.grid, made_for=config.table_grid
        )
        self.cls_token = nn.Parameter(torch.zeros(1, 1, config.width)) if config.cls_token else None
        self.blocks = make_blocks(
            config.width,
            config.layers,
            config.heads,
            mlp_ratio=config.mlp_ratio,
            qkv_bias=config.qkv_bias,
            drop_path=config.drop_path,
            layer_scale=config.layer_scale,
            cosine=config.cosine_attention,
        )
        self.norm = nn.LayerNorm(config.width, eps=LAYER_NORM_EPS) if config.final_norm else None
        init_transformer(self)
        if self.cls_token is not None:
            nn.init.normal_(self.cls_token, std=1e-6)

    @property
    def num_frames(self) -> int:
        assert self.config.num_frames is not None
        return self.config.num_frames

    @property
    def num_blocks(self) -> int:
        return len(self.blocks)

    def grid(self, video: Tensor) -> Grid:
        """Returns (t, h, w) of the tokens of a video (B, C, T, H, W).

        Raises:
            ValueError: the clip does not divide into tokens.
        """
        t, h, w = video.shape[2:]
        d, p = self.config.tubelet_size, self.config.patch_size
        if t % d or h % p or w % p:
            raise ValueError(
                f"a clip of {t} frames of {h}x{w} pixels does not divide into tokens of {d} frames "
                f"of {p}x{p} pixels: give multiples."
            )
        return t // d, h // p, w // p

    def embed(self, video: Tensor, keep: Tensor | None = None) -> Tensor:
        """Returns the input of the first block, (B, P+K, D): the class token if there is one, then
        the tokens in `keep` (int64 (B, K)), or all L, with their positions."""
        table = self.positions(self.grid(video))
        x = self.patch_embed(video, keep)
        x = x + (table if keep is None else take(table, keep)).to(x.dtype)
        if self.cls_token is not None:
            x = torch.cat([self.cls_token.to(x.dtype).expand(x.shape[0], -1, -1), x], dim=1)
        return x

    def forward(self, video: Tensor, keep: Tensor | None = None) -> Tensor:
        """Returns all outputs, (B, P+K, D): the final norm is applied, a class token comes first."""
        x = self.embed(video, keep)
        for block in self.blocks:
            x = block(x)
        return x if self.norm is None else self.norm(x)

    def tokens(self, video: Tensor, *, keep: Tensor | None = None) -> Tensor:
        """Returns (B, K, D) for the tokens in `keep` (int64 (B, K)), or (B, L, D) for all."""
        return self(video, keep)[:, self.num_prefix :]

    def layer_outputs(self, video: Tensor, layer: int | None = None) -> tuple[Tensor, Tensor]:
        """Returns class tokens (B, P, D) and tokens (B, L, D); see `TokenFeatures`."""
        if layer is None:
            x = self(video)
        else:
            x = self.embed(video)
            for block in self.blocks[: range(len(self.blocks))[layer] + 1]:
                x = block(x)
        return x[:, : self.num_prefix], x[:, self.num_prefix :]

    def taps(self, video: Tensor, layer: int = -1) -> Tensor:
        """Returns (B, t, h*w, D) behind block `layer` (-1 = the last), BEFORE the final norm and
        without the class token: what a teacher gives."""
        t, h, w = self.grid(video)
        return self.layer_outputs(video, layer)[1].unflatten(1, (t, h * w))

    def frame_positions(self, num_frames: int) -> np.ndarray:
        """Returns float64 (T',), the middle of each tubelet in units of sampled frames.

        Raises:
            ValueError: `num_frames` is not a multiple of the tubelet.
        """
        return tubelet_middles(num_frames, self.config.tubelet_size)
