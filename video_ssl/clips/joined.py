"""A reader of a video that lies in several files in a row, on one timeline.

    part      |----- 0 -----|----- 1 -----|-- 2 --|
    frame     0 ... n0 - 1  n0 ... n0 + n1 - 1 ...        n_k frames in part k
    time      0             d0            d0 + d1         d_k seconds

Index, time and sound go on where the part before ends.  Parts are opened when something of them is asked for, and only
a few are open at a time; where a scan has counted their frames, the others are not touched.
"""

from __future__ import annotations

import contextlib
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from video_ssl.clips.crops import ViewRequest
from video_ssl.clips.decoders.reader import (
    BadVideo,
    Reader,
    VideoInfo,
    check_indices,
    stream_frames,
)
from video_ssl.clips.views import read_views
from video_ssl.datasets.remote.errors import redacted

Ints = NDArray[np.int64]

_MOST_OPEN = 4
# Means of whole videos differ that much by the rounding of durations.
_SAME_RATE = 0.01
# Files are cut at frames, so they end a little beside the seconds that were asked for.
_CUT_AT_FRAMES_SEC = 0.2


class JoinedReader:
    """Reads several files as one video; `info` counts the frames and seconds of all.

    The rate is that of the first part, where the mean of all is nearly the same.  Codec, size and turn are those of the
    first part; a part of another size is a bad video.

    Attributes:
        part_frames: frames of every part, int64 (N,).
        part_sec: their seconds, float64 (N,).
    """

    def __init__(
        self,
        parts: Sequence[str],
        open_part: Callable[[str], Reader],
        *,
        part_frames: ArrayLike | None = None,
        part_sec: ArrayLike | None = None,
        has_audio: bool | None = None,
    ) -> None:
        """
        Args:
            parts: sources, in order.
            open_part: opens one of them.
            part_frames, part_sec: frames and seconds of every part, if a table knows both: then only the first part is
                opened now, and each later one must have as many frames.
            has_audio: whether any part has sound, if a table knows; of those that are opened now otherwise.

        Raises:
            BadVideo: a part that cannot be read.
        """
        self._parts = tuple(parts)
        self._open_part = open_part
        self._open: OrderedDict[int, Reader] = OrderedDict()
        self._times: dict[int, NDArray[np.float64]] = {}
        self._stated: Ints | None = None
        self._first: VideoInfo | None = None
        if part_frames is not None and part_sec is not None:
            self._stated = self.part_frames = _per_part(part_frames, self._parts, np.int64)
            self.part_sec = _per_part(part_sec, self._parts, np.float64)
            self._first = self._reader(0).info
            heard = self._first.has_audio
        else:
            infos = self._look_at_all()
            self.part_frames = np.array([info.num_frames for info in infos], np.int64)
            self.part_sec = np.array([info.duration_sec for info in infos])
            heard = any(info.has_audio for info in infos)
        self._starts = np.concatenate([[0], np.cumsum(self.part_frames)])
        self._starts_sec = np.concatenate([[0.0], np.cumsum(self.part_sec)])
        assert self._first is not None
        num_frames, duration_sec = int(self._starts[-1]), float(self._starts_sec[-1])
        mean = num_frames / duration_sec if duration_sec > 0 else self._first.fps
        same = abs(mean - self._first.fps) <= _SAME_RATE * self._first.fps
        self.info = replace(
            self._first,
            num_frames=num_frames,
            duration_sec=duration_sec,
            fps=self._first.fps if same else mean,
            has_audio=heard if has_audio is None else has_audio,
        )

    def _look_at_all(self) -> list[VideoInfo]:
        infos = []
        for part in range(len(self._parts)):
            infos.append(self._reader(part).info)
            self._first = infos[0]
        return infos

    def _reader(self, part: int) -> Reader:
        """The open reader of a part; the one used longest ago is closed for it."""
        if part in self._open:
            self._open.move_to_end(part)
            return self._open[part]
        while len(self._open) >= _MOST_OPEN:
            self._open.popitem(last=False)[1].close()
        with self._named(part):
            reader = self._open[part] = self._open_part(self._parts[part])
            self._refuse_other(part, reader.info)
        return reader

    @contextlib.contextmanager
    def _named(self, part: int) -> Iterator[None]:
        """What is wrong with a part says which it is: whoever hears of it names the video by all of its parts."""
        try:
            yield
        except BadVideo as err:
            name = self._parts[part].rsplit("/", 1)[-1]
            which = f"its file {part + 1} of {len(self._parts)}, {redacted(name)},"
            raise type(err)(err.path, f"{which} {err.reason}") from err

    def _refuse_other(self, part: int, info: VideoInfo) -> None:
        """Raises BadVideo for a part that does not go with the first, or has changed since it was counted."""
        name, first = self._parts[part], self._first
        if first is not None and (info.height, info.width) != (first.height, first.width):
            raise BadVideo(
                name,
                f"is {info.width} x {info.height}, but the first of its {len(self._parts)} parts {first.width} x "
                f"{first.height}: the parts of a video must have one size.",
            )
        if self._stated is not None and info.num_frames != self._stated[part]:
            raise BadVideo(
                name,
                f"has {info.num_frames} frames and had {self._stated[part]} when its table was made: scan the table "
                "again.",
            )

    def joined_indices(self, parts: ArrayLike, frames: ArrayLike) -> Ints:
        """Returns the indices of frames that are given by part and frame within it, int64 of their shape."""
        return self._starts[np.asarray(parts)] + np.asarray(frames, np.int64)

    def _by_part(self, indices: Ints) -> Iterator[tuple[int, NDArray[np.intp], Ints]]:
        """(part, places among the indices, frames within the part), in the order of the parts."""
        parts = np.searchsorted(self._starts, indices, side="right") - 1
        for part in np.unique(parts).tolist():
            places = np.flatnonzero(parts == part)
            yield part, places, indices[places] - self._starts[part]

    def frames(
        self, indices: Sequence[int] | np.ndarray, size: tuple[int, int] | None = None
    ) -> np.ndarray:
        wanted = check_indices(indices, self.info)
        height, width = size or (self.info.height, self.info.width)
        out = np.empty((len(wanted), height, width, 3), np.uint8)
        for part, places, own in self._by_part(wanted):
            reader = self._reader(part)
            with self._named(part):
                out[places] = reader.frames(own, size)
        return out

    def views(self, requests: Sequence[ViewRequest]) -> None:
        """Fills the views, part after part."""
        of_part: dict[int, list[ViewRequest]] = {}
        for request in requests:
            wanted = check_indices(request.indices, self.info)
            for part, places, own in self._by_part(wanted):
                # Slices, unlike places, are views of `out`: runs of frames that follow each other in it.
                for run in np.split(
                    np.arange(len(places)), np.flatnonzero(np.diff(places) > 1) + 1
                ):
                    begin, end = int(places[run[0]]), int(places[run[-1]]) + 1
                    piece = replace(request, indices=own[run], out=request.out[begin:end])
                    of_part.setdefault(part, []).append(piece)
        for part in sorted(of_part):
            reader = self._reader(part)
            with self._named(part):
                read_views(reader, of_part[part])

    def stream(
        self, indices: Sequence[int] | np.ndarray, size: tuple[int, int] | None = None
    ) -> Iterator[tuple[int, np.ndarray]]:
        for part, _, own in self._by_part(check_indices(indices, self.info)):
            reader = self._reader(part)
            with self._named(part):
                for index, picture in stream_frames(reader, own, size):
                    yield int(index + self._starts[part]), picture

    def times(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        wanted = check_indices(indices, self.info)
        out = np.empty(len(wanted))
        for part, places, own in self._by_part(wanted):
            if part not in self._times:
                reader = self._reader(part)
                with self._named(part):
                    self._times[part] = reader.times(np.arange(self.part_frames[part]))
            out[places] = self._starts_sec[part] + self._times[part][own]
        return out

    def audio(self, start_sec: float, end_sec: float, rate: int) -> np.ndarray:
        out = np.zeros(round((end_sec - start_sec) * rate), np.float32)
        # The first sample at or after the beginning of each part.
        first = np.ceil((self._starts_sec - start_sec) * rate - 1e-6).astype(np.int64)
        first = first.clip(0, len(out))
        for part in np.flatnonzero(np.diff(first) > 0).tolist():
            begin, end = int(first[part]), int(first[part + 1])
            offset_sec = start_sec - self._starts_sec[part]
            reader = self._reader(part)
            with self._named(part):
                own = reader.audio(offset_sec + begin / rate, offset_sec + end / rate, rate)
            out[begin:end] = own[: end - begin]
        return out

    def close(self) -> None:
        while self._open:
            self._open.popitem()[1].close()

    def __enter__(self) -> JoinedReader:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()


def part_frames(reader: Reader) -> Ints:
    """Returns the number of frames of every part of a video, int64 (N,); one number for a video in one file."""
    if isinstance(reader, JoinedReader):
        return reader.part_frames
    return np.array([reader.info.num_frames], np.int64)


def segment_seconds(reader: Reader) -> int | None:
    """Returns the seconds of the files of a video that was cut into equal ones, the last may be shorter; None for one
    that was not, or whose files are a little longer or shorter than that, which adds up to more than it may."""
    if not isinstance(reader, JoinedReader) or len(reader.part_sec) < 2:
        return None
    seconds = round(float(reader.part_sec[0]))
    ends = np.cumsum(reader.part_sec[:-1])
    beside = np.abs(ends - seconds * np.arange(1, len(ends) + 1))
    return seconds if seconds > 0 and (beside < _CUT_AT_FRAMES_SEC).all() else None


def joined_indices(reader: Reader, parts: ArrayLike, frames: ArrayLike) -> Ints:
    """Returns the indices, for `reader.frames`, of frames given by part and frame within it."""
    if isinstance(reader, JoinedReader):
        return reader.joined_indices(parts, frames)
    return np.asarray(frames, np.int64)


def _per_part(values: ArrayLike, parts: Sequence[str], dtype: Any) -> Any:
    found = np.asarray(values, dtype)
    if found.shape != (len(parts),):
        raise BadVideo(
            parts[0],
            f"lies in {len(parts)} parts, but its table counts the frames of {found.size}: scan the table again.",
        )
    return found
