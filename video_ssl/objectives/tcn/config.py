"""Settings of the single-view time-contrastive baseline (after TCN, arXiv:1704.06888)."""

from __future__ import annotations

from dataclasses import dataclass, field

from video_ssl.clips.frame_sets import FrameSetConfig
from video_ssl.objectives.frame_plan import FrameSetSettings


@dataclass(frozen=True, kw_only=True)
class Config(FrameSetSettings):
    """Settings of TCN; batches as in `FrameSetSettings`.

    Attributes:
        window: frames of one view at most this many source frames apart are positives, all others negatives.
        temperature: of the similarities of unit-length embeddings.
    """

    frames: FrameSetConfig = field(
        default_factory=lambda: FrameSetConfig(kind="offset_uniform", num_frames=40, num_views=1)
    )
    window: int = 5
    temperature: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.window < 1 or self.temperature <= 0:
            raise ValueError(
                f"window={self.window} must be at least 1 frame and temperature={self.temperature} positive."
            )
