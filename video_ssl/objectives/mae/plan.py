"""What MAE sees of a record: single frames, each with a crop and a mask of its own."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from video_ssl.clips.crops import ViewRequest, sample_region
from video_ssl.clips.decoders.reader import Reader
from video_ssl.clips.sampling.one_clip import sample_constant_clips
from video_ssl.clips.views import read_views, sample_masks
from video_ssl.datasets.table import Record
from video_ssl.objectives.mae.config import Config
from video_ssl.objectives.shared.objective_plan import ShownClip


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
        info, side = reader.info, config.crop.size
        video = np.empty((len(clips), 1, side, side, 3), np.uint8)
        requests = [
            ViewRequest(
                indices=clip.indices,
                region=sample_region(
                    info.height, info.width, config.crop, rng, may_flip=not record.no_flip
                ),
                out=out,
            )
            for clip, out in zip(clips, video, strict=True)
        ]
        read_views(reader, requests, resize=config.crop.resize)
        mask = sample_masks(config.mask, config.encoder.grid, len(video), rng)
        return {"video": video, "mask": mask}

    def shown(self, sample: Mapping[str, np.ndarray]) -> list[ShownClip]:
        """All frames of the record side by side, each with its own mask."""
        grid = self.config.encoder.grid[1:]
        frames, hidden = sample["video"][:, 0], sample["mask"].reshape(-1, *grid)
        return [ShownClip(name="frames", frames=frames, hidden=hidden)]
