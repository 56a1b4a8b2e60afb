"""What CVRL sees of a record: two clips, near ones likelier than far ones, each with its own crop and colors."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from video_ssl.clips.decoders.reader import Reader
from video_ssl.clips.sampling.two_clips import decreasing_pair
from video_ssl.datasets.table import Record
from video_ssl.objectives.cvrl.config import Config
from video_ssl.objectives.shared.objective_plan import ShownClip, shown_views
from video_ssl.objectives.shared.pair_plan import clip_pair


class Plan:
    """Makes a sample; the arrays are those in the docstring of `Config`, without the batch axis."""

    def __init__(self, config: Config) -> None:
        self.config = config

    def __call__(
        self, record: Record, reader: Reader, rng: np.random.Generator, progress: float
    ) -> dict[str, np.ndarray]:
        config = self.config
        clips = decreasing_pair(
            reader.info.num_frames,
            rng.random(4),
            num_frames=config.num_frames,
            frame_stride=config.frame_stride,
        )
        views, color = clip_pair(record, reader, rng, config, clips)
        return {"video": np.stack(views), **color}

    def shown(self, sample: Mapping[str, np.ndarray]) -> list[ShownClip]:
        return shown_views(sample["video"])
