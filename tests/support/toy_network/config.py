"""Settings of the toy."""

from dataclasses import dataclass
from typing import Literal

import numpy as np


@dataclass(frozen=True, kw_only=True)
class ToyConfig:
    """The mean color of every quarter of every frame, times a matrix."""

    architecture: Literal["toy"] = "toy"
    width: int = 6
    num_frames: int | None = None

    def grid(self, num_frames: int, height: int, width: int) -> tuple[int, int, int]:
        return num_frames, 2, 2

    def frame_positions(self, num_frames: int) -> np.ndarray:
        return np.arange(num_frames, dtype=np.float64)
