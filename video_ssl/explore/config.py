"""Settings of `video-ssl search`, `align`, `sync`, `explore` and `report`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["AlignConfig", "ExploreConfig", "ReportConfig", "SearchConfig", "SyncConfig"]


@dataclass(frozen=True, kw_only=True)
class SearchConfig:
    """How to search.

    Attributes:
        k: moments, and frames for each query frame, that are returned.
        query_frames: of the clip that are searched for, spread evenly.
        apart_sec: frames found in one video are at least so far apart.
        moments_per_video: that do not overlap.
        candidates: videos, for each moment wanted, in which the best stretch is looked for.
        own_video: find the clip in its own video too.
        method: exact, ann (approximate), or auto: ann above ann_frames frames.
        ann_frames: of the archive, from which on method auto takes ann.

    >>> SearchConfig(k=5, own_video=True).method
    'auto'
    """

    k: int = 10
    query_frames: int = 32
    apart_sec: float = 1.0
    moments_per_video: int = 3
    candidates: int = 5
    own_video: bool = False
    method: Literal["auto", "exact", "ann"] = "auto"
    ann_frames: int = 5_000_000

    def __post_init__(self) -> None:
        for name in ("k", "query_frames", "moments_per_video", "candidates"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1.")
        if self.method not in ("auto", "exact", "ann"):
            raise ValueError(f"method={self.method!r} must be auto, exact or ann.")
        if self.apart_sec < 0:
            raise ValueError(f"apart_sec={self.apart_sec} must be at least 0.")


@dataclass(frozen=True, kw_only=True)
class AlignConfig:
    """How two videos are brought into step.

    Attributes:
        method: dtw (dynamic time warping), nearest (for each frame the nearest one), or linear (stretched).
        height: of the side-by-side video, in pixels.
    """

    method: Literal["dtw", "nearest", "linear"] = "dtw"
    height: int = 240


@dataclass(frozen=True, kw_only=True)
class SyncConfig:
    """How the offsets between recordings of one scene are found.

    Attributes:
        by: what is compared: sound, motion, hog, pixels, or auto: sound where all have it, else motion.
        fps: frames compared per second; by default those of the slowest recording (10 to 60), of sound 100.
        max_offset_sec: largest offset that is tried; by default any.
        min_overlap_sec: how long two recordings must overlap; by default half of the shorter one.
        threshold: trust from which on an offset counts; by default calibrated, see docs/frames.md.
        drift: find how much faster or slower the clocks run, too, from sections of the recordings.
        section_sec: of drift: length of a section.
        frame_stride: of an encoder: source frames from one to the next; by default the encoder's own.
        height: of each picture of the video, in pixels.
    """

    by: Literal["auto", "sound", "motion", "hog", "pixels"] = "auto"
    fps: float | None = None
    max_offset_sec: float | None = None
    min_overlap_sec: float | None = None
    threshold: float | None = None
    drift: bool = False
    section_sec: float = 20.0
    frame_stride: int | None = None
    height: int = 240

    def __post_init__(self) -> None:
        for name in ("fps", "max_offset_sec", "min_overlap_sec", "section_sec"):
            value = getattr(self, name)
            if value is not None and not 0 < value < float("inf"):
                raise ValueError(f"{name}={value} must be more than 0.")
        if self.threshold is not None and not 0 <= self.threshold <= 1:
            raise ValueError(f"threshold={self.threshold} must be between 0 and 1.")
        if self.frame_stride is not None and self.frame_stride < 1:
            raise ValueError(f"frame_stride={self.frame_stride} must be at least 1.")
        if self.height < 2:
            raise ValueError(f"height={self.height} must be at least 2.")
        if self.by not in ("auto", "sound", "motion", "hog", "pixels"):
            raise ValueError(f"by={self.by!r} must be auto, sound, motion, hog or pixels.")


@dataclass(frozen=True, kw_only=True)
class ExploreConfig:
    """What a page on which videos move together shows.

    Attributes:
        videos: ids with commas between them; by default some of all classes.
        max_videos: shown where videos is not given.
        max_frames: of a video; longer ones are thinned.
        start_sec: only what is shown from this second of each video on.
        end_sec: only what is shown up to this second.
        height: of the pictures in pixels; smaller videos stay as they are.
    """

    videos: str | None = None
    max_videos: int = 12
    max_frames: int = 120
    start_sec: float | None = None
    end_sec: float | None = None
    height: int = 160

    def __post_init__(self) -> None:
        if None not in (self.start_sec, self.end_sec) and not self.start_sec < self.end_sec:  # type: ignore[operator]
            raise ValueError(f"end_sec={self.end_sec} must be after start_sec={self.start_sec}.")


@dataclass(frozen=True, kw_only=True)
class ReportConfig:
    """How much the report of a run shows.

    Attributes:
        max_clips: training videos of which clips are shown.
        max_queries: videos whose nearest neighbours are shown.
        topics: a table or data set, of which is shown who belongs together, of an objective that judges it; by default
            the videos of the training.
        max_topics: videos of it, at equal distances in the table.
    """

    max_clips: int = 4
    max_queries: int = 8
    topics: str | None = None
    max_topics: int = 24

    def __post_init__(self) -> None:
        if self.max_topics < 2:
            raise ValueError(
                f"max_topics={self.max_topics} must be at least 2: videos are compared."
            )
