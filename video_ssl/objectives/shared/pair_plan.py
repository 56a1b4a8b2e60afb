"""Two clips of a video as views with crops and colors of their own: what the plans of CVRL and TeG share."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from video_ssl.clips.color_changes import sample_color
from video_ssl.clips.crops import Frames, ViewRequest, sample_region
from video_ssl.clips.decoders.reader import Reader
from video_ssl.clips.sampling.one_clip import ClipIndices
from video_ssl.clips.views import read_views
from video_ssl.datasets.table import Record
from video_ssl.objectives.shared.pair_config import PairConfig


def clip_pair(
    record: Record,
    reader: Reader,
    rng: np.random.Generator,
    config: PairConfig,
    clips: Sequence[ClipIndices],
) -> tuple[list[Frames], dict[str, np.ndarray]]:
    """Returns the clips as views, uint8 (T, S, S, 3) each, and {"color": float32 (2, NUM_PARAMETERS)} where requested.

    Every frame is decoded once, also if both clips show it.  Regions are drawn first, then colors.
    """
    size, info = config.crop.size, reader.info
    views, requests = [], []
    for clip in clips:
        region = sample_region(
            info.height, info.width, config.crop, rng, may_flip=not record.no_flip
        )
        views.append(np.empty((len(clip.indices), size, size, 3), np.uint8))
        requests.append(ViewRequest(indices=clip.indices, region=region, out=views[-1]))
    read_views(reader, requests, resize=config.crop.resize)
    colors = [sample_color(color, rng) for color in config.colors if color is not None]
    return views, {"color": np.stack(colors)} if colors else {}
