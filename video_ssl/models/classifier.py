"""The classifier that VideoMAE and MVD fine-tune."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor, nn

from video_ssl.models.config import ImageViTConfig, ViTConfig
from video_ssl.models.networks.image_vit import ImageViT
from video_ssl.models.networks.layers import LAYER_NORM_EPS
from video_ssl.models.networks.vit import VideoViT
from video_ssl.models.weights import Renames

#: Keys of the fine-tuned checkpoints of VideoMAE and MVD -> keys here.
CLASSIFIER_KEYS: Renames = (("fc_norm.", "fc_norm."), ("head.", "head."), ("", "encoder."))


class VideoClassifier(nn.Module):
    """Mean of the last block's tokens, LayerNorm, dropout, Linear.

    The encoder has no final norm here: `fc_norm` acts on the mean instead.

    Args:
        config: of the encoder, of clips or of images (MAE fine-tunes this way with global pooling); its
            `final_norm` is ignored.
        num_classes: K; 0 leaves out the head, logits are then the features.
        dropout: before the head.
        init_scale: factor on the fresh head, 0.001 in fine-tuning.
    """

    def __init__(
        self,
        config: ViTConfig | ImageViTConfig,
        *,
        num_classes: int,
        dropout: float = 0.0,
        init_scale: float = 0.001,
    ) -> None:
        super().__init__()
        self.encoder: VideoViT | ImageViT
        if isinstance(config, ViTConfig):
            self.encoder = VideoViT(replace(config, final_norm=False))
        else:
            self.encoder = ImageViT(replace(config, final_norm=False))
        self.fc_norm = nn.LayerNorm(config.width, eps=LAYER_NORM_EPS)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(config.width, num_classes) if num_classes else nn.Identity()
        # Truncated normal for every Linear, unlike pre-training; cut at one standard deviation as
        # in the reference's helper.
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=0.02, a=-0.02, b=0.02)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)
        if isinstance(self.head, nn.Linear):
            self.head.weight.data.mul_(init_scale)

    def features(self, video: Tensor) -> Tensor:
        """Returns (B, D) for a normalised video (B, C, T, H, W): what the head sees."""
        return self.fc_norm(self.encoder.clip_features(video))

    def forward(self, video: Tensor) -> Tensor:
        """Returns logits (B, K) for a normalised video (B, C, T, H, W)."""
        return self.head(self.dropout(self.features(video)))
