"""Clips chosen in seconds: HiCo's rules for untrimmed videos, as pure functions of durations and uniforms.

Two steps, as in `sampling`: an interval in seconds is chosen, then the frames that show it.

    duration  |----------------------------------------------|   clip_sec = num_frames * frame_stride / 30
    centres          c0  c1                      c2              |c1 - c0| <= max_distance_sec, c2 anywhere
    intervals     [--c0--]
                     [--c1--]                 [--c2--]

Source: papers/hico.md sections 2.1 to 2.4 and 9 (arXiv:2204.03017, DOI 10.1109/TPAMI.2023.3273415).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from video_ssl.clips.sampling.one_clip import ClipIndices, Floats, Ints

#: Rate in which HiCo counts the frames of a clip, whatever the rate of the file.
TARGET_FPS = 30.0


def clip_seconds(num_frames: int, frame_stride: int, fps: float = TARGET_FPS) -> float:
    """Returns the length of a clip in seconds.

    >>> round(clip_seconds(16, 4), 4)
    2.1333
    """
    return num_frames * frame_stride / fps


def gradual_distance(progress: float, bounds: tuple[float, float]) -> float:
    """Returns the largest distance of the visual pair in seconds: it grows from bounds[0] to bounds[1] with progress.

    >>> gradual_distance(0.25, (0.0, 1.0))
    0.25
    """
    share = min(max(progress, 0.0), 1.0)
    return bounds[0] + (bounds[1] - bounds[0]) * share


def chained_intervals(
    duration_sec: float,
    uniforms: Sequence[float] | Floats,
    *,
    clip_sec: float,
    max_distance_sec: float | None,
    topical: bool,
) -> Floats:
    """Returns the intervals of HiCo's clips in seconds: float64 (S, 2).

    The first centre is uniform, each further one within `max_distance_sec` of the one before (None = anywhere).  With
    `topical` the last is thrown away and drawn anywhere.  Centres keep a whole `clip_sec` from both ends; a video
    shorter than twice that has all of them at `clip_sec` (its intervals may begin behind their end: such videos are
    for the table to leave out).

    Args:
        duration_sec: of the video.
        uniforms: in [0, 1), in order of use: S of them, S + 1 with `topical`.
        clip_sec: length of a clip.
        max_distance_sec: between centres of neighbours.
        topical: redraw the last centre.
    """
    low, high = clip_sec, duration_sec - clip_sec
    centres = [_between(low, high, float(uniforms[0]))]
    for uniform in uniforms[1 : len(uniforms) - topical]:
        centres.append(_near(centres[-1], max_distance_sec, low, high, float(uniform)))
    if topical:
        centres[-1] = _between(low, high, float(uniforms[-1]))
    return _intervals(centres, duration_sec, clip_sec)


def paired_intervals(
    duration_sec: float,
    uniforms: Sequence[float] | Floats,
    *,
    clip_sec: float,
    max_distance_sec: float,
    topic_distance_sec: float | None = None,
) -> Floats:
    """Returns the intervals of HiCo++'s clips in seconds: float64 (2M, 2), the two clips of a pair side by side.

    The first centre of a pair is anywhere (or within `topic_distance_sec` of the second centre of the pair before), the
    second within `max_distance_sec` of it.  `uniforms` are 2M numbers of [0, 1) in order of use.
    """
    low, high = clip_sec, duration_sec - clip_sec
    centres: list[float] = []
    for i, uniform in enumerate(uniforms):
        reach = max_distance_sec if i % 2 else topic_distance_sec
        previous = centres[-1] if centres else None
        centres.append(_near(previous, reach, low, high, float(uniform)))
    return _intervals(centres, duration_sec, clip_sec)


def _between(low: float, high: float, uniform: float) -> float:
    return low + (max(high, low) - low) * uniform


def _near(
    previous: float | None, distance: float | None, low: float, high: float, uniform: float
) -> float:
    if previous is None or distance is None:
        return _between(low, high, uniform)
    return _between(max(previous - distance, low), min(previous + distance, high), uniform)


def _intervals(centres: Sequence[float], duration_sec: float, clip_sec: float) -> Floats:
    middle = np.array(centres, np.float64)
    begin = np.maximum(middle - clip_sec / 2, 0.0)
    return np.stack([begin, np.minimum(middle + clip_sec / 2, duration_sec)], 1)


# Frames -----------------------------------------------------------------------------------------


def interval_clip(
    num_source: int, fps: float, interval: tuple[float, float], *, num_frames: int
) -> ClipIndices:
    """Returns `num_frames` frames spread evenly over an interval in seconds, both of its ends included.

    The spacing is `length / (num_frames - 1)`, cut to whole frames, so not constant.  The interval is cut at the end of
    the video; an empty one shows a single frame, whose repeats are not valid.
    """
    start = max(int(interval[0] * fps), 0)
    end = min(int(interval[1] * fps), num_source)
    points = np.minimum(linspace32(start, end, num_frames), np.float32(end - 1))
    indices = np.clip(np.floor(points).astype(np.int64), 0, num_source - 1)
    valid = np.full(num_frames, end > start)
    valid[0] = True
    return ClipIndices(indices=indices, valid=valid)


def seconds_clip(
    num_source: int,
    fps: float,
    uniform: float,
    *,
    num_frames: int,
    frame_stride: int,
    target_fps: float = TARGET_FPS,
) -> ClipIndices:
    """Returns a clip of `num_frames * frame_stride / target_fps` seconds at a uniform place: HiCo's fine-tuning rule.

    A video that is too short repeats its last frame; repeats are not valid.
    """
    length = num_frames * frame_stride * fps / target_fps
    return _seconds_at(max(num_source - length, 0.0) * uniform, length, num_source, num_frames)


def seconds_views(
    num_source: int,
    fps: float,
    *,
    num_clips: int,
    num_frames: int,
    frame_stride: int,
    target_fps: float = TARGET_FPS,
) -> list[ClipIndices]:
    """Returns the temporal test views of HiCo: clip c begins at c / num_clips of the room; one clip lies in the middle.

    The last clip never reaches the end of the video.
    """
    length = num_frames * frame_stride * fps / target_fps
    room = max(num_source - length, 0.0)
    starts = [room / 2] if num_clips == 1 else [room * c / num_clips for c in range(num_clips)]
    return [_seconds_at(start, length, num_source, num_frames) for start in starts]


def _seconds_at(start: float, length: float, num_source: int, num_frames: int) -> ClipIndices:
    points = linspace32(start, start + length - 1, num_frames)
    indices = np.floor(np.clip(points, 0, np.float32(num_source - 1))).astype(np.int64)
    valid = points < num_source
    valid[0] = True
    return ClipIndices(indices=indices, valid=valid)


def linspace32(start: float, end: float, steps: int) -> NDArray[np.float32]:
    """Returns `steps` numbers from start to end in float32, rounded as torch.linspace rounds them on a CPU.

    The reference floors such numbers to frame indices, so another rounding gives other frames.  Equal to the bit for
    frame numbers; numbers next to 0 (far below a thousandth) may differ in the last bit.
    """
    low, high = np.float32(start), np.float32(end)
    if steps == 1:
        return np.array([low], np.float32)
    step = np.float32((high - low) / np.float32(steps - 1))
    k = np.arange(steps)
    # Forward from the start, backward from the end, each in one fused step.
    forward = np.float64(low) + np.float64(step) * k
    backward = np.float64(high) - np.float64(step) * (steps - 1 - k)
    return np.where(k < steps // 2, forward, backward).astype(np.float32)


# Videos cut into files ---------------------------------------------------------------------------


def segment_clip(
    frames_per_segment: ArrayLike,
    fps: float,
    interval: tuple[float, float],
    *,
    num_frames: int,
    segment_sec: int = 5,
) -> tuple[Ints, Ints]:
    """Returns the file and the frame within it, for an interval of a video that lies in files of `segment_sec` seconds.

    Files from floor(start / segment_sec) to ceil(end / segment_sec) are joined, and `interval_clip` chooses among their
    frames; of one behind the last file the last frame is shown.  Both arrays are int64 (num_frames,), the first
    counts segments of the whole video.  Files of other lengths are for `interval_clip`: their errors add up here.
    """
    counts = np.asarray(frames_per_segment, np.int64)
    first = min(int(interval[0] // segment_sec), len(counts) - 1)
    last = min(max(math.ceil(interval[1] / segment_sec), first + 1), len(counts))
    joined = counts[first:last]
    begin = first * segment_sec
    inside = (interval[0] - begin, interval[1] - begin)
    chosen = interval_clip(int(joined.sum()), fps, inside, num_frames=num_frames).indices
    ends = np.cumsum(joined)
    place = np.searchsorted(ends, chosen, side="right")
    return first + place, chosen - (ends - joined)[place]
