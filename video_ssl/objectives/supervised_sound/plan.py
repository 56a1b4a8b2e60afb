"""What classification of sounds takes of a record: a stretch of its sound, and its classes."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from video_ssl.clips.audio import add_noise, looped_sound
from video_ssl.clips.decoders.reader import BadVideo, Reader
from video_ssl.clips.pair_mixing import sample_pair_mix
from video_ssl.clips.sampling.dmvr import number_of_starts
from video_ssl.clips.sampling.one_clip import uniform_int
from video_ssl.datasets.table import Record
from video_ssl.objectives.shared.objective_plan import ShownClip
from video_ssl.objectives.supervised_sound.config import Config


class Plan:
    """Makes a labelled sample; the arrays are those in the docstring of `Config`, without the batch axis.

    Drawn in this order: the start, the noise, the share and the place of mixup.

    Attributes:
        sound_alone: files of sound without pictures will do.
    """

    sound_alone = True

    def __init__(self, config: Config) -> None:
        self.config = config

    def __call__(
        self, record: Record, reader: Reader, rng: np.random.Generator, progress: float
    ) -> dict[str, np.ndarray]:
        config = self.config
        sample = self._classes(record)
        if not reader.info.has_audio:  # zeros would be learned as the sound of its class
            raise BadVideo(record.source, "it has no sound")
        preprocess = config.preprocess
        rate, num_samples = preprocess.rate, preprocess.num_samples
        total = max(round(reader.info.duration_sec * rate), 1)
        starts = number_of_starts(total, num_frames=num_samples, frame_stride=1)
        begin = uniform_int(rng.random(), 0, starts)
        sound = looped_sound(reader, begin, total, rate=rate, num_samples=num_samples)
        if config.noise:
            sound = add_noise(sound, config.noise, rng)
        sample["sound"] = sound
        if config.mix is not None:
            sample["mix"] = sample_pair_mix(config.mix, rng)
        return sample

    def shown(self, sample: Mapping[str, np.ndarray]) -> list[ShownClip]:
        """Returns no clips: nothing is seen."""
        return []

    def _classes(self, record: Record) -> dict[str, np.ndarray]:
        count = self.config.num_classes
        assert count is not None, "the settings are settled"
        allowed = f"0..{count - 1} (num_classes={count})"
        own = record.labels if self.config.multilabel else (record.label,)
        column = "labels" if self.config.multilabel else "label"
        if own is None or None in own:
            raise ValueError(
                f"record {record.id!r} ({record.source}) has no `{column}`, but its classes are to be learned: they "
                f"must lie in {allowed}. Use a table with that column, or an objective without labels."
            )
        wrong = [label for label in own if label is not None and not 0 <= label < count]
        if wrong:
            raise ValueError(
                f"record {record.id!r} ({record.source}) has the class {wrong[0]}, but classes must lie in {allowed}."
            )
        if not self.config.multilabel:
            return {"label": np.array(own[0], np.int64)}
        found = np.zeros(count, bool)
        found[np.array(own, np.int64)] = True
        return {"labels": found}
