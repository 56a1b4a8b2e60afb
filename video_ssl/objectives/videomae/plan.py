"""What VideoMAE sees of a record: cropped clips and the masks over their tokens."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from video_ssl.clips.decoders.reader import Reader
from video_ssl.clips.views import sample_clip_views, sample_masks
from video_ssl.datasets.table import Record
from video_ssl.objectives.shared.objective_plan import ShownClip, shown_views
from video_ssl.objectives.videomae.config import Config


class Plan:
    """Makes a sample of VideoMAE; the arrays are those in the docstring of `Config`, without the batch axis."""

    def __init__(self, config: Config) -> None:
        self.config = config

    def __call__(
        self, record: Record, reader: Reader, rng: np.random.Generator, progress: float
    ) -> dict[str, np.ndarray]:
        config, grid = self.config, self.config.encoder.grid
        (video,) = sample_clip_views(record, reader, rng, clip=config.clip, crop=config.crop)
        sample = {"video": video, "mask": sample_masks(config.mask, grid, len(video), rng)}
        if config.decoder_mask is not None:
            sample["decoder_mask"] = sample_masks(config.decoder_mask, grid, len(video), rng)
        return sample

    def shown(self, sample: Mapping[str, np.ndarray]) -> list[ShownClip]:
        grid = self.config.encoder.grid
        return shown_views(sample["video"], sample["mask"].reshape(-1, *grid))
