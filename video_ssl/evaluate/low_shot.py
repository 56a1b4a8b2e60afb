"""Low-shot: how much of the class is read from frozen features when few training videos have a label.

The linear probe and the nearest neighbours of `probe.py` and `knn.py`, as they are, on parts of the training videos: a
share of every class (at least one video), or so many of every class.  Parts are drawn several times; the table has the
mean over the draws.  What a head chooses (pooling, learning rate, k, ...) it chooses on the part that it is given, so
that no label is used that was not drawn.  Where a draw has one video of each class there is nothing to choose by: the
first of every list is taken.

"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np

from video_ssl.embed.features import FeatureFile
from video_ssl.evaluate.contract import Figure, Given, Needs, Result
from video_ssl.evaluate.knn import KNNConfig, NearestNeighbours
from video_ssl.evaluate.label_curve import (
    Budget,
    budgets,
    check_budgets,
    curve_point,
    curve_result,
    drawn_parts,
)
from video_ssl.evaluate.pooling import outputs_of
from video_ssl.evaluate.probe import LinearProbe, ProbeConfig
from video_ssl.evaluate.videos import classes_of, train_and_test


@dataclass(frozen=True, kw_only=True)
class LowShotConfig:
    """Settings of the low-shot evaluation.

    Attributes:
        shares: of the videos of each class, in (0, 1]; rounded, and at least one video.
        per_class: numbers of videos of each class; all of a class that has no more.
        draws: how often a part is drawn; all videos are taken once.
        heads: what reads the features.
        probe: settings of the linear probe; the first of every list stands where nothing can be chosen.
        knn: settings of the nearest neighbours.
    """

    shares: tuple[float, ...] = (0.01, 0.05, 0.1, 1.0)
    per_class: tuple[int, ...] = ()
    draws: int = 5
    heads: tuple[Literal["probe", "knn"], ...] = ("probe", "knn")
    probe: ProbeConfig = field(
        default_factory=lambda: ProbeConfig(
            poolings=("concat_4", "mean", "mean_std"),
            learning_rates=(1e-3, 1e-4, 1e-2),
            weight_decays=(0.01,),
        )
    )
    knn: KNNConfig = field(default_factory=lambda: KNNConfig(poolings=("concat_4", "clip")))

    def __post_init__(self) -> None:
        check_budgets(self.shares, self.per_class, self.draws)
        if not self.heads:
            raise ValueError("heads is empty: name probe, knn or both.")


class LowShot:
    """The evaluator `low_shot`."""

    Config = LowShotConfig
    title = "low-shot"
    figures = {  # noqa: RUF012
        "probe area": Figure(title="probe, mean over log labels"),
        "knn area": Figure(title="knn, mean over log labels"),
    }

    def __init__(self, config: LowShotConfig) -> None:
        self.config = config

    @property
    def needs(self) -> Needs:
        poolings = [p for name in self.config.heads for p in getattr(self.config, name).poolings]
        return Needs(outputs=outputs_of(poolings), several_classes=True)

    def evaluate(self, given: Given) -> Result:
        """Returns the mean accuracy on `test` over draws of labelled videos of `train`, for every head and budget.

        Metrics are called `HEAD BUDGET` ("probe 5 %", "knn 5 a class").  Their intervals are the 95 % t intervals of
        the mean over draws, about these test videos; where there is one draw, as where all videos are taken, Wilson's,
        of the test videos.  `HEAD area` is the mean of the curve over the logarithm of the number of labels (by
        trapezoids).

        Raises:
            FeatureError: as `LinearProbe.evaluate` and `NearestNeighbours.evaluate`.
        """
        train_videos, test_videos, _ = train_and_test(given.train, given.test)
        classes, labels, test_labels = classes_of(train_videos, test_videos)
        curve, notes = [], []
        for head in self.config.heads:
            for budget in budgets(self.config.shares, self.config.per_class):
                point, told = self._point(head, budget, given, labels, train_videos.index)
                curve.append(point)
                notes += told
        return curve_result(
            curve,
            num_classes=len(classes),
            total=len(test_labels),
            notes=notes,
            details={"classes": classes.tolist()},
        )

    def _point(
        self, head: str, budget: Budget, given: Given, labels: np.ndarray, index: np.ndarray
    ) -> tuple[dict[str, Any], list[str]]:
        """One point of the curve of a head, and notes."""
        draws: list[dict[str, Any]] = []
        notes: list[str] = []
        total = 0
        for seed, part, largest, smallest in drawn_parts(
            budget, labels, seed=given.seed, draws=self.config.draws
        ):
            result = self._head(head, choose=largest > 1).evaluate(
                replace(
                    given,
                    train=_only(given.train, part, index),
                    seed=seed,
                    keep_predictions=False,
                )
            )
            total = result.total
            draws.append(
                {
                    "seed": seed,
                    "labels": len(part),
                    "smallest_class": smallest,
                    "top1": result.metrics["top1"],
                    "correct": result.correct,
                    "chosen": result.chosen,
                }
            )
            # what is said about choices, which few videos decide, is said of all videos only
            notes += [
                note
                for note in result.notes
                if len(part) == len(labels) or "learning rate" not in note
            ]
            if largest == 1:
                notes.append(
                    f"at {budget.name} there is one labelled video of each class, nothing to choose by: the first of "
                    "every list"
                )
        return curve_point(head, budget, draws, total), notes

    def _head(self, head: str, *, choose: bool) -> LinearProbe | NearestNeighbours:
        if head == "knn":
            return NearestNeighbours(self.config.knn)
        config = self.config.probe
        return LinearProbe(config if choose else replace(config, held_out_share=0.0, refit=True))


def _only(features: FeatureFile, videos: np.ndarray, index: np.ndarray) -> FeatureFile:
    """The clips of some videos; `index` (N,) is the video of every clip."""
    rows = np.flatnonzero(np.isin(index, videos))
    return features if len(rows) == len(index) else features.select(rows)
