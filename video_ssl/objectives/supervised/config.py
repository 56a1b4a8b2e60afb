"""Settings of supervised classification."""

from __future__ import annotations

from dataclasses import dataclass, field

from video_ssl.clips.config import ClipConfig, ColorConfig, CropConfig
from video_ssl.models.config import Normalization, ViTConfig
from video_ssl.models.encoder_config import EncoderConfig
from video_ssl.objectives.shared.sources import EncoderSource
from video_ssl.objectives.shared.wiring import fit_encoder


@dataclass(frozen=True, kw_only=True)
class Config:
    """Settings of supervised classification.

    A batch holds `video` uint8 (B, V, T, S, S, 3) with V = clip.num_views, T = clip.num_frames, S = crop.size,
    `label` int64 (B,) in [0, num_classes), and where `color` is set `color` float32 (B, V, NUM_PARAMETERS).

    Attributes:
        init: an encoder to start from (fine-tuning); null = random weights.
        color: changes of color, applied on the device; null = none.
        encoder: `architecture: vit` (as in the other objectives), `r2plus1d`, `r3d`, `zoo` (pytorchvideo's networks) or
            another of the table of networks.
        label_smoothing: share of the target spread over all classes.
        dropout: of the pooled feature before the linear head.
    """

    num_classes: int
    init: EncoderSource | None = None
    clip: ClipConfig = field(default_factory=ClipConfig)
    crop: CropConfig = field(default_factory=CropConfig)
    color: ColorConfig | None = None
    encoder: EncoderConfig = field(default_factory=ViTConfig)
    normalization: Normalization = field(default_factory=Normalization)
    label_smoothing: float = 0.0
    dropout: float = 0.0

    def __post_init__(self) -> None:
        if self.num_classes < 2:
            raise ValueError(f"num_classes={self.num_classes} must be at least 2.")
        for name in ("label_smoothing", "dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must lie in [0, 1).")
        encoder = fit_encoder(self.encoder, size=self.crop.size, num_frames=self.clip.num_frames)
        object.__setattr__(self, "encoder", encoder)

    @property
    def clips_per_record(self) -> int:
        return self.clip.num_views

    def stages(self) -> dict[str, EncoderSource]:
        return {} if self.init is None else {"init": self.init}
