"""Settings of ConST-CL, free of torch and jax."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal, get_args

from video_ssl.clips.config import ClipLength
from video_ssl.clips.regions_config import RegionsConfig
from video_ssl.clips.sampling.one_clip import clip_span
from video_ssl.models.config import CENTERED, Normalization
from video_ssl.models.networks.r3d_config import R3DConfig
from video_ssl.models.networks.region_config import DecoderConfig, memory_frames
from video_ssl.objectives.shared.pair_config import PairConfig
from video_ssl.objectives.shared.wiring import fit_encoder

Branch = Literal["global", "local"]


@dataclass(frozen=True, kw_only=True)
class LocalHeadConfig:
    """What foretells regions.

    Attributes:
        context_level: moments of the other clip that regions are foretold from, around its middle; odd.
        crop_size: samples of a region along each side, whose mean is its feature.
        decoder: see `DecoderConfig`.
    """

    context_level: int = 5
    crop_size: int = 4
    decoder: DecoderConfig = field(default_factory=DecoderConfig)

    def __post_init__(self) -> None:
        if self.context_level < 1 or self.context_level % 2 == 0:
            raise ValueError(
                f"context_level={self.context_level} must be odd, so that there is a middle."
            )
        if self.crop_size < 1:
            raise ValueError(f"crop_size={self.crop_size} must be at least 1.")


@dataclass(frozen=True, kw_only=True)
class LocalLossConfig:
    """The loss of regions, and its share.

    Attributes:
        weight: of the loss of regions beside that of clips, which is 1.
        temperature: of the loss of regions.
        pad_as_regions: what is no region (padding, boxes without area) is looked for and is a negative all the same, as
            in the reference, where every box is one; else it is neither.
        replicas: into so many parts, in order, the batch is divided, each of which averages over its own regions before
            the parts are averaged.  1 = all regions of the batch weigh the same, on any number of devices; the
            reference's value is its number of replicas.
    """

    weight: float = 0.001
    temperature: float = 0.2
    pad_as_regions: bool = False
    replicas: int = 1

    def __post_init__(self) -> None:
        if self.weight < 0:
            raise ValueError(f"weight={self.weight} must not be negative; 0 = no loss of regions.")
        if self.temperature <= 0:
            raise ValueError(f"temperature={self.temperature} must be positive.")
        if self.replicas < 1:
            raise ValueError(f"replicas={self.replicas} must be at least 1.")


@dataclass(frozen=True, kw_only=True)
class Config(PairConfig):
    """Settings of ConST-CL.

    A batch holds `video` uint8 (B, 2, T, S, S, 3) with T = num_frames, S = crop.size; of the middle frame (T // 2) of
    each clip `boxes` float32 (B, 2, N, 4), as [x_min, y_min, x_max, y_max] in shares of the view, with N =
    regions.count, and `regions` bool (B, 2, N), False = no region; and where `color` is set `color` float32
    (B, 2, NUM_PARAMETERS).

    Attributes:
        num_frames, frame_stride: of both clips; in short videos they loop.
        encoder: of one branch; training gives it a second last group of blocks for the regions.  Both leave it as
            encoders of these settings.
        branch: which of them goes to RUN/encoder: that of clips as wholes ("global") or of regions ("local").  The
            other goes to RUN/encoders/NAME.  Which one the paper uses where is not known (unverified); by design the
            first is for recognition, the second for places.
        hidden_dims, out_dim: of the head of whole clips.
        temperature: of the loss of whole clips.
        regions: see `RegionsConfig`.
        local: see `LocalHeadConfig`.
        local_loss: see `LocalLossConfig`.

    Source: papers/const_cl.md (arXiv:2112.05181).
    """

    normalization: Normalization = CENTERED
    num_frames: int = 16
    frame_stride: int = 2
    branch: Branch = "global"
    hidden_dims: tuple[int, ...] = (2048, 2048, 2048)
    out_dim: int = 128
    temperature: float = 0.1
    regions: RegionsConfig = field(default_factory=RegionsConfig)
    local: LocalHeadConfig = field(default_factory=LocalHeadConfig)
    local_loss: LocalLossConfig = field(default_factory=LocalLossConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("num_frames", "frame_stride", "out_dim"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1.")
        if self.temperature <= 0:
            raise ValueError(f"temperature={self.temperature} must be positive.")
        if self.branch not in get_args(Branch):
            raise ValueError(
                f"branch={self.branch!r} must be one of {', '.join(get_args(Branch))}."
            )
        if self.encoder.second_branch:
            raise ValueError(
                "encoder.second_branch is the objective's own affair: leave it out. The encoder is that of one branch, "
                "and both leave the training (see `branch`)."
            )
        size = self.crop.size
        encoder = fit_encoder(self.encoder, size=size, num_frames=self.num_frames)
        object.__setattr__(self, "encoder", encoder)
        memory_frames(encoder.grid(self.num_frames, size, size)[0], self.local.context_level)

    @property
    def trunk(self) -> R3DConfig:
        """The network of the training, with both branches."""
        return replace(self.encoder, second_branch=True)

    @property
    def clip_length(self) -> ClipLength:
        return ClipLength(clip_span(self.num_frames, self.frame_stride))
