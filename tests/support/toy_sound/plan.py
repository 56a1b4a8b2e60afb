"""What the toy sees of a record: a clip and its sound; and of the records of the second stream a picture."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from toy_sound.config import Config
from video_ssl.clips.decoders.reader import Reader
from video_ssl.datasets.table import Record
from video_ssl.objectives.shared.objective_plan import ObjectivePlan, ShownClip, shown_views


class ClipPlan:
    def __init__(self, config: Config) -> None:
        self.config = config

    def __call__(
        self, record: Record, reader: Reader, rng: np.random.Generator, progress: float
    ) -> dict[str, np.ndarray]:
        config, info = self.config, reader.info
        start = int(rng.integers(max(info.num_frames - config.num_frames, 0) + 1))
        indices = np.minimum(start + np.arange(config.num_frames), info.num_frames - 1)
        begin = float(reader.times(indices[:1])[0])
        return {
            "video": reader.frames(indices, (config.size, config.size)),
            "sound": reader.audio(begin, begin + config.seconds, config.rate),
        }

    def shown(self, sample: Mapping[str, np.ndarray]) -> list[ShownClip]:
        return shown_views([sample["video"]])


class StillPlan:
    def __init__(self, config: Config) -> None:
        self.config = config

    def __call__(
        self, record: Record, reader: Reader, rng: np.random.Generator, progress: float
    ) -> dict[str, np.ndarray]:
        index, size = int(rng.integers(reader.info.num_frames)), self.config.size
        return {"picture": reader.frames([index], (size, size))[0]}

    def shown(self, sample: Mapping[str, np.ndarray]) -> list[ShownClip]:
        return shown_views([sample["picture"][None]])


def plans(config: Config) -> dict[str, ObjectivePlan]:
    return {"clips": ClipPlan(config), "stills": StillPlan(config)}
