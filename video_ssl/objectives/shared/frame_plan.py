"""What frame-wise objectives (CARL, TCC, TCN) share before the device: settings and the plan.  Free of torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from video_ssl.clips.color_changes import color_fields
from video_ssl.clips.config import ColorConfig, CropConfig
from video_ssl.clips.crops import ViewRequest, sample_region
from video_ssl.clips.decoders.reader import Reader
from video_ssl.clips.sampling.frame_sets import FrameSetConfig, context_indices, sample_frame_sets
from video_ssl.clips.views import read_views
from video_ssl.datasets.table import Record
from video_ssl.models.config import Normalization
from video_ssl.models.networks.frame_config import BackboneInit, FrameTransformerConfig
from video_ssl.objectives.shared.objective_plan import ShownClip, shown_views
from video_ssl.objectives.shared.sources import FileSource


def carl_crop() -> CropConfig:
    """Returns CARL's crop: 80 to 100 % of the frame, mirrored half of the time, one region for all frames of a view."""
    return CropConfig(kind="random_resized", area=(0.8, 1.0), flip_probability=0.5)


def with_unit_length(encoder: FrameTransformerConfig, unit_length: bool) -> FrameTransformerConfig:
    """Returns the encoder with its features normalised, or not, as the objective compares them.

    Raises:
        ValueError: the encoder's own setting says otherwise.
    """
    if encoder.unit_length not in (None, unit_length):
        raise ValueError(
            f"encoder.unit_length={encoder.unit_length}, but unit_length={unit_length}: leave encoder.unit_length "
            "empty."
        )
    return replace(encoder, unit_length=unit_length)


@dataclass(frozen=True, kw_only=True)
class FrameSetSettings:
    """Settings that frame-wise objectives share.

    A batch holds, with V = frames.num_views, T = frames.num_frames, S = crop.size and c frames per feature (1, or
    encoder.num_contexts for the conv head; the frame itself comes last):
    `video` uint8 (B, V, T * c, S, S, 3); `steps` int64 (B, V, T), source frames; `frame_valid` bool (B, V, T), False
    where a slot repeats the last frame; `num_source_frames` int64 (B,), or (B, V) where views differ in length (the
    plans here give (B,)); `label` int64 (B,), -1 = none; `progress` float32 (B,), the position in training; where
    `color` is set `color` float32 (B, V, NUM_PARAMETERS).

    Attributes:
        frames: which frames make a view.
        crop: one region per view.
        color: changes of color, the same for all frames of a view, applied on the device; null = none.
        encoder: its `num_frames` is taken from `frames`.
        init: weights of the backbone before training.
    """

    frames: FrameSetConfig = field(default_factory=FrameSetConfig)
    crop: CropConfig = field(default_factory=carl_crop)
    color: ColorConfig | None = None
    encoder: FrameTransformerConfig = field(default_factory=FrameTransformerConfig)
    init: BackboneInit = field(default_factory=BackboneInit)
    normalization: Normalization = field(default_factory=Normalization)

    def __post_init__(self) -> None:
        given, wanted = self.encoder.num_frames, self.frames.num_frames
        if given not in (None, wanted):
            raise ValueError(
                f"encoder.num_frames={given}, but frames.num_frames={wanted}: leave encoder.num_frames empty."
            )
        object.__setattr__(self, "encoder", replace(self.encoder, num_frames=wanted))
        size = self.crop.size
        self.encoder.refuse_small(height=size, width=size)
        if self.init.kind != "random" and self.encoder.backbone != "resnet50":
            raise ValueError(
                f"init.kind={self.init.kind!r} is for encoder.backbone='resnet50'. Use init.kind=random."
            )

    @property
    def clips_per_record(self) -> int:
        return self.frames.num_views

    def stages(self) -> dict[str, FileSource]:
        """The file of the backbone, which must exist before training starts."""
        return {} if self.init.file is None else {"backbone": FileSource(file=self.init.file)}


class FrameSetPlan:
    """Makes a sample of a frame-wise objective; arrays as in `FrameSetSettings`, without the batch axis.

    Only the frames that are sampled are decoded, each once.
    """

    def __init__(self, config: FrameSetSettings) -> None:
        self.config = config

    def __call__(
        self, record: Record, reader: Reader, rng: np.random.Generator, progress: float
    ) -> dict[str, np.ndarray]:
        config, info = self.config, reader.info
        sets = sample_frame_sets(info.num_frames, rng, config.frames)
        may_flip = not record.no_flip
        regions = [
            sample_region(info.height, info.width, config.crop, rng, may_flip=may_flip)
            for _ in sets
        ]
        indices = [self._decoded(chosen.steps, info.num_frames) for chosen in sets]
        size = config.crop.size
        video = np.empty((len(sets), len(indices[0]), size, size, 3), np.uint8)
        read_views(
            reader,
            [
                ViewRequest(indices=i, region=region, out=out)
                for i, region, out in zip(indices, regions, video, strict=True)
            ],
            resize=config.crop.resize,
        )
        return {
            "video": video,
            "steps": np.stack([chosen.steps for chosen in sets]),
            "frame_valid": np.stack([chosen.valid for chosen in sets]),
            "num_source_frames": np.array(info.num_frames, np.int64),
            "label": np.array(-1 if record.label is None else record.label, np.int64),
            "progress": np.array(progress, np.float32),
            **color_fields(config.color, len(sets), rng),
        }

    def shown(self, sample: Mapping[str, np.ndarray]) -> list[ShownClip]:
        """The sampled frames of every view, without the context before each of them."""
        count = self.config.encoder.frames_per_feature
        return shown_views(sample["video"][:, count - 1 :: count])

    def _decoded(self, steps: np.ndarray, num_source: int) -> np.ndarray:
        encoder = self.config.encoder
        if encoder.frames_per_feature == 1:
            return steps
        return context_indices(
            steps, num_source, num_contexts=encoder.num_contexts, stride=encoder.context_stride
        ).reshape(-1)
