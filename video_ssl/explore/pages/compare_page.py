"""The page of `video-ssl compare`: encoders side by side, the pairs, the classes, and what is taken for what."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from video_ssl.evaluate.comparison import bounds, class_rows, verdicts
from video_ssl.evaluate.contract import Figure
from video_ssl.explore.pages.charts import confusion_chart, interval_bar
from video_ssl.explore.pages.rendering import write_page

#: What `video-ssl compare` keeps in its folder, and this page shows.
COMPARISON = "compare.json"

_SHARE = Figure()


@dataclass(frozen=True, kw_only=True)
class Row:
    """An encoder, or what needs none; `bar` is empty where there is no interval."""

    name: str
    bar: Markup
    top1: str
    interval: str = ""
    mean_class: str = ""


@dataclass(frozen=True, kw_only=True)
class Part:
    """An evaluator: its encoders, the sentences about pairs, the classes, and a drawing for every encoder."""

    title: str
    num_videos: int
    rows: Sequence[Row]
    pairs: Sequence[str]
    encoders: Sequence[str]
    classes: Sequence[Sequence[str]]
    confusions: Sequence[tuple[str, Markup]]
    notes: Sequence[str]


def write_comparison(
    comparison: Mapping[str, Any], path: Path, *, verb: str, origin: object
) -> Path:
    """Returns the page that was written about a comparison, see `evaluate.comparison.compared`."""
    write_page(
        path,
        "compare.html.j2",
        verb=verb,
        origin=origin,
        comparison=comparison,
        parts=[_part(found) for found in comparison["evaluators"].values()],
    )
    return path


def _part(found: Mapping[str, Any]) -> Part:
    rows = [
        Row(
            name=name,
            bar=interval_bar(own["top1"], own["interval"], chance=found["chance"]),
            top1=_SHARE.written(own["top1"]),
            interval=bounds(own["interval"]),
            mean_class=_SHARE.written(own["mean_class"]),
        )
        for name, own in found["encoders"].items()
    ]
    for name, value in (("the most frequent class", "majority"), ("guessing", "chance")):
        rows.append(Row(name=name, bar=Markup(), top1=_SHARE.written(found[value])))
    return Part(
        title=found["title"],
        num_videos=found["num_videos"],
        rows=rows,
        pairs=verdicts(found),
        encoders=list(found["encoders"]),
        classes=class_rows(found),
        confusions=[
            (name, confusion_chart(own["confusion"], found["class_names"]))
            for name, own in found["encoders"].items()
        ],
        notes=found["notes"],
    )
