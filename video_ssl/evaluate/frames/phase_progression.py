"""Phase progression: how far it is to the end of each phase, read by linear regression.

For every event k = 0..K-2 the target of frame t is (t - e_k) / L: e_k is the last frame of phase k, L
the number of frames.  One ordinary least squares with intercept for each k on the frames of the
training videos; the result is R^2 on the pooled test frames, averaged over k.  At most 1, can be
very negative; never clipped.

A phase missing from a video (CARL raises): the rule of TCC's code, the first i >= 1 with a label
above k is the event, or L - 1 where there is none.  Source: arXiv:1904.07846, 2203.14957.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from video_ssl.evaluate.contract import Figure
from video_ssl.evaluate.frames.frame_evaluator import FrameConfig, FrameEvaluator, check_fractions
from video_ssl.evaluate.frames.frame_sequences import Scores, Sequences, first_share, usable_frames


def progress_targets(labels: ArrayLike, num_phases: int) -> NDArray[np.float64]:
    """Returns float64 (L, K-1): (t - event k) / L of every frame of a video.

    Args:
        labels: (L,), phases 0..K-1, all known.
        num_phases: K.

    >>> progress_targets([0, 0, 1, 1], 2)[:, 0].tolist()
    [-0.25, 0.0, 0.25, 0.5]
    """
    phases = np.asarray(labels)
    events = np.array([_event(phases, k) for k in range(num_phases - 1)], np.float64)
    return (np.arange(len(phases))[:, None] - events[None]) / max(1, len(phases))


def _event(phases: np.ndarray, k: int) -> int:
    own = np.flatnonzero(phases == k)
    if len(own):
        return int(own[-1])
    later = np.flatnonzero(phases[1:] > k)
    return int(later[0]) + 1 if len(later) else len(phases) - 1


def phase_progression(
    train_embs: Sequence[np.ndarray],
    train_labels: Sequence[np.ndarray],
    val_embs: Sequence[np.ndarray],
    val_labels: Sequence[np.ndarray],
    *,
    num_phases: int,
    fraction: float = 1.0,
) -> Scores:
    """Returns the mean R^2 on the training videos used, and on the validation videos.

    Args: as `phase_accuracy`; `num_phases` is K.

    NaN for fewer than two phases, without frames, or where a target is the same in all frames.
    """
    used = first_share(len(train_embs), fraction)
    x, y = _stacked(train_embs[:used], train_labels[:used], num_phases)
    val_x, val_y = _stacked(val_embs, val_labels, num_phases)
    if num_phases < 2 or not len(x) or not len(val_x):
        return Scores(float("nan"), float("nan"))
    centre, mean = x.mean(axis=0), y.mean(axis=0)
    weight = np.linalg.lstsq(x - centre, y - mean, rcond=None)[0]
    return Scores(
        _mean_r2((x - centre) @ weight + mean, y), _mean_r2((val_x - centre) @ weight + mean, val_y)
    )


def _stacked(
    embs: Sequence[np.ndarray], labels: Sequence[np.ndarray], num_phases: int
) -> tuple[np.ndarray, np.ndarray]:
    kept = [usable_frames(e, p) for e, p in zip(embs, labels, strict=True)]
    kept = [(e, p) for e, p in kept if len(p)]
    if not kept:
        return np.zeros((0, 0)), np.zeros((0, max(0, num_phases - 1)))
    x = np.concatenate([e for e, _ in kept]).astype(np.float64)
    return x, np.concatenate([progress_targets(p, num_phases) for _, p in kept])


def _mean_r2(predicted: np.ndarray, target: np.ndarray) -> float:
    wrong = ((target - predicted) ** 2).sum(axis=0)
    spread = ((target - target.mean(axis=0)) ** 2).sum(axis=0)
    r2 = np.full(len(spread), np.nan)
    np.divide(wrong, spread, out=r2, where=spread > 0)
    return float((1 - r2).mean())


@dataclass(frozen=True, kw_only=True)
class ProgressionConfig(FrameConfig):
    """Settings of phase progression.

    Attributes:
        fractions: of the training videos of a class; the last one is the headline.
    """

    fractions: tuple[float, ...] = (1.0,)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_fractions(self.fractions)


class PhaseProgression(FrameEvaluator):
    """The evaluator `progression`."""

    Config = ProgressionConfig
    title = "phase progression"
    # Without a bound below: as a share in percent it filled the tables with numbers of six digits.
    figures: ClassVar[Mapping[str, Figure]] = {
        "R2": Figure(unit="", digits=2),
        "train_R2": Figure(unit="", digits=2),
    }
    config: ProgressionConfig

    def measure(self, train: Sequences, test: Sequences, *, seed: int) -> dict[str, float]:
        found = {}
        for fraction in self.config.fractions:
            scores = phase_progression(
                train.embs,
                train.labels,
                test.embs,
                test.labels,
                num_phases=1 + max((int(p.max()) for p in train.labels + test.labels), default=-1),
                fraction=fraction,
            )
            found[f"R2@{100 * fraction:g}%"] = scores.val
            found[f"train_R2@{100 * fraction:g}%"] = scores.train
        return found

    def shown(self) -> list[str]:
        return [f"R2@{100 * fraction:g}%" for fraction in self.config.fractions]

    def say(self, found: dict[str, float]) -> str:
        return f"predicts the progress of the phases with an R2 of {self.headline(found)}"

    def lead(self) -> str:
        return self.shown()[-1]

    def headline(self, found: dict[str, float]) -> str:
        return f"{found[self.lead()]:.3f}"
