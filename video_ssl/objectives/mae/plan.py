"""What MAE sees of a record: single frames, each with a crop and a mask of its own."""

from __future__ import annotations

import numpy as np

from video_ssl.clips.crops import sample_region, view_frames
from video_ssl.clips.reading import Reader
from video_ssl.clips.sampling import sample_constant_clips
from video_ssl.clips.views import read_unique, sample_masks
from video_ssl.datasets.table import Record
from video_ssl.objectives.mae.config import Config


class Plan:
    """Makes a sample of MAE; the arrays are those in the docstring of `Config`, without the batch axis.

    The video is cut into `frames_per_video` equal parts and each gives a frame, so several frames differ.  All are
    decoded in one go.
    """

    def __init__(self, config: Config) -> None:
        self.config = config

    def __call__(
        self, record: Record, reader: Reader, rng: np.random.Generator, progress: float
    ) -> dict[str, np.ndarray]:
        config = self.config
        uniforms = rng.random(config.frames_per_video)
        clips = sample_constant_clips(
            reader.info.num_frames, uniforms, num_frames=1, frame_stride=1
        )
        frames, inverse = read_unique(reader, np.concatenate([clip.indices for clip in clips]))
        views = []
        for position in inverse:
            region = sample_region(frames.shape[1], frames.shape[2], config.crop, rng)
            views.append(view_frames(frames[position : position + 1], region, config.crop.size))
        return {
            "video": np.stack(views),
            "mask": sample_masks(config.mask, config.encoder.grid, len(views), rng),
        }
