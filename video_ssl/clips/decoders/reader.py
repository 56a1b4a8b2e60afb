"""What every reader of videos promises, whatever decodes it; who makes one is `reading.py`.

Index i is the i-th frame of a complete decode in presentation order, upright (the display matrix applied), of the best
video stream.  Times are seconds since the first frame, for pictures and sound alike.  Whatever cannot be read raises
`BadVideo`, which names the file and the reason.  A reader belongs to one process: open it inside a data worker, close
it there.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol

import numpy as np

from video_ssl.datasets.remote.errors import redacted

#: Frames read at a time from a reader that cannot stream.
_STREAM_PIECE = 32


#: The fastest backend of those that are exact on the file (see backends.BY_SPEED); for records only.
AUTO = "auto"


READERS: dict[str, str] = {
    "pyav": "video_ssl.clips.decoders.pyav.reader:PyAVReader",
    "decord": "video_ssl.clips.decoders.libraries.decord_reader:DecordReader",
    "torchcodec": "video_ssl.clips.decoders.libraries.torchcodec_reader:TorchcodecReader",
}


#: Why a recording of sound alone is no video.
ONLY_SOUND = "has no pictures, only sound."


class BadVideo(ValueError):
    """A video that cannot be read.  `path` is the file, `reason` the rest of the sentence."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(path, reason)
        self.path = path
        self.reason = reason

    def __str__(self) -> str:
        return f"{redacted(self.path)}: {self.reason}"


class SlowVideo(BadVideo):
    """A video that takes longer than it may; with more time, or on an idle machine, it may be fine."""


class NotExact(BadVideo):
    """A video that a backend counts or shows differently from a complete decode; PyAV reads it."""


@dataclass(frozen=True, kw_only=True)
class VideoInfo:
    """What a video is: sizes are those of the upright picture; `fps` is the mean rate.

    Attributes:
        rotation, mirrored: what was applied to get upright: first mirrored left to right, then turned by `rotation`
            degrees counter-clockwise (0, 90, 180 or 270; files may ask for other angles too).
        pixel_aspect: width of a pixel over its height in the upright picture.  Pictures are given as they are stored,
            not stretched.
    """

    num_frames: int
    fps: float
    width: int
    height: int
    duration_sec: float
    codec: str
    rotation: int
    has_audio: bool
    mirrored: bool = False
    pixel_aspect: float = 1.0


@dataclass(frozen=True)
class StatedCount:
    """How many frames a folder of frames has by what `by` names: a table, or a line of a list."""

    count: int
    by: str = "its table"


class Reader(Protocol):
    """An open video.  Readers are context managers."""

    @property
    def info(self) -> VideoInfo:
        """What the video is."""

    def frames(
        self, indices: Sequence[int] | np.ndarray, size: tuple[int, int] | None = None
    ) -> np.ndarray:
        """Returns the frames of `indices` (any order, duplicates allowed) as uint8 (T, H, W, 3) RGB.

        Args:
            indices: 0 <= index < info.num_frames.
            size: (height, width) to resize to while converting; None keeps the size of the video.

        Raises:
            IndexError: an index out of range.
            BadVideo: a frame that cannot be decoded.
        """

    def times(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """Returns the presentation times of `indices` in seconds since the first frame, float64 (T,)."""

    def audio(self, start_sec: float, end_sec: float, rate: int) -> np.ndarray:
        """Returns the sound between two times, mono, float32 in -1..1, round((end_sec - start_sec) * rate) samples.

        Where there is no sound (before the start, after the end, a gap, no audio stream) samples are 0.
        """

    def close(self) -> None:
        """Frees the decoder; calling it twice is allowed."""

    def __enter__(self) -> Reader: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...


def stream_frames(
    reader: Reader, indices: np.ndarray, size: tuple[int, int] | None = None
) -> Iterator[tuple[int, np.ndarray]]:
    """Yields (index, picture) for increasing indices, in one pass over the file where the reader has `stream`.

    Other readers read `_STREAM_PIECE` frames at a time.
    """
    if hasattr(reader, "stream"):
        yield from reader.stream(indices, size)
        return
    for begin in range(0, len(indices), _STREAM_PIECE):
        piece = indices[begin : begin + _STREAM_PIECE]
        yield from zip(piece.tolist(), reader.frames(piece, size), strict=True)


def check_indices(indices: Sequence[int] | np.ndarray, info: VideoInfo) -> np.ndarray:
    """Returns the indices as int64 (T,), or raises IndexError for one outside 0..num_frames - 1."""
    wanted = np.asarray(indices)
    if wanted.ndim != 1 or (wanted.size and wanted.dtype.kind not in "iu"):
        raise TypeError(
            f"frame indices must be a one-dimensional list of integers, got {indices!r}."
        )
    wanted = wanted.astype(np.int64)
    if wanted.size and (wanted.min() < 0 or wanted.max() >= info.num_frames):
        raise IndexError(
            f"frame indices {wanted.min()}..{wanted.max()} of a video with {info.num_frames} frames."
        )
    return wanted
