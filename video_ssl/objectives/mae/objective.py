"""MAE (arXiv:2111.06377) on single frames of videos."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from video_ssl.models.encoders import Preprocess
from video_ssl.models.networks.decoder import MaskedDecoder
from video_ssl.models.networks.image_vit import ImageViT
from video_ssl.models.networks.layers import cut, split_mask, take
from video_ssl.models.preprocess import normalize, to_pixels
from video_ssl.models.weights import Renames
from video_ssl.objectives.export import preprocess_of
from video_ssl.objectives.mae.config import Config
from video_ssl.objectives.pixel_targets import pixel_targets

#: Keys of the published pre-training checkpoints -> keys of `Objective`.
PUBLISHED_KEYS: Renames = (
    ("decoder_embed.", "decoder.embed."),
    ("decoder_pos_embed", None),
    ("decoder_blocks.", "decoder.blocks."),
    ("decoder_norm.", "decoder.norm."),
    ("decoder_pred.", "decoder.head."),
    ("mask_token", "decoder.mask_token"),
    ("pos_embed", None),
    ("", "encoder."),
)


class Objective(nn.Module):
    """Regresses the pixels of hidden patches of a frame from the visible ones.

    Loss = mean over hidden patches and their elements of the squared error (section 3 of the paper).
    """

    def __init__(self, config: Config, *, encoders: Mapping[str, Path] | None = None) -> None:
        super().__init__()
        self.config = config
        encoder = config.encoder
        self.encoder = ImageViT(encoder)
        self.decoder = MaskedDecoder(
            config.decoder,
            in_dim=encoder.width,
            out_dim=3 * encoder.patch_size**2,
            table="sincos_2d",
            grid=encoder.grid,
            qkv_bias=encoder.qkv_bias,
        )
        nn.init.normal_(self.decoder.mask_token, std=0.02)
        num_tokens = encoder.grid[1] * encoder.grid[2]
        self.num_visible = num_tokens - config.mask.num_masked(encoder.grid)

    def forward(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Returns the loss and figures for a batch as `Config` describes it."""
        pixels = to_pixels(batch["video"])
        visible, hidden = split_mask(batch["mask"].flatten(0, 1), self.num_visible)
        video = normalize(pixels, self.config.normalization)
        encoded = self.encoder(video, visible)
        prediction = self.decoder(encoded, visible, hidden)
        with torch.autocast(prediction.device.type, enabled=False):
            target = self.targets(pixels, hidden)
            loss = (prediction.float() - target).square().mean()
        features = encoded[:, self.encoder.num_prefix :].detach().float().mean(1)
        return loss, {"loss": loss.detach(), "features": features}

    def targets(self, pixels: Tensor, wanted: Tensor) -> Tensor:
        """Returns float32 (N, M, E) for pixels (N, C, 1, H, W) in [0, 1] at patches (N, M)."""
        cubes = cut(pixels, 1, self.config.encoder.patch_size, "channels_last")
        return pixel_targets(take(cubes, wanted), self.config.target, per_colour=False)

    def after_step(self, progress: float) -> None:
        """Nothing follows a step."""

    def no_weight_decay(self) -> set[str]:
        """The reference decays the class token and the mask token."""
        return set()

    def preprocess(self) -> Preprocess:
        """Returns what the exported encoder expects of a clip."""
        config = self.config
        return preprocess_of(config.evaluation, config.crop.size, config.normalization)
