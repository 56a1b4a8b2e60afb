"""What an evaluation found, as a table and in plain words."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

_TITLES = {
    "probe": "linear probe",
    "knn": "nearest neighbours",
    "phases": "phase classification",
    "progression": "phase progression",
    "kendalls_tau": "Kendall's tau",
    "frame_retrieval": "frame retrieval",
    "frame_probe": "linear layer on frames",
    "few_shot_phases": "few-shot phase classification",
}
_MOST_COLUMNS, _MOST_WIDTH = 6, 50  # more than that is not readable in 80 characters
_METRICS = {"top1": "top-1", "top5": "top-5", "mean_class": "class"}


def results_table(results: Mapping[str, Any]) -> Table:
    """Returns the table encoders x metrics, in percent; in brackets 95 % intervals."""
    encoders = results["encoders"]
    columns = [
        (evaluator, metric)
        for evaluator, result in _first(encoders)["results"].items()
        for metric in result["metrics"]
    ]
    title = f"{results['name']}, tested on {results['recipe']['test']}, in percent"
    width = sum(max(len(evaluator), len(_METRICS.get(m, m))) + 3 for evaluator, m in columns)
    if len(columns) > _MOST_COLUMNS or width > _MOST_WIDTH:
        return _tall_table(title, encoders, columns)
    table = Table(title=title, box=SIMPLE_HEAD)
    table.add_column("encoder", no_wrap=True)
    for evaluator, metric in columns:
        head = f"{evaluator}\n{_METRICS.get(metric, metric)}"
        table.add_column(head, justify="right", no_wrap=True)
    for name, entry in encoders.items():
        table.add_row(name, *(_cell(entry["results"][e], m) for e, m in columns))
    first = _first(encoders)["results"]
    alone = [first[e]["details"].get("position_only", {}).get(m) for e, m in columns]
    if any(share is not None for share in alone):
        shown = ["" if share is None else _percent(share) for share in alone]
        table.add_row("position only", *shown, style="dim")
    guess = [_percent(first[e]["chance"]) if m == "top1" else "" for e, m in columns]
    if any(guess):
        table.add_row("guessing", *guess, style="dim")
    return table


def _tall_table(title: str, encoders: Mapping[str, Any], rows: list[tuple[str, str]]) -> Table:
    """The table metrics x encoders, where there are too many metrics for columns."""
    first = _first(encoders)["results"]
    table = Table(title=title, box=SIMPLE_HEAD)
    table.add_column("", no_wrap=True)
    alone = any("position_only" in result["details"] for result in first.values())
    for name in [*encoders, *(["position only"] if alone else [])]:
        table.add_column(name, justify="right", no_wrap=True)
    for evaluator, metric in rows:
        cells = [_cell(entry["results"][evaluator], metric) for entry in encoders.values()]
        if alone:
            share = first[evaluator]["details"].get("position_only", {}).get(metric)
            cells.append("" if share is None else _percent(share))
        table.add_row(f"{evaluator} {_METRICS.get(metric, metric)}", *cells)
    return table


def summary(results: Mapping[str, Any]) -> str:
    """Returns the results in plain words: one sentence for every evaluator, then what to beware of.

    For example "The frozen mvd encoder names the class of 61 of 100 test videos (linear probe);
    the same network untrained of 34, raw pixels of 22; guessing gives 10."
    """
    encoders = results["encoders"]
    lines = []
    for evaluator in _first(encoders)["results"]:
        found = {name: entry["results"][evaluator] for name, entry in encoders.items()}
        (name, first), *others = found.items()
        if first.get("statement"):
            lines.append(_statements(evaluator, found, encoders))
            continue
        text = (
            f"{_sentence_start(_who(name, encoders[name]))} names the class of {first['correct']} "
            f"of {first['total']} test videos ({_TITLES.get(evaluator, evaluator)})"
        )
        for place, (other, result) in enumerate(others):
            # Totals are equal unless a video could be read for one encoder only.
            total = f" of {result['total']}" if result["total"] != first["total"] else ""
            who = _who(other, encoders[other])
            text += f"{', ' if place else '; '}{who} of {result['correct']}{total}"
        lines.append(f"{text}; guessing gives {round(first['chance'] * first['total'])}.")
    return "\n".join(lines + _warnings(encoders))


def _statements(
    evaluator: str, found: Mapping[str, Mapping[str, Any]], encoders: Mapping[str, Any]
) -> str:
    """For example "The frozen carl encoder names the phase of 93.1 % of the test frames; raw pixels
    40.2 %, position alone 61.0 % (phase classification, mean over 13 classes)."."""
    (name, first), *others = found.items()
    more = [f"{_who(n, encoders[n])} {r['details']['headline']['found']}" for n, r in others]
    more.append(f"position alone {first['details']['headline']['position_only']}")
    title, count = _TITLES.get(evaluator, evaluator), first["details"]["num_classes"]
    mean = f", mean over {count} classes" if count > 1 else ""
    start = _sentence_start(_who(name, encoders[name]))
    return f"{start} {first['statement']}; {', '.join(more)} ({title}{mean})."


def _warnings(encoders: Mapping[str, Any]) -> list[str]:
    """Skipped videos and the notes of evaluators, each said once."""
    said: dict[str, list[str]] = {}
    for name, entry in encoders.items():
        for split, skipped in entry["skipped"].items():
            if skipped:
                note = f"{len(skipped)} {split} videos could not be read and are left out"
                said.setdefault(note, []).append(name)
        for evaluator, result in entry["results"].items():
            for note in result["notes"]:
                said.setdefault(f"{_TITLES.get(evaluator, evaluator)}: {note}", []).append(name)
    return [f"Note ({', '.join(names)}): {note}." for note, names in said.items()]


def _who(name: str, entry: Mapping[str, Any]) -> str:
    kind = entry["spec"].partition(":")[0]
    if kind == "untrained":
        return "the same network untrained"
    if kind == "pixels":
        return "raw pixels"
    if kind == "features":
        return "an encoder with the given features"
    objective = entry["source"].get("objective")
    called = objective if isinstance(objective, str) else name
    return f"the frozen {called} encoder"


def _sentence_start(text: str) -> str:
    return text[:1].upper() + text[1:]


def _first(encoders: Mapping[str, Any]) -> Any:
    return next(iter(encoders.values()))


def _cell(result: Mapping[str, Any], metric: str) -> str:
    text = _percent(result["metrics"][metric])
    interval = result["details"].get(f"{metric}_interval_95")
    if interval:
        text += f" ({100 * interval[0]:.0f}-{100 * interval[1]:.0f})"
    return text


def _percent(share: float) -> str:
    return "-" if math.isnan(share) else f"{100 * share:.1f}"
