"""Settings of TCC (arXiv:1904.07846)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from video_ssl.clips.frame_sets import FrameSetConfig
from video_ssl.objectives.frame_plan import FrameSetSettings


@dataclass(frozen=True, kw_only=True)
class Config(FrameSetSettings):
    """Settings of TCC; batches as in `FrameSetSettings`.

    Attributes:
        pairs: between which views cycles run: "label" = views of different videos with one label (TCC trains one
            action at a time; a batch without such a pair has loss 0), "video" = views of one video.
        temperature: of the negative squared distances of unit-length embeddings.
        variance_weight: of the log variance of where a cycle ends.
    """

    frames: FrameSetConfig = field(
        default_factory=lambda: FrameSetConfig(kind="offset_uniform", num_frames=20, num_views=1)
    )
    pairs: Literal["label", "video"] = "label"
    temperature: float = 0.1
    variance_weight: float = 0.001

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.temperature <= 0 or self.variance_weight < 0:
            raise ValueError(
                f"temperature={self.temperature} must be positive, variance_weight={self.variance_weight} not negative."
            )
        if self.pairs == "video" and self.frames.num_views < 2:
            raise ValueError(
                f"frames.num_views={self.frames.num_views}: pairs='video' needs 2 views. Or use pairs='label'."
            )
