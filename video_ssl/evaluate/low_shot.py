"""Low-shot: how much of the class is read from frozen features when few training videos have a label.

The linear probe and the nearest neighbours of `probe.py` and `knn.py`, as they are, on parts of the training videos: a
share of every class (at least one video), or so many of every class.  Parts are drawn several times; the table has the
mean over the draws.  What a head chooses (pooling, learning rate, k, ...) it chooses on the part that it is given, so
that no label is used that was not drawn.  Where a draw has one video of each class there is nothing to choose by: the
first of every list is taken.

A draw shuffles the videos of each class, classes in ascending order, and takes the first of them: a smaller part lies
within every larger one of the same draw.  Draw d of seed s comes from numpy's old generator with seed s + d.

Source: shares and "at least one" [SPEC, ours]; so many of every class as SEVERE takes them
(papers/frozen_protocols.md section 8, golden sample_size_subset).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np

from video_ssl.embed.features import FeatureFile
from video_ssl.evaluate.contract import Figure, Given, Needs, Result
from video_ssl.evaluate.knn import KNNConfig, NearestNeighbours
from video_ssl.evaluate.metrics import t_half_width, wilson_interval
from video_ssl.evaluate.pooling import outputs_of
from video_ssl.evaluate.probe import LinearProbe, ProbeConfig
from video_ssl.evaluate.videos import classes_of, train_and_test

_MOST_SEED = 2**32  # of numpy's old generator


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
        if not self.shares and not self.per_class:
            raise ValueError("shares and per_class are both empty: name a share or a number.")
        if any(not 0 < share <= 1 for share in self.shares):
            raise ValueError(f"shares={self.shares} must lie above 0 and up to 1 (1 is 100 %).")
        if any(count < 1 for count in self.per_class):
            raise ValueError(f"per_class={self.per_class} must be numbers of at least 1.")
        if self.draws < 1:
            raise ValueError(f"draws={self.draws} must be at least 1.")
        if not self.heads:
            raise ValueError("heads is empty: name probe, knn or both.")


@dataclass(frozen=True)
class Budget:
    """How many videos of each class have a label: a share of them, or so many."""

    amount: float
    each: bool

    @property
    def name(self) -> str:
        """What stands in tables.

        >>> Budget(0.05, each=False).name, Budget(5, each=True).name
        ('5 %', '5 a class')
        """
        return f"{self.amount:g} a class" if self.each else f"{100 * self.amount:g} %"

    def of(self, count: int) -> int:
        """Returns how many of `count` videos of a class are taken, at least one.

        >>> [Budget(0.1, each=False).of(count) for count in (3, 14, 16)], Budget(5, each=True).of(3)
        ([1, 1, 2], 3)
        """
        wanted = int(self.amount) if self.each else math.floor(self.amount * count + 0.5)
        return min(count, max(1, wanted))


def shuffled_by_class(labels: np.ndarray, rng: np.random.RandomState) -> list[np.ndarray]:
    """Returns the rows of each class, classes ascending, in random order; a part is the beginning of each.

    Source: SEVERE, get_subset_data (papers/frozen_protocols.md section 8).

    Args:
        labels: int (V,).
        rng: numpy's old generator, of which the reference takes one with seed 99999.
    """
    return [rng.permutation(np.flatnonzero(labels == label)) for label in np.unique(labels)]


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

    @cached_property
    def _budgets(self) -> list[Budget]:
        shares = [Budget(share, each=False) for share in sorted(set(self.config.shares))]
        return shares + [Budget(count, each=True) for count in sorted(set(self.config.per_class))]

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
            for budget in self._budgets:
                point, told = self._point(head, budget, given, labels, train_videos.index)
                curve.append(point)
                notes += told
        metrics: dict[str, float] = {}
        details: dict[str, Any] = {"curve": curve, "classes": classes.tolist()}
        for point in curve:
            name = f"{point['head']} {point['budget']}"
            metrics[name] = point["mean"]
            details[f"{name}_interval_95"] = point["interval"]
        for head in self.config.heads:
            metrics[f"{head} area"] = _area([p for p in curve if p["head"] == head])
        details["chance"] = dict.fromkeys(metrics, 1 / len(classes))
        own = [point for point in curve if point["head"] == self.config.heads[0]]
        low, high = min(own, key=_labels), max(own, key=_labels)
        found = " and ".join(Figure().written(p["mean"]) for p in (low, high))
        details["headline"] = {
            "metric": f"{low['head']} {low['budget']}",
            "found": f"{found} %",
            "guessing": f"{Figure().written(1 / len(classes))} %",
        }
        total = len(test_labels)
        return Result(
            metrics=metrics,
            correct=round(low["mean"] * total),
            total=total,
            chance=1 / len(classes),
            details=details,
            notes=list(dict.fromkeys(notes)),
            statement=f"names, from {low['labels']} and from {high['labels']} labels, the class of {found} % of the "
            f"test videos, mean of {len(low['draws'])} draws",
        )

    def _point(
        self, head: str, budget: Budget, given: Given, labels: np.ndarray, index: np.ndarray
    ) -> tuple[dict[str, Any], list[str]]:
        """One point of the curve of a head, and notes."""
        draws: list[dict[str, Any]] = []
        notes: list[str] = []
        total = 0
        for seed, part, left, smallest in self._parts(budget, given.seed, labels):
            result = self._head(head, choose=left > 1).evaluate(
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
            if left == 1:
                notes.append(
                    f"at {budget.name} there is one labelled video of each class, nothing to choose by: the first of "
                    "every list"
                )
        values = np.array([draw["top1"] for draw in draws])
        half = t_half_width(values)
        mean = float(values.mean())
        interval = [max(0.0, mean - half), min(1.0, mean + half)]
        if len(draws) == 1:
            interval = list(wilson_interval(draws[0]["correct"], total))
        return {
            "head": head,
            "budget": budget.name,
            "labels": draws[0]["labels"],
            "mean": mean,
            "std": float(values.std(ddof=1)) if len(values) > 1 else math.nan,
            "interval": interval,
            "draws": draws,
        }, notes

    def _parts(
        self, budget: Budget, seed: int, labels: np.ndarray
    ) -> Iterator[tuple[int, np.ndarray, int, int]]:
        """Yields for every draw its seed, the videos taken (ascending), the size of the largest and smallest class."""
        for draw in range(self.config.draws):
            own = (seed + draw) % _MOST_SEED
            parts = shuffled_by_class(labels, np.random.RandomState(own))
            taken = [part[: budget.of(len(part))] for part in parts]
            sizes = [len(part) for part in taken]
            yield own, np.sort(np.concatenate(taken)), max(sizes), min(sizes)
            if sum(sizes) == len(labels):
                return  # every other draw would be the same

    def _head(self, head: str, *, choose: bool) -> LinearProbe | NearestNeighbours:
        if head == "knn":
            return NearestNeighbours(self.config.knn)
        config = self.config.probe
        return LinearProbe(config if choose else replace(config, held_out_share=0.0, refit=True))


def _only(features: FeatureFile, videos: np.ndarray, index: np.ndarray) -> FeatureFile:
    """The clips of some videos; `index` (N,) is the video of every clip."""
    rows = np.flatnonzero(np.isin(index, videos))
    return features if len(rows) == len(index) else features.select(rows)


def _labels(point: dict[str, Any]) -> int:
    return int(point["labels"])


def _area(curve: list[dict[str, Any]]) -> float:
    """The mean of a curve over the logarithm of the number of labels; of one point that itself."""
    points = sorted({(_labels(point), point["mean"]) for point in curve})
    x, y = (np.array(axis, float) for axis in zip(*points, strict=True))
    log = np.log(x)
    if log[-1] == log[0]:
        return float(y.mean())
    return float((np.diff(log) * (y[1:] + y[:-1]) / 2).sum() / (log[-1] - log[0]))
