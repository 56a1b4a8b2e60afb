"""The curves of the report: which figures of metrics.jsonl are drawn together, and how."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from video_ssl.explore.pages.charts import Points, line_chart, series_colors
from video_ssl.explore.run_data import RunData

#: Title, keys of metrics.jsonl, kind of axis, caption.  Keys that no row has are left out.
_CURVES: tuple[tuple[str, tuple[str, ...], str, str], ...] = (
    ("Loss", ("loss", "loss_*"), "log", "mean since the line before"),
    (
        "Accuracy on other videos",
        ("val_top1", "val_mean_class"),
        "percent",
        "of the validation table; of all videos, and the mean of the classes",
    ),
    (
        "Classes of other recordings",
        ("val_map", "val_auc"),
        "percent",
        "of the validation table; mean average precision and area under the ROC, means over the classes",
    ),
    ("Loss on other videos", ("val_loss",), "log", "of the validation table"),
    (
        "Classes of the probe",
        ("probe_knn", "probe_linear"),
        "percent",
        "of training.probe.table: videos whose class their neighbours, or ridge regression on the other half, name",
    ),
    (
        "Ranks of the probe",
        ("probe_rankme", "probe_effective_rank"),
        "plain",
        "directions that the features of training.probe.table use",
    ),
    ("Learning rate", ("lr",), "plain", ""),
    ("Gradient norm", ("grad_norm",), "log", "of all parameters, before clipping"),
    (
        "Feature spread",
        ("feature_std",),
        "plain",
        "standard deviation over a batch; towards 0 = collapse",
    ),
    (
        "Effective rank",
        ("effective_rank",),
        "plain",
        "directions the features use; towards 1 = collapse",
    ),
    ("Waiting for data", ("data_wait_share",), "percent", "share of the time of a step"),
    ("Speed", ("clips_per_sec",), "plain", "clips per second"),
    ("Memory", ("host_memory_gib", "device_memory_gib"), "plain", "peak, GiB"),
)


@dataclass(frozen=True, kw_only=True)
class ChartCard:
    """One chart with its title.

    Attributes:
        drawing: SVG, empty where no value is finite.
        series: (name, color) of every curve.
    """

    title: str
    drawing: Markup
    series: Sequence[tuple[str, str]]
    caption: str = ""


def chart_cards(data: RunData) -> list[ChartCard]:
    """Returns the charts of a run; none where it has no metrics yet."""
    if not data.metrics:
        return []
    cards = []
    known = {"step", "progress", "time", "val_videos", "probe_videos"}
    for title, wanted, kind, caption in _CURVES:
        names = _matching(wanted, data.metrics)
        known.update(names)
        if names:
            cards.append(_card(title, _series(data.metrics, names), caption, kind=kind))
    others = [name for name in _matching(("*",), data.metrics) if name not in known]
    cards += [_card(name, _series(data.metrics, [name])) for name in others]
    if any(data.stages.values()):
        losses = {name: _series(rows, ["loss"])["loss"] for name, rows in data.stages.items()}
        caption = f"trained before: {', '.join(losses)}"
        cards.append(_card("Loss of the stages", losses, caption, kind="log"))
    return cards


def _card(
    title: str, series: Mapping[str, Points], caption: str = "", *, kind: str = "plain"
) -> ChartCard:
    return ChartCard(
        title=title,
        drawing=line_chart(series, percent=kind == "percent", log=kind == "log"),
        series=series_colors(list(series)),
        caption=caption,
    )


def _series(rows: Sequence[Mapping[str, Any]], names: Sequence[str]) -> dict[str, Points]:
    return {name: [(row["step"], row[name]) for row in rows if name in row] for name in names}


def _matching(wanted: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Names of numeric metrics, those with * by their beginning, in the order of the rows."""
    numeric = {
        name: None
        for row in rows
        for name, value in row.items()
        if isinstance(value, (int, float)) and not isinstance(value, bool)
    }
    return [
        name
        for name in numeric
        if any(name == w or (w.endswith("*") and name.startswith(w[:-1])) for w in wanted)
    ]
