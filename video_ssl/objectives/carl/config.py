"""Settings of CARL (arXiv:2203.14957) and of its weakly supervised version (after arXiv:2212.03125)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from video_ssl.objectives.shared.frame_plan import FrameSetSettings
from video_ssl.objectives.shared.objective_config import refuse_few


@dataclass(frozen=True, kw_only=True)
class WeakConfig:
    """Pairs of frames of different videos that share a label.  The formulation is ours: see `weak.py`.

    A batch should hold several videos of a label, or the term is 0.

    Attributes:
        weight: of the term after the warm-up.
        warmup: share of the training during which its weight is 0: alignments of untrained features only copy the
            linear warp.
        warp: "dtw" pairs frames by dynamic time warping of their embeddings, "linear" by their share of the video.
        close_pairs_only: leave out pairs of views that do not align better than by chance (for FineGym).
    """

    weight: float = 1.0
    warmup: float = 0.1
    warp: Literal["dtw", "linear"] = "dtw"
    close_pairs_only: bool = False

    def __post_init__(self) -> None:
        if self.weight < 0 or not 0 <= self.warmup < 1:
            raise ValueError(
                f"weight={self.weight} must not be negative and warmup={self.warmup} must lie in [0, 1)."
            )


@dataclass(frozen=True, kw_only=True)
class Config(FrameSetSettings):
    """Settings of CARL; batches as in `FrameSetSettings`.

    Attributes:
        negatives: "single_noself": frames of the other view; "batch_noself": and of all other videos (Kinetics);
            "single" and "batch" keep the own view among the negatives.
        temperature: of the similarities.
        variance: of the Gaussian over time distances, in source frames squared (10 at 25 fps in all of CARL).
        projection_dim: hidden layer of the projection; empty = encoder.embed_dim.
        weak: the weakly supervised term; empty = none, and labels are never looked at.
    """

    negatives: Literal["single_noself", "batch_noself", "single", "batch"] = "single_noself"
    temperature: float = 0.1
    variance: float = 10.0
    projection_dim: int | None = None
    weak: WeakConfig | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.temperature <= 0 or self.variance <= 0:
            raise ValueError(
                f"temperature={self.temperature} and variance={self.variance} must be positive."
            )
        if self.frames.num_views < 2:
            raise ValueError(
                f"frames.num_views={self.frames.num_views}: CARL compares the views of a video. Use 2."
            )

    def check_records(self, count: int) -> None:
        """Raises ValueError if the weak term has no two videos to pair; it would be a constant 0."""
        if self.weak is not None and self.weak.weight:
            refuse_few(count, 2, "weak pairs videos of one label.")
