"""Index rules of CVRL, TeG and ConST-CL: pairs of clips of one video, and their clips for evaluation.

Pure functions as in `sampling`.  Clips that reach beyond the end of a video go on at its beginning (they loop); such
frames are not valid.  Where two clips are compared in time, unwrapped times are meant.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from video_ssl.clips.sampling.one_clip import ClipIndices, Floats, clip_span


def looped_clip(num_source: int, start: int, *, num_frames: int, frame_stride: int) -> ClipIndices:
    """Returns the clip `start, start + frame_stride, ...`, each modulo the length of the video.

    >>> looped_clip(10, 4, num_frames=4, frame_stride=3).indices.tolist()
    [4, 7, 0, 3]
    """
    _check(num_source, num_frames, frame_stride)
    if start < 0:
        raise ValueError(f"start={start} must not be negative.")
    frames = start + frame_stride * np.arange(num_frames, dtype=np.int64)
    return ClipIndices(indices=frames % num_source, valid=frames < num_source)


# Training ------------------------------------------------------------------------------------------


def decreasing_distance(room: int, uniform: float) -> int:
    """Returns a time distance in 0 .. room - 1 whose density falls linearly to 0 at `room` (CVRL's, power 1).

        delta = floor(room * (1 - sqrt(1 - u)))

    The reference finds it by bisection, with the same result.  Source: papers/cvrl.md section 2.1.
    """
    _check_uniform(uniform)
    return min(math.floor(room * (1 - math.sqrt(1 - uniform))), room - 1)


def decreasing_pair(
    num_source: int, uniforms: ArrayLike, *, num_frames: int, frame_stride: int
) -> tuple[ClipIndices, ClipIndices]:
    """Returns CVRL's two clips of a video: near ones are likelier than far ones, in either order.

    In a video too short for a clip both starts are drawn independently, and the clips loop.

    Args:
        num_source: frames of the video, L.
        uniforms: four in [0, 1): distance, first start, second start (of short videos), exchange (below 0.5: yes).
        num_frames, frame_stride: of both clips.

    Source: papers/cvrl.md section 2.1 (arXiv:2008.03800).
    """
    _check(num_source, num_frames, frame_stride)
    u, r1, r2, exchange = (float(x) for x in np.asarray(uniforms, np.float64))
    for value in (u, r1, r2, exchange):
        _check_uniform(value)
    room = num_source - (num_frames - 1) * frame_stride
    if room > 0:
        delta = decreasing_distance(room, u)
        first = int(r1 * (room - delta))
        starts = [first, first + delta]
    else:
        starts = [int(r1 * num_source), int(r2 * num_source)]
    if exchange < 0.5:
        starts.reverse()
    one, two = (
        looped_clip(num_source, start, num_frames=num_frames, frame_stride=frame_stride)
        for start in starts
    )
    return one, two


@dataclass(frozen=True, kw_only=True, eq=False)
class NestedPair:
    """A long clip and a short one inside it.

    Attributes:
        long, short: the clips.
        long_start, short_start: their first frames, unwrapped.
    """

    long: ClipIndices
    short: ClipIndices
    long_start: int
    short_start: int


def nested_pair(
    num_source: int,
    uniforms: ArrayLike,
    *,
    long_frames: int,
    long_stride: int,
    short_frames: int,
    short_stride: int,
) -> NestedPair:
    """Returns TeG's clips: the short one never leaves the long one; a short video loops, both by unwrapped times.

        start_long  = floor(u1 * (L - span_long + 1)) if L >= span_long else 0
        start_short = start_long + floor(u2 * (span_long - span_short + 1))

    Args:
        num_source: frames of the video, L.
        uniforms: u1, u2 in [0, 1).
        long_frames, long_stride, short_frames, short_stride: of the clips.

    Raises:
        ValueError: the short clip covers more than the long one.

    Source: papers/teg.md section 2.  That the short clip lies inside the long one is the paper's; the uniform starts
    and the looping are our specification, as its text was not available.
    """
    _check(num_source, long_frames, long_stride)
    _check(num_source, short_frames, short_stride)
    long_span, short_span = (
        clip_span(long_frames, long_stride),
        clip_span(short_frames, short_stride),
    )
    if short_span > long_span:
        raise ValueError(
            f"the short clip ({short_frames} frames, stride {short_stride}) covers {short_span} source frames, the "
            f"long one ({long_frames}, stride {long_stride}) only {long_span}: it must lie inside. Lower its stride or "
            "its frames."
        )
    u1, u2 = (float(x) for x in np.asarray(uniforms, np.float64))
    for value in (u1, u2):
        _check_uniform(value)
    long_start = int(u1 * max(num_source - long_span + 1, 1))
    short_start = long_start + int(u2 * (long_span - short_span + 1))
    return NestedPair(
        long=looped_clip(num_source, long_start, num_frames=long_frames, frame_stride=long_stride),
        short=looped_clip(
            num_source, short_start, num_frames=short_frames, frame_stride=short_stride
        ),
        long_start=long_start,
        short_start=short_start,
    )


# Times of features ---------------------------------------------------------------------------------


def dense_feature_times(
    start: float, *, num_frames: int, frame_stride: int, num_positions: int
) -> Floats:
    """Returns tau, float64 (num_positions,): the mean time of the frames behind each dense feature, in source frames.

        tau(i) = start + ((i + 0.5) * k - 0.5) * frame_stride,   k = num_frames / num_positions

    >>> dense_feature_times(10, num_frames=16, frame_stride=2, num_positions=8).tolist()
    [11.0, 15.0, 19.0, 23.0, 27.0, 31.0, 35.0, 39.0]

    Source: papers/teg.md section 4.1 (our specification).
    """
    each = num_frames / num_positions
    places = np.arange(num_positions, dtype=np.float64)
    return start + ((places + 0.5) * each - 0.5) * frame_stride


def correspondence(
    times: NDArray[np.float64],
    *,
    start: float,
    num_frames: int,
    frame_stride: int,
    num_positions: int,
) -> Floats:
    """Returns where times fall among the dense features of a clip: float64, fractional positions.

    The inverse of `dense_feature_times`, cut to [0, num_positions - 1].

    >>> short = dense_feature_times(10, num_frames=16, frame_stride=2, num_positions=8)
    >>> correspondence(short, start=0, num_frames=16, frame_stride=4, num_positions=8).tolist()
    [1.125, 1.625, 2.125, 2.625, 3.125, 3.625, 4.125, 4.625]
    """
    each = num_frames / num_positions
    position = ((times - start) / frame_stride + 0.5) / each - 0.5
    return np.clip(position, 0.0, num_positions - 1.0)


def nested_correspondence(
    long_start: int,
    short_start: int,
    *,
    long_frames: int,
    long_stride: int,
    short_frames: int,
    short_stride: int,
    long_positions: int,
    short_positions: int,
) -> Floats:
    """Returns p, float64 (short_positions,): the position in the long clip of every dense feature of the short one."""
    times = dense_feature_times(
        short_start,
        num_frames=short_frames,
        frame_stride=short_stride,
        num_positions=short_positions,
    )
    return correspondence(
        times,
        start=long_start,
        num_frames=long_frames,
        frame_stride=long_stride,
        num_positions=long_positions,
    )


# Evaluation ----------------------------------------------------------------------------------------


def random_looped_clip(
    num_source: int, uniform: float, *, num_frames: int, frame_stride: int
) -> ClipIndices:
    """Returns CVRL's clip for training a linear probe: one uniform start among those whose clip fits (all, if none)."""
    _check(num_source, num_frames, frame_stride)
    _check_uniform(uniform)
    room = num_source - (num_frames - 1) * frame_stride
    start = int(uniform * (room if room > 0 else num_source))
    return looped_clip(num_source, start, num_frames=num_frames, frame_stride=frame_stride)


def linspace_clips(
    num_source: int, *, num_clips: int, num_frames: int, frame_stride: int
) -> list[ClipIndices]:
    """Returns CVRL's test clips: starts trunc(linspace(0, max(0, L - num_frames * frame_stride), num_clips)), looped.

    The last clip ends `frame_stride - 1` frames before the end of the video, as in the reference.
    """
    _check(num_source, num_frames, frame_stride)
    room = max(0, num_source - num_frames * frame_stride)
    starts = np.linspace(0, room, num_clips).astype(np.int64)
    return [
        looped_clip(num_source, int(s), num_frames=num_frames, frame_stride=frame_stride)
        for s in starts
    ]


def middle_looped_clip(num_source: int, *, num_frames: int, frame_stride: int) -> ClipIndices:
    """Returns the reference's clip in the middle of a video: start (L - num_frames * frame_stride) // 2, looped."""
    _check(num_source, num_frames, frame_stride)
    start = max(0, num_source - num_frames * frame_stride) // 2
    return looped_clip(num_source, start, num_frames=num_frames, frame_stride=frame_stride)


def keyframe_clip(
    num_source: int, keyframe: int, *, num_frames: int, frame_stride: int
) -> ClipIndices:
    """Returns the clip around a frame (AVA); the first and the last frame of the video are repeated beyond its ends.

    Frame i of it is keyframe - num_frames * frame_stride // 2 + frame_stride * i.
    Source: papers/const_cl.md section 6.1.
    """
    _check(num_source, num_frames, frame_stride)
    if not 0 <= keyframe < num_source:
        raise ValueError(f"keyframe={keyframe} must be one of the {num_source} frames.")
    start = keyframe - num_frames * frame_stride // 2
    frames = start + frame_stride * np.arange(num_frames, dtype=np.int64)
    return ClipIndices(
        indices=np.clip(frames, 0, num_source - 1), valid=(frames >= 0) & (frames < num_source)
    )


def _check(num_source: int, num_frames: int, frame_stride: int) -> None:
    if num_source < 1 or num_frames < 1 or frame_stride < 1:
        raise ValueError(
            f"a video of {num_source} frames, num_frames={num_frames} and frame_stride={frame_stride}: all must be at "
            "least 1."
        )


def _check_uniform(uniform: float) -> None:
    if not 0 <= uniform < 1:
        raise ValueError(f"uniform={uniform} must lie in [0, 1).")
