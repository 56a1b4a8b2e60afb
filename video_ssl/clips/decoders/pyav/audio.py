"""The sound of a file between two times, resampled to mono float32 with PyAV.

The track is decoded forward and what has just been decoded is kept, so that stretches read one after the other
cost one pass.  A jump seeks where the container can be trusted with it (`can_seek`), and begins anew elsewhere: AVI,
FLV and MPEG streams seek to about the right place only, or refuse times before their first packet.

The same moment gives the same samples however it is read: positions are counted from the first sample of the track
(containers round times to milliseconds), and resampling keeps the phase that it has when the whole track is resampled.
"""

from __future__ import annotations

import itertools
import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import av
import numpy as np
from av.error import FFmpegError

from video_ssl.clips.decoders.reader import BadVideo

# Decoded before the start and after the end, so that neither codec nor resampling filter is cut at the border.
_MARGIN_SEC = 0.25
# Decoding on is cheaper than a seek, which decodes some packets twice.
_WORTH_A_SEEK_SEC = 2.0
# Frames whose times are further apart than this have a gap between them, which stays silent; less is rounding.
_GAP_SEC = 0.03

Frame = tuple[float, Any]  # seconds on the clock of the pictures, decoded frame


class Sound:
    """The best audio stream of a file, open until `close`."""

    def __init__(
        self,
        address: str,
        *,
        name: str,
        can_seek: bool,
        check: Callable[[], None],
        clock_offsets: Sequence[float] = (0.0,),
    ) -> None:
        """
        Args:
            address: a file or another address that FFmpeg opens.
            name: what errors call it.
            can_seek: whether packets are found by their time.
            check: called between packets; may raise to give up.
            clock_offsets: seconds to add to the times of the first stretch of the file, the second, and so on, where
                the file's clock starts anew in its middle.
        """
        self._address = address
        self._name = name
        self._can_seek = can_seek
        self._check = check
        self._offsets = clock_offsets
        self._container: Any = None
        self._decoded: Iterator[Frame] = iter(())
        self._held: deque[Frame] = deque()
        self._first: Frame | None = None
        self._holds_start = False
        self._length: int | None = None
        self._end_sec = math.inf

    def read(self, start_sec: float, end_sec: float, rate: int) -> np.ndarray:
        """Returns the sound from `start_sec` to `end_sec` on the clock of the container.

        Args:
            start_sec: may be negative or behind the end: samples without sound are 0.
            end_sec: not before `start_sec`.
            rate: samples per second of the result.

        Returns:
            float32 (round((end_sec - start_sec) * rate),) in -1..1.  Zeros if there is no audio stream.

        Raises:
            FFmpegError: sound that cannot be decoded.
            BadVideo: samples that are NaN or infinite, as a track of floats may hold: one of them would spread over all
                that is computed of the batch.
        """
        if not end_sec >= start_sec or rate <= 0:
            raise ValueError(
                f"audio from {start_sec} to {end_sec} s at {rate} Hz: the end must not be before the start, "
                "and the rate must be positive."
            )
        out = np.zeros(round((end_sec - start_sec) * rate), np.float32)
        if len(out) == 0:
            return out
        try:
            frames = self._between(start_sec - _MARGIN_SEC, end_sec + _MARGIN_SEC)
        except BaseException:
            self.close()  # what broke off in the middle must not look like the end of the sound
            raise
        if self._first is not None:
            for chunk_sec, samples in _resampled(frames, rate, self._first[0]):
                _place(out, samples, round((chunk_sec - start_sec) * rate))
        if not np.isfinite(out).all():
            raise BadVideo(self._name, "its sound holds numbers that are not finite.")
        return out

    def close(self) -> None:
        """Frees the decoder; calling it twice is allowed."""
        self._held.clear()
        self._decoded = iter(())
        if self._container is not None:
            self._container.close()
            self._container = None

    def _between(self, begin_sec: float, end_sec: float) -> list[Frame]:
        """The frames that touch the stretch, in order."""
        if self._container is None:
            self._begin()
        if begin_sec >= self._end_sec:
            return []
        starts_earlier = self._holds_start or (self._held and self._held[0][0] <= begin_sec)
        ahead_sec = begin_sec - _end_of(self._held[-1]) if self._held else math.inf
        if (
            self._first is not None
            and self._can_seek
            and (not starts_earlier or ahead_sec > _WORTH_A_SEEK_SEC)
        ):
            self._seek(begin_sec)
        elif not starts_earlier:
            self._begin()
        while not self._held or _end_of(self._held[-1]) < end_sec:
            frame = next(self._decoded, None)
            if frame is None:
                self._end_sec = _end_of(self._held[-1]) if self._held else -math.inf
                break
            self._held.append(frame)
            while len(self._held) > 1 and _end_of(self._held[0]) < begin_sec:
                self._held.popleft()
                self._holds_start = False
        return [f for f in self._held if f[0] < end_sec and _end_of(f) > begin_sec]

    def _begin(self) -> None:
        """Opens the track at its first frame."""
        self.close()
        self._container = av.open(self._address)
        stream = self._stream
        if stream is None:
            return
        ignore_other_streams(self._container, stream)
        self._decoded = self._timed(self._frames())
        self._holds_start = True
        for frame in itertools.islice(self._decoded, 3):
            self._held.append(frame)
        if self._held:
            self._first = self._held[0]
        # The first frame may be shortened; from then on most codecs have frames of one length.
        lengths = {frame.samples for _, frame in list(self._held)[1:]}
        self._length = lengths.pop() if len(lengths) == 1 else None

    def _seek(self, begin_sec: float) -> None:
        """Goes to the last packet before `begin_sec`, or to the first one if the container does not get there."""
        assert self._first is not None
        if begin_sec > _end_of(self._first):
            stream = self._stream
            try:
                self._container.seek(
                    int(begin_sec / stream.time_base), stream=stream, backward=True
                )
                self._decoded = self._timed(self._frames(), on_grid=True)
                found = next(self._decoded, None)
            except FFmpegError:
                found = None
            if found is not None and found[0] <= begin_sec:
                self._held.clear()
                self._held.append(found)
                self._holds_start = False
                return
        self._begin()

    @property
    def _stream(self) -> Any:
        streams = self._container.streams
        return streams.best("audio") if streams.audio else None

    def _frames(self) -> Iterator[Any]:
        """Decoded frames from here on.  Packets that fail before the first good one have lost what they refer to."""
        has_begun, failed = False, None
        for packet in self._container.demux(self._stream):
            self._check()
            if packet.size == 0 and packet.dts is not None:
                continue
            try:
                frames = packet.decode()
            except FFmpegError as err:
                if has_begun:
                    raise
                failed = err
                continue
            for frame in frames:
                has_begun = True
                yield frame
        if failed is not None and not has_begun:
            raise failed

    def _timed(self, frames: Iterator[Any], *, on_grid: bool = False) -> Iterator[Frame]:
        """Adds times: samples are counted, and what the container says decides where there is a gap.

        Where the clock of the file starts anew, frames belong to the stretch that they follow on most closely.
        """
        stretch, next_sec = 0, None
        for frame in frames:
            stated = None if frame.time is None else float(frame.time)
            while stated is not None and next_sec is not None and stretch + 1 < len(self._offsets):
                here, there = (stated + offset for offset in self._offsets[stretch : stretch + 2])
                if abs(there - next_sec) >= abs(here - next_sec):
                    break
                stretch += 1
            at = None if stated is None else stated + self._offsets[stretch]
            if next_sec is not None and (at is None or abs(at - next_sec) <= _GAP_SEC):
                at = next_sec
            elif at is None:
                if on_grid:  # after a seek the position is unknown
                    continue
                at = 0.0
            elif on_grid:
                at = self._on_grid(at, frame)
            next_sec = at + frame.samples / frame.sample_rate
            yield at, frame

    def _on_grid(self, at: float, frame: Any) -> float:
        """The exact time of a frame where frames have one length: whole lengths from the end of the first."""
        assert self._first is not None
        if self._length is None or frame.samples != self._length:
            return at
        grid_sec, length_sec = _end_of(self._first), self._length / frame.sample_rate
        exact = grid_sec + round((at - grid_sec) / length_sec) * length_sec
        return exact if abs(exact - at) <= self._stream.time_base else at


def _end_of(frame: Frame) -> float:
    return frame[0] + float(frame[1].samples / frame[1].sample_rate)


def ignore_other_streams(container: Any, stream: Any) -> None:
    """Makes the demultiplexer skip every other stream, where the version of PyAV can (16 and later)."""
    discard = getattr(av.stream, "Discard", None)
    for other in container.streams:
        if discard is not None and other.index != stream.index:
            other.discard = discard["all"]


def _resampled(
    frames: Sequence[Frame], rate: int, origin_sec: float
) -> Iterator[tuple[float, np.ndarray]]:
    """Yields (time of the first sample, samples) for every stretch without a gap or a change of format."""
    resampler, kind, begin_sec, next_sec = None, None, 0.0, 0.0
    parts: list[np.ndarray] = []
    for frame_sec, frame in frames:
        now = (frame.sample_rate, frame.layout.name, frame.format.name)
        if resampler is None or now != kind or abs(frame_sec - next_sec) > 1e-4:
            if resampler is not None:
                yield begin_sec, np.concatenate([*parts, *_flush(resampler)])
            resampler = av.AudioResampler(format="fltp", layout="mono", rate=rate)
            kind, begin_sec, next_sec = now, frame_sec, frame_sec
            silence = _until_in_phase(frame, frame_sec - origin_sec, rate)
            parts = []
            if silence is not None:
                begin_sec -= silence.samples / silence.sample_rate
                parts = [piece.to_ndarray()[0] for piece in resampler.resample(silence)]
        frame.pts = None  # counted: rounded times would move the samples
        parts += [piece.to_ndarray()[0] for piece in resampler.resample(frame)]
        next_sec += frame.samples / frame.sample_rate
    if resampler is not None:
        yield begin_sec, np.concatenate([*parts, *_flush(resampler)])


def _until_in_phase(frame: Any, since_origin_sec: float, rate: int) -> Any | None:
    """Silence to put before a frame, so that resampled samples fall where those of the whole track do."""
    period = frame.sample_rate // math.gcd(frame.sample_rate, rate)
    missing = round(since_origin_sec * frame.sample_rate) % period
    if missing == 0:
        return None
    planar, channels = frame.format.is_planar, frame.layout.nb_channels
    kind = frame.to_ndarray().dtype
    shape = (channels, missing) if planar else (1, missing * channels)
    middle = 128 if kind == np.uint8 else 0
    silence = av.AudioFrame.from_ndarray(
        np.full(shape, middle, kind), frame.format.name, frame.layout.name
    )
    silence.sample_rate = frame.sample_rate
    return silence


def _flush(resampler: Any) -> list[np.ndarray]:
    last = [piece for piece in resampler.resample(None) if piece is not None]
    return [np.zeros(0, np.float32), *(piece.to_ndarray()[0] for piece in last)]


def _place(out: np.ndarray, samples: np.ndarray, at: int) -> None:
    """Writes `samples` into `out` from position `at`, which may lie outside."""
    begin, end = max(at, 0), min(at + len(samples), len(out))
    if begin < end:
        out[begin:end] = samples[begin - at : end - at]
