"""What a search finds: frames, and moments, the stretches of videos that go like the clip."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["FrameHit", "Moment"]


@dataclass(frozen=True, kw_only=True)
class FrameHit:
    """A frame of the archive near to a frame of the query; times in seconds, None where unknown."""

    query_sec: float | None
    id: str
    frame: int
    time_sec: float | None
    similarity: float


@dataclass(frozen=True, kw_only=True)
class Moment:
    """A stretch of a video of the archive that goes like the query; `cost` is 1 - cosine per frame."""

    id: str
    start_sec: float | None
    end_sec: float | None
    first_frame: int
    last_frame: int
    cost: float
