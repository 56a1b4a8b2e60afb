"""One way to read a video, whatever decodes it: frames by index, their times, and the sound between two times.

Every reader keeps the same promises.  Index i is the i-th frame of a complete decode in presentation order, upright
(the display matrix applied), of the best video stream.  Times are seconds since the first frame, for pictures and sound
alike.  Whatever cannot be read raises `BadVideo`, which names the file and the reason.  A reader belongs to one
process: open it inside a data worker, close it there.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any, Protocol

import numpy as np

from video_ssl.clips.crops import ViewRequest
from video_ssl.datasets.remote_errors import redacted
from video_ssl.datasets.table import Record
from video_ssl.recipes import nearest

#: Frames asked for at a time of a reader that cannot stream.
_STREAM_PIECE = 32

#: The fastest backend of those that are exact on the file (see backends.BY_SPEED); for records only.
AUTO = "auto"
READERS: dict[str, str] = {
    "pyav": "video_ssl.clips.decoders.pyav_reader:PyAVReader",
    "decord": "video_ssl.clips.decoders.decord_reader:DecordReader",
    "torchcodec": "video_ssl.clips.decoders.torchcodec_reader:TorchcodecReader",
}


class BadVideo(ValueError):
    """A video that cannot be read.  `path` is the file, `reason` the rest of the sentence."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(path, reason)
        self.path = path
        self.reason = reason

    def __str__(self) -> str:
        return f"{redacted(self.path)}: {self.reason}"


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


def open_video(
    source: str | os.PathLike[str],
    backend: str = "pyav",
    *,
    timeout_sec: float | None = None,
    byte_range: tuple[int, int] | None = None,
    fps: float | None = None,
    stated_count: StatedCount | None = None,
) -> Reader:
    """Returns a reader of the video at `source`.

    Args:
        source: a local file, a folder of frames, a picture (a video of one frame, unless it is animated), a URI
            (fetched into the local cache), `SHARD.tar!/MEMBER`, or `SHARD.array_record-00000-of-00008#INDEX` (a record
            that `video-ssl data build` has written); tar and shard may be a local file or a URI.
        backend: a key of `READERS`.  Frames and pictures are not its business; where it cannot read a video inside of
            another file, PyAV does.
        timeout_sec: life time of the reader; work on a file beyond it raises BadVideo instead of going on.  To fetch a
            URI may take as long again.
        byte_range: (offset, size) of the video within the file, if known.
        fps: rate of a folder of frames, 25 if None; videos and animated pictures know their own.
        stated_count: how many frames a list says are in a folder of frames: as many must be there.

    Raises:
        BadVideo: the source cannot be read as a video.
        ValueError: unknown backend.
    """
    from video_ssl.clips.sources import locate

    make = _reader_class(backend)
    place = locate(os.fspath(source), byte_range=byte_range, timeout_sec=timeout_sec)
    try:
        if place.is_frames:
            from video_ssl.clips.decoders.frame_folder import open_pictures

            reader: Reader = open_pictures(
                place.path,
                byte_range=place.byte_range,
                name=place.name,
                fps=fps,
                stated_count=stated_count,
            )
        else:
            if place.byte_range is not None and not getattr(make, "READS_BYTE_RANGES", False):
                make = _reader_class("pyav")
            reader = make(
                place.path,
                timeout_sec=timeout_sec,
                byte_range=place.byte_range,
                name=place.name,
            )
    except BaseException:
        place.release()
        raise
    return place.keep_until_closed(reader)


def _reader_class(backend: str) -> Callable[..., Reader]:
    if backend not in READERS:
        raise ValueError(
            f"no decoder backend {backend!r}: choose one of {sorted(READERS)}.{nearest(backend, READERS)}"
        )
    module, _, name = READERS[backend].partition(":")
    found: Callable[..., Reader] = getattr(importlib.import_module(module), name)
    return found


def open_record(
    record: Record, backend: str = "pyav", *, timeout_sec: float | None = None
) -> Reader:
    """Returns a reader of the record's video, restricted to its segment where `start_sec` or `end_sec` is set.

    In a segment index 0 is the first frame with time >= start_sec, times count from it, and the last frame is the last
    one with time < end_sec.

    A backend other than "pyav" (or "auto") is used only where it is exact on the file; see
    `video_ssl.clips.decoders.backends.choose_backend`.

    Raises:
        BadVideo: unreadable video, a segment without a frame, or a file that has changed since it was scanned.
    """
    from video_ssl.clips.sources import refuse_changed_file

    refuse_changed_file(record)
    byte_range = None
    if record.byte_offset is not None and record.byte_size is not None:
        byte_range = (record.byte_offset, record.byte_size)
    if backend != "pyav":
        from video_ssl.clips.decoders.backends import choose_backend

        backend = choose_backend(backend, record, timeout_sec=timeout_sec)
    is_whole = record.start_sec is None and record.end_sec is None
    stated = None
    if is_whole and record.num_frames is not None:
        stated = StatedCount(record.num_frames)
    settings: dict[str, Any] = {
        "timeout_sec": timeout_sec,
        "byte_range": byte_range,
        "fps": record.fps,
        "stated_count": stated,
    }
    try:
        reader = open_video(record.source, backend, **settings)
    except NotExact:
        reader = open_video(record.source, **settings)
    if is_whole:
        return reader
    try:
        return SegmentReader(reader, record)
    except BaseException:
        reader.close()
        raise


class SegmentReader:
    """A reader of the frames of another reader between two times; closing it closes the other."""

    def __init__(self, reader: Reader, record: Record) -> None:
        whole = reader.info
        times = reader.times(np.arange(whole.num_frames))
        start = 0.0 if record.start_sec is None else record.start_sec
        end = np.inf if record.end_sec is None else record.end_sec
        # Annotations are rounded to milliseconds, a frame on the border belongs to the segment that starts there.
        first, last = np.searchsorted(times, np.array([start, end]) - 5e-4)
        if last <= first:
            raise BadVideo(
                record.source,
                f"record {record.id!r} has no frame from {start:g} to {end:g} s: "
                f"the video has {whole.num_frames} frames in {whole.duration_sec:.3f} s.",
            )
        self._reader = reader
        self._first = int(first)
        self._times = times[first:last]
        self._origin_sec = float(times[first])
        duration_sec = min(end, whole.duration_sec) - self._origin_sec
        self.info = replace(whole, num_frames=int(last - first), duration_sec=float(duration_sec))

    def frames(
        self, indices: Sequence[int] | np.ndarray, size: tuple[int, int] | None = None
    ) -> np.ndarray:
        return self._reader.frames(check_indices(indices, self.info) + self._first, size)

    @property
    def views(self) -> Callable[[Sequence[ViewRequest]], None] | None:
        """As of the other reader; None where it cannot."""
        fill = getattr(self._reader, "views", None)
        return None if fill is None else lambda requests: fill([self._shift(r) for r in requests])

    def _shift(self, request: ViewRequest) -> ViewRequest:
        return replace(request, indices=check_indices(request.indices, self.info) + self._first)

    def stream(
        self, indices: Sequence[int] | np.ndarray, size: tuple[int, int] | None = None
    ) -> Iterator[tuple[int, np.ndarray]]:
        wanted = check_indices(indices, self.info) + self._first
        for index, picture in stream_frames(self._reader, wanted, size):
            yield index - self._first, picture

    def times(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        return np.asarray(self._times[check_indices(indices, self.info)] - self._origin_sec)

    def audio(self, start_sec: float, end_sec: float, rate: int) -> np.ndarray:
        sound = self._reader.audio(start_sec + self._origin_sec, end_sec + self._origin_sec, rate)
        at = start_sec + np.arange(len(sound)) / rate
        sound[(at < 0) | (at >= self.info.duration_sec)] = 0
        return sound

    def close(self) -> None:
        self._reader.close()

    def __enter__(self) -> SegmentReader:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()


def stream_frames(
    reader: Reader, indices: np.ndarray, size: tuple[int, int] | None = None
) -> Iterator[tuple[int, np.ndarray]]:
    """Yields (index, picture) for increasing indices, in one pass over the file where the reader has `stream`.

    Other readers are asked for `_STREAM_PIECE` frames at a time.
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
