"""Which windows of a video an evaluator embeds, cropped the same way every time, with their times.

Nothing is random here: an order of frames that is (`shuffle_frames`) follows from the record.  Either a fixed number of
windows is spread evenly over the video (they fit the batches of the pipeline, as `WindowPlan`), or windows follow each
other every `hop` frames or `stride_sec` seconds and cover all of it (`iterate_windows`, for features of every moment of
videos of any length).  For one feature per frame, windows overlap and every sampled frame is the own frame of the one
window in whose middle it lies best.
"""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from video_ssl.clips.config import Sampling
from video_ssl.clips.crops import (
    Frames,
    Kernel,
    center_region,
    crop_frames,
    even_crop_region,
    inner_square,
    resize_frames,
    short_side_size,
    spread_crop_region,
    whole_region,
)
from video_ssl.clips.decoders.reader import Reader, stream_frames
from video_ssl.clips.reading import origin_of
from video_ssl.clips.sampling.clip_rules import window_rule
from video_ssl.clips.sampling.one_clip import (
    TooShort,
    clip_span,
    constant_clip,
    even_clips,
    resample_grid,
)
from video_ssl.clips.sampling.window_layout import (
    FixedLayout,
    Layout,
    PartsLayout,
    starts_by_hop,
    starts_by_time,
)
from video_ssl.clips.too_short import too_short
from video_ssl.clips.views import choose_clips
from video_ssl.datasets.table import Record

#: Frames held at full size at a time; what is kept is cropped and scaled.
_PIECE = 8


@dataclass(frozen=True, kw_only=True)
class WindowConfig:
    """Which windows of a video are embedded.

    Attributes:
        num_frames: frames per window.
        frame_stride: source frames between two sampled ones.
        fps: choose frames by time, as in `ClipConfig`; None counts frames.
        num_clips: windows spread evenly from the start to the end of the video; one lies in the middle.
        sampling: the training's; "dense", "segments", "segments_videomae", "seconds", "looped" and "dmvr" have test
            views of their own (docs/sampling.md), "constant" and "reference" mean the evenly spread windows.
        hop: source frames (of `fps`, where set) between the starts of windows that cover the whole video; replaces
            `num_clips`.
        stride_sec: the same in seconds, by the times of the frames.
        per_frame: windows that overlap by `overlap` and cover every `frame_stride`-th frame of the video (of `fps`,
            where set), each of which is the own frame of one window: the one whose middle is nearest.
        overlap: share of a window, in [0, 1), that the next one shows again; for `per_frame`.
        whole: `per_frame`: one window of the whole video, or where it has more than `num_frames` frames the fewest
            equal parts that have not (the last may be shorter); nothing overlaps.
        size: of the short side of the output in pixels.
        crop: "center" is the central square, "spread" `num_crops` squares along the long side, from end to end, "even"
            the same in equal steps of whole pixels (V-JEPA), "short_side" the whole frame, the long side in proportion.
        num_crops: for "spread" and "even": squares of every window.
        center_share: for "center": side of the square in shares of the short side; HiCo's test crop is 0.875.
        resize_to: for "center": the short side that frames are scaled to before the central square of `size` is cut
            out of them; None = the square is cut out first.
        stretch: for "center": the whole frame becomes the square, whatever its aspect.
        kernel: filter that scales, one of Pillow's.
        short_video: "repeat_last" fills a video too short for a window with its last frame, marked invalid; "error"
            refuses it.
        shuffle_frames: the frames of every window are shown in an order drawn at random, a function of the record's id
            and the number of the window; what is said of the window stays in the order of time.
    """

    num_frames: int = 16
    frame_stride: int = 4
    fps: float | None = None
    num_clips: int = 1
    sampling: Sampling = "constant"
    hop: int | None = None
    stride_sec: float | None = None
    per_frame: bool = False
    overlap: float = 0.5
    whole: bool = False
    size: int = 224
    crop: Literal["center", "spread", "even", "short_side"] = "center"
    num_crops: int = 1
    center_share: float = 1.0
    resize_to: int | None = None
    stretch: bool = False
    kernel: Kernel = "bilinear"
    short_video: Literal["repeat_last", "error"] = "repeat_last"
    shuffle_frames: bool = False

    def __post_init__(self) -> None:
        for name in ("num_frames", "frame_stride", "num_clips", "size", "num_crops"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1.")
        if self.hop is not None and (self.hop < 1 or self.num_clips != 1):
            raise ValueError(
                f"hop={self.hop} with num_clips={self.num_clips}: hop must be at least 1 frame, and as it covers the "
                "whole video, num_clips must stay 1."
            )
        if self.stride_sec is not None and not self.stride_sec > 0:
            raise ValueError(f"stride_sec={self.stride_sec} must be more than 0 seconds.")
        if not 0 <= self.overlap < 1:
            raise ValueError(f"overlap={self.overlap} must be at least 0 and below 1.")
        if self.whole and not self.per_frame:
            raise ValueError("whole=True is a way of per_frame: set per_frame=True too.")
        ways = {"hop": self.hop, "stride_sec": self.stride_sec, "per_frame": self.per_frame or None}
        given = [name for name, value in ways.items() if value is not None]
        if len(given) > 1:
            raise ValueError(
                f"{' and '.join(given)} are given together: each says on its own where windows lie. Keep one."
            )
        if given and self.sampling not in ("constant", "reference"):
            raise ValueError(
                f"sampling={self.sampling!r} goes with num_clips, not with {given[0]}: it has a fixed number of views."
            )
        if not 0 < self.center_share <= 1 or (self.center_share < 1 and self.crop != "center"):
            raise ValueError(
                f"center_share={self.center_share} must lie in (0, 1], and below 1 goes with crop='center' only."
            )
        if self.resize_to is not None and (self.stretch or self.resize_to < self.size):
            raise ValueError(
                f"resize_to={self.resize_to} must be at least size={self.size}, and does not go with stretch."
            )
        if self.shuffle_frames and self.per_frame:
            raise ValueError(
                "per_frame asks for the feature of every frame, but this encoder's clips are shuffled "
                "(shuffle_frames), so a feature belongs to no moment: use num_clips."
            )
        if self.num_crops > 1 and self.crop not in ("spread", "even"):
            raise ValueError(
                f"num_crops={self.num_crops} goes with crop='spread' or 'even', not crop={self.crop!r}."
            )
        if self.fps is not None and self.fps <= 0:
            raise ValueError(f"fps={self.fps} must be positive, or null to count frames.")


@dataclass(frozen=True, kw_only=True, eq=False)
class Window:
    """A window of a record as an encoder sees it: of T frames, of T samples of its sound, or of T words of a caption.

    Attributes:
        clips: what goes into the encoder: uint8 (num_crops, T, H, W, 3), sound float32 (1, T), words int64 (1, T).
        times: float64 (T,), seconds since the first frame of the record (of its segment, if it is one).
        valid: bool (T,), False for what fills up a short video.
        indices: int64 (T,), which frames of the record (of its segment, if it is one) these are, or are shown then.
        num_source: how many the record has.
        own: bool (T,), the frames that no other window shows nearer to its middle; None where nobody asked.
        span: of a caption, whose words have no times of their own (NaN): when it begins and ends, None where unknown.
        origin_sec: second of the source from which `times` count.
    """

    clips: NDArray[Any]
    times: NDArray[np.float64]
    valid: NDArray[np.bool_]
    indices: NDArray[np.int64]
    num_source: int
    own: NDArray[np.bool_] | None = None
    span: tuple[float | None, float | None] | None = None
    origin_sec: float = 0.0


def lay_out_windows(
    record: Record, reader: Reader, config: WindowConfig
) -> Layout | PartsLayout | FixedLayout:
    """Returns where the windows of a video lie, in temporal order; decodes no picture.

    Raises:
        BadVideo: the video is too short for a window and the settings say short_video="error".
    """
    times = reader.times(np.arange(reader.info.num_frames))
    rule = window_rule(
        config.sampling,
        num_clips=config.num_clips,
        num_frames=config.num_frames,
        frame_stride=config.frame_stride,
        fps=reader.info.fps,
        target_fps=config.fps,
    )
    if rule is not None:
        by_time = config.fps if config.sampling != "seconds" else None
        return FixedLayout(choose_clips(record, reader, rule, fps=by_time), times)
    grid = np.arange(len(times)) if config.fps is None else resample_grid(times, config.fps)
    stride = config.frame_stride
    if config.per_frame:
        grid, stride = grid[::stride], 1
        if config.whole:
            return PartsLayout(grid=grid, times=times, most=config.num_frames)
    shape = {"num_frames": config.num_frames, "frame_stride": stride}
    if config.short_video == "error":
        _refuse_short(record, len(grid), config, shape)
    last = max(len(grid) - clip_span(**shape), 0)
    if config.per_frame:
        starts = starts_by_hop(last, max(1, round(config.num_frames * (1 - config.overlap))))
    elif config.hop is not None:
        starts = starts_by_hop(last, config.hop)
    elif config.stride_sec is not None:
        starts = starts_by_time(last, config.stride_sec, _grid_times(times, grid, config.fps))
    else:
        clips = even_clips(
            len(grid),
            num_clips=config.num_clips,
            num_frames=config.num_frames,
            frame_stride=stride,
        )
        starts = np.array([clip.indices[0] for clip in clips], np.int64)
    return Layout(starts=starts, grid=grid, times=times, **shape)


def iterate_windows(
    record: Record, reader: Reader, config: WindowConfig, *, first: int = 0
) -> Iterator[Window]:
    """Yields the windows of a video in temporal order, from number `first` on.

    Every frame that some window shows is decoded and scaled once, in one pass over the file, however much windows
    overlap, and forgotten after the last window that needs it: memory does not grow with the length of the video.
    """
    layout = lay_out_windows(record, reader, config)
    if first >= len(layout):
        return
    scaled = _scaled_frames(reader, layout.needed(first), config)
    held: dict[int, Frames] = {}
    origin = origin_of(reader, record)
    for number in range(first, len(layout)):
        clip = layout.clip(number)
        wanted = clip.indices.tolist()
        low = layout.lowest(number)
        for index in [index for index in held if index < low]:
            del held[index]
        while max(wanted) not in held:
            index, frame = next(scaled)
            held[index] = frame
        assert clip.times is not None
        if config.shuffle_frames:
            wanted = _shuffled(wanted, record.id, number)
        yield Window(
            clips=_crops(np.stack([held[index] for index in wanted]), config),
            times=clip.times,
            valid=clip.valid,
            indices=clip.indices,
            num_source=len(layout.times),
            own=layout.own(number) & clip.valid
            if not isinstance(layout, FixedLayout) and config.per_frame
            else None,
            origin_sec=origin,
        )


class WindowPlan:
    """Makes the evenly spread windows of a record, for the pipeline: `num_clips` x `num_crops` views.

    The sample holds, with V = num_clips * num_crops, clips outermost: `video` uint8 (V, T, H, W, 3); `clip` int64 (V,);
    `valid` bool (V, T), False where a short video was filled up; and `times_sec` float64 (V, T), in seconds of the
    source.
    """

    def __init__(self, config: WindowConfig) -> None:
        if config.hop is not None or config.stride_sec is not None or config.per_frame:
            raise ValueError(
                f"hop={config.hop}, stride_sec={config.stride_sec}, per_frame={config.per_frame} give every video its "
                "own number of windows, which cannot be batched: use num_clips, or iterate_windows."
            )
        self.config = config

    def __call__(
        self, record: Record, reader: Reader, rng: np.random.Generator, progress: float
    ) -> dict[str, np.ndarray]:
        windows = list(iterate_windows(record, reader, self.config))
        each = [len(window.clips) for window in windows]
        times = np.stack([window.times + window.origin_sec for window in windows])
        return {
            "video": np.concatenate([window.clips for window in windows]),
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


def _shuffled(frames: list[int], record_id: str, number: int) -> list[int]:
    seed = (zlib.crc32(record_id.encode()), number)
    return [frames[i] for i in np.random.default_rng(seed).permutation(len(frames))]


def _refuse_short(
    record: Record, num_source: int, config: WindowConfig, shape: dict[str, int]
) -> None:
    try:
        constant_clip(num_source, 0, **shape, short_video="error", name=record.source)
    except TooShort as err:
        at_rate = "" if config.fps is None else f"at fps={config.fps:g} "
        raise too_short(record.source, f" {at_rate}for a clip: {err}") from err


def _grid_times(
    times: NDArray[np.float64], grid: NDArray[np.int64], fps: float | None
) -> NDArray[np.float64]:
    """When the steps of the grid are; at a rate, the instants themselves and not the frames nearest to them."""
    return times if fps is None else np.asarray(times[0] + np.arange(len(grid)) / fps)


def _scaled_frames(
    reader: Reader, wanted: NDArray[np.int64], config: WindowConfig
) -> Iterator[tuple[int, Frames]]:
    """Yields (index, frame at its final scale) for all wanted frames, decoded in one pass."""
    source = stream_frames(reader, wanted)
    while piece := list(itertools.islice(source, _PIECE)):
        frames = _scale(np.stack([frame for _, frame in piece]), config)
        yield from zip([index for index, _ in piece], frames, strict=True)


def _scale(frames: Frames, config: WindowConfig) -> Frames:
    """The frames at their final scale, before squares are cut out of them."""
    height, width = frames.shape[1:3]
    if config.crop != "center":
        size = short_side_size(height, width, config.size)
        return resize_frames(frames, size, config.kernel)
    if config.center_share < 1:  # asked by name, so it comes before the rule of the encoder
        region = inner_square(height, width, config.center_share)
    elif config.resize_to is not None:
        size = short_side_size(height, width, config.resize_to)
        scaled = resize_frames(frames, size, config.kernel)
        return crop_frames(scaled, center_region(*size, config.size))
    else:
        region = whole_region(height, width) if config.stretch else center_region(height, width)
    return resize_frames(crop_frames(frames, region), (config.size,) * 2, config.kernel)


def _crops(frames: Frames, config: WindowConfig) -> Frames:
    """(T, H, W, 3) -> (num_crops, T, H', W', 3)."""
    if config.crop not in ("spread", "even"):
        return frames[None]
    height, width = frames.shape[1:3]
    region_of = even_crop_region if config.crop == "even" else spread_crop_region
    regions = [
        region_of(height, width, size=config.size, crop=k, num_crops=config.num_crops)
        for k in range(config.num_crops)
    ]
    return np.stack([crop_frames(frames, region) for region in regions])
