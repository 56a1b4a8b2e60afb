"""Few-shot phase classification: how few labelled videos are enough.

For n = 1..10 labelled videos, 50 episodes: the first n of a random permutation of the training videos,
an SVM on their frames, accuracy on all test frames.  The mean over the episodes with its 95 %
t interval, mean +- t(0.975, E - 1) * standard error.

Source: TCC's few-shot classification.  Permutations come from numpy's old generator with seed 42, one
stream over all n in ascending order, as there.  An episode with a single phase has no classifier: it
is left out of the mean and counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from video_ssl.evaluate.frames.frame_evaluator import FrameConfig, FrameEvaluator
from video_ssl.evaluate.frames.frame_sequences import (
    Sequences,
    pooled_frames,
    require_sklearn,
    usable_frames,
)
from video_ssl.evaluate.frames.phase_classification import make_classifier
from video_ssl.evaluate.metrics import t_half_width


@dataclass(frozen=True, kw_only=True)
class Episodes:
    """The accuracies of the episodes with `num_videos` labelled videos.

    `mean` and `half_width` (of the 95 % t interval) are over the episodes that have an accuracy;
    NaN where none has; the half width also where only one has.
    """

    num_videos: int
    accuracies: np.ndarray

    @property
    def known(self) -> np.ndarray:
        return self.accuracies[np.isfinite(self.accuracies)]

    @property
    def mean(self) -> float:
        return float(self.known.mean()) if len(self.known) else float("nan")

    @property
    def half_width(self) -> float:
        return t_half_width(self.known)


def few_shot_accuracy(
    train_embs: Sequence[np.ndarray],
    train_labels: Sequence[np.ndarray],
    val_embs: Sequence[np.ndarray],
    val_labels: Sequence[np.ndarray],
    *,
    shots: Sequence[int] = tuple(range(1, 11)),
    num_episodes: int = 50,
    classifier: Literal["linear", "svm"] = "svm",
    seed: int = 42,
) -> list[Episodes]:
    """Returns the accuracies for every number of labelled videos in `shots`.

    More shots than training videos: all of them, in every episode.
    """
    require_sklearn("few-shot classification")
    rng = np.random.RandomState(seed)
    videos = [usable_frames(e, p) for e, p in zip(train_embs, train_labels, strict=True)]
    val_x, val_y = pooled_frames(val_embs, val_labels)
    known: dict[tuple[int, ...], float] = {}  # the order of the videos changes nothing
    found = []
    for shot in shots:
        accuracies = np.full(num_episodes, np.nan)
        for episode in range(num_episodes):
            chosen = tuple(sorted(rng.permutation(len(videos))[:shot].tolist()))
            if chosen not in known:
                known[chosen] = _accuracy([videos[v] for v in chosen], val_x, val_y, classifier)
            accuracies[episode] = known[chosen]
        found.append(Episodes(num_videos=shot, accuracies=accuracies))
    return found


def _accuracy(
    videos: list[tuple[np.ndarray, np.ndarray]],
    val_x: np.ndarray,
    val_y: np.ndarray,
    classifier: Literal["linear", "svm"],
) -> float:
    x, y = (np.concatenate([video[k] for video in videos]) for k in range(2))
    num_phases = len(np.unique(y))
    if num_phases < 2 or not len(val_y):
        return float("nan")
    model = make_classifier(classifier, num_phases).fit(np.asarray(x, np.float64), y)
    return float(model.score(val_x, val_y))


@dataclass(frozen=True, kw_only=True)
class FewShotConfig(FrameConfig):
    """Settings of few-shot phase classification.

    Attributes:
        shots: numbers of labelled videos (of a class).
        num_episodes: random choices of them, for each number.
        classifier: see `phase_classification`.
        episode_seed: of the choices; TCC's is 42.
    """

    shots: tuple[int, ...] = tuple(range(1, 11))
    num_episodes: int = 50
    classifier: Literal["linear", "svm"] = "svm"
    episode_seed: int = 42

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.shots or min(self.shots) < 1 or self.num_episodes < 1:
            raise ValueError(
                f"shots={self.shots} and num_episodes={self.num_episodes} must be at least 1."
            )


class FewShotPhases(FrameEvaluator):
    """The evaluator `few_shot_phases`."""

    Config = FewShotConfig
    title = "few-shot phase classification"
    extras = ("phases",)
    config: FewShotConfig

    def measure(self, train: Sequences, test: Sequences, *, seed: int) -> dict[str, float]:
        config = self.config
        shots = sorted(set(config.shots))
        episodes = few_shot_accuracy(
            train.embs,
            train.labels,
            test.embs,
            test.labels,
            shots=[shot for shot in shots if shot <= len(train)],
            num_episodes=config.num_episodes,
            classifier=config.classifier,
            seed=config.episode_seed,
        )
        found = {f"{shot} videos": float("nan") for shot in shots}
        found |= {f"{shot} videos +-": float("nan") for shot in shots}
        found |= {f"{shot} videos undefined": 0.0 for shot in shots}
        for own in episodes:
            found[f"{own.num_videos} videos"] = own.mean
            found[f"{own.num_videos} videos +-"] = own.half_width
            found[f"{own.num_videos} videos undefined"] = float(
                len(own.accuracies) - len(own.known)
            )
        return found

    def shown(self) -> list[str]:
        return [f"{shot} videos" for shot in sorted(set(self.config.shots))]

    def intervals(self, each: dict[str, dict[str, float]]) -> dict[str, list[float]]:
        """The half widths of independent classes add like errors: the root of the sum of squares."""
        found = {}
        for name in self.shown():
            means = np.array([own[name] for own in each.values()])
            halves = np.array([own[f"{name} +-"] for own in each.values()])
            halves, means = halves[np.isfinite(means)], means[np.isfinite(means)]
            if len(means) and np.isfinite(halves).all():
                half = float(np.sqrt((halves**2).sum()) / len(halves))
                found[name] = [float(means.mean()) - half, float(means.mean()) + half]
        return found

    def say(self, found: dict[str, float]) -> str:
        return f"names, after {self.shown()[0]}, the phase of {self.headline(found)} of the test frames"

    def lead(self) -> str:
        return self.shown()[0]
