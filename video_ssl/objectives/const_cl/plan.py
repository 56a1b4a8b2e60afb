"""What ConST-CL sees of a record: two clips as CVRL chooses them, and regions of the middle frame of each."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from video_ssl.clips.box_transforms import of_region
from video_ssl.clips.crops import Frames, ViewRequest, short_side_size, whole_region
from video_ssl.clips.decoders.reader import Reader
from video_ssl.clips.regions import (
    RandomRegions,
    RegionGenerator,
    Regions,
    SegmentRegions,
    TableRegions,
    carried,
    fitted,
)
from video_ssl.clips.sampling.two_clips import decreasing_pair
from video_ssl.datasets.table import Record
from video_ssl.objectives.const_cl.config import Config
from video_ssl.objectives.shared.objective_plan import ShownClip
from video_ssl.objectives.shared.pair_plan import clip_pair, pair_regions


class Plan:
    """Makes a sample; the arrays are those in the docstring of `Config`, without the batch axis.

    Raises:
        ImportError: regions.kind=segments without scikit-image.
    """

    def __init__(self, config: Config) -> None:
        self.config = config
        self.middle = config.num_frames // 2
        self.random = RandomRegions(config.regions)
        self.segments = (
            SegmentRegions(config.regions.segments) if config.regions.kind == "segments" else None
        )

    def __call__(
        self, record: Record, reader: Reader, rng: np.random.Generator, progress: float
    ) -> dict[str, np.ndarray]:
        config, info = self.config, reader.info
        clips = decreasing_pair(
            info.num_frames,
            rng.random(4),
            num_frames=config.num_frames,
            frame_stride=config.frame_stride,
        )
        shown = pair_regions(record, reader, rng, config)
        middles = np.array([clip.indices[self.middle] for clip in clips])
        whole, beside = self._whole_frames(middles, reader)
        views, color = clip_pair(record, reader, rng, config, clips, regions=shown, beside=beside)
        generator = self._generator(record, reader, middles)
        if generator.of_the_frame:
            found = generator(whole, rng)
            sizes = (info.height, info.width, (config.crop.size, config.crop.size))
            parts = [
                carried(
                    Regions(found.boxes[i : i + 1], found.mask[i : i + 1]),
                    of_region(region, *sizes),
                    flip=region.flip,
                )
                for i, region in enumerate(shown)
            ]
        else:
            parts = [generator(view[self.middle][None], rng) for view in views]
        parts = [fitted(part, config.regions, rng) for part in parts]
        return {
            "video": np.stack(views),
            "boxes": np.concatenate([part.boxes for part in parts]),
            "regions": np.concatenate([part.mask for part in parts]),
            **color,
        }

    def _generator(self, record: Record, reader: Reader, middles: np.ndarray) -> RegionGenerator:
        if self.config.regions.kind == "table":
            return TableRegions(self.config.regions, record, reader, middles)
        return self.segments or self.random

    def _whole_frames(
        self, middles: np.ndarray, reader: Reader
    ) -> tuple[Frames, list[ViewRequest]]:
        """The middle frames as a whole, and the request that fills them; without pixels if nothing looks at them."""
        if self.segments is None:
            return np.empty((len(middles), 0, 0, 3), np.uint8), []
        height, width = reader.info.height, reader.info.width
        size = short_side_size(height, width, self.segments.config.short_side)
        frames = np.empty((len(middles), *size, 3), np.uint8)
        request = ViewRequest(indices=middles, region=whole_region(height, width), out=frames)
        return frames, [request]

    def shown(self, sample: Mapping[str, np.ndarray]) -> list[ShownClip]:
        """The views, with the regions of each in its middle frame, which is shown once more on its own."""
        clips = []
        for i, frames in enumerate(sample["video"]):
            there = sample["regions"][i][:, None]
            boxes = np.full((len(frames), *sample["boxes"][i].shape), np.nan, np.float32)
            boxes[self.middle] = np.where(there, sample["boxes"][i], np.nan)
            clips.append(ShownClip(name=f"view {i + 1}", frames=frames, boxes=boxes))
        middle = slice(self.middle, self.middle + 1)
        regions = [
            ShownClip(name=f"regions {i + 1}", frames=clip.frames[middle], boxes=clip.boxes[middle])
            for i, clip in enumerate(clips)
            if clip.boxes is not None
        ]
        return [clips[0], regions[0], clips[1], regions[1]]
