"""Mixup in which every sample of a batch has a share and a partner of its own: what is drawn, in numpy.

    x_i <- s_i * x_i + (1 - s_i) * x_p(i)        and the classes alike, with p a random permutation of the batch

`models/mixing.py` applies it on the device.  Partners cannot be named where a record is read, as nobody knows there who
else is in its batch: each draws a place, and p is the order of the places, so that it does not depend on the workers.

Source: papers/vatt.md section 5 (fine-tuning on AudioSet); arXiv:1710.09412.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True)
class PairMixConfig:
    """How samples are mixed with others of their batch.

    Attributes:
        alpha: the share of the own sample is drawn from Beta(alpha, alpha); 5 in the fine-tuning of VATT.
    """

    alpha: float = 5.0

    def __post_init__(self) -> None:
        if not 0 < self.alpha < math.inf:
            raise ValueError(
                f"alpha={self.alpha} must be positive. To mix nothing, leave the whole setting out (null)."
            )


def sample_pair_mix(config: PairMixConfig, rng: np.random.Generator) -> NDArray[np.float64]:
    """Returns float64 (2,): the share of the own sample, and its place in the order that says who is whose partner,
    both in [0, 1]."""
    return np.array([rng.beta(config.alpha, config.alpha), rng.random()], np.float64)
