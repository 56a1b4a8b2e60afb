"""What an encoder has learned, in one sentence: how far it is from the best of what has learned nothing."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from video_ssl.evaluate.evaluators import learns_on, title_of
from video_ssl.models.baselines import BASELINES

_TWO_SIDED_95 = 1.96  # deviations of a normal distribution


def verdict(evaluator: str, encoders: Mapping[str, Any]) -> str:
    """Returns the distance of the first encoder from the best of the others that have learned nothing, in the units of
    the results table; empty where there is no other, the first has learned nothing either, or a number is missing or,
    as an R2 may be, below -1: how far off something is that fits nothing says nothing.

    For example "Linear probe: the frozen mvd encoder is 3.1 points above the best without learning (HOG of frames in
    order, 70.0)."  A difference that 19 of 20 pairs of equally good encoders would stay within is said to be one: it is
    compared with the deviation of two shares of so many test videos, taken as independent.
    """
    (name, first), *others = encoders.items()
    if not _has_learned(first):
        return ""
    found = lead(first["results"][evaluator])
    rivals = [
        (called(other, entry, evaluator), value)
        for other, entry in others
        if not _has_learned(entry) and (value := lead(entry["results"].get(evaluator))) is not None
    ]
    alone = position_alone(first["results"][evaluator])
    if alone is not None:
        rivals.append(("position alone", alone))
    if found is None or not rivals:
        return ""
    best, value = max(rivals, key=lambda rival: rival[1])
    if min(found, value) < -1:
        return ""
    points = 100 * (found - value)
    before = "pretraining" if learns_on(evaluator) else "learning"
    place = f"the best without {before} ({best}, {100 * value:.1f})"
    text = f"is {abs(points):.1f} points {'above' if points > 0 else 'below'} {place}"
    result = first["results"][evaluator]
    total = result["details"].get("headline", result).get("total")  # None: no share of videos
    if abs(points) < 0.05:
        text = f"is level with {place}"
    elif total and abs(found - value) < _noise(found, value, total):
        text += f", no more than chance may give with {total} test videos"
    return f"{sentence_start(title_of(evaluator))}: {called(name, first, evaluator)} {text}."


def called(name: str, entry: Mapping[str, Any], evaluator: str = "") -> str:
    """Returns what an encoder is called in a sentence about an evaluator; `name` is that of its row."""
    kind = entry["spec"].partition(":")[0]
    tuned = learns_on(evaluator)
    if kind == "untrained":
        return f"the same network {'from scratch' if tuned else 'untrained'}"
    if kind in BASELINES:
        return BASELINES[kind]
    if kind == "features":
        return "an encoder with the given features"
    objective = entry["source"].get("objective")
    state = "fine-tuned" if tuned else "frozen"
    return f"the {state} {objective if isinstance(objective, str) else name} encoder"


def sentence_start(text: str) -> str:
    """Returns the text with a capital letter first."""
    return text[:1].upper() + text[1:]


def _has_learned(entry: Mapping[str, Any]) -> bool:
    return entry["spec"].partition(":")[0] not in ("untrained", *BASELINES)


def lead(result: Mapping[str, Any] | None) -> float | None:
    """Returns the number that the sentences of a result name; None where it is not there or not a number."""
    if result is None:
        return None
    return number_of(result, lead_metric(result))


def lead_metric(result: Mapping[str, Any]) -> str:
    """Returns which number that is: the one that the evaluator names, top1, or the first one (R@1 of a retrieval)."""
    named = result["details"].get("headline", {}).get("metric")
    first = "top1" if "top1" in result["metrics"] else next(iter(result["metrics"]), "top1")
    return str(named or first)


def number_of(result: Mapping[str, Any], metric: str) -> float | None:
    """Returns a number of a result; None where it is not there or not a number."""
    return _finite(result["metrics"].get(metric))


def position_alone(result: Mapping[str, Any]) -> float | None:
    """Returns what the number of `lead` is for the positions of frames alone; None where that is not measured."""
    metric = result["details"].get("headline", {}).get("metric")
    return _finite(result["details"].get("position_only", {}).get(metric))


def _finite(value: float | None) -> float | None:
    return None if value is None or math.isnan(value) else value


def _noise(a: float, b: float, total: int) -> float:
    return _TWO_SIDED_95 * math.sqrt((a * (1 - a) + b * (1 - b)) / total)
