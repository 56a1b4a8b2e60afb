"""What BEVT sees: clips and single pictures, each in two sizes and with a mask."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from video_ssl.clips.bevt_masks import sample_tubes
from video_ssl.clips.color_changes import sample_color
from video_ssl.clips.crops import Frames, ViewRequest, resize_opencv, sample_region
from video_ssl.clips.decoders.reader import Reader
from video_ssl.clips.mask_blocks import sample_rectangles
from video_ssl.clips.views import read_views, sample_clip_views
from video_ssl.datasets.table import Record
from video_ssl.objectives.bevt.config import Config
from video_ssl.objectives.shared.objective_plan import ObjectivePlan, ShownClip

VIDEO, IMAGES = "video", "images"


class VideoPlan:
    """Makes a clip; the arrays are those in the docstring of `Config`, without the batch axis."""

    def __init__(self, config: Config) -> None:
        self.config = config

    def __call__(
        self, record: Record, reader: Reader, rng: np.random.Generator, progress: float
    ) -> dict[str, np.ndarray]:
        config, mask = self.config, self.config.mask
        (views,) = sample_clip_views(record, reader, rng, clip=config.clip, crop=config.crop)
        hidden = sample_tubes(config.grid, mask.count, rng, least=mask.least, share=mask.moments)
        return {"video": views[0], "words": tokenizer_view(views[0]), "mask": hidden}

    def shown(self, sample: Mapping[str, np.ndarray]) -> list[ShownClip]:
        return [ShownClip(name="clip", frames=sample["video"], hidden=sample["mask"])]


class ImagePlan:
    """Makes a picture: an image of a table of images, a frame at a random moment of one of videos."""

    def __init__(self, config: Config) -> None:
        self.config = config

    def __call__(
        self, record: Record, reader: Reader, rng: np.random.Generator, progress: float
    ) -> dict[str, np.ndarray]:
        config, mask, info = self.config, self.config.mask, reader.info
        place = rng.integers(info.num_frames, size=1)
        region = sample_region(
            info.height, info.width, config.crop, rng, may_flip=not record.no_flip
        )
        size = config.crop.size
        picture = np.empty((1, size, size, 3), np.uint8)
        request = ViewRequest(indices=place, region=region, out=picture)
        read_views(reader, [request], resize=config.crop.resize)
        hidden = sample_rectangles(config.grid[1:], mask.count, rng, least=mask.least)
        colors = {} if config.color is None else {"color": sample_color(config.color, rng)}
        words = tokenizer_view(picture)[0]
        return {"picture": picture[0], "words": words, "mask": hidden, **colors}

    def shown(self, sample: Mapping[str, np.ndarray]) -> list[ShownClip]:
        frames, hidden = sample["picture"][None], sample["mask"][None]
        return [ShownClip(name="picture", frames=frames, hidden=hidden)]


def tokenizer_view(frames: Frames) -> Frames:
    """Returns frames (T, S, S, 3) as the tokenizer sees them, half as large, by OpenCV's Lanczos filter."""
    height, width = frames.shape[1:3]
    return resize_opencv(frames, (height // 2, width // 2), kernel="lanczos4")


def plans(config: Config) -> dict[str, ObjectivePlan]:
    """Returns the plans of the streams, the main one first."""
    both: dict[str, ObjectivePlan] = {VIDEO: VideoPlan(config), IMAGES: ImagePlan(config)}
    return both if config.streams == "both" else {config.streams: both[config.streams]}
