"""Which index rule a `sampling:` setting means, for training clips and for the windows of an evaluation.

The rules themselves are pure functions in the files beside this one; docs/sampling.md compares them.
"""

from __future__ import annotations

from collections.abc import Callable

from video_ssl.clips.config import ClipConfig, Sampling
from video_ssl.clips.sampling.dmvr import dmvr_clip, dmvr_views
from video_ssl.clips.sampling.one_clip import (
    ClipIndices,
    Floats,
    SegmentRule,
    looped_clip,
    looped_views,
    reference_dense_clip,
    reference_dense_views,
    sample_constant_clips,
    sample_reference_clips,
    sample_segment_clip,
    segment_views,
)
from video_ssl.clips.sampling.parts import part_clips
from video_ssl.clips.sampling.seconds import TARGET_FPS, seconds_clip, seconds_views

#: From the number of source frames to clips.
Rule = Callable[[int], list[ClipIndices]]

SEGMENTS: dict[Sampling, SegmentRule] = {"segments": "mvd", "segments_videomae": "videomae"}


def uniforms_per_clip(config: ClipConfig) -> int:
    """Returns how many uniforms `training_rule` needs for each clip."""
    return config.num_frames if config.sampling in SEGMENTS else 1


def training_rule(config: ClipConfig, uniforms: Floats, *, fps: float, name: str) -> Rule:
    """Returns the rule that makes one clip for each row of `uniforms` (num_clips, `uniforms_per_clip`).

    Args:
        config: its `sampling` names the rule.
        uniforms: in [0, 1).
        fps: mean rate of the source, for "seconds".
        name: of the video, for errors.
    """
    shape = {"num_frames": config.num_frames, "frame_stride": config.frame_stride}
    first = uniforms[:, 0]
    if config.sampling in SEGMENTS:
        segments = SEGMENTS[config.sampling]
        return lambda n: [sample_segment_clip(n, row, rule=segments) for row in uniforms]
    if config.sampling == "looped":
        return lambda n: [looped_clip(n, u, **shape) for u in first]
    if config.sampling == "dmvr":
        return lambda n: [dmvr_clip(n, u, **shape) for u in first]
    if config.sampling == "parts":
        return lambda n: part_clips(n, first, num_clips=len(first), **shape)
    if config.sampling == "dense":
        return lambda n: [reference_dense_clip(n, u, **shape) for u in first]
    if config.sampling == "seconds":
        target = config.fps or TARGET_FPS
        return lambda n: [seconds_clip(n, fps, u, **shape, target_fps=target) for u in first]
    if config.sampling == "reference":
        return lambda n: sample_reference_clips(n, first, **shape)
    return lambda n: sample_constant_clips(
        n, first, **shape, short_video=config.short_video, name=name
    )


def window_rule(
    sampling: Sampling,
    *,
    num_clips: int,
    num_frames: int,
    frame_stride: int,
    fps: float,
    target_fps: float | None = None,
) -> Rule | None:
    """Returns the rule of the temporal test views that go with a training `sampling`; nothing is random in it.

    None for "constant" and "reference", whose views are the evenly spread clips of exact stride.

    Args:
        sampling: of the training.
        num_clips: views.
        num_frames, frame_stride: of a clip.
        fps: mean rate of the source.
        target_fps: rate that "seconds" counts in, by default 30.
    """
    shape = {"num_frames": num_frames, "frame_stride": frame_stride}
    if sampling in SEGMENTS:
        rule = SEGMENTS[sampling]
        return lambda n: segment_views(n, num_frames=num_frames, rule=rule, num_clips=num_clips)
    if sampling == "looped":
        return lambda n: looped_views(n, num_clips=num_clips, **shape)
    if sampling == "dmvr":
        return lambda n: dmvr_views(n, num_clips=num_clips, **shape)
    if sampling == "parts":
        return lambda n: part_clips(n, None, num_clips=num_clips, **shape)
    if sampling == "dense":
        return lambda n: reference_dense_views(n, num_clips=num_clips, **shape)
    if sampling == "seconds":
        rate = target_fps or TARGET_FPS
        return lambda n: seconds_views(n, fps, num_clips=num_clips, **shape, target_fps=rate)
    return None
