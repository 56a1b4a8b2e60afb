"""MAE's image ViT, applied to the frames of a clip one by one."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from video_ssl.models.config import ImageViTConfig
from video_ssl.models.networks.layers import (
    LAYER_NORM_EPS,
    PatchEmbed,
    init_transformer,
    make_blocks,
    make_stem,
    take,
)
from video_ssl.models.networks.position_tables import make_positions
from video_ssl.models.networks.positions import Grid
from video_ssl.models.networks.token_features import TokenFeatures


class ImageViT(TokenFeatures, nn.Module):
    """A ViT over the patches of single frames; see `ImageViTConfig` for its settings.

    Videos are float (B, C, T, H, W), normalised; every frame is encoded on its own.
    """

    frames_stand_alone = True

    def __init__(self, config: ImageViTConfig) -> None:
        super().__init__()
        self.config = config
        self.embed_dim = config.width
        self.num_prefix = int(config.cls_token)
        #: Any number of frames is fine; one is the least.
        self.num_frames = 1
        self.patch_embed = make_stem(config.stem, config.width, config.patch_size, None)
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
        if isinstance(self.patch_embed, PatchEmbed):
            # MAE treats the patch embedding as the linear layer that it is.
            nn.init.xavier_uniform_(self.patch_embed.proj.weight.data.flatten(1))
        if self.cls_token is not None:
            nn.init.normal_(self.cls_token, std=0.02)

    @property
    def num_blocks(self) -> int:
        return len(self.blocks)

    def grid(self, video: Tensor) -> Grid:
        """Returns (T, h, w) of a video (B, C, T, H, W).

        Raises:
            ValueError: the frames do not divide into patches.
        """
        t, h, w = video.shape[2:]
        p = self.config.patch_size
        if h % p or w % p:
            raise ValueError(
                f"frames of {h}x{w} pixels do not divide into patches of {p}x{p}: give multiples."
            )
        return t, h // p, w // p

    def embed(self, frames: Tensor, keep: Tensor | None = None) -> Tensor:
        """Returns the input of the first block, (N, P+K, D), for frames (N, C, 1, H, W)."""
        table = self.positions((1, *self.grid(frames)[1:]))
        x = self.patch_embed(frames, keep)
        x = x + (table if keep is None else take(table, keep)).to(x.dtype)
        if self.cls_token is not None:
            x = torch.cat([self.cls_token.to(x.dtype).expand(x.shape[0], -1, -1), x], dim=1)
        return x

    def forward(self, frames: Tensor, keep: Tensor | None = None) -> Tensor:
        """Returns all outputs, (N, P+K, D), for frames (N, C, 1, H, W): the final norm is applied,
        the class token comes first."""
        x = self.embed(frames, keep)
        for block in self.blocks:
            x = block(x)
        return x if self.norm is None else self.norm(x)

    def tokens(self, video: Tensor, *, keep: Tensor | None = None) -> Tensor:
        """Returns (B, T*h*w, D), or (B, K, D) for the tokens in `keep` (int64 (B, K)).

        Raises:
            ValueError: `keep` together with more than one frame.
        """
        if keep is not None:
            if video.shape[2] != 1:
                raise ValueError(
                    f"keep chooses patches of one frame, but the clip has {video.shape[2]}: fold "
                    "the frames into the batch."
                )
            return self(video, keep)[:, self.num_prefix :]
        tokens = self(_fold(video))[:, self.num_prefix :]
        return tokens.reshape(video.shape[0], -1, self.embed_dim)

    def layer_outputs(self, video: Tensor, layer: int | None = None) -> tuple[Tensor, Tensor]:
        """Returns the frames' class tokens (B, P, D) and tokens (B, T*h*w, D); see `TokenFeatures`."""
        if layer is None:
            x = self(_fold(video))
        else:
            x = self.embed(_fold(video))
            for block in self.blocks[: range(len(self.blocks))[layer] + 1]:
                x = block(x)
        x = x.unflatten(0, (video.shape[0], -1))
        return x[:, :, : self.num_prefix].flatten(1, 2), x[:, :, self.num_prefix :].flatten(1, 2)

    def taps(self, video: Tensor, layer: int = -1) -> Tensor:
        """Returns (B, T, h*w, D) behind block `layer` (-1 = the last), BEFORE the final norm and
        without the class token: what a teacher gives."""
        return self.layer_outputs(video, layer)[1].unflatten(1, (video.shape[2], -1))

    def frame_positions(self, num_frames: int) -> np.ndarray:
        """Returns float64 (T,): a feature for every frame."""
        return np.arange(num_frames, dtype=np.float64)


def _fold(video: Tensor) -> Tensor:
    """(B, C, T, H, W) -> (B*T, C, 1, H, W)"""
    return video.transpose(1, 2).flatten(0, 1).unsqueeze(2)
