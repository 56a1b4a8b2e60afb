"""What MVD sees of a record: cropped clips, the same for teachers of another input size, and masks."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from video_ssl.clips.decoders.reader import Reader
from video_ssl.clips.views import sample_clip_views, sample_masks
from video_ssl.datasets.table import Record
from video_ssl.objectives.mvd.config import Config
from video_ssl.objectives.shared.objective_plan import ShownClip, shown_views


class Plan:
    """Makes a sample of MVD; the arrays are those in the docstring of `Config`, without the batch axis."""

    def __init__(self, config: Config) -> None:
        self.config = config

    def __call__(
        self, record: Record, reader: Reader, rng: np.random.Generator, progress: float
    ) -> dict[str, np.ndarray]:
        config = self.config
        names = {"video": config.crop.size}
        if config.teacher_size is not None:
            names["teacher_video"] = config.teacher_size
        views = sample_clip_views(
            record, reader, rng, clip=config.clip, crop=config.crop, sizes=tuple(names.values())
        )
        sample: dict[str, np.ndarray] = dict(zip(names, views, strict=True))
        sample["mask"] = sample_masks(config.mask, config.encoder.grid, config.clip.num_views, rng)
        return sample

    def shown(self, sample: Mapping[str, np.ndarray]) -> list[ShownClip]:
        grid = self.config.encoder.grid
        return shown_views(sample["video"], sample["mask"].reshape(-1, *grid))
