"""Settings of the training of a tokenizer; see `VQConfig`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from video_ssl.clips.config import CropConfig
from video_ssl.models.encoder_config import EncoderConfig
from video_ssl.models.tokenizers.config import PatchWordsConfig
from video_ssl.models.tokenizers.vq_config import DiscreteVAEConfig, VQConfig
from video_ssl.objectives.shared.sources import EncoderSource

#: Side of a cell.
STRIDE = 8


if TYPE_CHECKING:
    TrainedTokenizer = VQConfig | DiscreteVAEConfig | PatchWordsConfig
else:

    class TrainedTokenizer(EncoderConfig):
        """The tokenizers that are trained here; where a recipe says no `architecture:`, the first is meant."""

        @classmethod
        def known(cls) -> dict[str, type]:
            return {
                "vq_tokenizer": VQConfig,
                "discrete_vae": DiscreteVAEConfig,
                "patch_words": PatchWordsConfig,
            }


def picture_crop() -> CropConfig:
    return CropConfig(kind="random_resized", size=112, area=(0.4, 1.0), flip_probability=0.5)


@dataclass(frozen=True, kw_only=True)
class Config:
    """Settings of the training of a tokenizer.

    A batch holds `video` uint8 (B, F, S, S, 3): F = frames_per_video single pictures of every record, S = crop.size.

    Attributes:
        encoder: what is trained: `architecture: vq_tokenizer`, `discrete_vae`, for experts, or `patch_words`, which
            needs seconds.
        frames_per_video: pictures that a visit of a record gives, at random moments.
        reconstruction_weight: of the mean squared error of the pixels, in [0, 1].
        commitment_weight: of the distance of the encoder's vectors to their words; of `discrete_vae`: of the divergence
            of a cell's words from all words alike (DALL-E's code gives it a weight of 6.6 / 192 beside a likelihood;
            others saw it hurt).

    Source: papers/bevt.md section 11 A (our own specification).
    """

    encoder: TrainedTokenizer = field(default_factory=VQConfig)
    crop: CropConfig = field(default_factory=picture_crop)
    frames_per_video: int = 4
    reconstruction_weight: float = 10.0
    commitment_weight: float = 0.25

    def __post_init__(self) -> None:
        if self.frames_per_video < 1:
            raise ValueError(f"frames_per_video={self.frames_per_video} must be at least 1.")
        if self.crop.size % STRIDE:
            raise ValueError(
                f"crop.size={self.crop.size} must be a multiple of {STRIDE}, the side of a cell."
            )
        if min(self.reconstruction_weight, self.commitment_weight) < 0:
            raise ValueError(
                f"reconstruction_weight={self.reconstruction_weight} and commitment_weight={self.commitment_weight} "
                "must not be negative."
            )

    @property
    def clips_per_record(self) -> int:
        return self.frames_per_video

    def stages(self) -> dict[str, EncoderSource]:
        return {}
