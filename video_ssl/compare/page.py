"""What a comparison found, as one page, as Markdown, as CSV and as JSON.

OUT/comparison.json    abilities, rows, intervals, differences, costs, failures
OUT/comparison.csv     one line for every number, with the command that made it
OUT/comparison.md      the tables
OUT/comparison.html    tables, drawings, commands
"""

from __future__ import annotations

import csv
import dataclasses
import io
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from video_ssl.compare.cells import Cell, amount_text, costs_of
from video_ssl.compare.recipe import ComparisonRecipe
from video_ssl.compare.standings import Ability, Row, abilities_of, most_confused
from video_ssl.evaluate.contract import Figure
from video_ssl.explore.pages.charts import CALM, dot_plot, line_chart, series_colors
from video_ssl.explore.pages.rendering import write_page
from video_ssl.files import MADE_BY, made, write_atomically, write_json

NAMES = ("comparison.json", "comparison.csv", "comparison.md", "comparison.html")


@dataclasses.dataclass(frozen=True)
class Outcome:
    """All that the page shows."""

    recipe: ComparisonRecipe
    amount: float
    abilities: Sequence[Ability]
    curves: Mapping[str, Mapping[str, Sequence[tuple[float, float]]]]
    costs: Mapping[str, Mapping[str, str]]
    cells: Sequence[Cell]
    failed: Sequence[str]

    @property
    def done(self) -> int:
        return sum(not cell.missing() for cell in self.cells)


def write_outcome(
    recipe: ComparisonRecipe, cells: Sequence[Cell], failed: Mapping[str, str]
) -> Path:
    """Writes what is there so far, in all four forms; returns the page.

    Args:
        failed: what could not begin, with the reason.
    """
    outcome = _outcome(recipe, cells, failed)
    folder = recipe.folder
    write_json(folder / NAMES[0], {MADE_BY: made("compare"), **as_json(outcome)})
    write_atomically(folder / NAMES[1], as_csv(outcome))
    write_atomically(folder / NAMES[2], as_markdown(outcome))
    _write_html(outcome, folder / NAMES[3])
    return folder / NAMES[3]


def _outcome(recipe: ComparisonRecipe, cells: Sequence[Cell], failed: Mapping[str, str]) -> Outcome:
    amounts = sorted(recipe.budget.amounts)
    by_amount = {amount: abilities_of(cells, amount) for amount in amounts}
    largest = next((a for a in reversed(amounts) if by_amount[a]), amounts[-1])
    curves: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for amount in amounts:
        for ability in by_amount[amount]:
            for name, row in ability.rows.items():
                if row.mean is not None:
                    own = curves.setdefault(ability.key, {})
                    own.setdefault(name, []).append((amount, row.mean))
    problems = list(failed.values())
    for cell in cells:
        state = cell.state()
        if cell.missing() and state.get("error"):
            problems.append(f"{cell.name}: {state['error']}")
        elif cell.missing() and cell.profile is not None:
            problems.append(f"{cell.name}: a job of the profile {cell.profile}, not finished")
    spent = costs_of([cell for cell in cells if cell.amount == largest])
    return Outcome(
        recipe,
        largest,
        by_amount[largest],
        curves if len(amounts) > 1 else {},
        {name: _cost_row(rows) for name, rows in spent.items()},
        cells,
        problems,
    )


def _cost_row(rows: Sequence[Any]) -> dict[str, str]:
    return {
        "processor time": f"{np.mean([row.processor_sec for row in rows]):.0f} s",
        "on the clock": f"{np.mean([row.wall_sec for row in rows]):.0f} s",
        "largest memory": f"{max(row.peak_gib for row in rows):.2f} GiB",
    }


def as_json(outcome: Outcome) -> dict[str, Any]:
    """Returns the outcome as JSON, without what every single video was."""
    abilities = []
    for ability in outcome.abilities:
        content = dataclasses.asdict(ability)
        for row, name in ((content["rows"][name], name) for name in ability.rows):
            row.pop("right")
            row["mean"] = ability.rows[name].mean
        abilities.append(content)
    return {
        "name": outcome.recipe.name,
        "budget": {"kind": outcome.recipe.budget.kind, "amount": outcome.amount},
        "seeds": list(outcome.recipe.seeds),
        "table": outcome.recipe.table,
        "trainings": {"finished": outcome.done, "all": len(outcome.cells)},
        "abilities": abilities,
        "curves": outcome.curves,
        "costs": outcome.costs,
        "failed": list(outcome.failed),
        "confused": {
            name: most_confused(outcome.cells, outcome.amount, name) for name in _names(outcome)
        },
    }


def as_csv(outcome: Outcome) -> str:
    """Returns a line for every number of every seed, that of the untrained twin beside it, and its commands."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(
        (
            "ability",
            "metric",
            "objective",
            "budget",
            "kind",
            "seed",
            "value",
            "untrained",
            "commands",
        )
    )
    for amount in sorted(outcome.recipe.budget.amounts):
        commands = {
            (cell.objective, cell.seed): " && ".join(cell.commands())
            for cell in outcome.cells
            if cell.amount == amount
        }
        for ability in abilities_of(outcome.cells, amount):
            for name, row in ability.rows.items():
                for seed, value in row.values.items():
                    untrained = row.untrained.get(seed)
                    writer.writerow(
                        (
                            ability.key,
                            ability.metric,
                            name,
                            amount_text(amount),
                            outcome.recipe.budget.kind,
                            seed,
                        )
                        + (
                            repr(value),
                            "" if untrained is None else repr(untrained),
                            commands[name, seed],
                        )
                    )
    return text.getvalue()


def as_markdown(outcome: Outcome) -> str:
    """Returns the tables: a line for every objective in each ability, and what is level with the best."""
    lines = [
        "<!-- made by video-ssl compare -->",
        f"# {outcome.recipe.name}: objectives on equal terms",
        "",
        summary(outcome),
        "",
    ]
    for ability in outcome.abilities:
        lines += [
            f"## {ability.title} ({ability.key})",
            "",
            f"{_unit(ability)}; {notes(ability)}",
            "",
        ]
        lines += [
            "| objective | mean | 95 % | place | seeds | untrained |"
            + ("" if without_learning(ability) else " without learning |"),
            "|---" * (6 if without_learning(ability) else 7) + "|",
        ]
        for name, row in ability.rows.items():
            lines.append("| " + " | ".join(_cells(ability, name, row)) + " |")
        if without_learning(ability):
            lines += ["", without_learning(ability)]
        lines += ["", verdict(ability), ""]
    if outcome.costs:
        heads = list(next(iter(outcome.costs.values())))
        lines += [
            "## Cost of a training",
            "",
            "| objective | " + " | ".join(heads) + " |",
            "|---" * (len(heads) + 1) + "|",
        ]
        lines += [
            f"| {name} | " + " | ".join(row.values()) + " |" for name, row in outcome.costs.items()
        ]
        lines.append("")
    if outcome.failed:
        lines += ["## Not measured", "", *(f"- {line}" for line in outcome.failed), ""]
    return "\n".join(lines)


def summary(outcome: Outcome) -> str:
    """Returns what was compared, in a sentence or two."""
    recipe = outcome.recipe
    unfinished = len(outcome.cells) - outcome.done
    text = (
        f"{len(_names(outcome))} objectives, {amount_text(outcome.amount)} {_BUDGETS[recipe.budget.kind]} each, seeds "
        f"{', '.join(map(str, recipe.seeds))}, trained on {recipe.table}; every number is of a frozen encoder. "
        f"Written {time.strftime('%Y-%m-%d')}."
    )
    other = {
        name: e.table
        for name, e in recipe.objectives.items()
        if e.table and name in _names(outcome)
    }
    if other:
        text += (
            f" On other videos: {', '.join(f'{name} ({table})' for name, table in other.items())}."
        )
    if unfinished:
        text += f" {unfinished} of {len(outcome.cells)} trainings are not finished; the rest is what is here."
    return text


_BUDGETS = {
    "clips": "clips seen by encoders",
    "seconds": "seconds of processor time",
    "operations": "operations",
    "lengths": "of its own length",
}


def verdict(ability: Ability) -> str:
    """Returns which objectives are best and which differences are none, in a sentence."""
    if not ability.rows:
        return ""
    best, *_ = ability.rows
    if len(ability.rows) == 1:
        return f"{best} alone was measured."
    if not ability.level_with_best:
        return f"{best} is best, and its distance from every other one is more than chance gives."
    return (
        f"{best} has the highest mean; its distance from {', '.join(ability.level_with_best)} is no more than chance "
        "gives: no order is to be read into these."
    )


def notes(ability: Ability) -> str:
    """Returns how the intervals were made, and what guessing gives."""
    text = _resampled(ability)
    if ability.chance is not None:
        text += f"; guessing gives {_figure(ability).written(ability.chance)}"
    alone = [row.alone for row in ability.rows.values() if row.alone is not None]
    if alone:
        text += f"; position alone {_figure(ability).written(alone[0])}"
    return text


def _resampled(ability: Ability) -> str:
    """What the intervals are resamplings of."""
    seeds = [len(row.values) for row in ability.rows.values()]
    several = [count for count in seeds if count > 1]
    if not several:
        kind = "intervals from resampled videos alone" if ability.over_videos else "no intervals"
        return f"{kind}: one seed, so that no difference is told from chance"
    if ability.over_videos:
        text, else_ = "intervals from resampled seeds and videos", "from videos alone"
    else:
        text = f"intervals from resampled seeds alone ({min(several)}: a rough idea)"
        else_ = "none"
    return text if len(several) == len(seeds) else f"{text}, {else_} where there is one seed"


def _unit(ability: Ability) -> str:
    return (
        "in percent"
        if ability.unit == "%"
        else f"in {ability.unit}"
        if ability.unit
        else "a number"
    )


def _figure(ability: Ability) -> Figure:
    return Figure(unit=ability.unit, digits=ability.digits)


def _cells(ability: Ability, name: str, row: Row) -> list[str]:
    figure = _figure(ability)
    interval = (
        "-" if row.interval is None else " to ".join(figure.written(end) for end in row.interval)
    )
    return [
        name,
        figure.written(row.mean),
        interval,
        _place(row),
        str(len(row.values)),
        figure.written(row.mean_untrained),
        *([] if without_learning(ability) else [_baselines(ability, row) or "-"]),
    ]


def without_learning(ability: Ability) -> str:
    """Returns what never learned reaches, as a sentence, where that is the same beside all objectives; else ""."""
    found = {_baselines(ability, row) for row in ability.rows.values()}
    return f"Without learning: {found.pop()}." if len(found) == 1 and found != {""} else ""


def _baselines(ability: Ability, row: Row) -> str:
    figure = _figure(ability)
    return ", ".join(f"{who} {figure.written(value)}" for who, value in row.baselines.items())


def _place(row: Row) -> str:
    """Which places an objective may have: "2", "2 to 5"; "-" where that cannot be told."""
    if row.ranks is None:
        return "-"
    return " to ".join(dict.fromkeys(map(str, row.ranks)))


def _names(outcome: Outcome) -> list[str]:
    """Objectives that have a number, in the order of the recipe."""
    there = {name for ability in outcome.abilities for name in ability.rows}
    return [name for name in outcome.recipe.objectives if name in there]


@dataclasses.dataclass(frozen=True)
class Section:
    """An ability on the page."""

    ability: Ability
    notes: str
    verdict: str
    dots: Markup
    rows: Sequence[Sequence[str]]
    without: str
    pairs: Sequence[str]
    curve: Markup
    legend: Sequence[tuple[str, str]]


def _write_html(outcome: Outcome, path: Path) -> None:
    write_page(
        path,
        "objectives.html.j2",
        verb="compare",
        origin=outcome.recipe.folder,
        name=outcome.recipe.name,
        summary=summary(outcome),
        sections=[_section(ability, outcome) for ability in outcome.abilities],
        costs=outcome.costs,
        failed=outcome.failed,
        confused={n: most_confused(outcome.cells, outcome.amount, n) for n in _names(outcome)},
        commands=[
            (cell.name, cell.commands()) for cell in outcome.cells if cell.amount == outcome.amount
        ],
        grid=_grid(outcome),
        names=_names(outcome),
    )


def _section(ability: Ability, outcome: Outcome) -> Section:
    figure = _figure(ability)
    curves = outcome.curves.get(ability.key, {})
    if all(len(points) < 2 for points in curves.values()):
        curves = {}
    return Section(
        ability=ability,
        notes=notes(ability),
        verdict=verdict(ability),
        dots=dot_plot(
            {
                name: {
                    "mean": row.mean or 0.0,
                    "interval": row.interval,
                    "seeds": list(row.values.values()),
                    "untrained": row.mean_untrained,
                    "baseline": max(row.baselines.values(), default=None),
                }
                for name, row in ability.rows.items()
            },
            chance=ability.chance,
            written=figure.written,
        ),
        rows=[_cells(ability, name, row) for name, row in ability.rows.items()],
        without=without_learning(ability),
        pairs=[
            f"{better} over {worse}: {figure.written(gap)} ({figure.written(low)} to {figure.written(high)})"
            + ("" if sure else ", no more than chance gives")
            for better, worse, gap, low, high, sure in ability.differences
        ],
        curve=line_chart(curves, percent=ability.unit == "%", colors=CALM) if curves else Markup(),
        legend=series_colors(list(curves), CALM),
    )


def _grid(outcome: Outcome) -> list[tuple[str, list[tuple[str, str]]]]:
    """The small table: a row for each objective, a cell for each ability, with a mark for "level with the best"."""
    found = []
    for name in _names(outcome):
        cells = []
        for ability in outcome.abilities:
            row = ability.rows.get(name)
            best = next(iter(ability.rows), None)
            mark = "best" if name == best or name in ability.level_with_best else ""
            cells.append((_figure(ability).written(None if row is None else row.mean), mark))
        found.append((name, cells))
    return found
