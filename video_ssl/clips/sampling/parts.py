"""Clips that each lie in a part of the video of their own: the rule of V-JEPA's attentive probes.

The video has `num_clips` parts of n // num_clips frames.  A clip counts as L = num_frames * frame_stride frames long,
and its frames are spread over all of them, so that they are L / (num_frames - 1) apart (4.27 for 16 x 4), cut to
integers.  Where a part is not longer than L, nothing is drawn: clips overlap, and one that is longer than the video
repeats its last frame but one.

Source: papers/frozen_protocols.md section 1 (arXiv:2404.08471).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from video_ssl.clips.sampling.one_clip import ClipIndices, Floats, uniform_int


def part_clips(
    num_source: int,
    uniforms: Sequence[float] | Floats | None,
    *,
    num_clips: int,
    num_frames: int,
    frame_stride: int,
) -> list[ClipIndices]:
    """Returns `num_clips` clips in temporal order, each from its own part.

    Args:
        num_source: frames of the video.
        uniforms: where in its part each clip ends, in [0, 1); None = in the middle of what is possible, for tests (the
            reference draws in tests too).
        num_clips: parts.
        num_frames, frame_stride: of a clip.

    >>> [clip.indices.tolist() for clip in part_clips(40, None, num_clips=2, num_frames=4, frame_stride=3)]
    [[3, 7, 11, 14], [23, 27, 31, 34]]
    """
    if min(num_source, num_clips, num_frames, frame_stride) < 1:
        raise ValueError(
            f"num_source={num_source}, num_clips={num_clips}, num_frames={num_frames} and frame_stride={frame_stride} "
            "must be at least 1."
        )
    span, part = num_frames * frame_stride, num_source // num_clips
    if part <= span:
        return _overlapping(num_source, num_clips, num_frames, frame_stride)
    clips = []
    for i in range(num_clips):
        middle = (span + part - 1) // 2
        end = middle if uniforms is None else uniform_int(float(uniforms[i]), span, part)
        spread = np.linspace(end - span, end, num_frames).clip(end - span, end - 1)
        indices = spread.astype(np.int64) + i * part
        clips.append(ClipIndices(indices=indices, valid=np.ones(num_frames, bool)))
    return clips


def _overlapping(
    num_source: int, num_clips: int, num_frames: int, frame_stride: int
) -> list[ClipIndices]:
    """Clips of a video whose parts are too short for them: nothing is drawn."""
    span = num_frames * frame_stride
    shown = min(span, num_source) - 1
    count = shown // frame_stride
    spread = np.concatenate([np.linspace(0, shown, count), np.full(num_frames - count, shown)])
    indices = spread.clip(0, max(shown - 1, 0)).astype(np.int64)
    hop = (num_source - span) // (num_clips - 1) if num_source > span and num_clips > 1 else 0
    valid = np.arange(num_frames) < max(count, 1)
    return [ClipIndices(indices=indices + i * hop, valid=valid) for i in range(num_clips)]
