"""Which windows of a video an evaluator embeds, cropped the same way every time, with their times.

Nothing is random here.  Either a fixed number of windows is spread evenly over the video (they fit the batches of the
pipeline, as `WindowPlan`), or windows follow each other every `hop` frames and cover all of it (`iterate_windows`, for
features of every moment of videos of any length).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from video_ssl.clips.crops import (
    Frames,
    center_region,
    crop_frames,
    resize_frames,
    short_side_size,
    spread_crop_region,
    view_frames,
)
from video_ssl.clips.reading import Reader
from video_ssl.clips.sampling import ClipIndices, dense_clips, even_clips
from video_ssl.clips.views import choose_clips
from video_ssl.datasets.table import Record

#: Frames decoded at full size at a time; what is kept is cropped and scaled.
_PIECE = 64


@dataclass(frozen=True, kw_only=True)
class WindowConfig:
    """Which windows of a video are embedded.

    Attributes:
        num_frames: frames per window.
        frame_stride: source frames between two sampled ones.
        fps: choose frames by time, as in `ClipConfig`; None counts frames.
        num_clips: windows spread evenly from the start to the end of the video; one lies in the middle.
        hop: source frames (of `fps`, where set) between the starts of windows that cover the whole video; replaces
            `num_clips`.
        size: of the short side of the output in pixels.
        crop: "center" is the central square, "spread" `num_crops` squares along the long side, "short_side" the whole
            frame, the long side in proportion.
        num_crops: for "spread": squares of every window.
        short_video: "repeat_last" fills a video too short for a window with its last frame, marked invalid; "error"
            refuses it.
    """

    num_frames: int = 16
    frame_stride: int = 4
    fps: float | None = None
    num_clips: int = 1
    hop: int | None = None
    size: int = 224
    crop: Literal["center", "spread", "short_side"] = "center"
    num_crops: int = 1
    short_video: Literal["repeat_last", "error"] = "repeat_last"

    def __post_init__(self) -> None:
        for name in ("num_frames", "frame_stride", "num_clips", "size", "num_crops"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1.")
        if self.hop is not None and (self.hop < 1 or self.num_clips != 1):
            raise ValueError(
                f"hop={self.hop} with num_clips={self.num_clips}: hop must be at least 1 frame, and as it covers the "
                "whole video, num_clips must stay 1."
            )
        if self.num_crops > 1 and self.crop != "spread":
            raise ValueError(
                f"num_crops={self.num_crops} goes with crop='spread', not crop={self.crop!r}."
            )
        if self.fps is not None and self.fps <= 0:
            raise ValueError(f"fps={self.fps} must be positive, or null to count frames.")


@dataclass(frozen=True, kw_only=True, eq=False)
class Window:
    """A window of a video as an encoder sees it.

    Attributes:
        video: uint8 (num_crops, T, H, W, 3).
        times: float64 (T,), seconds since the first frame of the record (of its segment, if it is one).
        valid: bool (T,), False for frames that fill up a short video.
    """

    video: Frames
    times: NDArray[np.float64]
    valid: NDArray[np.bool_]


def choose_windows(record: Record, reader: Reader, config: WindowConfig) -> list[ClipIndices]:
    """Returns the frames and times of every window of a video, in temporal order; decodes no picture.

    Raises:
        BadVideo: the video is too short for a window and the settings say short_video="error".
    """

    def rule(num_source: int) -> list[ClipIndices]:
        if config.hop is not None:
            return dense_clips(
                num_source,
                hop=config.hop,
                num_frames=config.num_frames,
                frame_stride=config.frame_stride,
                short_video=config.short_video,
                name=record.source,
            )
        return even_clips(
            num_source,
            num_clips=config.num_clips,
            num_frames=config.num_frames,
            frame_stride=config.frame_stride,
            short_video=config.short_video,
            name=record.source,
        )

    return [
        ClipIndices(indices=clip.indices, valid=clip.valid, times=reader.times(clip.indices))
        for clip in choose_clips(record, reader, rule, fps=config.fps)
    ]


def iterate_windows(record: Record, reader: Reader, config: WindowConfig) -> Iterator[Window]:
    """Yields the windows of a video in temporal order.

    Every frame that some window shows is decoded and scaled once, however much windows overlap, and forgotten after
    the last window that needs it: memory does not grow with the length of the video.
    """
    clips = choose_windows(record, reader, config)
    wanted = np.unique(np.concatenate([clip.indices for clip in clips]))
    scaled: dict[int, Frames] = {}
    done = 0
    for number, clip in enumerate(clips):
        while done < len(wanted) and wanted[done] <= clip.indices.max():
            piece = wanted[done : done + _PIECE]
            frames = _scale(reader.frames(piece), config)
            scaled.update(zip(piece.tolist(), frames, strict=True))
            done += len(piece)
        frames = np.stack([scaled[index] for index in clip.indices.tolist()])
        assert clip.times is not None
        yield Window(video=_crops(frames, config), times=clip.times, valid=clip.valid)
        oldest = clips[number + 1].indices.min() if number + 1 < len(clips) else wanted[-1] + 1
        for index in [index for index in scaled if index < oldest]:
            del scaled[index]


class WindowPlan:
    """Makes the evenly spread windows of a record, for the pipeline: `num_clips` x `num_crops` views.

    The sample holds, with V = num_clips * num_crops, clips outermost: `video` uint8 (V, T, H, W, 3); `clip` int64 (V,);
    `valid` bool (V, T), False where a short video was filled up; and `times_sec` float64 (V, T), in seconds of the
    source: those of the reader plus the record's `start_sec`, so early by less than a frame where no frame lies exactly
    at the start of a segment.
    """

    def __init__(self, config: WindowConfig) -> None:
        if config.hop is not None:
            raise ValueError(
                f"hop={config.hop} gives every video its own number of windows, which cannot be batched: "
                "use num_clips, or iterate_windows."
            )
        self.config = config

    def __call__(
        self, record: Record, reader: Reader, rng: np.random.Generator, progress: float
    ) -> dict[str, np.ndarray]:
        windows = list(iterate_windows(record, reader, self.config))
        each = [len(window.video) for window in windows]
        times = np.stack([window.times for window in windows]) + (record.start_sec or 0.0)
        return {
            "video": np.concatenate([window.video for window in windows]),
            "clip": np.repeat(np.arange(len(windows)), each),
            "valid": np.repeat(np.stack([window.valid for window in windows]), each, axis=0),
            "times_sec": np.repeat(times, each, axis=0),
        }


def feature_times(times: ArrayLike, positions: ArrayLike) -> NDArray[np.float64]:
    """Returns when the frame features of a window are, in the unit of `times`: float64 (..., T').

    Args:
        times: of the sampled frames, (..., T), not decreasing.
        positions: of the features in units of sampled frames, (T',), as `encoder.frame_positions` gives them; 0.5 is
            half way between the first two frames. Before the first and after the last frame the time stays.

    >>> feature_times([0.0, 0.2, 0.4, 0.6], [0.5, 2.5]).tolist()
    [0.1, 0.5]
    """
    given, at = np.asarray(times, np.float64), np.asarray(positions, np.float64)
    low = np.clip(np.floor(at), 0, given.shape[-1] - 1).astype(np.int64)
    high = np.minimum(low + 1, given.shape[-1] - 1)
    share = np.clip(at - low, 0.0, 1.0)
    between: NDArray[np.float64] = given[..., low] * (1 - share) + given[..., high] * share
    return between


def feature_valid(valid: ArrayLike, positions: ArrayLike) -> NDArray[np.bool_]:
    """Returns which frame features show at least one frame of the video itself: bool (..., T').

    A feature at position p begins with the sampled frame floor(p); fill-up frames come last, so this one decides.

    >>> feature_valid([True, True, True, False, False, False], [0.5, 2.5, 4.5]).tolist()
    [True, True, False]
    """
    given = np.asarray(valid, bool)
    first = np.clip(np.floor(np.asarray(positions)), 0, given.shape[-1] - 1).astype(np.int64)
    shown: NDArray[np.bool_] = given[..., first]
    return shown


def _scale(frames: Frames, config: WindowConfig) -> Frames:
    """The frames at their final scale, before squares are cut out of them."""
    height, width = frames.shape[1:3]
    if config.crop == "center":
        return view_frames(frames, center_region(height, width), config.size)
    return resize_frames(frames, short_side_size(height, width, config.size))


def _crops(frames: Frames, config: WindowConfig) -> Frames:
    """(T, H, W, 3) -> (num_crops, T, H', W', 3)."""
    if config.crop != "spread":
        return frames[None]
    height, width = frames.shape[1:3]
    regions = [
        spread_crop_region(height, width, size=config.size, crop=k, num_crops=config.num_crops)
        for k in range(config.num_crops)
    ]
    return np.stack([crop_frames(frames, region) for region in regions])
