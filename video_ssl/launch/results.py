"""One table about the runs of a grid: what differs between them, how they ended, and their figures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from video_ssl.files import claim_folder, write_atomically, write_json
from video_ssl.launch.attempts import read_attempts
from video_ssl.launch.steps import SETTINGS
from video_ssl.limits import parse_json
from video_ssl.recipes import ConfigError, load_yaml

RESULTS = ("results.json", "results.md")
FIGURES = ("loss", "effective_rank", "feature_std")


def grid_results(folder: Path) -> list[dict[str, Any]]:
    """Returns a row for every run below the folder of a grid, in the order of their names.

    Keys: `run`, the settings of the grid, `state` (finished, or the last outcome), `steps`, figures of the last row of
    metrics, and `EVALUATION/EVALUATOR` with the main number of every evaluation in it.
    """
    rows = []
    for run in sorted(path for path in folder.iterdir() if "=" in path.name and path.is_dir()):
        row: dict[str, Any] = {"run": run.name, **_settings(run)}
        ends = [a for a in read_attempts(run, "pretrain") if a["event"] == "end"]
        row["state"] = ends[-1]["outcome"] if ends else "not ended"
        finished = _json(run / "finished.json")
        if finished:
            row |= {"state": "finished", "steps": finished["steps"]}
            row |= {k: finished["metrics"][k] for k in FIGURES if k in finished["metrics"]}
        for file in sorted(run.glob("evaluate/*/results.json")):
            row |= _main_numbers(file)
        rows.append(row)
    return rows


def write_results(folder: Path) -> str:
    """Returns the table as text and writes FOLDER/results.md and FOLDER/results.json.

    Raises:
        OutputError: they are there and are somebody else's, or cannot be written.
    """
    claim_folder(folder, "jobs results", RESULTS, ours=_is_results(folder / RESULTS[0]))
    rows = grid_results(folder)
    write_json(folder / RESULTS[0], rows)
    text = table_text(rows)
    write_atomically(folder / RESULTS[1], text + "\n")
    return text


def _is_results(path: Path) -> bool:
    rows = _json(path) if path.is_file() else None
    return isinstance(rows, list) and all({"run", "state"} <= row.keys() for row in rows)


def table_text(rows: list[dict[str, Any]]) -> str:
    """Returns rows as a Markdown table; `run` is left out, since the settings say the same.

    >>> print(table_text([{"run": "lr=1", "lr": "1", "loss": 0.123456}]))
    | lr | loss |
    |---|---|
    | 1 | 0.1235 |
    """
    columns = list(dict.fromkeys(key for row in rows for key in row if key != "run"))
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    for row in rows:
        cells = [row.get(column, "") for column in columns]
        shown = [f"{cell:.4g}" if isinstance(cell, float) else str(cell) for cell in cells]
        shown = [cell.replace("|", "\\|") for cell in shown]
        lines.append("| " + " | ".join(shown) + " |")
    return "\n".join(lines)


def _settings(run: Path) -> dict[str, str]:
    """What differs in a run of a grid; of one from before it was written down, what its name says."""
    try:
        found = load_yaml(run / "launch" / SETTINGS)
    except (FileNotFoundError, ConfigError):
        found = dict(pair.split("=", 1) for pair in run.name.split("__") if "=" in pair)
    return {str(key): str(value) for key, value in found.items()}


def _main_numbers(file: Path) -> dict[str, Any]:
    """`NAME/EVALUATOR` -> the main number of the trained encoder in a results.json of an evaluation."""
    content = _json(file) or {}
    found: dict[str, Any] = {}
    entry = content.get("encoders", {}).get("encoder", {})
    for title, result in entry.get("results", {}).items():
        scores = list(result.get("metrics", {}).values())
        if scores:
            found[f"{file.parent.name}/{title}"] = scores[0]
    return found


def _json(file: Path) -> dict[str, Any] | None:
    try:
        content: dict[str, Any] = parse_json(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content
