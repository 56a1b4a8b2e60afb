"""What the readers of other libraries share: the library gives pictures, PyAV says what index i is.

The number of frames, their times, rotation and sound come from `PyAVReader`, so that an index means the same frame in
every backend.  A library that counts other frames is not used on that file: opening raises `NotExact`.  One that counts
right may still return wrong frames on some files (`video_ssl.clips.decoders.backends` keeps the list), so records are
read through `choose_backend`, which sends those to PyAV.
"""

from __future__ import annotations

import functools
import re
import time
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import Any, ClassVar

import av
import numpy as np
from av.video.reformatter import VideoReformatter

from video_ssl.clips.decoders.files.checks import refuse_unreadable_file
from video_ssl.clips.decoders.orientation import Orientation
from video_ssl.clips.decoders.pyav.reader import PyAVReader
from video_ssl.clips.decoders.reader import BadVideo, NotExact, SlowVideo, VideoInfo, check_indices

# What the libraries put before a message: a clock, a function and a line of their source.
_PLACES_IN_SOURCE = re.compile(r"(\[\d\d:\d\d:\d\d\] )?(\w+, )?/\S+\.(cc|cpp):\d+[:,] ")
# Full-size frames held at a time.
_PIECE = 32


class MissingBackend(ValueError):
    """A backend whose package is not installed."""


class LibraryReader:
    """Base of the readers that wrap a library; see `video_ssl.clips.decoders.reader.Reader` for the promises.

    Subclasses open their decoder in `_open_decoder`, which returns a function from sorted, unique indices to uint8
    (T, H, W, 3), and the number of frames that the library counts.  With `size`, frames are resized after the
    conversion to RGB, by the same filter as in PyAVReader, which resizes within the conversion.
    """

    READS_BYTE_RANGES = False
    NAME: ClassVar[str]

    def __init__(
        self,
        path: str,
        *,
        timeout_sec: float | None = None,
        byte_range: tuple[int, int] | None = None,
        name: str | None = None,
    ) -> None:
        """
        Args:
            path: a local file.
            timeout_sec: life time of the reader, checked between pieces of a few frames.
            byte_range: must be None: only PyAV reads a video within another file.
            name: what errors call the video, `path` if None.

        Raises:
            NotExact: the library counts other frames than there are.
            MissingBackend: the library is not installed.
        """
        if byte_range is not None:
            raise ValueError(
                f"{self.NAME} cannot read a part of a file: use backend='pyav' for {path}."
            )
        self.path = path if name is None else name
        self._file = path
        self._timeout_sec = timeout_sec
        self._deadline = None if timeout_sec is None else time.monotonic() + timeout_sec
        self._read: Callable[[list[int]], np.ndarray] | None = None
        refuse_unreadable_file(path, name=name)
        self._read, counted = self._guarded("cannot be opened", self._open_decoder, path)
        try:
            if counted != self.info.num_frames:
                raise NotExact(
                    self.path,
                    f"{self.NAME} counts {counted} frames instead of {self.info.num_frames}: use backend='pyav'.",
                )
            if not self._facts[2].is_plain:
                raise NotExact(
                    self.path,
                    f"{self.NAME} shows pictures that are mirrored or turned by an odd angle otherwise: "
                    "use backend='pyav'.",
                )
        except BaseException:
            self.close()
            raise

    def _open_decoder(self, path: str) -> tuple[Callable[[list[int]], np.ndarray], int]:
        raise NotImplementedError

    @functools.cached_property
    def _facts(self) -> tuple[VideoInfo, np.ndarray, Orientation]:
        with PyAVReader(self._file, timeout_sec=self._timeout_sec, name=self.path) as reference:
            info = reference.info
            times = reference.times(np.arange(info.num_frames))
            return info, times, reference.orientation

    @property
    def info(self) -> VideoInfo:
        return self._facts[0]

    def frames(
        self, indices: Sequence[int] | np.ndarray, size: tuple[int, int] | None = None
    ) -> np.ndarray:
        """Returns uint8 (T, H, W, 3); see `Reader.frames`."""
        info = self.info
        wanted = check_indices(indices, info)
        height, width = size if size is not None else (info.height, info.width)
        out = np.empty((len(wanted), height, width, 3), np.uint8)
        unique, place_of = np.unique(wanted, return_inverse=True)
        resize = None if (height, width) == (info.height, info.width) else VideoReformatter()
        for begin in range(0, len(unique), _PIECE):
            self._check_time()
            piece = unique[begin : begin + _PIECE]
            pictures = self._pictures(piece.tolist())
            for place in np.flatnonzero((place_of >= begin) & (place_of < begin + _PIECE)):
                picture = pictures[place_of[place] - begin]
                out[place] = picture if resize is None else _resized(picture, height, width, resize)
        self._check_time()
        return out

    def stream(
        self, indices: Sequence[int] | np.ndarray, size: tuple[int, int] | None = None
    ) -> Iterator[tuple[int, np.ndarray]]:
        """Yields (index, picture) for increasing indices; the time limit counts anew with every piece."""
        wanted = check_indices(indices, self.info)
        for begin in range(0, len(wanted), _PIECE):
            if self._timeout_sec is not None:
                self._deadline = time.monotonic() + self._timeout_sec
            piece = wanted[begin : begin + _PIECE]
            yield from zip(piece.tolist(), self.frames(piece, size), strict=True)

    def times(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """Returns float64 (T,) seconds since the first frame."""
        return np.asarray(self._facts[1][check_indices(indices, self.info)])

    def audio(self, start_sec: float, end_sec: float, rate: int) -> np.ndarray:
        """Returns float32 (S,), read by PyAV; see `Reader.audio`."""
        with PyAVReader(self._file, timeout_sec=self._timeout_sec, name=self.path) as reference:
            return reference.audio(start_sec, end_sec, rate)

    def close(self) -> None:
        self._read = None

    def __enter__(self) -> LibraryReader:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _pictures(self, indices: list[int]) -> np.ndarray:
        if self._read is None:
            raise ValueError(f"the reader of {self.path} is closed: open the video again.")
        at = f"frames {indices[0]}..{indices[-1]} cannot be decoded"
        pictures: np.ndarray = self._guarded(at, self._read, indices)
        expected = (len(indices), self.info.height, self.info.width, 3)
        if pictures.shape != expected or pictures.dtype != np.uint8:
            raise NotExact(
                self.path, f"{self.NAME} returns {pictures.shape} instead of {expected}."
            )
        return pictures

    def _guarded(self, what: str, function: Callable[..., Any], *arguments: Any) -> Any:
        """Calls into the library; whatever it raises becomes BadVideo."""
        try:
            return function(*arguments)
        except (BadVideo, MissingBackend):
            raise
        except Exception as err:
            first = (str(err).strip().splitlines() or [type(err).__name__])[0]
            reason = _PLACES_IN_SOURCE.sub("", first).strip() or type(err).__name__
            raise BadVideo(self.path, f"{what} ({self.NAME}: {reason[:160]}).") from err

    def _check_time(self) -> None:
        if self._deadline is not None and time.monotonic() > self._deadline:
            raise SlowVideo(self.path, f"takes longer than {self._timeout_sec:g} s to read.")


def _resized(picture: np.ndarray, height: int, width: int, resize: VideoReformatter) -> np.ndarray:
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), "rgb24")
    small = resize.reformat(frame, width=width, height=height, format="rgb24", threads=1)
    return np.asarray(small.to_ndarray())
