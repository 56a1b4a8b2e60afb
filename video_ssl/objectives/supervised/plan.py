"""What supervised classification sees of a record: cropped clips and the label."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from video_ssl.clips.color_changes import color_fields
from video_ssl.clips.decoders.reader import Reader
from video_ssl.clips.erasing import sample_erased
from video_ssl.clips.mixing import sample_mix
from video_ssl.clips.views import sample_clip_views
from video_ssl.datasets.table import Record
from video_ssl.objectives.shared.objective_plan import ShownClip, shown_views
from video_ssl.objectives.supervised.config import Config


class Plan:
    """Makes a labelled sample; the arrays are those in the docstring of `Config`, without the batch axis."""

    def __init__(self, config: Config) -> None:
        self.config = config

    def __call__(
        self, record: Record, reader: Reader, rng: np.random.Generator, progress: float
    ) -> dict[str, np.ndarray]:
        label = self._label(record)
        config = self.config
        (video,) = sample_clip_views(
            record, reader, rng, clip=config.clip, crop=config.crop, augment=config.augment
        )
        size, drawn = config.crop.size, color_fields(config.color, len(video), rng)
        beside: dict[str, np.ndarray] = dict(drawn)
        if config.erase is not None:
            beside["erased"] = sample_erased(config.erase, size, len(video), rng)
        if config.mix is not None:
            beside["mix"] = sample_mix(config.mix, size, size, rng).row
        return {"video": video, "label": label, **beside}

    def shown(self, sample: Mapping[str, np.ndarray]) -> list[ShownClip]:
        return shown_views(sample["video"])

    def _label(self, record: Record) -> np.ndarray:
        count = self.config.num_classes
        assert count is not None, "the settings are settled"
        allowed = f"0..{count - 1} (num_classes={count})"
        if record.label is None:
            raise ValueError(
                f"record {record.id!r} ({record.source}) has no label, but supervised training needs one in {allowed}. "
                "Use a table with a `label` column, or an objective without labels."
            )
        if not 0 <= record.label < count:
            raise ValueError(
                f"record {record.id!r} ({record.source}) has label {record.label}, but labels must lie in {allowed}."
            )
        return np.array(record.label, np.int64)
