"""One file to H.264 mp4 that every decoder reads fast and exactly: the work of `video_ssl.clips.upkeep.transcode`.

Pictures come through the reader, so that what is written is what would have been read: upright, of the best stream, in
presentation order, from any source.  So does sound, by time, which keeps it in sync.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.error import FFmpegError

from video_ssl.clips.decoders.reader import BadVideo, Reader, VideoInfo, stream_frames
from video_ssl.clips.reading import open_record, origin_of
from video_ssl.clips.upkeep.config import VideoFormat
from video_ssl.clips.upkeep.isolated_worker import beat
from video_ssl.clips.upkeep.probe import Probe, probe, stamp
from video_ssl.datasets.table import Record
from video_ssl.files import FULL, written_aside

_AUDIO_RATE = 48000
_AUDIO_PIECE_SEC = 5.0
_CLOCK = 90000


@dataclass(frozen=True, kw_only=True)
class Transcode:
    """One file to write: `record` is what to take, a whole source or a segment of it."""

    record: Record
    target: Path
    format: VideoFormat
    timeout_sec: float = 60.0
    segments: tuple[tuple[float | None, float | None], ...] = ((None, None),)
    return_map: bool = False


def transcode_file(task: Transcode) -> dict[str, Any]:
    """Writes the file, atomically, and returns its columns; see `video_ssl.clips.upkeep.probe.probe`.

    "segments" holds (num_frames, duration_sec) of every segment in the new file.  With `return_map`, "map" holds for
    every frame of the new file the index of the frame of the old one that it shows, and "old_times", "new_times" the
    times of all frames of both.  "origin_sec" is where the first frame of the record lies in the source.

    Raises:
        BadVideo: the source cannot be read, or changes meanwhile.
    """
    before = stamp(task.record.source)
    task.target.parent.mkdir(parents=True, exist_ok=True)
    with written_aside(task.target, suffix=".mp4", sweep=False) as partial:
        with open_record(task.record, timeout_sec=task.timeout_sec) as reader:
            times = reader.times(np.arange(reader.info.num_frames))
            shown, ticks, base = _schedule(times, reader.info.duration_sec, task.format.fps)
            _write(partial, reader, shown, ticks, base, task.format)
            origin_sec = origin_of(reader, task.record)
        if stamp(task.record.source) != before:
            raise BadVideo(task.record.source, "changes while it is read: try again later.")
        columns = probe(
            Probe(
                source=str(partial),
                segments=(*task.segments, (None, None)),
                timeout_sec=task.timeout_sec,
            )
        )
        found = columns["segments"].pop()[0]
        if found != len(shown):
            raise BadVideo(
                task.record.source, f"became a file of {found} frames instead of {len(shown)}."
            )
    del columns["stamp"]  # of the new file; its columns say it too
    columns["source_stamp"] = list(before)
    columns["origin_sec"] = origin_sec
    if task.return_map:
        columns["map"] = shown.tolist()
        columns["old_times"] = times.tolist()
        columns["new_times"] = (ticks * float(base)).tolist()
    return columns


def _schedule(
    times: np.ndarray, duration_sec: float, fps: float | None
) -> tuple[np.ndarray, np.ndarray, Fraction]:
    """Index of the old frame and time (in units of `base`) of every new frame."""
    if fps is not None:
        base = 1 / Fraction(fps).limit_denominator(1001)
        ticks = np.arange(max(1, round(duration_sec * fps)))
        # A frame on the border of a tick is the one that starts there, however times are rounded.
        shown = np.searchsorted(times, ticks * float(base) + 5e-4, side="right") - 1
        return np.maximum(shown, 0), ticks, base
    ticks = np.round(times * _CLOCK).astype(np.int64)
    # Some files have frames closer than a tick: keep them apart.
    ticks = np.maximum.accumulate(ticks - np.arange(len(ticks))) + np.arange(len(ticks))
    return np.arange(len(times)), ticks, Fraction(1, _CLOCK)


def _write(
    path: Path,
    reader: Reader,
    shown: np.ndarray,
    ticks: np.ndarray,
    base: Fraction,
    format: VideoFormat,
) -> None:
    info = reader.info
    height, width = _new_size(info.height, info.width, format.short_side)
    try:
        with av.open(str(path), "w", format="mp4", options={"movflags": "faststart"}) as out:
            rate = Fraction(format.fps or info.fps).limit_denominator(1001)
            options = {"preset": format.preset, "crf": str(format.crf), "threads": "1", "bf": "2"}
            video = out.add_stream("libx264", rate=rate, options=options)
            video.height, video.width, video.pix_fmt = height, width, "yuv420p"
            video.codec_context.gop_size = format.gop
            video.codec_context.time_base = base
            if info.pixel_aspect != 1:
                video.codec_context.sample_aspect_ratio = _new_aspect(info, height, width)
            sound = None
            if format.audio and info.has_audio:
                sound = out.add_stream(
                    "aac", rate=_AUDIO_RATE, layout="mono", options={"aac_coder": "fast"}
                )
                sound.codec_context.bit_rate = 128_000
            waves = _sound(reader, sound) if sound is not None else iter(())
            heard_sec = 0.0
            pictures = zip(_pictures(reader, shown, (height, width)), ticks, strict=True)
            for number, (picture, tick) in enumerate(pictures, start=1):
                frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), "rgb24")
                frame.pts, frame.time_base = int(tick), base
                out.mux(video.encode(frame))
                while heard_sec <= float(tick * base) and (wave := next(waves, None)) is not None:
                    heard_sec = _mux_sound(out, sound, wave)
                beat(number / len(shown), float(tick * base))
            out.mux(video.encode(None))
            for wave in waves:
                _mux_sound(out, sound, wave)
            if sound is not None:
                out.mux(sound.encode(None))
    except FFmpegError as err:
        if err.errno in FULL:
            raise OSError(err.errno, os.strerror(err.errno), str(path)) from err
        raise


def _new_size(height: int, width: int, short_side: int) -> tuple[int, int]:
    scale = min(1.0, short_side / min(height, width))
    return tuple(max(2, 2 * round(side * scale / 2)) for side in (height, width))  # type: ignore[return-value]


def _new_aspect(info: VideoInfo, height: int, width: int) -> Fraction:
    """The shape of a pixel under which the new picture is shown as wide as the old one."""
    shape = Fraction(info.pixel_aspect).limit_denominator(10_000)
    return (shape * Fraction(info.width * height, info.height * width)).limit_denominator(10_000)


def _pictures(reader: Reader, shown: np.ndarray, size: tuple[int, int]) -> Iterator[np.ndarray]:
    """The pictures of `shown` (not decreasing), each decoded once."""
    unique, repeats = np.unique(shown, return_counts=True)
    for (_, picture), count in zip(stream_frames(reader, unique, size), repeats, strict=True):
        for _ in range(count):
            yield picture


def _sound(reader: Reader, stream: Any) -> Iterator[Any]:
    """Frames of sound from the first picture to the end of the last one."""
    total = round(reader.info.duration_sec * _AUDIO_RATE)
    step = round(_AUDIO_PIECE_SEC * _AUDIO_RATE)
    for begin in range(0, total, step):
        end = min(begin + step, total)
        wave = reader.audio(begin / _AUDIO_RATE, end / _AUDIO_RATE, _AUDIO_RATE)
        beat()
        piece = av.AudioFrame.from_ndarray(wave[None], format="fltp", layout="mono")
        piece.sample_rate, piece.pts = _AUDIO_RATE, begin
        piece.time_base = Fraction(1, _AUDIO_RATE)
        yield piece


def _mux_sound(out: Any, stream: Any, wave: Any) -> float:
    """Returns the time up to which sound has been written."""
    out.mux(stream.encode(wave))
    return float((wave.pts + wave.samples) / _AUDIO_RATE)
