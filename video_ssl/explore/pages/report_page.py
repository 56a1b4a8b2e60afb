"""`video-ssl report RUN`: one HTML file about what a run did and what its encoder is worth.

Everything is inside the file (style, script, drawings, pictures), and the page forbids itself to
fetch anything.  Where something is missing (no evaluation yet, videos that moved away), the page says
so; an unfinished run has a report too.
"""

from __future__ import annotations

import functools
import json
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from video_ssl.datasets import open_table
from video_ssl.datasets.table import Table, TableError
from video_ssl.evaluate.evaluators import figure_of
from video_ssl.explore.config import ReportConfig
from video_ssl.explore.pages.compare_page import COMPARISON, write_comparison
from video_ssl.explore.pages.curves_section import chart_cards
from video_ssl.explore.pages.neighbours_section import nearest_videos
from video_ssl.explore.pages.pictures import ClipPicture, ShownRecord, training_clips
from video_ssl.explore.pages.reconstructions import reconstructions
from video_ssl.explore.pages.rendering import write_page
from video_ssl.explore.pages.results_section import evaluations_of
from video_ssl.explore.pages.topics_section import TopicsSection, topics_of
from video_ssl.explore.pages.vocabulary_section import vocabulary_of
from video_ssl.explore.run_data import RunData, RunNotFound, class_name, read_run
from video_ssl.files import claim_file
from video_ssl.pretrain.health import verdict_of
from video_ssl.pretrain.recipe import PretrainRecipe
from video_ssl.progress import duration_text
from video_ssl.recipes import to_yaml

logger = logging.getLogger(__name__)

__all__ = ["RunNotFound", "write_report"]

_MAX_SKIPPED = 200
_NAMED = 5
S = TypeVar("S")


@dataclass(frozen=True, kw_only=True)
class ClipsSection:
    """Clips as training sees them, or the name of the table where its videos are missing.

    Attributes:
        records: (title, clips) of every training video that is shown.
        hidden_percent: of the first clip, "" where nothing is hidden.
        unreadable: why videos could not be read.
    """

    missing_table: str = ""
    records: Sequence[tuple[str, Sequence[ClipPicture]]] = ()
    hidden_percent: str = ""
    unreadable: Sequence[str] = ()


def write_report(
    run: str | Path,
    out: str | Path | None = None,
    config: ReportConfig | None = None,
    *,
    root: str | Path | None = None,
) -> Path:
    """Returns the HTML file that was written about a run, by default RUN/report.html.

    Args:
        run: the folder of a run, finished or not.
        config: how much it shows.
        root: the folder that its videos lie in now, where they were moved.

    Raises:
        RunNotFound: the folder is not that of a run.
        OutputError: the file is there and is no report, or cannot be written.
    """
    if (Path(run) / COMPARISON).is_file():
        return _report_of_comparison(Path(run), out)
    config, data = (
        config or ReportConfig(),
        read_run(Path(run), root=None if root is None else Path(root)),
    )
    path = claim_file(out if out is not None else data.folder / "report.html", "report")
    clips = _clips(data, config.max_clips)
    topics, vocabulary = _topics(data, config), _of_training(data, vocabulary_of)
    sections = {
        "curves": "Curves",
        "clips": "Training clips",
        "topics": "Topics",
        "vocabulary": "Vocabulary",
        "results": "Results",
        "neighbours": "Nearest neighbours",
        "recipe": "Recipe and environment",
        "skipped": "Skipped videos",
    }
    if clips is None:
        del sections["clips"]
    if topics is None:
        del sections["topics"]
    if vocabulary is None:
        del sections["vocabulary"]
    size = write_page(
        path,
        "report.html.j2",
        verb="report",
        origin=data.folder,
        run=data,
        sections=sections,
        subtitle=_subtitle(data),
        tiles=list(_tiles(data)),
        health=verdict_of(data.metrics) if data.metrics else None,
        curves=chart_cards(data),
        clips=clips,
        topics=topics,
        vocabulary=vocabulary,
        evaluations=evaluations_of(data),
        neighbours=nearest_videos(data, config.max_queries),
        recipe_text=to_yaml(dict(data.recipe)) if data.recipe else "",
        starts=[_start(start) for start in data.starts],
        encoders=list(_encoders(data)),
        skipped=[
            (where, entry.get("source", entry.get("id", "?")), entry.get("reason", ""))
            for where, entry in data.skipped[:_MAX_SKIPPED]
        ],
        num_skipped=len(data.skipped),
    )
    logger.info("%s: %.1f MB, everything inside", path, size / 1e6)
    return path


def _report_of_comparison(folder: Path, out: str | Path | None) -> Path:
    """The page of what `video-ssl compare` has left in a folder."""
    path = claim_file(out if out is not None else folder / "report.html", "report")
    try:
        comparison = json.loads((folder / COMPARISON).read_text(encoding="utf-8"))
        return write_comparison(comparison, path, verb="report", origin=folder)
    except (ValueError, KeyError) as err:
        raise RunNotFound(
            f"{folder / COMPARISON} is not what `video-ssl compare` writes ({err}): give its command again."
        ) from err


def _subtitle(data: RunData) -> str:
    parts = [f"objective {data.objective}"] if data.objective else []
    table = data.setting("data.table")
    parts += [f"trained on {table}"] if table else []
    if data.starts:
        parts.append(f"started {data.starts[0].get('time', '')[:16].replace('T', ' ')}")
    return " · ".join(parts) or "no recipe in this folder"


def _tiles(data: RunData) -> Iterator[tuple[str, str]]:
    """The figures at the head of the page, each with what it is."""
    last = data.metrics[-1] if data.metrics else {}
    if "step" in last:
        yield f"{last['step']:,}".replace(",", " "), "steps"
    if "loss" in last:
        yield f"{last['loss']:.4g}", "loss"
    if len(data.metrics) > 1 and all("time" in row for row in data.metrics):
        yield duration_text(last["time"] - data.metrics[0]["time"]), "training time"
    if "clips_per_sec" in last:
        yield f"{last['clips_per_sec']:.3g}", "clips per second"
    if data.encoder:
        yield f"{data.encoder.get('num_parameters', 0) / 1e6:.3g} M", "parameters of the encoder"
    for results in data.evaluations[:1]:
        entry = next(iter(results["encoders"].values()))
        for evaluator, result in list(entry["results"].items())[:2]:
            metric, value = next(iter(result["metrics"].items()))
            figure = figure_of(evaluator, metric)
            written = figure.written(value)
            yield written if written == "-" else f"{written} {figure.unit}", f"{evaluator} {metric}"


def _clips(data: RunData, count: int) -> ClipsSection | None:
    """Clips of training videos at equal distances in the table; None without a recipe."""
    recipe = data.recipe_object
    if recipe is None:
        return None
    table = data.table(recipe.data.table)
    if table is None:
        return ClipsSection(missing_table=recipe.data.table)
    from video_ssl.objectives import OBJECTIVES

    main, *others = OBJECTIVES[recipe.objective_name].plans(recipe.objective).items()
    predict = reconstructions(recipe)
    made, lost = training_clips(main[1], table, seed=recipe.seed, count=count, predict=predict)
    hidden = made[0].clips[0].hidden_share if made else 0.0
    records = _titled(made, table)
    for name, plan in others:
        spec, *_ = recipe.data.tables_of(name)
        table = data.table(spec)
        if table is None:
            lost.append(f"no videos of the stream {name}: {spec}")
            continue
        more, unreadable = training_clips(plan, table, seed=recipe.seed, count=max(count // 2, 1))
        records += [(f"{name}: {title}", clips) for title, clips in _titled(more, table)]
        lost += unreadable
    return ClipsSection(
        records=records,
        hidden_percent=f"{100 * hidden:.0f}" if hidden else "",
        unreadable=lost,
    )


def _of_training(data: RunData, section: Callable[[PretrainRecipe, Table], S | None]) -> S | None:
    """What the network says of training videos; None where it says nothing, or they are not here."""
    recipe = data.recipe_object
    table = None if recipe is None else data.table(recipe.data.table)
    return None if recipe is None or table is None else section(recipe, table)


def _topics(data: RunData, config: ReportConfig) -> TopicsSection | None:
    """Who belongs together among the videos of the training, or of the table that was asked for.

    Raises:
        TableError: no such table, fewer than two videos that can be used, or an objective that judges no pairs.
    """
    most = config.max_topics
    if config.topics is None:
        found = _of_training(data, functools.partial(topics_of, most=most))
        return None if found is None or found.judged is None else found
    recipe = data.recipe_object
    table = open_table(config.topics)
    found = None if recipe is None else topics_of(recipe, table, most=most, name=config.topics)
    if found is None:
        raise TableError(
            f"topics={config.topics}: {data.folder} does not judge which videos belong together. hico and hicopp with "
            "a topical term do, where a checkpoint is there."
        )
    if found.judged is None:
        reasons = "".join(f"\n  {name}: {reason}" for name, reason in found.left_out[:_NAMED])
        raise TableError(
            f"topics={config.topics}: two videos are needed, and of {len(table)} fewer can be used.{reasons}"
        )
    return found


def _titled(made: Sequence[ShownRecord], table: Table) -> list[tuple[str, Sequence[ClipPicture]]]:
    """Clips with the names of their record and class."""
    names = [class_name(table.class_names, shown.record.label, " · ") for shown in made]
    return [(f"{s.record.id}{name}", s.clips) for s, name in zip(made, names, strict=True)]


def _encoders(data: RunData) -> Iterator[tuple[str, str]]:
    """What every exported encoder is: the title of its part, and its config.json."""
    if data.encoder:
        yield "Encoder", json.dumps(data.encoder, indent=1)
    for place, content in data.other_encoders.items():
        yield f"Encoder in {place}", json.dumps(content, indent=1)


def _start(start: dict[str, Any]) -> dict[str, Any]:
    """An entry of environment.json as rows of text."""
    return {
        "step": start.get("step", 0),
        "rows": [(key, _flat_text(value)) for key, value in start.items()],
    }


def _flat_text(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{k} {_flat_text(v)}" for k, v in value.items())
    if isinstance(value, list):
        return " ".join(str(v) for v in value) or "none"
    return str(value)
