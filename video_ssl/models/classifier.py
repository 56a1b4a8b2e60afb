"""The classifier that VideoMAE, MVD and MAE fine-tune."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import Literal

from torch import Tensor, nn

from video_ssl.models.config import ImageViTConfig, ViTConfig
from video_ssl.models.networks.image_vit import ImageViT
from video_ssl.models.networks.layers import LAYER_NORM_EPS
from video_ssl.models.networks.vit import VideoViT

Readout = Literal["mean", "first_token"]


def readout_of(head: Collection[str]) -> Readout:
    """Returns what a classifier reads whose head has these keys: only the mean has a norm of its own."""
    return "mean" if "fc_norm.weight" in head else "first_token"


class VideoClassifier(nn.Module):
    """Read-out of the last block's tokens, dropout, Linear.

    Args:
        config: of the encoder, of clips or of images (MAE fine-tunes this way with global pooling); its
            `final_norm` is ignored.
        num_classes: K; 0 leaves out the head, logits are then the features.
        dropout: before the head.
        init_scale: factor on the fresh head, 0.001 in fine-tuning.
        readout: "mean" = the mean of the tokens, and a LayerNorm of it (`fc_norm`) in place of the encoder's final
            norm; "first_token" = the first token behind the final norm (`use_mean_pooling=False` of the references):
            the class token where there is one (of images: the mean of those of the frames), else that of the
            first patch, so no summary of the clip.

    Raises:
        ValueError: "first_token" of an encoder of images without a class token.
    """

    def __init__(
        self,
        config: ViTConfig | ImageViTConfig,
        *,
        num_classes: int,
        dropout: float = 0.0,
        init_scale: float = 0.001,
        readout: Readout = "mean",
    ) -> None:
        super().__init__()
        self.readout = readout
        config = replace(config, final_norm=readout == "first_token")
        if isinstance(config, ImageViTConfig) and readout != "mean" and not config.cls_token:
            raise ValueError(
                "readout='first_token', but this encoder of images has no class token: use 'mean'."
            )
        self.encoder: VideoViT | ImageViT = (
            VideoViT(config) if isinstance(config, ViTConfig) else ImageViT(config)
        )
        norm = nn.LayerNorm(config.width, eps=LAYER_NORM_EPS)
        self.fc_norm = norm if readout == "mean" else nn.Identity()
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(config.width, num_classes) if num_classes else nn.Identity()
        self._init_weights(init_scale)

    def _init_weights(self, init_scale: float) -> None:
        """Truncated normals for every Linear and a class token, unlike pre-training.  They are cut at +-2, which is a
        hundred standard deviations here: the rule of timm's helper, whose bounds are no multiples of `std`."""
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=0.02, a=-2.0, b=2.0)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)
        if self.encoder.cls_token is not None:
            nn.init.trunc_normal_(self.encoder.cls_token, std=0.02, a=-2.0, b=2.0)
        if isinstance(self.head, nn.Linear):
            self.head.weight.data.mul_(init_scale)

    def features(self, video: Tensor) -> Tensor:
        """Returns (B, D) for a normalised video (B, C, T, H, W): what the head sees."""
        return self.read(*self.encoder.layer_outputs(video))

    def read(self, prefix: Tensor, tokens: Tensor) -> Tensor:
        """Returns (B, D): what the head sees of class tokens (B, P, D) and tokens (B, L, D) of the encoder."""
        if self.readout == "mean":
            return self.fc_norm(tokens.mean(1))
        if self.encoder.frames_stand_alone:
            return prefix.mean(1)
        return (prefix if prefix.shape[1] else tokens)[:, 0]

    def forward(self, video: Tensor) -> Tensor:
        """Returns logits (B, K) for a normalised video (B, C, T, H, W)."""
        return self.head(self.dropout(self.features(video)))
