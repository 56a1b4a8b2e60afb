"""What TeG sees of a record: a long clip, a short one inside it, and where the moments of one lie in the other."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from video_ssl.clips.decoders.reader import Reader
from video_ssl.clips.sampling.two_clips import nested_correspondence, nested_pair
from video_ssl.datasets.table import Record
from video_ssl.objectives.shared.objective_plan import ShownClip
from video_ssl.objectives.shared.pair_plan import clip_pair
from video_ssl.objectives.teg.config import Config


class Plan:
    """Makes a sample; the arrays are those in the docstring of `Config`, without the batch axis."""

    def __init__(self, config: Config) -> None:
        self.config = config

    def __call__(
        self, record: Record, reader: Reader, rng: np.random.Generator, progress: float
    ) -> dict[str, np.ndarray]:
        config = self.config
        sizes = {
            "long_frames": config.long_frames,
            "long_stride": config.long_stride,
            "short_frames": config.short_frames,
            "short_stride": config.short_stride,
        }
        pair = nested_pair(reader.info.num_frames, rng.random(2), **sizes)
        short_positions, long_positions = config.positions
        position = nested_correspondence(
            pair.long_start,
            pair.short_start,
            **sizes,
            long_positions=long_positions,
            short_positions=short_positions,
        )
        (short, long), color = clip_pair(record, reader, rng, config, (pair.short, pair.long))
        return {"short": short, "long": long, "position": position.astype(np.float32), **color}

    def shown(self, sample: Mapping[str, np.ndarray]) -> list[ShownClip]:
        return [ShownClip(name=f"{name} clip", frames=sample[name]) for name in ("long", "short")]
