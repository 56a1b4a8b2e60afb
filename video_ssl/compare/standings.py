"""What the cells of a comparison found: means, intervals, and which differences are none.  numpy only.

Intervals come from resampling (a bootstrap): seeds with replacement and, where an evaluator says of every test video
whether it was right, the videos too, the same draw for all objectives, so that a difference of two is one of pairs.
Numbers that no video has alone (mean average precision, Kendall's tau) are resampled over seeds only; three seeds say
little then, and the rows say so.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from video_ssl.compare.cells import Cell, read_results
from video_ssl.evaluate.evaluators import figure_of, title_of
from video_ssl.evaluate.verdict import called, lead_metric, number_of, position_alone
from video_ssl.models.baselines import BASELINES

DRAWS = 2000
_TRAINED, _TWIN = "encoder", "untrained"
#: Numbers of an evaluator that are abilities of their own, beside the one that its sentences name: which of several
#: classes with the same poses it is, where a probe was told which are (evaluate/demo_twins.yaml).
_BESIDE = {"probe": ("within",)}


@dataclass
class Row:
    """An objective in one ability: its number for each seed, by seed, and that of its untrained twin.

    Attributes:
        right: seed -> test video -> whether it was right, where the evaluator says so.
        ranks: 95 % of its place among the objectives, 1 = best, over the same resamplings; None where one of them has a
            single seed.
        interval: 95 % of the mean; None with one seed and nothing to resample.
    """

    values: dict[int, float] = field(default_factory=dict)
    untrained: dict[int, float] = field(default_factory=dict)
    right: dict[int, dict[str, bool]] = field(default_factory=dict)
    alone: float | None = None
    baselines: dict[str, float] = field(default_factory=dict)
    interval: tuple[float, float] | None = None
    ranks: tuple[int, int] | None = None

    @property
    def mean(self) -> float | None:
        return float(np.mean(list(self.values.values()))) if self.values else None

    @property
    def mean_untrained(self) -> float | None:
        return float(np.mean(list(self.untrained.values()))) if self.untrained else None


class Difference(NamedTuple):
    """How far one objective is above another.

    Attributes:
        mean: of the seeds of the one minus that of the other.
        low, high: 95 % of it, over the resamplings.
        sure: the interval is above 0, and both have more than one seed.
    """

    better: str
    worse: str
    mean: float
    low: float
    high: float
    sure: bool


@dataclass
class Ability:
    """What one evaluator of one evaluation asks for.

    Attributes:
        key: EVALUATION/EVALUATOR, and /METRIC where it is not the one that the evaluator's sentences name.
        title: in words.
        metric: the number that counts.
        unit: of `contract.Figure`.
        chance: what guessing gives; None where it is not said.
        over_videos: the intervals come from seeds and videos, of a single seed from videos; else from seeds alone.
        rows: objective -> its numbers, best first.
        differences: of all pairs.
        level_with_best: objectives whose distance from the best is not sure.
    """

    key: str
    title: str
    metric: str
    unit: str
    digits: int
    chance: float | None = None
    over_videos: bool = False
    rows: dict[str, Row] = field(default_factory=dict)
    differences: list[Difference] = field(default_factory=list)
    level_with_best: list[str] = field(default_factory=list)


def abilities_of(cells: Sequence[Cell], amount: float) -> list[Ability]:
    """Returns the abilities that the cells of one budget were asked for, in the order of the evaluations."""
    found: dict[str, Ability] = {}
    for cell in cells:
        if cell.amount != amount:
            continue
        for evaluation in cell.evaluations:
            results = read_results(cell, evaluation)
            if results is not None:
                _take(found, cell, evaluation, results)
    for ability in found.values():
        _judge(ability)
    return list(found.values())


def _take(
    found: dict[str, Ability], cell: Cell, evaluation: str, results: Mapping[str, Any]
) -> None:
    encoders = results["encoders"]
    for evaluator, result in encoders[_TRAINED]["results"].items():
        headline = lead_metric(result)
        further = [name for name in _BESIDE.get(evaluator, ()) if name in result["metrics"]]
        for metric in (headline, *further):
            value = number_of(result, metric)
            if value is None:
                continue
            is_lead = metric == headline
            figure = figure_of(evaluator, metric)
            key = f"{evaluation}/{evaluator}" + ("" if is_lead else f"/{metric}")
            title = f"{title_of(evaluator)}, {figure.title or metric}"
            ability = found.setdefault(key, Ability(key, title, metric, figure.unit, figure.digits))
            chance = (
                result.get("chance") if is_lead else result["details"].get("chance", {}).get(metric)
            )
            ability.chance = chance if ability.chance is None else ability.chance
            row = ability.rows.setdefault(cell.objective, Row())
            row.values[cell.seed] = value
            if row.alone is None and is_lead:
                row.alone = position_alone(result)
            predictions = result["details"].get("predictions")
            if metric == "top1" and predictions:
                right = np.equal(predictions["predicted"], predictions["true"]).tolist()
                row.right[cell.seed] = dict(zip(predictions["id"], right, strict=True))
            for name, entry in encoders.items():
                own = entry["results"].get(evaluator)
                other = None if own is None else number_of(own, metric)
                if other is None or name == _TRAINED:
                    continue
                if name == _TWIN:
                    row.untrained[cell.seed] = other
                elif entry["spec"].partition(":")[0] in BASELINES:
                    row.baselines[called(name, entry)] = other


def _judge(ability: Ability) -> None:
    """Intervals, differences and who is level with the best; rows best first."""
    ability.rows = dict(sorted(ability.rows.items(), key=_from_best))
    videos = _common_videos(ability)
    ability.over_videos = bool(videos)
    draws = _draws(ability, videos)
    single = {name for name, row in ability.rows.items() if len(row.values) < 2}
    for name, row in ability.rows.items():
        if name not in single or ability.over_videos:
            low, high = np.quantile(draws[name], (0.025, 0.975))
            row.interval = (float(low), float(high))
    if not single:
        _rank(ability, draws)
    best = next(iter(ability.rows), None)
    for better, worse in combinations(ability.rows, 2):
        gap = draws[better] - draws[worse]
        low, high = np.quantile(gap, (0.025, 0.975))
        mean = (ability.rows[better].mean or 0.0) - (ability.rows[worse].mean or 0.0)
        sure = bool(low > 0) and not single & {better, worse}
        ability.differences.append(
            Difference(better, worse, mean, float(low), float(high), sure=sure)
        )
        if better == best and not sure:
            ability.level_with_best.append(worse)


def _from_best(item: tuple[str, Row]) -> float:
    mean = item[1].mean
    return np.inf if mean is None else -mean


def _common_videos(ability: Ability) -> list[str]:
    """Test videos of which every number says whether they were right; none where a number does not say so."""
    rows = ability.rows.values()
    if any(set(row.right) != set(row.values) for row in rows):
        return []
    seen = [set(right) for row in rows for right in row.right.values()]
    return sorted(set.intersection(*seen)) if seen else []


def _rank(ability: Ability, draws: Mapping[str, NDArray[np.float64]]) -> None:
    """Which places each objective takes in 95 % of the resamplings; of a tie it takes the better one."""
    stacked = np.stack([draws[name] for name in ability.rows])  # (objectives, DRAWS)
    places = 1 + (stacked[None] > stacked[:, None]).sum(axis=1)
    low, high = np.quantile(places, (0.025, 0.975), axis=1, method="nearest")
    for row, first, last in zip(ability.rows.values(), low, high, strict=True):
        row.ranks = (int(first), int(last))


def _draws(ability: Ability, videos: Sequence[str]) -> dict[str, NDArray[np.float64]]:
    """objective -> float64 (DRAWS,): its mean over resampled seeds and, where there are any, resampled videos."""
    rng = np.random.default_rng(0)
    rows = ability.rows
    found = {}
    if not videos:
        for name, row in rows.items():
            values = np.array(list(row.values.values()))
            picked = rng.integers(len(values), size=(DRAWS, len(values)))
            found[name] = values[picked].mean(axis=1)
        return found
    weights = rng.multinomial(len(videos), np.full(len(videos), 1 / len(videos)), size=DRAWS)
    for name, row in rows.items():
        right = np.array([[seen[video] for video in videos] for seen in row.right.values()], float)
        shares = weights @ right.T / len(videos)  # (DRAWS, seeds)
        picked = rng.integers(len(right), size=(DRAWS, len(right)))
        found[name] = np.take_along_axis(shares, picked, axis=1).mean(axis=1)
    return found


def most_confused(
    cells: Sequence[Cell], amount: float, objective: str, count: int = 4
) -> list[str]:
    """Returns the pairs of classes that an objective takes for each other most, over its seeds, as sentences.

    Every evaluation is counted by itself, as its classes are others; where there are several, sentences name theirs.
    """
    counts = _confusions(cells, amount, objective)
    shares: list[tuple[float, str, str, str]] = []
    for evaluation, pairs in counts.items():
        totals: Counter[str] = Counter()
        for (true, _), number in pairs.items():
            totals[true] += number
        shares += [
            (number / totals[true], true, named, evaluation)
            for (true, named), number in pairs.items()
            if true != named and number
        ]
    shares.sort(key=lambda pair: -pair[0])
    return [
        f"{true} for {named} ({100 * share:.0f} %{f' in {evaluation}' if len(counts) > 1 else ''})"
        for share, true, named, evaluation in shares[:count]
    ]


def _confusions(
    cells: Sequence[Cell], amount: float, objective: str
) -> dict[str, Counter[tuple[str, str]]]:
    """evaluation -> (true class, the class it was named) -> how often, over the seeds."""
    counts: dict[str, Counter[tuple[str, str]]] = {}
    for cell in cells:
        if cell.objective != objective or cell.amount != amount:
            continue
        for evaluation in cell.evaluations:
            results = read_results(cell, evaluation) or {}
            own = results.get("encoders", {}).get(_TRAINED, {}).get("results", {})
            details = own.get("probe", {}).get("details", {})
            if "confusion" not in details:
                continue
            known = results.get("class_names", [])
            names = [known[c] if c < len(known) else str(c) for c in details["classes"]]
            pairs = counts.setdefault(evaluation, Counter())
            for true, row in zip(names, details["confusion"], strict=True):
                for named, number in zip(names, row, strict=True):
                    pairs[true, named] += number
    return counts
