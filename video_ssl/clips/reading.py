"""Opens a video, or the stretch of one that a record is: `decoders/reader.py` says what every reader promises."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from video_ssl.clips.crops import ViewRequest
from video_ssl.clips.decoders.reader import (
    ONLY_SOUND,
    READERS,
    BadVideo,
    NotExact,
    Reader,
    StatedCount,
    check_indices,
    stream_frames,
)
from video_ssl.clips.joined import JoinedReader
from video_ssl.datasets.parts import divide_parts
from video_ssl.datasets.paths import SOUND_SUFFIXES
from video_ssl.datasets.table import Record
from video_ssl.recipes import nearest


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
        source: a local file (one of sound alone has no pictures, only `audio`, see `SOUND_SUFFIXES`), a folder of
            frames, a picture (a video of one frame, unless it is animated), a URI
            (fetched into the local cache), `SHARD.tar!/MEMBER`, or `SHARD.array_record-00000-of-00008#INDEX` (a record
            that `video-ssl data build` has written); tar and shard may be a local file or a URI.  Several of these
            with `||` between them are one video (see `JoinedReader`).
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
    from video_ssl.clips.decoders.sources import locate

    parts = divide_parts(os.fspath(source))
    if len(parts) > 1:
        return JoinedReader(
            parts, lambda part: open_video(part, backend, timeout_sec=timeout_sec, fps=fps)
        )
    make = _reader_class(backend)
    place = locate(os.fspath(source), byte_range=byte_range, timeout_sec=timeout_sec)
    try:
        if place.is_frames:
            from video_ssl.clips.decoders.pictures.frame_folder import open_pictures

            reader: Reader = open_pictures(
                place.path,
                byte_range=place.byte_range,
                name=place.name,
                fps=fps,
                stated_count=stated_count,
            )
        else:
            if place.is_sound:
                from video_ssl.clips.decoders.sound_file import SoundFileReader

                make = SoundFileReader
            elif place.byte_range is not None and not getattr(make, "READS_BYTE_RANGES", False):
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
    record: Record,
    backend: str = "pyav",
    *,
    timeout_sec: float | None = None,
    sound_alone: bool = False,
) -> Reader:
    """Returns a reader of the record's video, restricted to its segment where `start_sec` or `end_sec` is set.

    In a segment index 0 is the first frame with time >= start_sec, times count from it, and the last frame is the last
    one with time < end_sec.

    A backend other than "pyav" (or "auto") is used only where it is exact on the file; see
    `video_ssl.clips.decoders.backends.choose_backend`.

    Args:
        record, backend, timeout_sec: see above.
        sound_alone: a file of sound without pictures will do; who asks for frames leaves it false.

    Raises:
        BadVideo: unreadable video, a segment without a frame, a file that has changed since it was scanned, or one
            without pictures.
    """
    reader = open_whole(record, backend, timeout_sec=timeout_sec)
    if reader.info.width < 1 and not sound_alone:
        reader.close()
        raise BadVideo(record.source, ONLY_SOUND)
    if record.start_sec is None and record.end_sec is None:
        return reader
    try:
        return SegmentReader(reader, record)
    except BaseException:
        reader.close()
        raise


def open_whole(
    record: Record, backend: str = "pyav", *, timeout_sec: float | None = None
) -> Reader:
    """Returns a reader of the whole video of which a record may be a segment: times are those of the source.

    Unlike `open_video` it knows what the table says of the file: the rate of a folder of frames, the place in a tar.

    Args:
        record, backend, timeout_sec: see above.

    Raises:
        BadVideo: unreadable video, or a file that has changed since it was scanned.
    """
    from video_ssl.clips.decoders.sources import refuse_changed_file

    parts = divide_parts(record.source)
    if len(parts) > 1:

        def open_part(source: str) -> Reader:
            part = replace(record, source=source, num_frames=None, file_size=None, file_mtime=None)
            return open_whole(part, backend, timeout_sec=timeout_sec)

        return JoinedReader(
            parts,
            open_part,
            part_frames=record.part_frames,
            part_sec=record.part_sec,
            has_audio=record.has_audio,
        )
    refuse_changed_file(record)
    byte_range = None
    if record.byte_offset is not None and record.byte_size is not None:
        byte_range = (record.byte_offset, record.byte_size)
    if record.source.lower().endswith(SOUND_SUFFIXES):
        backend = "pyav"
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
        return open_video(record.source, backend, **settings)
    except NotExact:
        return open_video(record.source, **settings)


def segment_frames(
    times: np.ndarray, start_sec: float | None, end_sec: float | None
) -> tuple[int, int]:
    """Returns the first frame of a segment and the one after its last, which is not above the first where it has none.

    Annotations are rounded to milliseconds, a frame on the border belongs to the segment that starts there.

    Args:
        times: seconds of all frames, (T,).
        start_sec, end_sec: of the segment; None is the beginning, the end.
    """
    start = 0.0 if start_sec is None else start_sec
    end = np.inf if end_sec is None else end_sec
    first, last = np.searchsorted(times, np.array([start, end]) - 5e-4)
    return int(first), int(last)


def origin_of(reader: Reader, record: Record) -> float:
    """Returns the second of the source from which the times of a record's reader count.

    Of a segment that is the time of its first frame; of readers that do not know it, its `start_sec`.
    """
    return float(getattr(reader, "origin_sec", record.start_sec or 0.0))


class SegmentReader:
    """A reader of the frames of another reader between two times; closing it closes the other.

    Attributes:
        first_frame: index of its first frame in the other reader.
        origin_sec: time of that frame in the other reader, from which times count: seldom exactly `start_sec`.
    """

    def __init__(self, reader: Reader, record: Record) -> None:
        whole = reader.info
        times = reader.times(np.arange(whole.num_frames))
        first, last = segment_frames(times, record.start_sec, record.end_sec)
        start = 0.0 if record.start_sec is None else record.start_sec
        end = np.inf if record.end_sec is None else record.end_sec
        if last <= first:
            raise BadVideo(
                record.source,
                f"record {record.id!r} has no frame from {start:g} to {end:g} s: "
                f"the video has {whole.num_frames} frames in {whole.duration_sec:.3f} s.",
            )
        self._reader = reader
        self.first_frame = first
        self._times = times[first:last]
        self.origin_sec = float(times[first])
        duration_sec = min(end, whole.duration_sec) - self.origin_sec
        self.info = replace(whole, num_frames=last - first, duration_sec=float(duration_sec))

    def frames(
        self, indices: Sequence[int] | np.ndarray, size: tuple[int, int] | None = None
    ) -> np.ndarray:
        return self._reader.frames(check_indices(indices, self.info) + self.first_frame, size)

    @property
    def views(self) -> Callable[[Sequence[ViewRequest]], None] | None:
        """As of the other reader; None where it cannot."""
        fill = getattr(self._reader, "views", None)
        return None if fill is None else lambda requests: fill([self._shift(r) for r in requests])

    def _shift(self, request: ViewRequest) -> ViewRequest:
        return replace(
            request, indices=check_indices(request.indices, self.info) + self.first_frame
        )

    def stream(
        self, indices: Sequence[int] | np.ndarray, size: tuple[int, int] | None = None
    ) -> Iterator[tuple[int, np.ndarray]]:
        wanted = check_indices(indices, self.info) + self.first_frame
        for index, picture in stream_frames(self._reader, wanted, size):
            yield index - self.first_frame, picture

    def times(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        return np.asarray(self._times[check_indices(indices, self.info)] - self.origin_sec)

    def audio(self, start_sec: float, end_sec: float, rate: int) -> np.ndarray:
        sound = self._reader.audio(start_sec + self.origin_sec, end_sec + self.origin_sec, rate)
        at = start_sec + np.arange(len(sound)) / rate
        sound[(at < 0) | (at >= self.info.duration_sec)] = 0
        return sound

    def close(self) -> None:
        self._reader.close()

    def __enter__(self) -> SegmentReader:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()
