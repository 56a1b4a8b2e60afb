"""What a tokenizer sees of a record: single frames at random moments, each with a region of its own."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from video_ssl.clips.crops import ViewRequest, sample_region
from video_ssl.clips.decoders.reader import Reader
from video_ssl.clips.views import read_views
from video_ssl.datasets.table import Record
from video_ssl.objectives.shared.objective_plan import ShownClip
from video_ssl.objectives.tokenizer.config import Config


class Plan:
    """Makes a sample; the arrays are those in the docstring of `Config`, without the batch axis."""

    def __init__(self, config: Config) -> None:
        self.config = config

    def __call__(
        self, record: Record, reader: Reader, rng: np.random.Generator, progress: float
    ) -> dict[str, np.ndarray]:
        config, info = self.config, reader.info
        places = np.sort(rng.integers(info.num_frames, size=config.frames_per_video))
        size = config.crop.size
        pictures = np.empty((len(places), 1, size, size, 3), np.uint8)
        requests = []
        for place, out in zip(places, pictures, strict=True):
            region = sample_region(
                info.height, info.width, config.crop, rng, may_flip=not record.no_flip
            )
            requests.append(ViewRequest(indices=np.array([place]), region=region, out=out))
        read_views(reader, requests, resize=config.crop.resize)
        return {"video": pictures[:, 0]}

    def shown(self, sample: Mapping[str, np.ndarray]) -> list[ShownClip]:
        return [ShownClip(name="pictures", frames=sample["video"])]
