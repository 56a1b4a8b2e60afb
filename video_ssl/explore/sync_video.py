"""Recordings of one scene side by side, in step."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np

from video_ssl.clips.decoders.reader import Reader
from video_ssl.clips.picture_video import write_pictures
from video_ssl.clips.reading import open_video
from video_ssl.explore.alignment_video import frames_at
from video_ssl.files import written_aside

__all__ = ["write_in_step"]

_PIECE = 32  # moments in memory
_MOST_FPS = 60.0


def write_in_step(
    path: Path,
    recordings: Sequence[str],
    *,
    starts_sec: Sequence[float],
    gains: Sequence[float],
    height: int = 240,
    comment: str = "",
) -> int:
    """Writes an H.264 mp4 from the earliest beginning to the latest end, recordings in rows; returns its frames.

    A recording is black before it begins and after it ends.  Its frame rate is that of the fastest recording, up to 60.

    Args:
        starts_sec: when each shows 0, on one clock.
        gains: seconds that the clock of each gains in a second of that clock: at s it shows (s - start) * (1 + gain).
        height: of each picture; all keep their proportions, and stand in boxes as wide as the widest.
        comment: metadata of the file.

    Raises:
        BadVideo: a recording that cannot be read.
    """
    with contextlib.ExitStack() as stack:
        readers = [stack.enter_context(open_video(name)) for name in recordings]
        aside = stack.enter_context(written_aside(path))
        fps = min(max(reader.info.fps for reader in readers), _MOST_FPS)
        rate = Fraction(fps or 25.0).limit_denominator(1001)
        begin = min(starts_sec)
        ends = [
            start + reader.info.duration_sec / (1 + gain)
            for start, gain, reader in zip(starts_sec, gains, readers, strict=True)
        ]
        count = max(1, math.ceil((max(ends) - begin) * float(rate) - 0.5))
        # What is shown in the middle of a frame: an offset that is off by less than half of one changes nothing.
        moments = begin + (np.arange(count) + 0.5) / float(rate)
        own = [
            (moments - start) * (1 + gain) for start, gain in zip(starts_sec, gains, strict=True)
        ]
        write_pictures(aside, _pictures(readers, own, height), rate, comment=comment)
    return len(moments)


def _pictures(
    readers: Sequence[Reader], own: Sequence[np.ndarray], height: int
) -> Iterator[np.ndarray]:
    """All recordings at every moment; `own` are the times of each recording at these."""
    high = max(2, height - height % 2)
    sizes = [(high, max(2, round(high * r.info.width / r.info.height / 2) * 2)) for r in readers]
    wide = max(width for _, width in sizes)
    columns = math.ceil(math.sqrt(len(readers)))
    rows = math.ceil(len(readers) / columns)
    for first in range(0, len(own[0]), _PIECE):
        piece = slice(first, first + _PIECE)
        count = len(own[0][piece])
        sheet = np.zeros((count, rows * high, columns * wide, 3), np.uint8)
        for k, (reader, size) in enumerate(zip(readers, sizes, strict=True)):
            at = own[k][piece]
            there = np.flatnonzero((at >= -5e-4) & (at < reader.info.duration_sec))
            if not len(there):
                continue
            needed, inverse = np.unique(frames_at(reader, at[there]), return_inverse=True)
            top, left = k // columns * high, k % columns * wide + (wide - size[1]) // 2
            pictures = reader.frames(needed, size)[inverse]
            sheet[there, top : top + high, left : left + size[1]] = pictures
        yield from sheet
