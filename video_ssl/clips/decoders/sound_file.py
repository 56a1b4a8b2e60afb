"""Files that hold sound and no pictures (WAV, FLAC, MP3, ...), as readers of what can be heard.

They have a clock in place of frames, so that stretches and windows of them are found as those of videos are; a picture
of them is refused.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from types import TracebackType

import av
import numpy as np
from av.error import FFmpegError

from video_ssl.clips.decoders.files.checks import ffmpeg_address, refuse_unreadable_file
from video_ssl.clips.decoders.pyav.audio import Sound
from video_ssl.clips.decoders.reader import (
    ONLY_SOUND,
    BadVideo,
    SlowVideo,
    VideoInfo,
    check_indices,
)

#: Ticks of the clock in a second.
CLOCK = 100
#: Containers without a head, whose length FFmpeg guesses from the bit rate of the first packets: of 20 s that begin
#: with silence, 310.
_RAW = {"aac", "mp3"}


class SoundFileReader:
    """Reads a file without pictures; see `video_ssl.clips.decoders.reader.Reader` for the promises.

    `info` counts ticks of a hundredth of a second as frames, of 0 x 0 pixels; `times` are theirs.
    """

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
            timeout_sec: life time of the reader.
            byte_range: (offset, size) of the sound within the file; the whole of it if None.
            name: what errors call it, `path` if None.

        Raises:
            BadVideo: it cannot be read, or has no sound.
        """
        self.path = path if name is None else name
        self._timeout_sec = timeout_sec
        self._deadline = None if timeout_sec is None else time.monotonic() + timeout_sec
        refuse_unreadable_file(path, byte_range=byte_range, name=name)
        address = ffmpeg_address(path, byte_range)
        try:
            self.info = self._look(address)
        except FFmpegError as err:
            raise BadVideo(self.path, f"cannot be read as sound: {err.strerror}.") from err
        self._sound = Sound(address, name=self.path, can_seek=False, check=self._check)

    def _look(self, address: str) -> VideoInfo:
        with av.open(address) as container:
            stream = container.streams.best("audio") if container.streams.audio else None
            if stream is None:
                raise BadVideo(self.path, "has no sound.")
            codec = stream.codec_context.name
            guessed = bool(_RAW & set(container.format.name.split(",")))
            seconds = (
                self._counted_seconds(container, stream)
                if guessed
                else _stated_seconds(container, stream)
            )
        if seconds is None:
            seconds = self._decoded_seconds(address)
        if not seconds > 0:
            raise BadVideo(self.path, "has no sound: it lasts 0 s.")
        return VideoInfo(
            num_frames=max(1, math.ceil(seconds * CLOCK - 1e-6)),
            fps=float(CLOCK),
            width=0,
            height=0,
            duration_sec=seconds,
            codec=codec,
            rotation=0,
            has_audio=True,
        )

    def _counted_seconds(
        self, container: av.container.InputContainer, stream: av.AudioStream
    ) -> float | None:
        """How long the packets last, without what the encoder put before the sound; None where they do not say."""
        stated, ticks = _stated_seconds(container, stream), 0
        start = float((stream.start_time or 0) * stream.time_base)
        for packet in container.demux(stream):
            self._check()
            if packet.size and not packet.duration:
                return None
            ticks += packet.duration or 0
        seconds = float(ticks * stream.time_base)
        # LAME notes what it put before the sound and behind it, 12 bits each: what is stated is exact then.
        most = 2 * 2**12 / stream.rate
        if start > 0 and stated is not None and 0 <= seconds - stated <= most:
            return stated
        return seconds - start

    def _decoded_seconds(self, address: str) -> float:
        with av.open(address) as container:
            seconds = 0.0
            for frame in container.decode(container.streams.best("audio")):
                self._check()
                seconds += frame.samples / frame.sample_rate
        return seconds

    def _check(self) -> None:
        if self._deadline is not None and time.monotonic() > self._deadline:
            raise SlowVideo(self.path, f"took longer than {self._timeout_sec:g} s.")

    def frames(
        self, indices: Sequence[int] | np.ndarray, size: tuple[int, int] | None = None
    ) -> np.ndarray:
        """Raises BadVideo: there are none."""
        raise BadVideo(self.path, ONLY_SOUND)

    def times(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        return np.asarray(check_indices(indices, self.info) / CLOCK)

    def audio(self, start_sec: float, end_sec: float, rate: int) -> np.ndarray:
        self._check()
        try:
            return self._sound.read(start_sec, end_sec, rate)
        except FFmpegError as err:
            raise BadVideo(self.path, f"its sound cannot be decoded: {err.strerror}.") from err

    def close(self) -> None:
        self._sound.close()

    def __enter__(self) -> SoundFileReader:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _stated_seconds(container: av.container.InputContainer, stream: av.AudioStream) -> float | None:
    """How long the sound is by what the file says; None where it does not."""
    if stream.duration and stream.time_base:
        return float(stream.duration * stream.time_base)
    return container.duration / av.time_base if container.duration else None
