"""One video in Python: its features with times, and a clip of it; windows and rows are those of `video-ssl embed`."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from video_ssl.clips.arrays import ArrayReader, checked_frames
from video_ssl.clips.decoders.reader import BadVideo
from video_ssl.clips.reading import open_record
from video_ssl.clips.windows import WindowConfig, iterate_windows
from video_ssl.datasets.paths import at_home
from video_ssl.datasets.table import Record, Table
from video_ssl.embed.config import EmbedConfig
from video_ssl.embed.embedding import Embedder, EmbeddingError
from video_ssl.embed.rows import ReadClip, embedded_rows
from video_ssl.embed.text_windows import TextWindows
from video_ssl.embed.window_workers import Piece, WindowJob, record_pieces
from video_ssl.models.contract import MOMENTS, Encoder
from video_ssl.models.preprocess_config import VideoPreprocess
from video_ssl.recipes import known_settings

#: Rate of an array whose own is not known; its times are then NaN.
_SOME_RATE = 25.0
_ITSELF = "array"


@dataclass(frozen=True, kw_only=True, eq=False)
class Clip:
    """Some frames of a video, as an encoder is given them.

    Attributes:
        frames: uint8 (T, H, W, 3), RGB.
        times_sec: float64 (T,), when each is shown.
        valid: bool (T,), False for repetitions of the last frame that fill up a short video.
    """

    frames: NDArray[np.uint8]
    times_sec: NDArray[np.float64]
    valid: NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True, eq=False)
class VideoFeatures:
    """What an encoder says about one video.

    Attributes:
        clip: float32 (D,): of the video as a whole, the mean over its windows.
        frames: float32 (T', D): of its moments in order of time; (0, D) where the encoder has none.
        times_sec: float64 (T',): when they are; NaN where the times of an array are not known.
    """

    clip: NDArray[np.float32]
    frames: NDArray[np.float32]
    times_sec: NDArray[np.float64]

    def __repr__(self) -> str:
        known = self.times_sec[np.isfinite(self.times_sec)]
        when = f", {known[0]:.2f} to {known[-1]:.2f} s" if len(known) else ""
        return f"VideoFeatures(clip {self.clip.shape}, frames {self.frames.shape}{when})"


def read_clip(
    video: str | os.PathLike[str],
    encoder: Encoder | None = None,
    *,
    start_sec: float | None = None,
    end_sec: float | None = None,
    num_frames: int | None = None,
    frame_stride: int | None = None,
    fps: float | None = None,
    size: int | None = None,
    backend: str = "pyav",
) -> Clip:
    """Returns one clip of a video, upright, its central square scaled to `size`.

    A video that is too short is filled up with its last frame.

    Args:
        video: whatever `video-ssl embed` takes as one video: a file, a folder of frames, a URI.
        encoder: whose sampling and size are used where the settings below do not say otherwise; without one a clip has
            16 frames, every 4th of the video, of 224 pixels.
        start_sec, end_sec: the stretch of the video in whose middle the clip lies; by default all of it.
        num_frames, frame_stride, fps, size: see `EmbedConfig` and `VideoPreprocess`.
        backend: decoder, see docs/decoding.md.

    Raises:
        BadVideo: it cannot be read, or has no frame in the stretch.
        EmbeddingError: an encoder of sound or text.

    >>> clip = read_clip("videos/wave1.mp4", num_frames=4, frame_stride=2, size=32)
    >>> clip.frames.shape, clip.frames.dtype
    ((4, 32, 32, 3), dtype('uint8'))
    """
    pre = VideoPreprocess() if encoder is None else encoder.preprocess
    if not isinstance(pre, VideoPreprocess):
        raise EmbeddingError(f"read_clip reads frames, but the encoder sees {pre.modality}.")
    asked = EmbedConfig(
        num_clips=1,
        num_frames=num_frames,
        frame_stride=frame_stride,
        fps=fps,
        sampling="constant",
        backend=backend,
    )
    windows = asked.windows(
        num_frames=pre.num_frames,
        frame_stride=pre.frame_stride,
        fps=pre.fps,
        **pre.scaling(size),
    )
    record = _record(video, start_sec=start_sec, end_sec=end_sec)
    with open_record(record, backend, timeout_sec=asked.video_timeout_sec) as reader:
        window = next(iterate_windows(record, reader, windows))
    times = window.times + window.origin_sec
    return Clip(frames=window.clips[0], times_sec=times, valid=window.valid)


def features_of_video(
    encoder: Encoder,
    video: str | os.PathLike[str] | Clip | Any,
    *,
    video_fps: float | None = None,
    **settings: Any,
) -> VideoFeatures:
    """Returns the features of one video with their times; `encoder(video)` calls this.

    By default every sampled frame of the video gets a feature, as with `video-ssl embed --per-frame`.

    Args:
        encoder: of `load_encoder` or `load_flax_encoder`.
        video: a file, a folder of frames or a URI; a `Clip` of `read_clip`; or all frames of a video, uint8
            (T, H, W, 3), which are sampled like those of a file (`frame_stride=1`: they are sampled already).
        video_fps: rate of the frames of an array.
        settings: of `EmbedConfig`: num_clips, stride_sec, layer, ...

    Raises:
        EmbeddingError: the video cannot be read, or the encoder is not one of video and an array is given.
        ValueError: an array of another shape, layout or dtype (the text says what makes it right), or a setting that
            does not exist.

    >>> import video_ssl
    >>> encoder = video_ssl.load_encoder("runs/mine")
    >>> found = features_of_video(encoder, "videos/wave1.mp4")
    >>> found.clip.shape, found.frames.shape, found.times_sec.shape
    ((32,), (12, 32), (12,))
    """
    embedder = Embedder(
        encoder,
        _config(encoder, settings, is_clip=isinstance(video, Clip)),
        device=_device(encoder),
    )
    if isinstance(video, str | os.PathLike):
        return _collected(embedder, *_pieces_of_file(embedder, video))
    frames = checked_frames(video.frames if isinstance(video, Clip) else video)
    found = _collected(embedder, *_pieces_of_array(embedder, frames, video_fps))
    if isinstance(video, Clip):
        rate = _layout_rate(encoder, None)
        times = np.interp(found.times_sec, np.arange(len(frames)) / rate, video.times_sec)
    else:
        times = found.times_sec if video_fps else np.full(len(found.frames), np.nan)
    return VideoFeatures(clip=found.clip, frames=found.frames, times_sec=times)


def _config(encoder: Encoder, settings: dict[str, Any], *, is_clip: bool) -> EmbedConfig:
    settings = known_settings(EmbedConfig, settings, "embedding")
    laid_out = {"num_clips", "hop", "stride_sec", "per_frame", "num_crops"} & set(settings)
    per_frame = not laid_out and MOMENTS in encoder.output_names and encoder.modality != "text"
    usual: dict[str, Any] = {"per_frame": per_frame}
    if is_clip:
        usual["frame_stride"] = 1
    return EmbedConfig(**{**usual, **settings})


def _device(encoder: Encoder) -> Any:
    return encoder.device if encoder.framework == "torch" else "cpu"  # type: ignore[attr-defined]


def _record(source: str | os.PathLike[str], **segment: Any) -> Record:
    text = at_home(os.fspath(source))
    local = os.path.abspath(text) if os.path.exists(text) else text
    return Record(index=0, id=Path(text).name, source=local, **segment)


def _pieces_of_file(
    embedder: Embedder, video: str | os.PathLike[str]
) -> tuple[Record, Iterator[Piece]]:
    config, plain = embedder.config, _record(video)
    if isinstance(embedder.windows, TextWindows):
        raise EmbeddingError(
            f"{embedder.name} reads captions, and {plain.id} has none here: embed a table that has them."
        )
    table = Table.from_rows([{"id": plain.id, "source": plain.source}])
    job = WindowJob(
        table=table,
        windows=embedder.windows,
        backend=config.backend,
        video_timeout_sec=config.video_timeout_sec,
    )
    return table.record(0), record_pieces(job, table.record(0))


def _pieces_of_array(
    embedder: Embedder, frames: NDArray[np.uint8], fps: float | None
) -> tuple[Record, Iterator[Piece]]:
    windows = embedder.windows
    if not isinstance(windows, WindowConfig):
        raise EmbeddingError(f"{embedder.name} sees {embedder.encoder.modality}, not frames.")
    record = Record(index=0, id=_ITSELF, source=_ITSELF)
    reader = ArrayReader(frames, fps=_layout_rate(embedder.encoder, fps))
    found = (
        Piece(index=0, windows=(window,)) for window in iterate_windows(record, reader, windows)
    )
    return record, found


def _layout_rate(encoder: Encoder, fps: float | None) -> float:
    """The rate at which the frames of an array follow each other: by it encoders that sample by time take all."""
    if fps is not None:
        if not fps > 0:
            raise ValueError(f"video_fps={fps} must be more than 0 frames a second.")
        return fps
    pre = encoder.preprocess
    return pre.fps if isinstance(pre, VideoPreprocess) and pre.fps else _SOME_RATE


def _collected(embedder: Embedder, record: Record, pieces: Iterator[Piece]) -> VideoFeatures:
    """The rows of the windows of a record, as one video."""
    rows: list[dict[str, Any]] = []
    clips = _clips(record, pieces)
    try:
        while batch := list(itertools.islice(clips, embedder.batch_size)):
            rows += embedded_rows(batch, embedder.forward, embedder.positions)
    except BadVideo as err:
        raise EmbeddingError(str(err)) from err
    features = np.stack([row["feature"] for row in rows])
    moments = [row["frame_features"] for row in rows if "frame_features" in row]
    times = [row["frame_times_sec"] for row in rows if "frame_features" in row]
    clip: NDArray[np.float32] = features.mean(0, dtype=np.float64).astype(np.float32)
    if not moments:
        none = np.zeros((0, *clip.shape), np.float32)
        return VideoFeatures(clip=clip, frames=none, times_sec=np.zeros(0))
    joined, when = np.concatenate(moments), np.concatenate(times)
    order = np.argsort(when, kind="stable")
    return VideoFeatures(clip=clip, frames=joined[order], times_sec=when[order])


def _clips(record: Record, pieces: Iterator[Piece]) -> Iterator[ReadClip]:
    number = 0
    for piece in pieces:
        if piece.reason is not None:
            raise BadVideo(record.source, piece.reason)
        for window in piece.windows:
            for values in window.clips:
                yield ReadClip(record, number, values, window, piece)
                number += 1
