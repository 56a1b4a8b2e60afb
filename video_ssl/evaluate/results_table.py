"""What an evaluation found, as a table and in plain words."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from video_ssl.evaluate.evaluators import figure_of, title_of
from video_ssl.evaluate.verdict import called, sentence_start, verdict

_MOST_COLUMNS, _MOST_WIDTH = 6, 50  # more than that is not readable in 80 characters


def results_table(results: Mapping[str, Any]) -> Table:
    """Returns the table encoders x metrics, in the units of the evaluators; in brackets 95 % intervals."""
    encoders = results["encoders"]
    columns = [
        (evaluator, metric)
        for evaluator, result in _first(encoders)["results"].items()
        for metric in result["metrics"]
    ]
    plain = all(figure_of(*column).unit == "%" for column in columns)
    unit = "in percent" if plain else "in percent where no unit stands"
    title = f"{results['name']}, tested on {results['recipe']['test']}, {unit}"
    width = sum(
        max(len(evaluator), len(figure_of(evaluator, m).head)) + 3 for evaluator, m in columns
    )
    if len(columns) > _MOST_COLUMNS or width > _MOST_WIDTH:
        return _tall_table(title, encoders, columns)
    table = Table(title=title, box=SIMPLE_HEAD)
    table.add_column("encoder", overflow="fold")
    for evaluator, metric in columns:
        head = f"{evaluator}\n{figure_of(evaluator, metric).head}"
        table.add_column(head, justify="right", overflow="fold")
    for name, entry in encoders.items():
        table.add_row(name, *(_cell(entry["results"], e, m) for e, m in columns))
    first = _first(encoders)["results"]
    alone = [_alone(first, e, m) for e, m in columns]
    if any(alone):
        table.add_row("position only", *alone, style="dim")
    guess = [_guess(first, e, m) for e, m in columns]
    if any(guess):
        table.add_row("guessing", *guess, style="dim")
    return table


def _tall_table(title: str, encoders: Mapping[str, Any], rows: list[tuple[str, str]]) -> Table:
    """The table metrics x encoders, where there are too many metrics for columns."""
    first = _first(encoders)["results"]
    table = Table(title=title, box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    table.add_column("", overflow="fold")
    alone = any("position_only" in result["details"] for result in first.values())
    guess = any("chance" in result["details"] for result in first.values())
    further = [*(["position only"] if alone else []), *(["guessing"] if guess else [])]
    for name in [*encoders, *further]:
        # Over the numbers, which are short: a word a line.
        head = re.sub(r"[ _]", "\n", name)
        table.add_column(head, justify="right", overflow="fold")
    for evaluator, metric in rows:
        cells = [_cell(entry["results"], evaluator, metric) for entry in encoders.values()]
        if alone:
            cells.append(_alone(first, evaluator, metric))
        if guess:
            cells.append(_guess(first, evaluator, metric))
        table.add_row(f"{evaluator} {figure_of(evaluator, metric).head}", *cells)
    return table


def summary(results: Mapping[str, Any]) -> str:
    """Returns the results in plain words: one sentence for every evaluator, what to beware of, and how
    far the first encoder is from what has learned nothing (see `verdict`).

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
            f"{sentence_start(called(name, encoders[name], evaluator))} names the class of {first['correct']} "
            f"of {first['total']} test videos ({title_of(evaluator)})"
        )
        for place, (other, result) in enumerate(others):
            # Totals are equal unless a video could be read for one encoder only.
            total = f" of {result['total']}" if result["total"] != first["total"] else ""
            who = called(other, encoders[other], evaluator)
            text += f"{', ' if place else '; '}{who} of {result['correct']}{total}"
        lines.append(f"{text}; guessing gives {round(first['chance'] * first['total'])}.")
    lines += _warnings(encoders)
    verdicts = [verdict(evaluator, encoders) for evaluator in _first(encoders)["results"]]
    return "\n".join(lines + [line for line in verdicts if line])


def _statements(
    evaluator: str, found: Mapping[str, Mapping[str, Any]], encoders: Mapping[str, Any]
) -> str:
    """For example "The frozen carl encoder names the phase of 93.1 % of the test frames; raw pixels
    40.2 %, position alone 61.0 % (phase classification, mean over 13 classes)."."""
    (name, first), *others = found.items()
    more = [
        f"{called(n, encoders[n], evaluator)} {r['details']['headline']['found']}"
        for n, r in others
    ]
    headline = first["details"]["headline"]
    if (alone := headline.get("position_only")) is not None:
        more.append(f"position alone {alone}")
    if (guessed := headline.get("guessing")) is not None:
        more.append(f"guessing gives {guessed}")
    title, count = title_of(evaluator), first["details"].get("num_classes", 1)
    mean = f", mean over {count} classes" if count > 1 else ""
    start = sentence_start(called(name, encoders[name], evaluator))
    beside = f"; {', '.join(more)}" if more else ""
    return f"{start} {first['statement']}{beside} ({title}{mean})."


def _warnings(encoders: Mapping[str, Any]) -> list[str]:
    """Skipped videos and the notes of evaluators, each once."""
    names_of: dict[str, list[str]] = {}
    for name, entry in encoders.items():
        for split, skipped in entry["skipped"].items():
            if skipped:
                note = f"{len(skipped)} {split} videos could not be read and are left out"
                names_of.setdefault(note, []).append(name)
        for evaluator, result in entry["results"].items():
            for note in result["notes"]:
                names_of.setdefault(f"{title_of(evaluator)}: {note}", []).append(name)
    return [f"Note ({', '.join(names)}): {note}." for note, names in names_of.items()]


def _first(encoders: Mapping[str, Any]) -> Any:
    return next(iter(encoders.values()))


def _cell(results: Mapping[str, Any], evaluator: str, metric: str) -> str:
    result, figure = results[evaluator], figure_of(evaluator, metric)
    text = figure.written(result["metrics"][metric])
    interval = result["details"].get(f"{metric}_interval_95")
    if interval:
        text += f" ({'-'.join(figure.bounds(interval))})"
    return text


def _alone(results: Mapping[str, Any], evaluator: str, metric: str) -> str:
    """What position alone gives; empty where the evaluator does not measure it."""
    alone = results[evaluator]["details"].get("position_only", {})
    return figure_of(evaluator, metric).written(alone[metric]) if metric in alone else ""


def _guess(results: Mapping[str, Any], evaluator: str, metric: str) -> str:
    """What guessing gives; empty where the evaluator does not say it."""
    result, figure = results[evaluator], figure_of(evaluator, metric)
    if metric == "top1":
        return figure.written(result["chance"])
    chance = result["details"].get("chance", {})
    return figure.written(chance[metric]) if metric in chance else ""
