"""From a reader to the arrays of a sample: what the plans of the objectives share.

A plan reads: choose clips, decode each once, show one region of it at one or more sizes, draw masks.  All randomness
comes from the generator that the plan is given, in a fixed order, so a record and a seed make one sample.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from video_ssl.clips.config import ClipConfig, CropConfig, MaskConfig
from video_ssl.clips.crops import Frames, Region, ViewRequest, sample_region, view_frames
from video_ssl.clips.decoders.reader import Reader
from video_ssl.clips.masks import Grid, Mask, sample_mask
from video_ssl.clips.rand_augment import (
    Change,
    RandAugmentConfig,
    apply_changes,
    sample_changes,
)
from video_ssl.clips.sampling.clip_rules import Rule, training_rule, uniforms_per_clip
from video_ssl.clips.sampling.one_clip import (
    ClipIndices,
    Ints,
    TooShort,
    resample_grid,
)
from video_ssl.clips.too_short import too_short
from video_ssl.datasets.table import Record


def sample_clip_views(
    record: Record,
    reader: Reader,
    rng: np.random.Generator,
    *,
    clip: ClipConfig,
    crop: CropConfig,
    sizes: Sequence[int] = (),
    augment: RandAugmentConfig | None = None,
) -> list[Frames]:
    """Returns the views of a record, once per size: uint8 (V, T, size, size, 3), V = clip.num_views, clips outermost.

    The frames of all clips are decoded in one go, each once.  Each view of a clip has its own region, mirrored only
    where the table of the record allows it; the sizes show the same region of the same frames.

    Args:
        record: names the video in errors.
        reader: of that video or segment.
        rng: draws frames first, then one region per view, then its changes, then with `clip.shuffle_frames` one order
            per view.
        clip: which frames.
        crop: which region.
        sizes: of the outputs in pixels; empty = crop.size.
        augment: what happens to the whole frames of a view before the crop; None = nothing.

    Raises:
        BadVideo: unreadable, or too short under short_video="error".
    """
    chosen = [found.indices for found in sample_clips(record, reader, rng, clip)]
    return views_of_clips(
        record, reader, rng, chosen, clip=clip, crop=crop, sizes=sizes, augment=augment
    )


def views_of_clips(
    record: Record,
    reader: Reader,
    rng: np.random.Generator,
    clips: Sequence[Ints],
    *,
    clip: ClipConfig,
    crop: CropConfig,
    sizes: Sequence[int] = (),
    augment: RandAugmentConfig | None = None,
) -> list[Frames]:
    """Returns `sample_clip_views` of frames that are chosen already, int64 (clip.num_frames,) of every clip."""
    info = reader.info
    shown = [indices for indices in clips for _ in range(clip.views_per_clip)]
    may_flip = not record.no_flip
    regions = [sample_region(info.height, info.width, crop, rng, may_flip=may_flip) for _ in shown]
    changes = [() if augment is None else sample_changes(augment, rng) for _ in shown]
    views, requests = [], []
    for side in tuple(sizes) or (crop.size,):
        views.append(np.empty((len(shown), clip.num_frames, side, side, 3), np.uint8))
        requests += [
            ViewRequest(indices=indices, region=region, out=out, changes=change)
            for indices, region, out, change in zip(shown, regions, views[-1], changes, strict=True)
        ]
    read_views(reader, requests, resize=crop.resize)
    if clip.shuffle_frames:
        orders = [rng.permutation(clip.num_frames) for _ in shown]
        for view in views:
            view[:] = np.stack([frames[order] for frames, order in zip(view, orders, strict=True)])
    return views


def read_views(
    reader: Reader,
    requests: Sequence[ViewRequest],
    *,
    resize: Literal["decoder", "pillow", "tensorflow"] = "decoder",
) -> None:
    """Fills the requested views; every frame is decoded once, however many of them show it.

    Args:
        reader: of the video or segment.
        requests: what to show, and where to put it.
        resize: "decoder" leaves crop, scaling and conversion to the reader, in one pass over the pixels of the region,
            where it can (`views`); "pillow" and "tensorflow" convert whole frames and scale them as the references do,
            and so does "decoder" (as "pillow") where a request changes whole frames.
    """
    fill = getattr(reader, "views", None)
    if resize == "decoder" and fill is not None and not any(r.changes for r in requests):
        fill(requests)
        return
    ends = np.cumsum([len(request.indices) for request in requests])
    frames, inverse = read_unique(reader, np.concatenate([r.indices for r in requests]))
    for request, places in zip(requests, np.split(inverse, ends[:-1]), strict=True):
        size = request.out.shape[1:3]
        (view,) = view_clip(
            frames, places, request.region, [size], resize=resize, changes=request.changes
        )
        request.out[:] = view


def sample_clips(
    record: Record, reader: Reader, rng: np.random.Generator, config: ClipConfig
) -> list[ClipIndices]:
    """Returns `config.num_clips` clips, chosen by frame number, or by time where `fps` is set.

    In temporal order where `config.sampling` gives each its own part of the video: "constant", "reference", "parts".

    Raises:
        BadVideo: the clip does not fit and the settings say short_video="error".
    """
    uniforms = rng.random((config.num_clips, uniforms_per_clip(config)))
    rule = training_rule(config, uniforms, fps=reader.info.fps, name=record.source)
    # "seconds" counts them itself, in frames of the file.
    by_time = config.fps if config.sampling != "seconds" else None
    return choose_clips(record, reader, rule, fps=by_time)


def choose_clips(
    record: Record,
    reader: Reader,
    rule: Rule,
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
        raise too_short(record.source, f" {at_rate}for a clip: {err}") from err
    if grid is None:
        return clips
    return [ClipIndices(indices=grid[clip.indices], valid=clip.valid) for clip in clips]


def view_clip(
    frames: Frames,
    places: NDArray[np.intp],
    region: Region,
    sizes: Sequence[int | tuple[int, int]],
    *,
    resize: Literal["decoder", "pillow", "tensorflow"] = "pillow",
    changes: Sequence[Change] = (),
) -> list[Frames]:
    """Returns a region of the clip that `places` picks from `frames`, at every size: uint8 (T, size, size, 3) each.

    A size is the side of a square, or (height, width); `resize` is "tensorflow", or else Pillow's filter.  `changes`
    are of the whole frames, before the region is cut out.
    """
    unique, inverse = np.unique(places, return_inverse=True)
    changed = apply_changes(frames[unique], changes)
    return [view_frames(changed, region, size, resize)[inverse] for size in sizes]


def read_unique(reader: Reader, indices: Ints) -> tuple[Frames, NDArray[np.intp]]:
    """Returns the different frames among `indices`, in order, and where each index finds its frame.

    Frames that repeat (short videos, clips that overlap) are decoded, scaled and moved once.
    """
    unique, inverse = np.unique(indices, return_inverse=True)
    return reader.frames(unique), inverse


def sample_masks(config: MaskConfig, grid: Grid, num_views: int, rng: np.random.Generator) -> Mask:
    """Returns a mask per view, each drawn on its own: bool (V, L), True = hidden."""
    return np.stack([sample_mask(config, grid, rng) for _ in range(num_views)])
