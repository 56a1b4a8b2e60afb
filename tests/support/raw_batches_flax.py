"""Raw batches of the flax objectives of two clips: samples of their plans, of videos of noise."""

from __future__ import annotations

import numpy as np

from video_ssl.clips.decoders.reader import VideoInfo
from video_ssl.datasets.table import Record
from video_ssl.objectives import OBJECTIVES

MEAN, STD = (0.4, 0.5, 0.3), (0.2, 0.25, 0.3)
PAIR = {
    "crop": {"size": 16, "flip_probability": 0.5},
    "color": {"law": "cvrl", "blur_probability": 0.0},
    "second_color": {"law": "cvrl_second", "blur_probability": 0.0},
    "normalization": {"mean": MEAN, "std": STD},
    "encoder": {
        "preset": None,
        "blocks": [1, 1, 1, 1],
        "filters": [2, 2, 3, 3],
        "stem_width": 4,
    },
    "penalty": 0.01,
}


class NoiseReader:
    """Every frame is noise of its own."""

    def __init__(self, seed):
        self.seed = seed
        self.info = VideoInfo(
            num_frames=30,
            fps=10.0,
            width=24,
            height=20,
            duration_sec=3.0,
            codec="none",
            rotation=0,
            has_audio=False,
        )

    def frames(self, indices, size=None):
        rngs = [np.random.default_rng([self.seed, int(i)]) for i in indices]
        return np.stack([rng.integers(0, 256, (20, 24, 3), dtype=np.uint8) for rng in rngs])


def raw_batch(name, config):
    plan = OBJECTIVES[name].main_plan(config)
    records = [Record(index=i, id=str(i), source="a.mp4") for i in range(3)]
    rows = [plan(r, NoiseReader(i), np.random.default_rng(i), 0.5) for i, r in enumerate(records)]
    return {key: np.stack([row[key] for row in rows]) for key in rows[0]}
