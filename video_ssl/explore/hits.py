"""What a search finds: frames, and moments, the stretches of videos that go like the clip or answer the text."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["FrameHit", "Moment", "Place"]


@dataclass(frozen=True, kw_only=True)
class FrameHit:
    """A frame of the archive near to a frame of the query; times in seconds, None where unknown."""

    query_sec: float | None
    id: str
    frame: int
    time_sec: float | None
    similarity: float


@dataclass(frozen=True, kw_only=True)
class Place:
    """A stretch of a video of the archive that answers the query; `cost` is 1 - cosine."""

    id: str
    start_sec: float | None
    end_sec: float | None
    cost: float


@dataclass(frozen=True, kw_only=True)
class Moment(Place):
    """One that goes like the query, frame by frame; `cost` is 1 - cosine per frame."""

    first_frame: int
    last_frame: int
