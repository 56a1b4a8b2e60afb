"""What HiCo sees of a record: clips near in time, and one from anywhere, each with its own crop and colors."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from video_ssl.clips.color_changes import color_fields
from video_ssl.clips.decoders.reader import Reader
from video_ssl.clips.joined import joined_indices, part_frames, segment_seconds
from video_ssl.clips.sampling.seconds import (
    chained_intervals,
    gradual_distance,
    interval_clip,
    paired_intervals,
    segment_clip,
)
from video_ssl.clips.too_short import too_short
from video_ssl.clips.views import views_of_clips
from video_ssl.datasets.parts import STAMP_STEP_SEC, stamped_sec
from video_ssl.datasets.table import Record
from video_ssl.objectives.hico.config import Config
from video_ssl.objectives.shared.objective_plan import ShownClip, shown_views


class Plan:
    """Makes a sample; the arrays are those in the docstring of `Config`, without the batch axis.

    A video shorter than two clips is refused, and so replaced, counted and named in RUN/skipped.jsonl: no two clips of
    it could differ (papers/hico.md, pitfall 6).
    """

    def __init__(self, config: Config) -> None:
        self.config = config

    def __call__(
        self, record: Record, reader: Reader, rng: np.random.Generator, progress: float
    ) -> dict[str, np.ndarray]:
        if not 0 <= progress <= 1:
            raise ValueError(f"progress={progress} must lie in [0, 1].")
        config = self.config
        duration = _duration(record, reader)
        if duration < config.least_sec:
            raise too_short(
                record.source,
                f": it lasts {duration:.2f} s, and clips of {config.clip_sec:.2f} s need twice that (a table that was "
                "scanned leaves such videos out before the training)",
            )
        clips = [
            _frames_of(reader, (float(a), float(b)), config.clip.num_frames)
            for a, b in self.intervals(duration, rng, progress)
        ]
        (video,) = views_of_clips(record, reader, rng, clips, clip=config.clip, crop=config.crop)
        return {"video": video, **color_fields(config.color, len(video), rng)}

    def intervals(
        self, duration_sec: float, rng: np.random.Generator, progress: float
    ) -> np.ndarray:
        """Returns where the clips of a video lie, float64 (V, 2) in seconds."""
        config = self.config
        count = config.clip.num_clips
        reach = None
        if config.distance_sec is not None:
            reach = gradual_distance(progress, config.distance_sec)
        if config.method == "hicopp":
            return paired_intervals(
                duration_sec,
                rng.random(count),
                clip_sec=config.clip_sec,
                max_distance_sec=duration_sec if reach is None else reach,
                topic_distance_sec=config.topic_distance_sec,
            )
        return chained_intervals(
            duration_sec,
            rng.random(count + config.redraws_last),
            clip_sec=config.clip_sec,
            max_distance_sec=reach,
            topical=config.redraws_last,
        )

    def shown(self, sample: Mapping[str, np.ndarray]) -> list[ShownClip]:
        return shown_views(sample["video"])


def _duration(record: Record, reader: Reader) -> float:
    """How long a video lasts; of one in equal files what the name of the last says, as in the reference."""
    stamped = stamped_sec(record.source)
    counted = reader.info.num_frames / reader.info.fps
    if stamped is None or segment_seconds(reader) is None:
        return counted
    # Files that do not hold what their names say are counted.
    return stamped if abs(stamped - counted) <= STAMP_STEP_SEC else counted


def _frames_of(reader: Reader, interval: tuple[float, float], num_frames: int) -> np.ndarray:
    """The frames that show an interval in seconds.

    Of a video in equal files the reference counts from the start of the file in which the interval begins, which
    differs from a count over the whole video by the rounding of the files.  Where their lengths differ from whole
    seconds so that it adds up, the count over the whole video is right.
    """
    info, step = reader.info, segment_seconds(reader)
    if step is None:
        return interval_clip(info.num_frames, info.fps, interval, num_frames=num_frames).indices
    files, frames = segment_clip(
        part_frames(reader), info.fps, interval, num_frames=num_frames, segment_sec=step
    )
    return joined_indices(reader, files, frames)
