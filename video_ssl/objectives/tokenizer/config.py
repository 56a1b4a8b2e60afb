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
class PerceptualConfig:
    """A frozen network that compares the pictures made again with the true ones.

    The idea is PeCo's (papers/bevt.md section 11 A), which compares features of several layers of a self-supervised ViT
    (its exact form: unverified).  What is compared is ours: 1 - the cosine of the tokens at the same place, see
    `PerceptualNetwork`.

    Attributes:
        source: where the network comes from: any torch encoder of video with tokens.  A model of Hugging Face, and a
            file whose heads or family are not clear, is converted first (`video-ssl convert`) and named by `run`.
        weight: of the distance, beside `reconstruction_weight`.
        layers: blocks whose outputs are compared, without the final norm, counted from 0, or from -1 = the last one,
            each by a pass of its own; null = the network's output.
        size: side in pixels that pictures are scaled to; null = the network's own.
    """

    source: EncoderSource
    weight: float = 1.0
    layers: tuple[int, ...] | None = None
    size: int | None = None

    def __post_init__(self) -> None:
        if self.weight <= 0:
            raise ValueError(
                f"perceptual.weight={self.weight} must be positive; objective.perceptual=null leaves the term out."
            )
        if self.layers is not None and not self.layers:
            raise ValueError(
                "perceptual.layers is empty: name at least one block, or set it to null for the network's output."
            )
        if self.size is not None and self.size < 1:
            raise ValueError(
                f"perceptual.size={self.size} must be at least 1 pixel, or null for the network's own."
            )


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
        perceptual: a further term, how far the pictures made again are in the eyes of a frozen network; null = none.
            Not for `patch_words`.

    Source: papers/bevt.md section 11 A (our own specification).
    """

    encoder: TrainedTokenizer = field(default_factory=VQConfig)
    crop: CropConfig = field(default_factory=picture_crop)
    frames_per_video: int = 4
    reconstruction_weight: float = 10.0
    commitment_weight: float = 0.25
    perceptual: PerceptualConfig | None = None

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
        if self.perceptual is not None and isinstance(self.encoder, PatchWordsConfig):
            raise ValueError(
                "objective.perceptual is set with encoder.architecture=patch_words, whose words are means of squares "
                "of pixels and nothing else: set objective.perceptual=null, or use vq_tokenizer or discrete_vae."
            )

    @property
    def clips_per_record(self) -> int:
        return self.frames_per_video

    def stages(self) -> dict[str, EncoderSource]:
        return {} if self.perceptual is None else {"perceptual": self.perceptual.source}
