"""What an embedding tells while it goes on, and when it is over: how far it is, and how much memory it took."""

from __future__ import annotations

import resource
import sys

import numpy as np

from video_ssl.embed.window_workers import Piece
from video_ssl.progress import Meter


class Reached:
    """Where the reading is within a video, for the meter: its windows tell what they show, and of how much."""

    def __init__(self, meter: Meter) -> None:
        self._meter = meter
        self._whole_sec = 0.0

    def note(self, piece: Piece) -> None:
        """Goes on to the end of a piece."""
        for window in piece.windows[-1:]:
            share = (int(window.indices.max()) + 1) / max(window.num_source, 1)
            seconds = float(window.times.max())  # NaN of captions, which last no time
            if np.isfinite(seconds):
                self._whole_sec = max(self._whole_sec, seconds / share)
                self._meter.within(piece.index, share, seconds)
        if piece.last:
            read_sec = self._whole_sec if piece.reason is None else 0.0
            self._meter.advance(video_sec=read_sec, key=piece.index)
            self._whole_sec = 0.0


def peak_memory_gib() -> tuple[float, float]:
    """Returns the peak memory of this process, and of the largest of its children that have ended."""
    per_unit = 2**30 if sys.platform == "darwin" else 2**20
    kinds = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    own, child = (resource.getrusage(kind).ru_maxrss / per_unit for kind in kinds)
    return own, child
