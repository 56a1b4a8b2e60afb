"""Which frames of a video make a clip: every index rule of the suite, as pure functions of integers and uniforms.

A rule takes the number of source frames, its settings and, where it draws, uniforms in [0, 1); it
returns `ClipIndices`.  Nothing here reads a video, draws a random number or knows an objective, so
each rule can be compared with the numbers of its reference.  Rules named `reference_*` reproduce
published code with its peculiarities, stated in the docstring; the others keep the stride exact.

    frame      0 . . . 4 . . . 8 . . . 12            num_frames=4, frame_stride=4: the span is 13
    frames, sampled    x       x       x       x             from the first sampled frame to the
    last
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]
ShortVideo = Literal["repeat_last", "wrap", "error"]
SegmentRule = Literal["videomae", "mvd"]

SHORT_VIDEO: tuple[ShortVideo, ...] = ("repeat_last", "wrap", "error")
SEGMENT_RULES: tuple[SegmentRule, ...] = ("videomae", "mvd")


class TooShort(ValueError):
    """A clip does not fit into a video and the policy for short videos is "error"."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ClipIndices:
    """The frames of one clip.

    Attributes:
        indices: int64 (T,), zero-based source frames, never out of range.
        valid: bool (T,), False where a frame only fills up a video that is too short.
        times: float64 (T,), presentation times in seconds, when known.
    """

    indices: Ints
    valid: Bools
    times: Floats | None = None

    def __post_init__(self) -> None:
        assert self.indices.shape == self.valid.shape
        assert self.times is None or self.times.shape == self.indices.shape


def clip_span(num_frames: int, frame_stride: int) -> int:
    """Returns how many source frames a clip covers, from its first frame to its last, both included.

    >>> clip_span(16, 4)
    61
    """
    return (num_frames - 1) * frame_stride + 1


def uniform_int(uniform: float, low: int, high: int) -> int:
    """Returns the integer of [low, high) that a uniform of [0, 1) stands for; each is equally likely.

    >>> [uniform_int(u, 3, 5) for u in (0.0, 0.49, 0.5, 0.999)]
    [3, 3, 4, 4]
    """
    if not 0 <= uniform < 1:
        raise ValueError(f"uniform={uniform} must lie in [0, 1).")
    return min(low + int(uniform * (high - low)), high - 1)


# Constant stride ----------------------------------------------------------------------------------


def constant_clip(
    num_source: int,
    start: int,
    *,
    num_frames: int,
    frame_stride: int,
    short_video: ShortVideo = "repeat_last",
    name: str = "the video",
) -> ClipIndices:
    """Returns the clip `start, start + frame_stride, ...`: the spacing never drifts.

    Frames beyond the end are filled by the policy and marked invalid: "repeat_last" repeats the
    last frame that was reached, "wrap" starts again at the first of the clip, "error" raises.

    Args:
        num_source: frames of the video.
        start: the first frame, in [0, num_source).
        num_frames: frames of the clip.
        frame_stride: source frames between two sampled ones.
        short_video: what to do when the clip does not fit.
        name: of the video, for the text of errors.

    Raises:
        TooShort: the clip does not fit and the policy is "error".

    >>> constant_clip(10, 1, num_frames=4, frame_stride=4).indices.tolist()
    [1, 5, 9, 9]
    >>> constant_clip(10, 1, num_frames=4, frame_stride=4, short_video="wrap").indices.tolist()
    [1, 5, 9, 1]
    """
    _check_settings(num_source, num_frames, frame_stride, name)
    _check_choice("short_video", short_video, SHORT_VIDEO)
    if not 0 <= start < num_source:
        raise ValueError(f"start={start} must be one of the {num_source} frames of {name}.")
    reached = min(num_frames, (num_source - 1 - start) // frame_stride + 1)
    if reached < num_frames and short_video == "error":
        raise TooShort(_too_short(num_source, start, num_frames, frame_stride, name))
    steps = np.arange(num_frames)
    steps = steps % reached if short_video == "wrap" else np.minimum(steps, reached - 1)
    return ClipIndices(
        indices=start + steps.astype(np.int64) * frame_stride,
        valid=np.arange(num_frames) < reached,
    )


def sample_constant_clips(
    num_source: int,
    uniforms: Sequence[float] | Floats,
    *,
    num_frames: int,
    frame_stride: int,
    short_video: ShortVideo = "repeat_last",
    name: str = "the video",
) -> list[ClipIndices]:
    """Returns one clip of exact stride per uniform, in temporal order.

    The possible starts (every one whose clip fits, the last frame of the video included) are
    divided into as many equal parts as there are uniforms, and each uniform chooses in its part:
    one clip is uniform over the video, several spread over it.  In a video too short for a clip all
    start at 0 and `short_video` decides.
    """
    _check_settings(num_source, num_frames, frame_stride, name)
    starts = max(num_source - clip_span(num_frames, frame_stride) + 1, 1)
    num_clips = len(uniforms)
    chosen = []
    for i, uniform in enumerate(uniforms):
        low = i * starts // num_clips
        high = max((i + 1) * starts // num_clips, low + 1)
        chosen.append(uniform_int(float(uniform), low, high))
    return _clips_at(chosen, num_source, num_frames, frame_stride, short_video, name)


def even_clips(
    num_source: int,
    *,
    num_clips: int,
    num_frames: int,
    frame_stride: int,
    short_video: ShortVideo = "repeat_last",
    name: str = "the video",
) -> list[ClipIndices]:
    """Returns `num_clips` clips spread evenly from the start of the video to its end; one clip lies in the middle.

    Nothing is drawn: evaluation sees the same frames every time.  The first clip begins at frame 0
    and the last ends at the last frame; when fewer clips fit than requested, some are equal.

    >>> [c.indices.tolist() for c in even_clips(11, num_clips=3, num_frames=2, frame_stride=2)]
    [[0, 2], [4, 6], [8, 10]]
    """
    _check_settings(num_source, num_frames, frame_stride, name)
    if num_clips < 1:
        raise ValueError(f"num_clips={num_clips} must be at least 1.")
    room = max(num_source - clip_span(num_frames, frame_stride), 0)
    if num_clips == 1:
        starts = [room // 2]
    else:
        starts = [(2 * c * room + num_clips - 1) // (2 * (num_clips - 1)) for c in range(num_clips)]
    return _clips_at(starts, num_source, num_frames, frame_stride, short_video, name)


def dense_clips(
    num_source: int,
    *,
    hop: int,
    num_frames: int,
    frame_stride: int,
    short_video: ShortVideo = "repeat_last",
    name: str = "the video",
) -> list[ClipIndices]:
    """Returns clips that start every `hop` source frames and cover the whole video.

    The last clip is moved back so that it ends at the last frame of the video; a video too short
    for a clip gives one clip, filled up by `short_video`.

    >>> [c.indices[[0, -1]].tolist() for c in dense_clips(20, hop=4, num_frames=4, frame_stride=2)]
    [[0, 6], [4, 10], [8, 14], [12, 18], [13, 19]]
    """
    _check_settings(num_source, num_frames, frame_stride, name)
    if hop < 1:
        raise ValueError(f"hop={hop} must be at least 1 frame.")
    last = max(num_source - clip_span(num_frames, frame_stride), 0)
    starts = [*range(0, last, hop), last]
    return _clips_at(starts, num_source, num_frames, frame_stride, short_video, name)


def _clips_at(
    starts: Sequence[int],
    num_source: int,
    num_frames: int,
    frame_stride: int,
    short_video: ShortVideo,
    name: str,
) -> list[ClipIndices]:
    return [
        constant_clip(
            num_source,
            start,
            num_frames=num_frames,
            frame_stride=frame_stride,
            short_video=short_video,
            name=name,
        )
        for start in starts
    ]


def resample_grid(frame_times: ArrayLike, fps: float) -> Ints:
    """Returns, for the instants `first, first + 1/fps, ...`, the source frame nearest in time: int64 (M,).

    An index rule applied to a video of M frames and mapped through this grid chooses frames by
    time, so that clips of videos with different, or varying, frame rates last equally long.

    Args:
        frame_times: presentation times of all frames in seconds, increasing, (N,).
        fps: rate of the grid.

    >>> resample_grid([0.0, 0.1, 0.2, 0.3, 0.4], 5.0).tolist()
    [0, 2, 4]
    """
    times = np.asarray(frame_times, np.float64)
    if times.ndim != 1 or not times.size:
        raise ValueError(f"frame_times must be a non-empty vector, got shape {times.shape}.")
    if not fps > 0 or not math.isfinite(fps):
        raise ValueError(f"fps={fps} must be a positive number.")
    if not np.all(np.diff(times) >= 0):
        raise ValueError("frame_times must not decrease: give frames in presentation order.")
    # Times are rounded to the clock of the container, milliseconds at the coarsest: a tenth of a
    # step more must not lose the last instant.
    count = math.floor((times[-1] - times[0]) * fps + 0.1) + 1
    instants = times[0] + np.arange(count) / fps
    return np.searchsorted((times[1:] + times[:-1]) / 2, instants).astype(np.int64)


# Pre-training rule of VideoMAE and MVD ------------------------------------------------------------


def reference_start_bounds(
    num_source: int, *, num_frames: int, frame_stride: int, num_clips: int = 1
) -> list[tuple[int, int] | None]:
    """Returns per clip the bounds [low, high) of its uniform start, or None where the reference draws nothing.

    The reference counts `num_frames * frame_stride` source frames per clip, more than the clip
    touches: the last `frame_stride - 1` possible starts are never drawn.  With several clips (MVD,
    `num_sample`) each has its own part of the video; where that leaves no room, all are drawn from
    the whole and must be sorted.

    Source: papers/mvd.md section 2 (arXiv:2212.04500, arXiv:2203.12602).
    """
    available = num_source - num_frames * frame_stride + 1
    part = available // num_clips
    if part > 0:
        return [(i * part, (i + 1) * part) for i in range(num_clips)]
    if num_source > num_frames * frame_stride:
        return [(0, available)] * num_clips
    return [None] * num_clips


def reference_clip(
    num_source: int, start: int, *, num_frames: int, frame_stride: int
) -> ClipIndices:
    """Returns the clip from `start` as the pre-training data set of VideoMAE and MVD reads it.

    A video that ends early repeats the last frame that was reached.  The reference compares a
    one-based position strictly with the length, so it never reaches the last frame that would fit:
    5 frames with stride 4 give frame 0 only, 61 frames give 56 twice.  `valid` is False for
    repeats.
    """
    _check_settings(num_source, num_frames, frame_stride, "the video")
    indices = np.empty(num_frames, np.int64)
    valid = np.zeros(num_frames, bool)
    position, advanced = start + 1, True
    for k in range(num_frames):
        indices[k], valid[k] = position - 1, advanced
        advanced = position + frame_stride < num_source
        position += frame_stride if advanced else 0
    return ClipIndices(indices=indices, valid=valid)


def sample_reference_clips(
    num_source: int, uniforms: Sequence[float] | Floats, *, num_frames: int, frame_stride: int
) -> list[ClipIndices]:
    """Returns one clip per uniform by the pre-training rule of VideoMAE (one clip) and MVD (`num_sample` clips)."""
    _check_settings(num_source, num_frames, frame_stride, "the video")
    bounds = reference_start_bounds(
        num_source, num_frames=num_frames, frame_stride=frame_stride, num_clips=len(uniforms)
    )
    starts = [
        0 if bound is None else uniform_int(float(uniform), *bound)
        for uniform, bound in zip(uniforms, bounds, strict=True)
    ]
    return [
        reference_clip(num_source, start, num_frames=num_frames, frame_stride=frame_stride)
        for start in sorted(starts)
    ]


# Fine-tuning rules of VideoMAE and MVD ------------------------------------------------------------


def dense_end_bounds(
    num_source: int, *, num_frames: int, frame_stride: int
) -> tuple[int, int] | None:
    """Returns the bounds [low, high) of the end of a dense training clip; None when the video is too short to draw."""
    span = num_frames * frame_stride
    return (span, num_source) if num_source > span else None


def reference_dense_clip(
    num_source: int, uniform: float, *, num_frames: int, frame_stride: int
) -> ClipIndices:
    """Returns a dense fine-tuning clip (Kinetics, UCF, HMDB) as VideoMAE and MVD train and validate on it.

    Its true spacing is `frame_stride * num_frames / (num_frames - 1)`, cut to integers, so neither
    constant nor the stride of the test clips; the last frame of the video is never drawn.  Use
    `sample_constant_clips` where the published numbers are not the aim.  Frames that fill up a
    short video are not valid.
    """
    _check_settings(num_source, num_frames, frame_stride, "the video")
    bounds = dense_end_bounds(num_source, num_frames=num_frames, frame_stride=frame_stride)
    if bounds is None:
        # `num_source // frame_stride` points over the whole video, then the end again and again.
        reached = min(num_source // frame_stride, num_frames)
        points = np.full(num_frames, float(num_source))
        points[:reached] = np.linspace(0, num_source, num_source // frame_stride)[:reached]
        first, end = 0, num_source
    else:
        reached = num_frames
        end = uniform_int(uniform, *bounds)
        first = end - num_frames * frame_stride
        points = np.linspace(first, end, num_frames)
    return ClipIndices(
        indices=np.clip(points, first, end - 1).astype(np.int64),
        valid=np.arange(num_frames) < max(reached, 1),
    )


def segment_bounds(num_source: int, *, num_frames: int, rule: SegmentRule) -> Ints:
    """Returns int64 (num_frames, 2): each frame of a segment clip is drawn from its own [low, high).

    "videomae" cuts the video into `num_frames` parts of equal whole length, never sees the remainder at the end, and
    gives only frame 0 for a video shorter than that.  "mvd" cuts at rounded (half to even)
    fractions, both ends of a part included, and reaches the last frame.  Both are used for
    Something-Something.
    """
    _check_settings(num_source, num_frames, 1, "the video")
    _check_choice("rule", rule, SEGMENT_RULES)
    k = np.arange(num_frames)
    if rule == "videomae":
        length = num_source // num_frames
        low = k * length
        high = low + max(length, 1)
    else:
        tick = (num_source - 1) / num_frames
        low = np.round(tick * k)
        high = np.round(tick * (k + 1)) + 1
    return np.stack([low, high], 1).astype(np.int64)


def sample_segment_clip(
    num_source: int, uniforms: Sequence[float] | Floats, *, rule: SegmentRule = "mvd"
) -> ClipIndices:
    """Returns a clip with one frame per part of the video (temporal segments), one uniform per frame."""
    bounds = segment_bounds(num_source, num_frames=len(uniforms), rule=rule)
    indices = [
        uniform_int(float(u), int(a), int(b)) for u, (a, b) in zip(uniforms, bounds, strict=True)
    ]
    return ClipIndices(indices=np.array(indices, np.int64), valid=np.ones(len(indices), bool))


# Test views of VideoMAE and MVD -------------------------------------------------------------------


def reference_dense_views(
    num_source: int, *, num_clips: int, num_frames: int, frame_stride: int
) -> list[ClipIndices]:
    """Returns the temporal test views of VideoMAE and MVD on Kinetics, UCF and HMDB (5 clips of 16x4).

    Every `frame_stride`-th frame of the video, filled up with the last of them, is a list; the
    clips are windows of it. One clip lies in the middle (the reference cannot make one).
    """
    _check_settings(num_source, num_frames, frame_stride, "the video")
    frames = np.arange(0, num_source, frame_stride, dtype=np.int64)
    reached = len(frames)
    frames = np.concatenate([frames, np.repeat(frames[-1:], max(num_frames - reached, 0))])
    room = len(frames) - num_frames
    if num_clips == 1:
        starts = [room // 2]
    else:
        starts = [int(clip * (room / (num_clips - 1))) for clip in range(num_clips)]
    positions = [start + np.arange(num_frames) for start in starts]
    return [ClipIndices(indices=frames[p], valid=p < reached) for p in positions]


def segment_views(
    num_source: int, *, num_frames: int, rule: SegmentRule = "mvd", num_clips: int = 2
) -> list[ClipIndices]:
    """Returns the temporal test views on Something-Something: `num_clips` interleaved clips of one frame per segment.

    The reference supports two views only; "videomae" takes the starts and the middles of the
    segments, "mvd" the middles of their halves.  Both are sorted before they are dealt out to the
    views.

    Source: papers/videomae.md section 6.
    """
    _check_settings(num_source, num_frames, 1, "the video")
    _check_choice("rule", rule, SEGMENT_RULES)
    k = np.arange(num_frames)[:, None]
    c = np.arange(num_clips)
    if rule == "videomae":
        tick = num_source / num_frames
        merged = np.sort((tick / num_clips * c + tick * k).astype(np.int64), axis=None)
    else:
        tick = (num_source - 1) / num_frames
        part = tick / num_clips
        low, high = np.round(tick * k + part * c), np.round(tick * k + part * (c + 1))
        merged = ((low + high) // 2).astype(np.int64).reshape(-1)
    valid = np.ones(num_frames, bool)
    return [ClipIndices(indices=merged[view::num_clips], valid=valid) for view in range(num_clips)]


# Clips that begin again where a video ends: mmaction's rule, BEVT and Video Swin ------------------


def looped_clip(
    num_source: int, uniform: float, *, num_frames: int, frame_stride: int
) -> ClipIndices:
    """Returns a clip of exact stride at a uniform place; a short video begins again.

    A clip counts as num_frames * frame_stride frames long, so the last ones of a video are rarely shown.  Repeats are
    not valid.  Source: papers/bevt.md section 2 (mmaction's `SampleFrames`).
    """
    _check_settings(num_source, num_frames, frame_stride, "the video")
    room = max(num_source - num_frames * frame_stride, 0)
    start = uniform_int(uniform, 0, room + 1)
    return _looped_at(start, num_source, num_frames, frame_stride)


def looped_views(
    num_source: int, *, num_clips: int, num_frames: int, frame_stride: int
) -> list[ClipIndices]:
    """Returns the temporal test views that go with `looped_clip`: in the middles of equal parts of the room."""
    _check_settings(num_source, num_frames, frame_stride, "the video")
    starts = max(num_source - num_frames * frame_stride + 1, 0)
    return [
        _looped_at(int((view + 0.5) * starts / num_clips), num_source, num_frames, frame_stride)
        for view in range(num_clips)
    ]


def _looped_at(start: int, num_source: int, num_frames: int, frame_stride: int) -> ClipIndices:
    places = start + frame_stride * np.arange(num_frames, dtype=np.int64)
    return ClipIndices(indices=places % num_source, valid=places < num_source)


# Checks -------------------------------------------------------------------------------------------


def _check_settings(num_source: int, num_frames: int, frame_stride: int, name: str) -> None:
    if num_source < 1:
        raise ValueError(f"{name} has {num_source} frames: at least one is needed.")
    if num_frames < 1 or frame_stride < 1:
        raise ValueError(
            f"num_frames={num_frames} and frame_stride={frame_stride} must both be at least 1."
        )


def _check_choice(setting: str, value: object, allowed: Sequence[object]) -> None:
    if value not in allowed:
        raise ValueError(f"{setting}={value!r} must be one of {list(allowed)}.")


def _too_short(num_source: int, start: int, num_frames: int, frame_stride: int, name: str) -> str:
    begin = f" from frame {start}" if start else ""
    return (
        f"num_frames={num_frames} with frame_stride={frame_stride} needs "
        f"{clip_span(num_frames, frame_stride)} frames{begin}, but {name} has {num_source}. "
        'Use short_video="repeat_last", a smaller frame_stride, or run "video-ssl scan".'
    )
