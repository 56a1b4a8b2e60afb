"""Settings of MVD (arXiv:2212.04500)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from video_ssl.clips.config import ClipConfig, CropConfig, MaskConfig
from video_ssl.models.config import DecoderConfig, Normalization, ViTConfig
from video_ssl.objectives.shared.masked_config import VisibleLossConfig
from video_ssl.objectives.shared.sources import EncoderSource
from video_ssl.objectives.shared.wiring import fit_encoder


@dataclass(frozen=True, kw_only=True)
class TeacherConfig:
    """A frozen network whose features at the hidden tokens are the target of one decoder.

    Attributes:
        source: where the teacher comes from.
        weight: factor of its loss in the sum; 0 keeps its decoder and its figures, with
            gradients of zero.
        loss: "smooth_l1" (beta 1), "l1" or "l2", mean over clips, hidden tokens and channels.
        normalize_features: LayerNorm without parameters (eps 1e-6) on the targets; off in every
            published run.
        size: side of its input in pixels; empty = crop.size.
        dtype: precision of its weights and products; "ambient" = that of the loop.
        micro_batch: clips in one pass; empty = the whole batch at once.
        num_heads: only for a `source.file` whose width leaves the heads open.
        family: only for a fine-tuned `source.file` that does not show whose code made it: VideoMAE's and MVD's have the
            same keys and different positions.
    """

    source: EncoderSource
    weight: float = 1.0
    loss: Literal["smooth_l1", "l1", "l2"] = "smooth_l1"
    normalize_features: bool = False
    size: int | None = None
    dtype: Literal["ambient", "float32", "bfloat16", "float16"] = "ambient"
    micro_batch: int | None = None
    num_heads: int | None = None
    family: Literal["auto", "mae", "videomae", "videomae_v2", "mvd"] = "auto"

    def __post_init__(self) -> None:
        if self.weight < 0:
            raise ValueError(f"weight={self.weight} of a teacher must not be negative.")
        if self.micro_batch is not None and self.micro_batch < 1:
            raise ValueError(f"micro_batch={self.micro_batch} must be at least 1, or null.")
        if self.size is not None and self.size < 1:
            raise ValueError(f"size={self.size} of a teacher must be at least 1 pixel, or null.")


@dataclass(frozen=True, kw_only=True)
class ImageTeacherConfig(TeacherConfig):
    """A teacher that sees frames one by one.

    Attributes:
        frames: "first" shows it the first frame of every tubelet (every published run); "all"
            every frame, the features of a tubelet's frames side by side on the channels.
    """

    frames: Literal["first", "all"] = "first"


@dataclass(frozen=True, kw_only=True)
class Config(VisibleLossConfig):
    """Settings of MVD.

    A batch holds `video` uint8 (B, V, T, S, S, 3) with V = clip.num_views, T = clip.num_frames,
    S = crop.size; `mask` bool (B, V, L), True = hidden from the encoder, L = tokens of
    `encoder.grid` in the order time, row, column; and, when `teacher_size` is not None,
    `teacher_video` uint8 (B, V, T, teacher_size, teacher_size, 3): the same region of the same
    frames at another size.

    Attributes:
        image: the teacher of single frames (MAE in the paper); null = none.
        video: the teacher of clips (VideoMAE in the paper); null = none.
        decoder: each teacher has a decoder of its own of this shape.
        visible_weight, visible_by_distance, visible_warmup: the student's visible tokens regress the
            teachers' features there too; see `VisibleLossConfig`; not part of MVD.
    """

    image: ImageTeacherConfig | None = None
    video: TeacherConfig | None = None
    clip: ClipConfig = field(default_factory=ClipConfig)
    crop: CropConfig = field(default_factory=CropConfig)
    mask: MaskConfig = field(default_factory=MaskConfig)
    encoder: ViTConfig = field(
        default_factory=lambda: ViTConfig(positions="sincos_3d", drop_path=0.1)
    )
    decoder: DecoderConfig = field(default_factory=DecoderConfig)
    normalization: Normalization = field(default_factory=Normalization)

    def __post_init__(self) -> None:
        super().__post_init__()
        encoder = fit_encoder(self.encoder, size=self.crop.size, num_frames=self.clip.num_frames)
        object.__setattr__(self, "encoder", encoder)
        object.__setattr__(self, "decoder", self.decoder.resolve(encoder, encoder.positions))
        self.mask.num_masked(encoder.grid)
        if not self.teachers:
            raise ValueError("MVD has no teacher: set image, video or both (image.source.run=...).")
        if len(self._other_sizes()) > 1:
            raise ValueError(
                f"the teachers ask for {self._other_sizes()} pixels beside "
                f"crop.size={self.crop.size}: at most one other size is made from a clip. "
                "Give both teachers the same size."
            )

    @property
    def teachers(self) -> dict[str, TeacherConfig]:
        """The teachers that are set, by name: "image", "video"."""
        both = {"image": self.image, "video": self.video}
        return {name: teacher for name, teacher in both.items() if teacher is not None}

    def _other_sizes(self) -> list[int]:
        sizes = {teacher.size for teacher in self.teachers.values()}
        return sorted(size for size in sizes if size is not None and size != self.crop.size)

    @property
    def teacher_size(self) -> int | None:
        """The side of `teacher_video` in pixels; None when all teachers see the student's clip."""
        sizes = self._other_sizes()
        return sizes[0] if sizes else None

    @property
    def clips_per_record(self) -> int:
        return self.clip.num_views

    def stages(self) -> dict[str, EncoderSource]:
        return {name: teacher.source for name, teacher in self.teachers.items()}
