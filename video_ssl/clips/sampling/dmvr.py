"""Index rules of DMVR, the reader of VATT's reference: clips loop, and other modalities follow them in shares.

Pure functions as in `one_clip`.  A start is uniform over all that fit; a clip of a short video goes on at its
beginning.  What begins together with a clip (its sound) begins at the same share of its own length.

Source: papers/vatt.md section 2.
"""

from __future__ import annotations

import numpy as np

from video_ssl.clips.sampling.one_clip import ClipIndices, clip_span, uniform_int
from video_ssl.clips.sampling.two_clips import looped_clip


def number_of_starts(length: int, *, num_frames: int, frame_stride: int) -> int:
    """Returns how many starts a training draws from, 0 .. n - 1: all whose clip fits, at least one.

    >>> number_of_starts(100, num_frames=32, frame_stride=2)
    38
    """
    return max(length - clip_span(num_frames, frame_stride) + 1, 1)


def dmvr_clip(length: int, uniform: float, *, num_frames: int, frame_stride: int) -> ClipIndices:
    """Returns a training clip of exact stride; in a video too short for it, it starts at 0 and loops.

    >>> dmvr_clip(5, 0.9, num_frames=8, frame_stride=3).indices.tolist()
    [0, 3, 1, 4, 2, 0, 3, 1]
    """
    shape = {"num_frames": num_frames, "frame_stride": frame_stride}
    start = uniform_int(uniform, 0, number_of_starts(length, **shape))
    return looped_clip(length, start, **shape)


def dmvr_views(
    length: int, *, num_clips: int, num_frames: int, frame_stride: int
) -> list[ClipIndices]:
    """Returns the clips of a test: one in the middle, or several at int(linspace(0, room, num_clips)).

    A clip counts as num_frames * frame_stride frames long there.

    >>> [int(clip.indices[0]) for clip in dmvr_views(100, num_clips=2, num_frames=32, frame_stride=2)]
    [0, 36]
    """
    room = max(length - num_frames * frame_stride, 0)
    starts = [room // 2] if num_clips == 1 else np.linspace(0, room, num_clips).astype(int).tolist()
    return [
        looped_clip(length, start, num_frames=num_frames, frame_stride=frame_stride)
        for start in starts
    ]


def offset_in_step(share: float, length: int) -> int:
    """Returns where something of `length` begins that is in step with a clip: round(share * length), halves to even.

    Args:
        share: where the clip begins, in shares of its own modality, 0 <= share < 1.
        length: samples of the sound, for example.

    >>> offset_in_step(0.37, 250)
    92
    """
    return round(share * length)
