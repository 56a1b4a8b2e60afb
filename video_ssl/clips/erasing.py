"""A rectangle of a clip that is not shown: random erasing, the same in all frames.

Source: papers/bevt.md section 2 (the settings of its fine-tuning on Something-Something v2) and papers/videomae.md
section 6 (which fills it with noise); arXiv:1708.04896, as timm draws it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

_TRIES = 10


@dataclass(frozen=True, kw_only=True)
class EraseConfig:
    """A rectangle of the normalised clip is not shown.

    Attributes:
        probability: of a clip that it happens.
        area: bounds of the share of the picture.
        aspect: bounds of height over width; its logarithm is uniform.
        fill: what is there instead: "mean", the mean color (BEVT); "noise", N(0, 1) per value, other noise in every
            frame (VideoMAE, MVD, V-JEPA's probes).
    """

    probability: float = 0.25
    area: tuple[float, float] = (0.02, 1 / 3)
    aspect: tuple[float, float] = (0.3, 3.3)
    fill: Literal["mean", "noise"] = "mean"

    def __post_init__(self) -> None:
        if not 0 <= self.probability <= 1:
            raise ValueError(f"probability={self.probability} must lie in [0, 1].")
        if not 0 < self.area[0] <= self.area[1] <= 1:
            raise ValueError(f"area={self.area} must be (low, high) with 0 < low <= high <= 1.")
        if not 0 < self.aspect[0] <= self.aspect[1]:
            raise ValueError(f"aspect={self.aspect} must be (low, high) with 0 < low <= high.")


def sample_erased(
    config: EraseConfig, size: int, count: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Returns a rectangle of each of `count` clips of `size` x `size` pixels; all 0 where none is erased.

    int64 (count, 4): first row, first column, rows, columns.  One that would fill the picture is drawn anew, at most
    ten times.
    """
    return np.array([_one(config, size, rng) for _ in range(count)], np.int64)


def _one(config: EraseConfig, size: int, rng: np.random.Generator) -> tuple[int, int, int, int]:
    if rng.random() >= config.probability:
        return 0, 0, 0, 0
    low, high = (math.log(side) for side in config.aspect)
    for _ in range(_TRIES):
        area = rng.uniform(*config.area) * size * size
        aspect = math.exp(rng.uniform(low, high))
        h, w = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < h < size and 0 < w < size:
            top, left = rng.integers(0, size - h + 1), rng.integers(0, size - w + 1)
            return int(top), int(left), h, w
    return 0, 0, 0, 0
