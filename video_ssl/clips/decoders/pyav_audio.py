"""The sound of a file between two times, resampled to mono float32 with PyAV."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import av
import numpy as np

# Decoded before the start and after the end, so that neither codec nor resampling filter is cut at the border.
_MARGIN_SEC = 0.25


def read_audio(
    path: str, start_sec: float, end_sec: float, rate: int, *, check: Callable[[], None]
) -> np.ndarray:
    """Returns the sound from `start_sec` to `end_sec` on the container's clock.

    Args:
        path: a file or another address that FFmpeg opens.
        start_sec: may be negative or behind the end: samples without sound are 0.
        end_sec: not before `start_sec`.
        rate: samples per second of the result.
        check: called between packets; may raise to give up.

    Returns:
        float32 (round((end_sec - start_sec) * rate),) in -1..1.  Zeros if there is no audio stream.
    """
    if end_sec < start_sec or rate <= 0:
        raise ValueError(
            f"audio from {start_sec} to {end_sec} s at {rate} Hz: the end must not be before the start, "
            "and the rate must be positive."
        )
    out = np.zeros(round((end_sec - start_sec) * rate), np.float32)
    with av.open(path) as container:
        stream = container.streams.best("audio") if container.streams.audio else None
        if stream is None or len(out) == 0:
            return out
        ignore_other_streams(container, stream)
        container.seek(
            int((start_sec - _MARGIN_SEC) / stream.time_base), stream=stream, backward=True
        )
        for chunk_sec, samples in _resampled(
            _frames(container, stream, end_sec + _MARGIN_SEC, check), rate
        ):
            _place(out, samples, round((chunk_sec - start_sec) * rate))
    return out


def ignore_other_streams(container: Any, stream: Any) -> None:
    """Tells the demultiplexer to skip every other stream, where the version of PyAV can (16 and later)."""
    discard = getattr(av.stream, "Discard", None)
    for other in container.streams:
        if discard is not None and other.index != stream.index:
            other.discard = discard["all"]


def _frames(
    container: Any, stream: Any, end_sec: float, check: Callable[[], None]
) -> Iterator[Any]:
    for packet in container.demux(stream):
        check()
        for frame in packet.decode():
            if frame.time is not None and frame.time >= end_sec:
                return
            yield frame


def _resampled(frames: Iterator[Any], rate: int) -> Iterator[tuple[float, np.ndarray]]:
    """Yields (time of the first sample, samples) for every stretch without a gap or a change of format."""
    resampler, kind, begin_sec, next_sec = None, None, 0.0, 0.0
    parts: list[np.ndarray] = []
    for frame in frames:
        frame_sec = next_sec if frame.time is None else float(frame.time)
        now = (frame.sample_rate, frame.layout.name, frame.format.name)
        if resampler is None or now != kind or abs(frame_sec - next_sec) > 0.01:
            if resampler is not None:
                yield begin_sec, np.concatenate([*parts, *_flush(resampler)])
            resampler = av.AudioResampler(format="fltp", layout="mono", rate=rate)
            kind, begin_sec, parts = now, frame_sec, []
        parts += [piece.to_ndarray()[0] for piece in resampler.resample(frame)]
        next_sec = frame_sec + frame.samples / frame.sample_rate
    if resampler is not None:
        yield begin_sec, np.concatenate([*parts, *_flush(resampler)])


def _flush(resampler: Any) -> list[np.ndarray]:
    last = [piece for piece in resampler.resample(None) if piece is not None]
    return [np.zeros(0, np.float32), *(piece.to_ndarray()[0] for piece in last)]


def _place(out: np.ndarray, samples: np.ndarray, at: int) -> None:
    """Writes `samples` into `out` from position `at`, which may lie outside."""
    begin, end = max(at, 0), min(at + len(samples), len(out))
    if begin < end:
        out[begin:end] = samples[begin - at : end - at]
