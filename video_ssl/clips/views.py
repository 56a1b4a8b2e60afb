"""From a reader to the arrays of a sample: what the plans of the objectives share.

A plan reads: choose clips, decode each once, show one region of it at one or more sizes, draw masks.  All randomness
comes from the generator that the plan is given, in a fixed order, so a record and a seed make one sample.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from video_ssl.clips.config import ClipConfig, CropConfig, MaskConfig
from video_ssl.clips.crops import Frames, Region, sample_region, view_frames
from video_ssl.clips.masks import Grid, Mask, sample_mask
from video_ssl.clips.reading import BadVideo, Reader
from video_ssl.clips.sampling import (
    ClipIndices,
    Ints,
    TooShort,
    resample_grid,
    sample_constant_clips,
    sample_reference_clips,
)
from video_ssl.datasets.table import Record


def sample_clip_views(
    record: Record,
    reader: Reader,
    rng: np.random.Generator,
    *,
    clip: ClipConfig,
    crop: CropConfig,
    sizes: Sequence[int] = (),
) -> list[Frames]:
    """Returns the clips of a record, once per size: uint8 (V, T, size, size, 3), V = clip.num_clips.

    The frames of all clips are decoded in one go, each once.  A clip has one region; the sizes show the same region
    of the same frames.

    Args:
        record: names the video in errors.
        reader: of that video or segment.
        rng: draws frames first, then one region per clip.
        clip: which frames.
        crop: which region.
        sizes: of the outputs in pixels; empty = crop.size.

    Raises:
        BadVideo: unreadable, or too short under short_video="error".
    """
    clips = sample_clips(record, reader, rng, clip)
    wanted = tuple(sizes) or (crop.size,)
    frames, inverse = read_unique(reader, np.concatenate([chosen.indices for chosen in clips]))
    views = []
    for places in np.split(inverse, len(clips)):
        region = sample_region(frames.shape[1], frames.shape[2], crop, rng)
        views.append(view_clip(frames, places, region, wanted))
    return [np.stack(same_size) for same_size in zip(*views, strict=True)]


def sample_clips(
    record: Record, reader: Reader, rng: np.random.Generator, config: ClipConfig
) -> list[ClipIndices]:
    """Returns `config.num_clips` clips in temporal order, chosen by frame number, or by time where `fps` is set.

    Raises:
        BadVideo: the clip does not fit and the settings say short_video="error".
    """
    uniforms = rng.random(config.num_clips)
    shape = {"num_frames": config.num_frames, "frame_stride": config.frame_stride}

    def rule(num_source: int) -> list[ClipIndices]:
        if config.sampling == "reference":
            return sample_reference_clips(num_source, uniforms, **shape)
        return sample_constant_clips(
            num_source, uniforms, **shape, short_video=config.short_video, name=record.source
        )

    return choose_clips(record, reader, rule, fps=config.fps)


def choose_clips(
    record: Record,
    reader: Reader,
    rule: Callable[[int], list[ClipIndices]],
    *,
    fps: float | None = None,
) -> list[ClipIndices]:
    """Returns the clips that an index rule chooses from the frames of a reader.

    With `fps` the rule sees a video of that rate, and its choice is mapped to the frames nearest in time.

    Raises:
        BadVideo: the rule finds the video too short.
    """
    num_source = reader.info.num_frames
    grid = None if fps is None else resample_grid(reader.times(np.arange(num_source)), fps)
    try:
        clips = rule(num_source if grid is None else len(grid))
    except TooShort as err:
        at_rate = "" if fps is None else f"at fps={fps:g} "
        raise BadVideo(record.source, f"too short {at_rate}for a clip: {err}") from err
    if grid is None:
        return clips
    return [ClipIndices(indices=grid[clip.indices], valid=clip.valid) for clip in clips]


def view_clip(
    frames: Frames, places: NDArray[np.intp], region: Region, sizes: Sequence[int]
) -> list[Frames]:
    """Returns a region of the clip that `places` picks from `frames`, at every size: uint8 (T, size, size, 3) each."""
    unique, inverse = np.unique(places, return_inverse=True)
    return [view_frames(frames[unique], region, size)[inverse] for size in sizes]


def read_unique(reader: Reader, indices: Ints) -> tuple[Frames, NDArray[np.intp]]:
    """Returns the different frames among `indices`, in order, and where each index finds its frame.

    Frames that repeat (short videos, clips that overlap) are decoded, scaled and moved once.
    """
    unique, inverse = np.unique(indices, return_inverse=True)
    return reader.frames(unique), inverse


def sample_masks(config: MaskConfig, grid: Grid, num_views: int, rng: np.random.Generator) -> Mask:
    """Returns a mask per view, each drawn on its own: bool (V, L), True = hidden."""
    return np.stack([sample_mask(config, grid, rng) for _ in range(num_views)])
