"""The results of the report: one table an evaluator, and which classes are taken for which."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from video_ssl.evaluate.contract import Figure
from video_ssl.evaluate.evaluators import figure_of
from video_ssl.evaluate.leftovers import safe_name
from video_ssl.explore.pages.charts import confusion_chart, share_bar
from video_ssl.explore.run_data import RunData, class_name

#: Films of a kind, and bytes of each, that a page carries with it.
_FILMS, _MOST_BYTES = 4, 2**20


@dataclass(frozen=True, kw_only=True)
class ResultRow:
    """The metrics of one encoder.

    Attributes:
        bar: SVG of the first metric, empty where it is no share.
        cells: (value, 95 % interval or "") of every metric, as text.
    """

    encoder: str
    bar: Markup
    cells: Sequence[tuple[str, str]]


@dataclass(frozen=True, kw_only=True)
class ResultTable:
    """What an evaluator found for every encoder.

    Attributes:
        evaluator: its name.
        metrics: heads of the columns.
        rows: one an encoder.
        chosen: the settings that it chose for the first one.
    """

    evaluator: str
    metrics: Sequence[str]
    rows: Sequence[ResultRow]
    chosen: str


@dataclass(frozen=True, kw_only=True)
class Confusion:
    """Which classes an evaluator takes for which, by the features of an encoder."""

    encoder: str
    evaluator: str
    drawing: Markup


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What an evaluation has drawn of the first encoder that it has drawings of.

    Attributes:
        sheets: data URIs of pictures.
        films: (what it is of, data URI), the first ones of each kind.
    """

    encoder: str
    sheets: Sequence[str]
    films: Sequence[tuple[str, str]]


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """One evaluation of a run, as the report shows it."""

    name: str
    train: str
    test: str
    seed: str
    date: str
    summary: str
    tables: Sequence[ResultTable]
    confusion: Confusion | None
    seen: Seen | None


def evaluations_of(data: RunData) -> list[Evaluation]:
    """Returns the evaluations that lie in the folder of a run."""
    return [_evaluation(data, results) for results in data.evaluations]


def _evaluation(data: RunData, results: Mapping[str, Any]) -> Evaluation:
    encoders = results["encoders"]
    recipe = results.get("recipe", {})
    return Evaluation(
        name=results["name"],
        train=str(recipe.get("train") or "nothing"),
        test=str(recipe.get("test")),
        seed=str(results.get("seed")),
        date=str(results.get("date", ""))[:10],
        summary=results.get("summary", ""),
        tables=[_table(encoders, name) for name in next(iter(encoders.values()))["results"]],
        confusion=_confusion(data, results),
        seen=_seen(results.get("folder"), list(encoders)),
    )


def _seen(folder: Path | None, encoders: Sequence[str]) -> Seen | None:
    """Drawings in OUT/files/ENCODER: pictures, and films in its folders; large ones are left where they are."""
    if folder is None:
        return None
    for name in encoders:
        own = folder / "files" / safe_name(name)
        sheets = [_uri(path, "image/png") for path in sorted(own.glob("*.png")) if _is_small(path)]
        films = []
        for kind in sorted(path for path in own.glob("*") if path.is_dir()):
            some = [path for path in sorted(kind.glob("*.mp4")) if _is_small(path)][:_FILMS]
            films += [(f"{kind.name}: {path.stem}", _uri(path, "video/mp4")) for path in some]
        if sheets or films:
            return Seen(encoder=name, sheets=sheets, films=films)
    return None


def _is_small(path: Path) -> bool:
    return path.is_file() and 0 < path.stat().st_size <= _MOST_BYTES


def _uri(path: Path, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"


def _table(encoders: Mapping[str, Any], evaluator: str) -> ResultTable:
    found = {n: e["results"][evaluator] for n, e in encoders.items() if evaluator in e["results"]}
    first = next(iter(found.values()))
    metrics = list(first["metrics"])
    return ResultTable(
        evaluator=evaluator,
        metrics=[figure_of(evaluator, metric).head for metric in metrics],
        rows=[_row(name, evaluator, result, metrics) for name, result in found.items()],
        chosen=", ".join(
            f"{key} {_short(value)}" for key, value in first.get("chosen", {}).items()
        ),
    )


def _row(
    encoder: str, evaluator: str, result: Mapping[str, Any], metrics: Sequence[str]
) -> ResultRow:
    lead = result["metrics"][metrics[0]]
    is_share = figure_of(evaluator, metrics[0]).unit == "%" and lead is not None and 0 <= lead <= 1
    bar = share_bar(lead, chance=result.get("chance")) if is_share else Markup()
    figures = [figure_of(evaluator, metric) for metric in metrics]
    cells = [
        (figure.written(result["metrics"].get(metric)), _interval(result, metric, figure))
        for figure, metric in zip(figures, metrics, strict=True)
    ]
    return ResultRow(encoder=encoder, bar=bar, cells=cells)


def _confusion(data: RunData, results: Mapping[str, Any]) -> Confusion | None:
    encoder, entry = next(iter(results["encoders"].items()))
    for evaluator, result in entry["results"].items():
        confusion = result.get("details", {}).get("confusion")
        if confusion:
            known = entry.get("class_names") or data.class_names(results)
            classes = result["details"].get("classes", range(len(confusion)))
            names = [class_name(known, label) or str(label) for label in classes]
            return Confusion(
                encoder=encoder, evaluator=evaluator, drawing=confusion_chart(confusion, names)
            )
    return None


def _interval(result: Mapping[str, Any], metric: str, figure: Figure) -> str:
    bounds = result.get("details", {}).get(f"{metric}_interval_95")
    return "–".join(figure.bounds(bounds)) if bounds else ""


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
