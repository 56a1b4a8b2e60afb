"""`video-ssl report RUN`: one HTML file that tells what a run did and what its encoder is worth.

Everything is inside the file (style, script, drawings, pictures), and the page forbids itself to
fetch anything.  What is missing (no evaluation yet, videos that moved away) is said in its place;
an unfinished run has a report too.
"""

from __future__ import annotations

import html
import json
import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from video_ssl.explore.pages.charts import confusion_chart, legend, line_chart, share_bar
from video_ssl.explore.pages.neighbours_section import neighbours_section
from video_ssl.explore.pages.pictures import ClipPicture, training_clips
from video_ssl.explore.pages.style import POLICY, SCRIPT, STYLE
from video_ssl.explore.run_data import RunData, RunNotFound, class_name, read_run
from video_ssl.files import claim_file, page_mark, write_atomically
from video_ssl.pretrain.reporting import duration_text
from video_ssl.recipes import to_yaml

logger = logging.getLogger(__name__)

__all__ = ["RunNotFound", "write_report"]

#: Title, keys of metrics.jsonl, kind of axis, what it says.  Keys that no row has are left out.
_CURVES: tuple[tuple[str, tuple[str, ...], str, str], ...] = (
    ("Loss", ("loss", "loss_*"), "log", "mean since the line before"),
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


def write_report(
    run: str | Path, out: str | Path | None = None, *, max_clips: int = 4, max_queries: int = 8
) -> Path:
    """Returns the HTML file that was written about a run, by default RUN/report.html.

    Args:
        run: the folder of a run, finished or not.
        max_clips: training videos of which clips are shown.
        max_queries: videos whose nearest neighbours are shown.

    Raises:
        RunNotFound: the folder is not that of a run.
        OutputError: the file is there and is no report, or cannot be written.
    """
    data = read_run(Path(run))
    path = claim_file(out if out is not None else data.folder / "report.html", "report")
    sections = [
        ("curves", "Curves", _curves(data)),
        ("clips", "Training clips", _clips(data, max_clips)),
        ("results", "Results", _results(data)),
        ("neighbours", "Nearest neighbours", neighbours_section(data, max_queries)),
        ("recipe", "Recipe and environment", _recipe(data)),
        ("skipped", "Skipped videos", _skipped(data)),
    ]
    shown = [(key, title, body) for key, title, body in sections if body]
    links = "".join(f'<a href="#{key}">{title}</a>' for key, title, _ in shown)
    body = "".join(
        f'<section id="{key}"><h2>{title}</h2>{text}</section>' for key, title, text in shown
    )
    state, kind = data.state
    page = (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8">{page_mark("report")}'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{esc(data.name)}: report</title><style>{STYLE}</style></head><body>"
        f'<header><div><h1>{esc(data.name)}<span class="state {kind}">{esc(state)}</span></h1>'
        f"<p>{esc(_subtitle(data))}</p><nav>{links}</nav></div></header>"
        f'<main><div class="tiles">{_tiles(data)}</div>{body}'
        f"<footer>{esc(str(data.folder))} · written {time.strftime('%Y-%m-%d %H:%M')} by video-ssl report</footer>"
        f'</main><div id="tip"></div><script>{SCRIPT}</script></body></html>\n'
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, page)
    logger.info("%s: %.1f MB, everything inside", path, len(page.encode()) / 1e6)
    return path


def esc(text: object) -> str:
    """Returns text that is safe inside HTML."""
    return html.escape(str(text))


def _subtitle(data: RunData) -> str:
    parts = [f"objective {data.objective}"] if data.objective else []
    table = data.setting("data.table")
    parts += [f"trained on {table}"] if table else []
    if data.starts:
        parts.append(f"started {data.starts[0].get('time', '')[:16].replace('T', ' ')}")
    return " · ".join(parts) or "no recipe in this folder"


def _tiles(data: RunData) -> str:
    last = data.metrics[-1] if data.metrics else {}
    tiles: list[tuple[str, str]] = []
    if "step" in last:
        tiles.append((f"{last['step']:,}".replace(",", " "), "steps"))
    if "loss" in last:
        tiles.append((f"{last['loss']:.4g}", "loss"))
    if len(data.metrics) > 1 and all("time" in row for row in data.metrics):
        tiles.append(
            (duration_text(data.metrics[-1]["time"] - data.metrics[0]["time"]), "training time")
        )
    if "clips_per_sec" in last:
        tiles.append((f"{last['clips_per_sec']:.3g}", "clips per second"))
    if data.encoder:
        tiles.append((f"{data.encoder.get('num_parameters', 0) / 1e6:.3g} M", "parameters"))
    for results in data.evaluations[:1]:
        entry = next(iter(results["encoders"].values()))
        for evaluator, result in list(entry["results"].items())[:2]:
            metric, value = next(iter(result["metrics"].items()))
            tiles.append((f"{100 * value:.1f} %", f"{evaluator} {metric}"))
    return "".join(
        f'<div class="tile"><b>{esc(v)}</b><span>{esc(k)}</span></div>' for v, k in tiles
    )


def _missing(text: str) -> str:
    return f'<div class="card"><p class="missing">{text}</p></div>'


def _curves(data: RunData) -> str:
    if not data.metrics:
        return _missing("metrics.jsonl has no line yet: the first one comes after log_every steps.")
    cards = []
    for title, wanted, kind, told in _CURVES:
        names = _matching(wanted, data.metrics)
        if names:
            cards.append(_chart_card(title, told, kind, data.metrics, names))
    known = {name for _, wanted, _, _ in _CURVES for name in _matching(wanted, data.metrics)}
    known |= {"step", "progress", "time"}
    others = [n for n in _matching(("*",), data.metrics) if n not in known]
    cards += [_chart_card(n, "", "plain", data.metrics, [n]) for n in others]
    if any(data.stages.values()):
        losses = {
            name: [(row["step"], row["loss"]) for row in rows if "loss" in row]
            for name, rows in data.stages.items()
        }
        chart = line_chart(losses, log=True) + legend(list(losses))
        told = f"trained before: {', '.join(losses)}"
        cards.append(_figure("Loss of the stages", chart, told))
    return f'<p class="lead">Point at a curve to read its values.</p><div class="grid2">{"".join(cards)}</div>'


def _chart_card(
    title: str, told: str, kind: str, rows: Sequence[Mapping[str, Any]], names: Sequence[str]
) -> str:
    series = {n: [(row["step"], row[n]) for row in rows if n in row] for n in names}
    chart = line_chart(series, percent=kind == "percent", log=kind == "log")
    return _figure(title, chart + legend(names), told)


def _figure(title: str, drawing: str, told: str) -> str:
    caption = f"<figcaption>{esc(told)}</figcaption>" if told else ""
    return f'<figure class="card"><h3>{esc(title)}</h3>{drawing}{caption}</figure>'


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


def _clips(data: RunData, count: int) -> str:
    recipe = data.recipe_object
    if recipe is None:
        return ""
    table = data.table(recipe.data.table)
    if table is None:
        return _missing(
            f"The videos of {esc(recipe.data.table)} are not here, so no clip is shown."
        )
    from video_ssl.objectives import OBJECTIVES

    plan = OBJECTIVES[recipe.objective_name].plan()(recipe.objective)
    made, lost = training_clips(plan, table, seed=recipe.seed, count=count)
    cards = [
        f'<div class="card"><h3>{esc(shown.record.id)}'
        f"{esc(class_name(table.class_names, shown.record.label, ' · '))}</h3>"
        f'<div class="clip">{"".join(_clip(clip) for clip in shown.clips)}</div></div>'
        for shown in made
    ]
    cards += [f'<p class="missing">{esc(text)}</p>' for text in lost]
    hidden = made[0].clips[0].hidden_share if made else 0.0
    share = f"{100 * hidden:.0f} % of every clip is hidden. " if hidden else ""
    lead = f"{share}Training videos at equal distances in the table, as training sees them, before changes of colour."
    return f'<p class="lead">{lead}</p>{"".join(cards)}'


def _clip(clip: ClipPicture) -> str:
    name = esc(clip.name)
    text = f'<span>{name}</span><img alt="frames of the {name}" src="{clip.original}">'
    if clip.visible is not None:
        text += f'<span>seen by the encoder</span><img alt="visible patches of the {name}" src="{clip.visible}">'
    return text


def _results(data: RunData) -> str:
    if not data.evaluations:
        return _missing(
            f"No evaluation yet: <code>video-ssl evaluate demo encoder={esc(data.folder)}</code>, or "
            "another recipe of <code>video-ssl recipes</code>."
        )
    return "".join(_evaluation(data, results) for results in data.evaluations)


def _evaluation(data: RunData, results: Mapping[str, Any]) -> str:
    encoders = results["encoders"]
    evaluators = list(next(iter(encoders.values()))["results"])
    tables = "".join(_evaluator_card(encoders, evaluator) for evaluator in evaluators)
    said = f'<div class="card said">{esc(results.get("summary", ""))}</div>'
    where = results.get("recipe", {})
    lead = (
        f'<p class="lead">Evaluation <b>{esc(results["name"])}</b>: learned from {esc(where.get("train"))}, tested on '
        f"{esc(where.get('test'))}; seed {esc(results.get('seed'))}; {esc(results.get('date', ''))[:10]}. "
        "In brackets 95 % intervals; the black mark is guessing.</p>"
    )
    return lead + said + tables + _confusion(data, results)


def _evaluator_card(encoders: Mapping[str, Any], evaluator: str) -> str:
    found = {n: e["results"][evaluator] for n, e in encoders.items() if evaluator in e["results"]}
    first = next(iter(found.values()))
    names = list(first["metrics"])
    head = "".join(f'<th class="num">{esc(name)}</th>' for name in names)
    rows = []
    for number, (name, result) in enumerate(found.items()):
        lead = result["metrics"][names[0]]
        cells = "".join(
            f'<td class="num">{_share(result["metrics"].get(m))}{_interval(result, m)}</td>'
            for m in names
        )
        bar = share_bar(lead, chance=result.get("chance")) if 0 <= lead <= 1 else ""
        kind = "first" if number == 0 else ""
        rows.append(
            f'<tr class="{kind}"><td>{esc(name)}</td><td style="width:26%">{bar}</td>{cells}</tr>'
        )
    chosen = ", ".join(f"{key} {_short(value)}" for key, value in first.get("chosen", {}).items())
    told = (
        f"<figcaption>{esc(next(iter(found)))}: chosen {esc(chosen)}</figcaption>" if chosen else ""
    )
    return (
        f'<div class="card"><h3>{esc(evaluator)}</h3><div class="scroll"><table><tr><th>encoder</th>'
        f"<th></th>{head}</tr>{''.join(rows)}</table></div>{told}</div>"
    )


def _confusion(data: RunData, results: Mapping[str, Any]) -> str:
    name, entry = next(iter(results["encoders"].items()))
    for evaluator, result in entry["results"].items():
        confusion = result.get("details", {}).get("confusion")
        if confusion:
            known = data.class_names(results)
            classes = result["details"].get("classes", range(len(confusion)))
            names = [class_name(known, label) or str(label) for label in classes]
            return (
                f'<div class="card"><h3>What {esc(name)} takes for what ({esc(evaluator)})</h3>'
                f"<figcaption>rows: the class, columns in the same order: what was said</figcaption>"
                f"{confusion_chart(confusion, names)}</div>"
            )
    return ""


def _share(value: float | None) -> str:
    if value is None:
        return ""
    return f"{100 * value:.1f}" if -1 <= value <= 1 else f"{value:.4g}"


def _interval(result: Mapping[str, Any], metric: str) -> str:
    bounds = result.get("details", {}).get(f"{metric}_interval_95")
    return f" <small>({100 * bounds[0]:.0f}–{100 * bounds[1]:.0f})</small>" if bounds else ""


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _recipe(data: RunData) -> str:
    parts = []
    if data.recipe:
        text = to_yaml(dict(data.recipe))
        parts.append(
            f"<details><summary>Recipe, resolved</summary><pre>{esc(text)}</pre></details>"
        )
    for number, start in enumerate(data.starts, 1):
        title = f"Start {number}" if len(data.starts) > 1 else "Environment"
        rows = "".join(
            f"<tr><td>{esc(key)}</td><td><code>{esc(_flat_text(value))}</code></td></tr>"
            for key, value in start.items()
        )
        at = f" (step {start.get('step', 0)})" if len(data.starts) > 1 else ""
        parts.append(
            f"<details{' open' if number == len(data.starts) else ''}><summary>{title}{at}</summary>"
            f"<table>{rows}</table></details>"
        )
    if data.encoder:
        text = json.dumps(data.encoder, indent=1)
        parts.append(f"<details><summary>Encoder</summary><pre>{esc(text)}</pre></details>")
    if not parts:
        return _missing("There is neither recipe.yaml nor environment.json.")
    return f'<div class="card">{"".join(parts)}</div>'


def _flat_text(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{k} {_flat_text(v)}" for k, v in value.items())
    if isinstance(value, list):
        return " ".join(str(v) for v in value) or "none"
    return str(value)


def _skipped(data: RunData) -> str:
    if not data.skipped:
        return '<div class="card"><p class="missing">None: every video could be read.</p></div>'
    rows = "".join(
        f"<tr><td>{esc(where)}</td><td><code>{esc(entry.get('source', entry.get('id', '?')))}</code></td>"
        f"<td>{esc(entry.get('reason', ''))}</td></tr>"
        for where, entry in data.skipped[:200]
    )
    more = (
        f'<p class="missing">and {len(data.skipped) - 200} more</p>'
        if len(data.skipped) > 200
        else ""
    )
    return (
        f'<p class="lead">{len(data.skipped)} videos could not be read.</p><div class="card scroll"><table>'
        f"<tr><th>where</th><th>video</th><th>reason</th></tr>{rows}</table>{more}</div>"
    )
