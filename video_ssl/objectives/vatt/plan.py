"""What VATT sees of a record: a clip, its sound, and the captions nearest in time."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from video_ssl.clips.audio import add_noise, sound_of_clip
from video_ssl.clips.color_changes import sample_color
from video_ssl.clips.crops import Frames, ViewRequest, sample_region
from video_ssl.clips.decoders.reader import Reader
from video_ssl.clips.reading import origin_of
from video_ssl.clips.sampling.dmvr import dmvr_clip
from video_ssl.clips.sampling.one_clip import ClipIndices
from video_ssl.clips.text import nearest_captions
from video_ssl.clips.views import choose_clips, read_views
from video_ssl.datasets.table import Record
from video_ssl.models.preprocess_config import PADDING
from video_ssl.objectives.shared.objective_plan import ShownClip, shown_views
from video_ssl.objectives.vatt.config import Config


class Plan:
    """Makes a sample; the arrays are those in the docstring of `Config`, without the batch axis.

    Drawn in this order: the start, the region, the color, the order of captions, the noise.
    """

    def __init__(self, config: Config) -> None:
        self.config = config

    def __call__(
        self, record: Record, reader: Reader, rng: np.random.Generator, progress: float
    ) -> dict[str, np.ndarray]:
        config = self.config
        clip = self._clip(record, reader, rng)
        sample: dict[str, np.ndarray] = {"video": self._video(record, reader, clip, rng)}
        if config.color is not None:
            sample["color"] = sample_color(config.color, rng)
        sample |= self._words(record, reader, clip, rng)
        return sample | self._sound(reader, clip, rng)

    def _clip(self, record: Record, reader: Reader, rng: np.random.Generator) -> ClipIndices:
        frame_stride, fps = self.config.rate_of(record.table)
        shape = {"num_frames": self.config.num_frames, "frame_stride": frame_stride}
        uniform = rng.random()
        (clip,) = choose_clips(record, reader, lambda n: [dmvr_clip(n, uniform, **shape)], fps=fps)
        return clip

    def _video(
        self, record: Record, reader: Reader, clip: ClipIndices, rng: np.random.Generator
    ) -> Frames:
        info, crop = reader.info, self.config.crop
        region = sample_region(info.height, info.width, crop, rng, may_flip=not record.no_flip)
        out = np.empty((len(clip.indices), crop.size, crop.size, 3), np.uint8)
        request = ViewRequest(indices=clip.indices, region=region, out=out)
        read_views(reader, [request], resize=crop.resize)
        return out

    def _words(
        self, record: Record, reader: Reader, clip: ClipIndices, rng: np.random.Generator
    ) -> dict[str, np.ndarray]:
        config = self.config
        words = np.full((config.num_captions, config.num_words), PADDING, np.int32)
        if not record.captions:
            return {"words": words, "has_words": np.array(False)}
        begin = origin_of(reader, record)
        ends = reader.times(clip.indices[clip.valid][[0, -1]]) + begin
        is_whole = record.start_sec is None and record.end_sec is None
        found = nearest_captions(
            record.captions,
            (float(ends[0]), float(ends[1])),
            (begin, begin + reader.info.duration_sec),
            count=config.num_captions,
            duration_sec=reader.info.duration_sec if is_whole else math.inf,
            rng=rng,
        )
        if found:
            words[: len(found)] = config.text_preprocess.ids([caption.text for caption in found])
        return {"words": words, "has_words": np.array(bool(found))}

    def _sound(
        self, reader: Reader, clip: ClipIndices, rng: np.random.Generator
    ) -> dict[str, np.ndarray]:
        config = self.config
        sound, heard = sound_of_clip(
            reader, int(clip.indices[0]), rate=config.rate, num_samples=config.num_samples
        )
        if config.noise:
            sound = add_noise(sound, config.noise, rng)
        return {"sound": sound, "has_sound": np.array(heard)}

    def shown(self, sample: Mapping[str, np.ndarray]) -> list[ShownClip]:
        return shown_views([sample["video"]])
