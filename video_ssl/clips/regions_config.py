"""Settings of the regions of a frame, free of everything heavy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

RegionKind = Literal["random", "segments", "table"]
Fill = Literal["random", "none"]


@dataclass(frozen=True, kw_only=True)
class SegmentConfig:
    """How a frame is divided into segments (SLIC), whose bounding boxes are regions.

    The numbers are those of a third party's reimplementation, not of the paper (papers/const_cl.md section 2,
    unverified).

    Attributes:
        num_segments, compactness: of SLIC.
        min_area: share of the frame that a segment must cover.
        max_overlap: of two boxes whose intersection over union is more, the smaller one is left out.
        short_side: the frame is scaled to so many pixels before, for speed; ours.
    """

    num_segments: int = 16
    compactness: float = 16.0
    min_area: float = 0.05
    max_overlap: float = 0.5
    short_side: int = 96

    def __post_init__(self) -> None:
        if self.num_segments < 1 or self.short_side < 8:
            raise ValueError(
                f"num_segments={self.num_segments} must be at least 1, and short_side={self.short_side} at least 8."
            )
        if self.compactness <= 0:
            raise ValueError(f"compactness={self.compactness} must be positive.")
        for name in ("min_area", "max_overlap"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}={getattr(self, name)} must lie in [0, 1].")


@dataclass(frozen=True, kw_only=True)
class RegionsConfig:
    """Which regions of a frame are told apart.

    Attributes:
        kind: "random" boxes of the view, whatever it shows (all published models); "segments" of the frame; or the
            boxes that the "table" has, detections or ground truth.  The last two are found in the whole frame and
            follow its crop and mirror.
        count: N, regions of a view.
        width: bounds of the width of a random region, as a share of that of the frame.
        aspect: bounds of its height / width, in shares of the sides.
        correlated: all four numbers of a random box come of one draw, as in the public code, whose generators share a
            seed: boxes lie on the diagonal and grow towards the lower right.
        fill: where there are fewer than N, "random" boxes make them up, or "none" does: the rest is padding.
        segments: see `SegmentConfig`.
        min_score: of the table's boxes that have scores.
        max_distance_sec: boxes of key frames (`box_times_sec`) count for a frame no farther away than that.

    Source: papers/const_cl.md section 2.
    """

    kind: RegionKind = "random"
    count: int = 8
    width: tuple[float, float] = (0.1, 0.5)
    aspect: tuple[float, float] = (0.5, 2.0)
    correlated: bool = False
    fill: Fill = "none"
    segments: SegmentConfig = SegmentConfig()
    min_score: float = 0.0
    max_distance_sec: float = 0.5

    def __post_init__(self) -> None:
        for name, words in (("kind", get_args(RegionKind)), ("fill", get_args(Fill))):
            if getattr(self, name) not in words:
                raise ValueError(
                    f"{name}={getattr(self, name)!r} must be one of {', '.join(words)}."
                )
        if self.count < 1:
            raise ValueError(
                f"count={self.count}: there must be at least one region to tell from others. To learn without "
                "regions, take the objective cvrl."
            )
        for name, most in (("width", 1.0), ("aspect", float("inf"))):
            low, high = getattr(self, name)
            if not 0 < low <= high <= most:
                raise ValueError(
                    f"{name}={(low, high)} must be two positive numbers, the smaller one first"
                    f"{', not above 1' if most == 1 else ''}."
                )
        if self.max_distance_sec < 0:
            raise ValueError(f"max_distance_sec={self.max_distance_sec} must not be negative.")

    @property
    def needs_package(self) -> tuple[str, str] | None:
        """(module that is imported, what imports it) of what not everybody has."""
        return ("skimage", "regions.kind=segments") if self.kind == "segments" else None
