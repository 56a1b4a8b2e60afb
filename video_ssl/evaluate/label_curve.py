"""Accuracy against the number of labels: which videos have one, the points of the curve, and the result they make.

A draw shuffles the videos of each class, classes in ascending order, and takes the first of them: a smaller part lies
within every larger one of the same draw.  Draw d of seed s comes from numpy's old generator with seed s + d.

Source: shares and "at least one" [SPEC, ours]; so many of every class as SEVERE takes them
(papers/frozen_protocols.md section 8, golden sample_size_subset).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from video_ssl.evaluate.contract import Figure, Result
from video_ssl.evaluate.metrics import t_half_width, wilson_interval

_MOST_SEED = 2**32  # of numpy's old generator


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


def budgets(shares: Sequence[float], per_class: Sequence[int]) -> list[Budget]:
    """Returns the budgets of a curve, each once, shares first, ascending."""
    found = [Budget(share, each=False) for share in sorted(set(shares))]
    return found + [Budget(count, each=True) for count in sorted(set(per_class))]


def check_budgets(shares: Sequence[float], per_class: Sequence[int], draws: int) -> None:
    """Raises ValueError for shares outside (0, 1], numbers below 1, and where there is nothing of both."""
    if not shares and not per_class:
        raise ValueError("shares and per_class are both empty: name a share or a number.")
    if any(not 0 < share <= 1 for share in shares):
        raise ValueError(f"shares={shares} must lie above 0 and up to 1 (1 is 100 %).")
    if any(count < 1 for count in per_class):
        raise ValueError(f"per_class={per_class} must be numbers of at least 1.")
    if draws < 1:
        raise ValueError(f"draws={draws} must be at least 1.")


def drawn_parts(
    budget: Budget, labels: np.ndarray, *, seed: int, draws: int
) -> Iterator[tuple[int, np.ndarray, int, int]]:
    """Yields for every draw its seed, the videos taken (ascending), the size of the largest and smallest class.

    Args:
        budget: how many of each class.
        labels: int (V,).
        seed: of the first draw.
        draws: how many; one where all videos are taken.
    """
    for draw in range(draws):
        own = (seed + draw) % _MOST_SEED
        parts = shuffled_by_class(labels, np.random.RandomState(own))
        taken = [part[: budget.of(len(part))] for part in parts]
        sizes = [len(part) for part in taken]
        yield own, np.sort(np.concatenate(taken)), max(sizes), min(sizes)
        if sum(sizes) == len(labels):
            return  # every other draw would be the same


def curve_point(
    head: str, budget: Budget, draws: list[dict[str, Any]], total: int
) -> dict[str, Any]:
    """Returns one point of the curve of a head.

    Its interval is the 95 % t interval of the mean over draws, about these test videos; of one draw Wilson's, of the
    test videos.

    Args:
        head, budget: whose point.
        draws: each with top1, correct and labels.
        total: test videos.
    """
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
    }


def curve_result(
    curve: list[dict[str, Any]],
    *,
    num_classes: int,
    total: int,
    notes: Sequence[str],
    details: dict[str, Any],
) -> Result:
    """Returns the result of some heads: a metric `HEAD BUDGET` of every point, and `HEAD area`, the mean of the curve
    over the logarithm of the number of labels (trapezoids).

    Args:
        curve: points, see `curve_point`.
        num_classes: K, for what guessing gives.
        total: test videos.
        notes, details: of the result.
    """
    found: dict[str, float] = {}
    details = {"curve": curve, **details}
    heads = list(dict.fromkeys(point["head"] for point in curve))
    for point in curve:
        name = f"{point['head']} {point['budget']}"
        found[name] = point["mean"]
        details[f"{name}_interval_95"] = point["interval"]
    for head in heads:
        found[f"{head} area"] = _area([p for p in curve if p["head"] == head])
    details["chance"] = dict.fromkeys(found, 1 / num_classes)
    own = [point for point in curve if point["head"] == heads[0]]
    low, high = min(own, key=_labels), max(own, key=_labels)
    ends = [low] if low is high else [low, high]
    shares = " and ".join(Figure().written(p["mean"]) for p in ends)
    labels = " and ".join(f"from {p['labels']}" for p in ends)
    details["headline"] = {
        "metric": f"{low['head']} {low['budget']}",
        "found": f"{shares} %",
        "guessing": f"{Figure().written(1 / num_classes)} %",
    }
    several = len(low["draws"])
    return Result(
        metrics=found,
        correct=round(low["mean"] * total),
        total=total,
        chance=1 / num_classes,
        details=details,
        notes=list(dict.fromkeys(notes)),
        statement=f"names, {labels} labels, the class of {shares} % of the test "
        f"videos{f', mean of {several} draws' if several > 1 else ''}",
    )


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
