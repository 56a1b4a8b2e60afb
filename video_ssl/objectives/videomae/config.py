"""Settings of VideoMAE (arXiv:2203.12602) and of the dual masking of VideoMAE V2 (arXiv:2303.16727)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from video_ssl.clips.config import ClipConfig, CropConfig, MaskConfig
from video_ssl.models.config import DecoderConfig, Normalization, ViTConfig
from video_ssl.objectives.shared.masked_config import HogConfig, VisibleLossConfig
from video_ssl.objectives.shared.sources import EncoderSource
from video_ssl.objectives.shared.wiring import fit_encoder


@dataclass(frozen=True, kw_only=True)
class Config(VisibleLossConfig):
    """Settings of VideoMAE.

    A batch holds `video` uint8 (B, V, T, S, S, 3) with V = clip.num_views, T = clip.num_frames, S = crop.size; `mask`
    bool (B, V, L), True = hidden from the encoder, L = tokens of `encoder.grid` in the order time, row, column; and,
    when `decoder_mask` is set, `decoder_mask` bool (B, V, L), True = NOT decoded.

    Attributes:
        target: "normalized" standardises every tubelet per color, "raw" regresses pixels in [0, 1]; "hog" is
            MaskFeat's: histograms of oriented gradients of the tubelet's first frame.
        hog: settings of that target.
        decoder_mask: dual masking of VideoMAE V2 (kind "running_cell", ratio 0.5); null = decode every hidden token.
        visible_weight, visible_by_distance, visible_warmup: see `VisibleLossConfig`; not part of VideoMAE.
    """

    clip: ClipConfig = field(default_factory=ClipConfig)
    crop: CropConfig = field(default_factory=CropConfig)
    mask: MaskConfig = field(default_factory=MaskConfig)
    decoder_mask: MaskConfig | None = None
    encoder: ViTConfig = field(default_factory=lambda: ViTConfig(positions="sincos_1d"))
    decoder: DecoderConfig = field(
        default_factory=lambda: DecoderConfig(embed_dim=384, depth=4, num_heads=6)
    )
    normalization: Normalization = field(default_factory=Normalization)
    target: Literal["normalized", "raw", "hog"] = "normalized"
    hog: HogConfig = field(default_factory=HogConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        encoder = fit_encoder(self.encoder, size=self.crop.size, num_frames=self.clip.num_frames)
        object.__setattr__(self, "encoder", encoder)
        object.__setattr__(self, "decoder", self.decoder.resolve(encoder, encoder.positions))
        self.mask.num_masked(encoder.grid)
        if self.decoder_mask is not None:
            self.decoder_mask.num_masked(encoder.grid)
        self.values_per_token()

    def values_per_token(self) -> int:
        """Returns the number of elements of a target."""
        encoder = self.encoder
        if self.target == "hog":
            return self.hog.values_per_token(
                patch_size=encoder.patch_size, frame_size=self.crop.size
            )
        return 3 * encoder.tubelet_size * encoder.patch_size**2

    @property
    def clips_per_record(self) -> int:
        return self.clip.num_views

    def stages(self) -> dict[str, EncoderSource]:
        return {}
