"""Settings of MAE (arXiv:2111.06377) on single frames of videos."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

from video_ssl.clips.config import ClipConfig, CropConfig, MaskConfig
from video_ssl.models.config import DecoderConfig, ImageViTConfig, Normalization
from video_ssl.objectives.shared.masked_config import HogConfig, VisibleLossConfig
from video_ssl.objectives.shared.sources import EncoderSource
from video_ssl.objectives.shared.wiring import fit_encoder


@dataclass(frozen=True, kw_only=True)
class Config(VisibleLossConfig):
    """Settings of MAE.

    A batch holds `video` uint8 (B, V, 1, S, S, 3): V = frames_per_video frames of a record, each drawn and cropped on
    its own, S = crop.size; and `mask` bool (B, V, L), True = hidden, L = patches of a frame in the order row, column;
    each drawn on its own.

    Attributes:
        frames_per_video: frames taken from a record per visit, each a sample of its own.
        mask: counted as MAE does: of L patches, int(L * (1 - ratio)) stay visible (`mask.rounding`).
        target: what is regressed at a hidden patch, made of the image as the encoder gets it, after `normalization`:
            "normalized" standardises every patch (all colors together), "raw" takes its values as they are; "hog" is
            MaskFeat's: histograms of oriented gradients of the levels 0 .. 255.
        hog: settings of that target.
        visible_weight, visible_by_distance, visible_warmup: see `VisibleLossConfig`; not part of MAE.
        evaluation: the clip that the exported encoder sees when it embeds videos.
    """

    frames_per_video: int = 1
    crop: CropConfig = field(
        default_factory=lambda: CropConfig(kind="random_resized", flip_probability=0.5)
    )
    mask: MaskConfig = field(default_factory=lambda: MaskConfig(kind="random", ratio=0.75))
    encoder: ImageViTConfig = field(default_factory=ImageViTConfig)
    decoder: DecoderConfig = field(
        default_factory=lambda: DecoderConfig(embed_dim=512, depth=8, num_heads=16, drop_path=0.0)
    )
    normalization: Normalization = field(default_factory=Normalization)
    target: Literal["normalized", "raw", "hog"] = "normalized"
    hog: HogConfig = field(default_factory=HogConfig)
    evaluation: ClipConfig = field(default_factory=ClipConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.frames_per_video < 1:
            raise ValueError(f"frames_per_video={self.frames_per_video} must be at least 1.")
        if self.mask.kind == "running_cell":
            raise ValueError("mask.kind='running_cell' is for clips: use 'random' for MAE.")
        if self.mask.rounding is None:
            object.__setattr__(self, "mask", replace(self.mask, rounding="visible"))
        encoder = fit_encoder(self.encoder, size=self.crop.size)
        object.__setattr__(self, "encoder", encoder)
        object.__setattr__(self, "decoder", self.decoder.resolve(encoder, "sincos_2d"))
        self.mask.num_masked(encoder.grid)
        self.values_per_token()

    def values_per_token(self) -> int:
        """Returns the number of elements of a target."""
        patch_size = self.encoder.patch_size
        if self.target == "hog":
            return self.hog.values_per_token(patch_size=patch_size, frame_size=self.crop.size)
        return 3 * patch_size**2

    @property
    def clips_per_record(self) -> int:
        return self.frames_per_video

    def stages(self) -> dict[str, EncoderSource]:
        return {}
