"""Two clips of a video as views with crops and colors of their own: what the plans of CVRL and TeG share."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from video_ssl.clips.color_changes import sample_color
from video_ssl.clips.crops import Frames, Region, ViewRequest, sample_region
from video_ssl.clips.decoders.reader import Reader
from video_ssl.clips.sampling.one_clip import ClipIndices
from video_ssl.clips.views import read_views
from video_ssl.datasets.table import Record
from video_ssl.objectives.shared.pair_config import PairConfig


def pair_regions(
    record: Record, reader: Reader, rng: np.random.Generator, config: PairConfig
) -> tuple[Region, Region]:
    """Returns what both views show of their frames."""
    info = reader.info
    first, second = (
        sample_region(info.height, info.width, config.crop, rng, may_flip=not record.no_flip)
        for _ in range(2)
    )
    return first, second


def clip_pair(
    record: Record,
    reader: Reader,
    rng: np.random.Generator,
    config: PairConfig,
    clips: Sequence[ClipIndices],
    *,
    regions: Sequence[Region] | None = None,
    beside: Sequence[ViewRequest] = (),
) -> tuple[list[Frames], dict[str, np.ndarray]]:
    """Returns the clips as views, uint8 (T, S, S, 3) each, and {"color": float32 (2, NUM_PARAMETERS)} where requested.

    Every frame is decoded once, also if both clips show it.  Regions are drawn first, then colors.

    Args:
        record, reader, rng, config: of the sample.
        clips: the frames of both clips.
        regions: what the views show; None = they are drawn here.
        beside: further requests, read together with the views.
    """
    size = config.crop.size
    views, requests = [], []
    regions = pair_regions(record, reader, rng, config) if regions is None else regions
    for clip, region in zip(clips, regions, strict=True):
        views.append(np.empty((len(clip.indices), size, size, 3), np.uint8))
        requests.append(ViewRequest(indices=clip.indices, region=region, out=views[-1]))
    read_views(reader, [*requests, *beside], resize=config.crop.resize)
    colors = [sample_color(color, rng) for color in config.colors if color is not None]
    return views, {"color": np.stack(colors)} if colors else {}
