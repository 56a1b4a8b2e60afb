"""Kendall's tau: does the nearest frame of another video run forward when the query does?

For every ordered pair of videos (i, j), i != j: the nearest frame of j (squared Euclidean, first
among equals) for every frame of i, and tau-b between 0..n-1 and the matched indices.  In -1..1; no
labels are used, but where there are some, frames without one are left out, as in all of CARL's
evaluations.  Not a number where the matches are constant or i has one frame; such pairs are
left out of the mean.

Source: Dwibedi et al. 2019 (arXiv:1904.07846), as CARL (arXiv:2203.14957) computes it: strides of 2
(Penn Action) and 5 (Pouring).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from video_ssl.evaluate.distances import nearest_in_each
from video_ssl.evaluate.frames.frame_evaluator import FrameConfig, FrameEvaluator
from video_ssl.evaluate.frames.frame_sequences import Sequences


def tau_b(matches: ArrayLike) -> NDArray[np.float64]:
    """Returns float64 (P,): tau-b between 0..n-1 and each row of `matches` (P, n).

    NaN for n < 2 and for a row of equal numbers.

    >>> tau_b([[0, 1, 2, 3], [3, 2, 1, 0], [5, 5, 5, 5]]).tolist()
    [1.0, -1.0, nan]
    """
    order = np.asarray(matches)
    count = order.shape[1]
    balance = np.zeros(len(order))
    ties = np.zeros(len(order))
    for lag in range(1, count):
        step = order[:, lag:] - order[:, :-lag]
        balance += np.sign(step).sum(axis=1)
        ties += (step == 0).sum(axis=1)
    pairs = count * (count - 1) / 2
    scale = np.sqrt(pairs * (pairs - ties))
    tau = np.full(len(order), np.nan)
    np.divide(balance, scale, out=tau, where=scale > 0)
    return np.clip(tau, -1, 1)


def tau_matrix(embs: Sequence[np.ndarray], *, stride: int = 1) -> NDArray[np.float64]:
    """Returns float64 (V, V): tau of query video (row) and key video (column); NaN on the diagonal.

    Args:
        embs: frame features (L_i, D) of the videos.
        stride: every `stride`-th frame is used, of query and key.
    """
    frames = [np.asarray(e)[::stride] for e in embs]
    found = np.full((len(frames), len(frames)), np.nan)
    for i, query in enumerate(frames):
        others = [j for j, key in enumerate(frames) if j != i and len(key)]
        if others and len(query):
            found[i, others] = tau_b(nearest_in_each(query, [frames[j] for j in others]))
    return found


def kendalls_tau(embs: Sequence[np.ndarray], *, stride: int = 1) -> float:
    """Returns the mean of `tau_matrix` over the ordered pairs that have a tau; NaN where none has."""
    found = tau_matrix(embs, stride=stride)
    known = found[np.isfinite(found)]
    return float(known.mean()) if len(known) else float("nan")


@dataclass(frozen=True, kw_only=True)
class KendallsTauConfig(FrameConfig):
    """Settings of Kendall's tau.

    Attributes:
        stride: of the frames; 2 for Penn Action, 5 for Pouring, as CARL.
    """

    stride: int = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.stride < 1:
            raise ValueError(f"stride={self.stride} must be at least 1.")


class KendallsTau(FrameEvaluator):
    """The evaluator `kendalls_tau`."""

    Config = KendallsTauConfig
    title = "Kendall's tau"
    config: KendallsTauConfig
    needs_labels = False

    def measure(self, train: Sequences, test: Sequences, *, seed: int) -> dict[str, float]:
        stride = self.config.stride
        return {
            "tau": kendalls_tau(test.embs, stride=stride),
            "train_tau": kendalls_tau(train.embs, stride=stride),
        }

    def shown(self) -> list[str]:
        return ["tau"]

    def say(self, found: dict[str, float]) -> str:
        return f"aligns test videos with a Kendall's tau of {self.headline(found)}"

    def lead(self) -> str:
        return "tau"

    def headline(self, found: dict[str, float]) -> str:
        return f"{found['tau']:.3f}"
