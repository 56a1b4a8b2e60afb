"""Settings of HiCo (arXiv:2204.03017), HiCo++ and of SimCLR on the same clips.  Free of torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from video_ssl.clips.config import ClipConfig, ColorConfig, CropConfig
from video_ssl.models.config import Normalization
from video_ssl.models.encoder_config import EncoderConfig
from video_ssl.models.networks.s3dg_config import S3DGConfig
from video_ssl.objectives.shared.objective_config import refuse_few
from video_ssl.objectives.shared.sources import EncoderSource
from video_ssl.objectives.shared.wiring import fit_encoder


def hico_clip() -> ClipConfig:
    """Returns HiCo's clips: three of 16 frames over 2.13 seconds.  Source: papers/hico.md section 2.2."""
    return ClipConfig(num_frames=16, frame_stride=4, fps=30.0, sampling="seconds", num_clips=3)


def hico_crop() -> CropConfig:
    """Returns HiCo's square crop: 168² to 224² of 256 x 340 pixels.  Source: papers/hico.md section 2.5."""
    whole = 256 * 340
    return CropConfig(
        kind="random_resized",
        size=112,
        area=(168**2 / whole, 224**2 / whole),
        aspect=(1.0, 1.0),
        flip_probability=0.5,
    )


def hico_pixels() -> Normalization:
    return Normalization(mean=(0.45,) * 3, std=(0.225,) * 3)


@dataclass(frozen=True, kw_only=True)
class Config:
    """Settings of HiCo.

    A batch holds `video` uint8 (B, V, T, S, S, 3) with V = clip.num_clips, T = clip.num_frames, S = crop.size, and
    where `color` is set `color` float32 (B, V, NUM_PARAMETERS).  B is at least 2 in every process.

    Attributes:
        method: "hico": clips 0 and 1 are the visual pair, the last clip of three or more is anywhere in the video;
            "hicopp": all clips come in visual pairs, and topics are judged pair by pair; "simclr": all clips of a video
            are positives of each other, the baseline of both.
        clip: its `sampling` is "seconds": a clip lasts num_frames * frame_stride / fps seconds at any rate of the file.
        distance_sec: how far apart the centres of a visual pair may lie, in seconds: at the beginning and at the end of
            the training, growing in between; two equal numbers = constant; null = anywhere.
        topic_distance_sec: "hicopp": of the first clip of a pair from the pair before; null = anywhere.
        visual_weight, topical_weight: of the two terms; 0 leaves one out.
        temperature: of the visual similarities.
        visual_factor: "one", or "temperature" = times 2 * temperature (HiCo++ with ViT).
        focus: exponent of the topical term (gamma).
        topic_pairs: "process" compares the clips of a process (as published), "all" those of all processes, so that the
            loss does not depend on their number (ours).
        hidden_dims, out_dim: of both heads; empty = two layers as wide as the encoder.
        topic_hidden: hidden layer of the predictor of topics.
        color: "hico" has the published blur, which does nothing; its law `simclr` blurs.
        pooling: what the heads see of a clip: the "mean" of all tokens, or "cls", the class token of a ViT (HiCo++).
        freeze_patches: ViTs: the projection of patches stays as it was drawn (HiCo++).

    Source: papers/hico.md sections 2 to 4 and 9.
    """

    method: Literal["hico", "hicopp", "simclr"] = "hico"
    clip: ClipConfig = field(default_factory=hico_clip)
    crop: CropConfig = field(default_factory=hico_crop)
    color: ColorConfig | None = field(default_factory=lambda: ColorConfig(law="hico"))
    distance_sec: tuple[float, float] | None = (0.0, 1.0)
    topic_distance_sec: float | None = None
    visual_weight: float = 1.0
    topical_weight: float = 1.0
    temperature: float = 0.1
    visual_factor: Literal["one", "temperature"] = "one"
    focus: float = 0.5
    topic_pairs: Literal["process", "all"] = "process"
    hidden_dims: tuple[int, ...] | None = None
    out_dim: int = 128
    topic_hidden: int = 256
    encoder: EncoderConfig = field(default_factory=S3DGConfig)
    normalization: Normalization = field(default_factory=hico_pixels)
    pooling: Literal["mean", "cls"] = "mean"
    freeze_patches: bool = False

    def __post_init__(self) -> None:
        self._check_clips()
        self._check_loss()
        encoder = fit_encoder(self.encoder, size=self.crop.size, num_frames=self.clip.num_frames)
        object.__setattr__(self, "encoder", encoder)
        if self.hidden_dims is None:
            object.__setattr__(self, "hidden_dims", (encoder.width, encoder.width))
        for name, wanted in (
            ("freeze_patches", self.freeze_patches),
            ("pooling", self.pooling == "cls"),
        ):
            if wanted and encoder.architecture != "vit":
                raise ValueError(
                    f"{name}={getattr(self, name)} with encoder.architecture={encoder.architecture!r}: only a vit has "
                    "patches and a class token."
                )

    def _check_clips(self) -> None:
        clip = self.clip
        if clip.sampling != "seconds" or clip.fps is None:
            raise ValueError(
                f"clip.sampling={clip.sampling!r}, clip.fps={clip.fps}: clips of {self.method} are counted in seconds. "
                "Set clip.sampling: seconds and clip.fps (30 as published)."
            )
        if clip.views_per_clip != 1:
            raise ValueError(f"clip.views_per_clip={clip.views_per_clip} must be 1.")
        least = 3 if self.redraws_last else 2
        if clip.num_clips < least or (self.method == "hicopp" and clip.num_clips % 2):
            wanted = {
                "hicopp": "an even number, 2 for each visual pair",
                "hico": f"at least {least}: the visual pair{' and a topical clip' if least == 3 else ''}",
                "simclr": "at least 2",
            }[self.method]
            raise ValueError(
                f"clip.num_clips={clip.num_clips} does not go with method={self.method!r}: give {wanted}."
            )
        if self.distance_sec is not None and not min(self.distance_sec) >= 0:
            raise ValueError(
                f"distance_sec={self.distance_sec} must not be negative: seconds at the beginning and at the end."
            )
        if self.topic_distance_sec is not None and (
            self.method != "hicopp" or self.topic_distance_sec < 0
        ):
            raise ValueError(
                f"topic_distance_sec={self.topic_distance_sec} goes with method='hicopp' and must not be negative."
            )

    def _check_loss(self) -> None:
        if min(self.visual_weight, self.topical_weight) < 0 or not self.terms:
            raise ValueError(
                f"visual_weight={self.visual_weight} and topical_weight={self.topical_weight} must not be negative, "
                "and not both 0."
            )
        if self.method == "simclr" and self.topical_weight > 0:
            raise ValueError(
                f"topical_weight={self.topical_weight} with method='simclr', which has no topics: set it to 0."
            )
        for name in ("temperature", "focus", "out_dim", "topic_hidden"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name}={getattr(self, name)} must be positive.")
        if self.hidden_dims is not None and (not self.hidden_dims or min(self.hidden_dims) < 1):
            raise ValueError(
                f"hidden_dims={self.hidden_dims} must be one or more widths, or null for two as wide as the encoder."
            )

    @property
    def terms(self) -> tuple[str, ...]:
        """The parts of the loss that are there."""
        weights = {"visual": self.visual_weight, "topical": self.topical_weight}
        return tuple(name for name, weight in weights.items() if weight > 0)

    @property
    def redraws_last(self) -> bool:
        """Whether the last clip is drawn anywhere in the video."""
        return self.method == "hico" and self.topical_weight > 0

    @property
    def clip_sec(self) -> float:
        """Length of a clip in seconds."""
        assert self.clip.fps is not None
        return self.clip.num_frames * self.clip.frame_stride / self.clip.fps

    @property
    def least_sec(self) -> float:
        """A shorter video is left out: no two clips of it could differ (papers/hico.md, pitfall 6)."""
        return 2 * self.clip_sec

    @property
    def clips_per_record(self) -> int:
        return self.clip.num_clips

    def check_records(self, count: int) -> None:
        """Raises ValueError if so many records leave nothing to tell a video from."""
        refuse_few(count, 2, f"{self.method} tells videos apart.")

    def stages(self) -> dict[str, EncoderSource]:
        return {}
