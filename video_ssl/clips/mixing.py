"""Mixup and CutMix of a batch: what is drawn for it, in numpy; `models/mixing.py` applies it on the device.

Clip i is mixed with clip N - 1 - i of the same batch, all clips with the same share:

    mixup     x_i <- lam * x_i + (1 - lam) * x_j
    cutmix    a box of x_i is replaced by that of x_j; lam <- 1 - (box's area) / (frame's area)
    label     lam * smoothed(y_i) + (1 - lam) * smoothed(y_j)

Source: papers/videomae.md section 6, papers/mvd.md sections 6 and 9, the fine-tuning of VideoMAE and MVD
(arXiv:1710.09412, 1905.04899).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

Cut = Literal["space", "time_and_height"]


@dataclass(frozen=True, kw_only=True)
class MixConfig:
    """How the clips of a batch are mixed; the defaults are those of every published fine-tuning.

    Attributes:
        mixup_alpha, cutmix_alpha: lam ~ Beta(alpha, alpha); 0 = never that one.
        probability: of a batch to be mixed at all.
        cutmix_probability: of CutMix rather than mixup where both have an alpha.
        cut: what a box is cut out of: "space", in every frame (VideoMAE); "time_and_height" is a slip of MVD's
            reference, whose box, drawn for height and width, is cut out of time and height: most change nothing there.
    """

    mixup_alpha: float = 0.8
    cutmix_alpha: float = 1.0
    probability: float = 1.0
    cutmix_probability: float = 0.5
    cut: Cut = "space"

    def __post_init__(self) -> None:
        if min(self.mixup_alpha, self.cutmix_alpha) < 0 or not self.mixup_alpha + self.cutmix_alpha:
            raise ValueError(
                f"mixup_alpha={self.mixup_alpha} and cutmix_alpha={self.cutmix_alpha} must not be negative, and one "
                "of them positive. To mix nothing, leave the whole setting out."
            )
        for name in ("probability", "cutmix_probability"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}={getattr(self, name)} must lie in [0, 1].")
        if self.cut not in get_args(Cut):
            raise ValueError(f"cut={self.cut!r} must be one of {get_args(Cut)}.")


@dataclass(frozen=True, kw_only=True)
class Mix:
    """What was drawn for a batch.

    Attributes:
        lam: share of the own clip in its label, and without a box in its pixels; 1 changes nothing.
        box: (top, bottom, left, right) in pixels, the ends excluded; None = mixup.
    """

    lam: float = 1.0
    box: tuple[int, int, int, int] | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.lam <= 1:
            raise ValueError(f"lam={self.lam} must lie in [0, 1].")

    @property
    def row(self) -> NDArray[np.float64]:
        """As it travels to the device: float64 (6,), lam, 1 with a box and 0 without, top, bottom, left, right.

        >>> Mix(lam=0.25).row.tolist()
        [0.25, 0.0, 0.0, 0.0, 0.0, 0.0]
        """
        box = (0, 0, 0, 0) if self.box is None else self.box
        return np.array([self.lam, self.box is not None, *box], np.float64)


def sample_mix(config: MixConfig, height: int, width: int, rng: np.random.Generator) -> Mix:
    """Returns the mix of a batch of frames of `height` x `width`."""
    happens, which = rng.random(2)
    both = config.mixup_alpha > 0 and config.cutmix_alpha > 0
    cutmix = which < config.cutmix_probability if both else config.cutmix_alpha > 0
    alpha = config.cutmix_alpha if cutmix else config.mixup_alpha
    lam = float(rng.beta(alpha, alpha))
    centre = (int(rng.integers(height)), int(rng.integers(width)))
    if happens >= config.probability:
        return Mix()
    return cut_mix(lam, centre, height, width) if cutmix else Mix(lam=lam)


def cut_mix(lam: float, centre: tuple[int, int], height: int, width: int) -> Mix:
    """Returns the box of about 1 - lam of a frame around `centre` (row, column), cut at its borders, and the share that
    it really leaves.

    >>> cut_mix(0.75, (0, 8), 12, 16)
    Mix(lam=0.875, box=(0, 3, 4, 12))
    """
    ends: list[int] = []
    for middle, side in zip(centre, (height, width), strict=True):
        half = int(side * math.sqrt(1 - lam)) // 2
        ends += [min(max(middle - half, 0), side), min(max(middle + half, 0), side)]
    top, bottom, left, right = ends
    return boxed_mix((top, bottom, left, right), height, width)


def boxed_mix(box: tuple[int, int, int, int], height: int, width: int) -> Mix:
    """Returns the mix of a box: the share that it leaves of a frame counts in the label."""
    top, bottom, left, right = box
    return Mix(lam=1 - (bottom - top) * (right - left) / (height * width), box=box)
