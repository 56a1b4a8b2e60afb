"""Which stretches of the sound of a video an encoder of sound hears, the same every time, with their times."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from video_ssl.clips.audio import looped_sound
from video_ssl.clips.decoders.reader import BadVideo, Reader
from video_ssl.clips.reading import origin_of
from video_ssl.clips.sampling.window_layout import starts_by_hop
from video_ssl.clips.windows import Window
from video_ssl.datasets.table import Record


@dataclass(frozen=True, kw_only=True)
class SoundWindows:
    """Which windows of a recording are embedded.

    Attributes:
        rate: samples a second.
        num_samples: of a window.
        num_clips: windows spread evenly from the beginning to the end; one lies in the middle.
        hop: samples between the beginnings of windows that cover all of the recording; replaces `num_clips`.
    """

    rate: int
    num_samples: int
    num_clips: int = 1
    hop: int | None = None
    num_crops: ClassVar[int] = 1
    whole: ClassVar[bool] = False

    def __post_init__(self) -> None:
        for name in ("rate", "num_samples", "num_clips"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1.")
        if self.hop is not None and self.hop < 1:
            raise ValueError(f"hop={self.hop} must be at least 1 sample.")

    def starts(self, total: int) -> np.ndarray:
        """Returns int64 (windows,): where windows begin in a recording of `total` samples.

        >>> SoundWindows(rate=8, num_samples=4, num_clips=3).starts(12).tolist()
        [0, 4, 8]
        >>> SoundWindows(rate=8, num_samples=4, hop=3).starts(12).tolist()
        [0, 3, 6, 8]
        """
        last = max(total - self.num_samples, 0)
        if self.hop is not None:
            return starts_by_hop(last, self.hop)
        if self.num_clips == 1:
            return np.array([last // 2])
        return np.round(np.linspace(0, last, self.num_clips)).astype(np.int64)


def iterate_sound_windows(
    record: Record, reader: Reader, windows: SoundWindows, *, first: int = 0
) -> Iterator[Window]:
    """Yields the windows of the sound of a video in temporal order, from number `first` on.

    The `clips` of a window are float32 (1, num_samples), its `indices` the frames shown meanwhile.  A recording
    shorter than a window goes on at its beginning, as in training; only the first time is valid.

    Raises:
        BadVideo: the video has no sound, or it cannot be decoded.
    """
    if not reader.info.has_audio:
        raise BadVideo(record.source, "it has no sound")
    frames = reader.times(np.arange(reader.info.num_frames))
    duration, origin = reader.info.duration_sec, origin_of(reader, record)
    total = max(round(duration * windows.rate), 1)
    for start in windows.starts(total)[first:].tolist():
        times = (start + np.arange(windows.num_samples)) / windows.rate
        sound = looped_sound(
            reader, start, total, rate=windows.rate, num_samples=windows.num_samples
        )
        shown = np.searchsorted(frames, times, side="right") - 1
        yield Window(
            clips=sound[None],
            times=times,
            valid=times < duration,
            indices=shown.clip(0, len(frames) - 1),
            num_source=len(frames),
            origin_sec=origin,
        )
