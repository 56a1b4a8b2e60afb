"""What is compared of recordings of one scene: features of their frames, or of their sound, at one common rate.

    pixels  colors of 16 x 16 parts of the picture
    motion  how much the picture changes: one number, which is alike however a camera stands
    hog     oriented gradients of the picture of 64 x 64 pixels
    sound   how much louder each of 24 bands of the sound becomes, 100 times a second
    encoder frame features of any encoder

All but the last need no training: they are what an encoder has to beat.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from video_ssl.clips.audio import SILENCE
from video_ssl.clips.decoders.reader import BadVideo, Reader, VideoInfo, stream_frames
from video_ssl.clips.reading import open_video
from video_ssl.explore.offsets import OffsetError

__all__ = ["SOUND_RATE", "By", "SyncTrack", "info_of", "on_grid", "picture_track", "sound_track"]

By = Literal["pixels", "motion", "hog", "sound", "encoder"]
Floats = NDArray[np.float32]

SOUND_RATE = 100  # features of sound a second
_SAMPLES = 16_000  # samples a second, up to which sound is heard
_WINDOW, _HOP = 640, _SAMPLES // SOUND_RATE
_BANDS, _LOWEST_HZ = 24, 60.0
_PIECE_SEC = 60.0
_SIDE, _GRID, _CELLS = 64, 16, 8
_PIECE = 256  # pictures of 64 x 64 in memory


@dataclass(frozen=True, kw_only=True, eq=False)
class SyncTrack:
    """What is known of one recording.

    Attributes:
        times: float64 (n,): seconds since the first frame, increasing.
        values: float32 (n, D); of `adds_up` what had happened until each time.
        duration_sec: of the recording.
        adds_up: the values are a sum over time, of which the grid gets the pace.
    """

    times: NDArray[np.float64]
    values: Floats
    duration_sec: float
    adds_up: bool = False


def on_grid(track: SyncTrack, rate: float) -> Floats:
    """Returns float32 (N, D): the values at 0, 1 / rate, 2 / rate, ... seconds up to the last one.

    Between two frames they are interpolated, so recordings of other and of varying frame rates fall on one grid.
    """
    at = np.arange(int(np.floor(track.times[-1] * rate + 1e-6)) + 1) / rate
    if not track.adds_up:
        return _interpolated(track, at)
    begin = np.clip(at - 0.5 / rate, track.times[0], track.times[-1])
    end = np.clip(at + 0.5 / rate, track.times[0], track.times[-1])
    length = np.maximum(end - begin, 1e-9)[:, None]
    pace: Floats = ((_interpolated(track, end) - _interpolated(track, begin)) / length).astype(
        np.float32
    )
    return pace


def _interpolated(track: SyncTrack, at: np.ndarray) -> Floats:
    right = np.clip(np.searchsorted(track.times, at), 1, max(len(track.times) - 1, 1))
    if len(track.times) == 1:
        return np.repeat(track.values, len(at), axis=0)
    before, after = track.times[right - 1], track.times[right]
    share = np.clip((at - before) / np.maximum(after - before, 1e-9), 0, 1)[:, None]
    found: Floats = (track.values[right - 1] * (1 - share) + track.values[right] * share).astype(
        track.values.dtype
    )
    return found


def info_of(path: str | Path) -> VideoInfo:
    """Returns what a recording is; width and height are 0 where it has no pictures.

    Raises:
        BadVideo: it cannot be read.
    """
    with open_video(path) as reader:
        return reader.info


def picture_track(path: str | Path, by: By) -> SyncTrack:
    """Returns the hand-made features of the pictures of a recording, decoded in one pass.

    Raises:
        BadVideo: it cannot be read, or has no pictures.
    """
    with open_video(path) as reader:
        info = reader.info
        if not info.width:
            raise BadVideo(
                str(path), f"has sound alone, which by={by} does not hear: use by=sound."
            )
        times = np.asarray(reader.times(np.arange(info.num_frames)), np.float64)
        pieces = [_features(pictures, by) for pictures in _pictures(reader, ahead=by == "motion")]
    values = np.concatenate(pieces)
    if by == "motion":
        values = np.concatenate([np.zeros((1, 1)), np.cumsum(values, axis=0, dtype=np.float64)])
    return SyncTrack(
        times=times, values=values, duration_sec=info.duration_sec, adds_up=by == "motion"
    )


def _pictures(reader: Reader, *, ahead: bool) -> Iterator[NDArray[np.uint8]]:
    """All pictures, (T, 64, 64, 3) at a time; `ahead`: each piece begins with the last picture of the one before."""
    held: list[np.ndarray] = []
    for _, picture in stream_frames(reader, np.arange(reader.info.num_frames), (_SIDE, _SIDE)):
        held.append(np.array(picture))
        if len(held) == _PIECE:
            yield np.stack(held)
            held = held[-1:] if ahead else []
    if len(held) > ahead or (held and reader.info.num_frames == 1):
        yield np.stack(held)


def _features(pictures: NDArray[np.uint8], by: By) -> np.ndarray:
    part = pictures.astype(np.float32) / 255
    if by == "motion":
        changes: np.ndarray = np.abs(np.diff(part, axis=0)).mean(axis=(1, 2, 3))[:, None]
        return changes
    if by == "pixels":
        side = _SIDE // _GRID
        cells = part.reshape(len(part), _GRID, side, _GRID, side, 3)
        pixels: np.ndarray = cells.mean(axis=(2, 4)).reshape(len(part), -1)
        return pixels
    import torch

    from video_ssl.models.networks.hog import oriented_gradients

    found = oriented_gradients(torch.from_numpy(part.transpose(0, 3, 1, 2)), grid=_CELLS)
    return np.asarray(found.numpy())


def sound_track(path: str | Path) -> SyncTrack:
    """Returns onsets of the sound of a recording: float32 (n, 24), how much louder each band has become.

    Files of any rate are heard at 16,000 samples a second, mixed to one channel, from the first frame on.

    Raises:
        BadVideo: it cannot be read.
        OffsetError: it has no sound, or silence.
    """
    with open_video(path) as reader:
        info = reader.info
        if not info.has_audio:
            raise OffsetError(
                f"{path} has no sound: compare the pictures (--by motion, or --encoder RUN), or leave it out."
            )
        bands = [_loudness(piece) for piece in _sounds(reader, info.duration_sec)]
    loud = np.concatenate(bands)
    if not np.isfinite(loud).any() or loud.max() <= np.log(SILENCE**2):
        raise OffsetError(
            f"the sound of {path} is silent: compare the pictures (--by motion, or --encoder RUN), or leave it out."
        )
    onsets = np.maximum(np.diff(loud, axis=0, prepend=loud[:1]), 0).astype(np.float32)
    return SyncTrack(
        times=np.arange(len(onsets)) / SOUND_RATE, values=onsets, duration_sec=info.duration_sec
    )


def _sounds(reader: Reader, duration_sec: float) -> Iterator[np.ndarray]:
    """The samples of the windows whose middles are 0, 1, 2, ... hundredths of a second, a minute of them at a time."""
    total = max(1, int(duration_sec * SOUND_RATE))
    step = int(_PIECE_SEC * SOUND_RATE)
    around = _WINDOW // 2
    for first in range(0, total, step):
        last = min(first + step, total)
        begin, end = first * _HOP - around, (last - 1) * _HOP + around
        before = max(0, -begin)
        heard = reader.audio((begin + before) / _SAMPLES, end / _SAMPLES, _SAMPLES)
        yield np.concatenate([np.zeros(before, np.float32), np.asarray(heard, np.float32)])


def _loudness(samples: np.ndarray) -> np.ndarray:
    """float32 (n, 24): logarithm of the power in every band, as a share of the loudest that 16 bits hold."""
    windows = np.lib.stride_tricks.sliding_window_view(samples, _WINDOW)[::_HOP]
    spectrum = np.fft.rfft(windows * np.hanning(_WINDOW).astype(np.float32), axis=1)
    power = np.square(np.abs(spectrum)).astype(np.float32) / _WINDOW**2
    hertz = np.fft.rfftfreq(_WINDOW, 1 / _SAMPLES)
    edges = np.geomspace(_LOWEST_HZ, _SAMPLES / 2 + 1, _BANDS + 1)
    band = np.searchsorted(edges, hertz, side="right") - 1
    sums = np.stack([power[:, band == k].sum(axis=1) for k in range(_BANDS)], axis=1)
    # Below this lies what codecs leave of silence: its ups and downs say nothing.
    return np.asarray(np.log(sums + np.float32(SILENCE**2)))


def common_rate(infos: Sequence[VideoInfo], asked: float | None) -> float:
    """Returns frames a second at which pictures are compared: of the slowest recording, between 10 and 60."""
    slowest = min((info.fps for info in infos if info.width), default=float(SOUND_RATE))
    return float(asked) if asked is not None else float(np.clip(slowest, 10.0, 60.0))
