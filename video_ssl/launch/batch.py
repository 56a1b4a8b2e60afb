"""A batch: what one job, or every element of one job array, has to do.  A JSON file that job and launcher share."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

from video_ssl.files import write_json
from video_ssl.limits import parse_json

VERBS = ("pretrain", "evaluate", "embed", "merge", "results")


@dataclass(frozen=True, kw_only=True)
class TaskSpec:
    """One piece of work.

    Attributes:
        name: what it is called in the history of attempts: `pretrain`, `embed 2/4`.
        verb: of `VERBS`.
        arguments: what the verb gets.
        run: folder that keeps its history.
    """

    name: str
    verb: str
    arguments: tuple[str, ...]
    run: str


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Tasks that run alike, and how often they may be tried; fields as of `LaunchProfile`."""

    tasks: tuple[TaskSpec, ...]
    max_requeues: int
    max_failures: int
    lost_after_sec: float


def write_batch(path: Path, batch: Batch) -> Path:
    """Writes a batch and returns its absolute path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, asdict(batch))
    return path.resolve()


def read_batch(path: str | Path) -> Batch:
    """Returns the batch of a file of `write_batch`."""
    content = parse_json(Path(path).read_text(encoding="utf-8"))
    tasks = tuple(
        TaskSpec(**{**task, "arguments": tuple(task["arguments"])}) for task in content.pop("tasks")
    )
    return Batch(tasks=tasks, **content)
