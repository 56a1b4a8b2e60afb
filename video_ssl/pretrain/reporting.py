"""What a run reports while it trains: metrics.jsonl, trackers, a progress bar or log lines."""

from __future__ import annotations

import contextlib
import json
import logging
import resource
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from video_ssl.files import write_json_lines
from video_ssl.limits import parse_json
from video_ssl.pretrain.errors import RunError
from video_ssl.pretrain.health import Kind, verdict_of
from video_ssl.pretrain.run_folder import METRICS
from video_ssl.progress import duration_text, metered

logger = logging.getLogger(__name__)


class MetricsFile:
    """metrics.jsonl, one JSON object a line.  A resumed run first removes the lines of steps it will repeat."""

    def __init__(self, folder: Path, *, start_step: int) -> None:
        self._path = folder / METRICS
        keep_metrics(self._path, start_step)
        self._file = open(self._path, "a", encoding="utf-8")  # noqa: SIM115 - closed by close()

    def write(self, row: Mapping[str, Any]) -> None:
        try:
            self._file.write(json.dumps(row) + "\n")
            self._file.flush()
        except OSError as err:
            raise RunError(
                f"the metrics of step {row.get('step')} could not be written to {self._path} ({err.strerror or err}). "
                "Make room, or have the quota raised, and start the same command again: it goes on from the newest "
                "checkpoint."
            ) from err

    def close(self) -> None:
        with contextlib.suppress(OSError):  # what could not be written has raised an error already
            self._file.close()


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Returns the rows of a metrics.jsonl; a line cut short by a crash ends the reading."""
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
        try:
            rows.append(parse_json(line))
        except ValueError:
            break
    return rows


def keep_metrics(path: Path, step: int) -> None:
    """Removes the rows after `step` and whatever a crash has cut short."""
    if path.is_file():
        rows = [row for row in read_metrics(path) if row.get("step", 0) <= step]
        write_json_lines(path, rows)


class Stopwatch:
    """Measures clips per second and the share of time spent waiting for data, since the last reading."""

    def __init__(self) -> None:
        self._begin = time.perf_counter()
        self._waited = 0.0
        self._clips = 0

    def waited(self, seconds: float) -> None:
        self._waited += seconds

    def trained(self, clips: int) -> None:
        self._clips += clips

    def stood(self, seconds: float) -> None:
        """Leaves out time in which nothing was trained."""
        self._begin += seconds

    def read(self) -> dict[str, float]:
        """Returns `clips_per_sec` and `data_wait_share` and starts again from zero."""
        elapsed = max(time.perf_counter() - self._begin, 1e-9)
        figures = {
            "clips_per_sec": self._clips / elapsed,
            "data_wait_share": min(self._waited / elapsed, 1.0),
        }
        self.__init__()  # type: ignore[misc]
        return figures


def host_memory() -> dict[str, float]:
    """Returns the peak memory of this process in GiB, its workers not included."""
    per_unit = 2**30 if sys.platform == "darwin" else 2**20
    return {"host_memory_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / per_unit}


class Progress:
    """A bar with the time left on a terminal; elsewhere a line with every row of metrics.  Both say how the run is.

    Attributes:
        rows: the metrics so far, those before a resume too.
    """

    def __init__(self, *, name: str, start_step: int, num_steps: int, show: bool) -> None:
        self._num_steps = num_steps
        self._show = show
        self._begin, self._start = time.perf_counter(), start_step
        self._shown = metered(
            name, total=num_steps, unit="steps", done=start_step, show=show, lines=False
        )
        self._on_bar = show and sys.stderr.isatty()
        self.rows: list[dict[str, Any]] = []
        self._health: Kind = "early"

    def __enter__(self) -> Progress:
        self._meter = self._shown.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._shown.__exit__(None, None, None)

    def step(self, done: int) -> None:
        self._meter.at(done)

    def row(self, row: Mapping[str, Any]) -> None:
        """Shows a row of metrics and how the run is; what is new and bad about it gets a line with what to do."""
        self.rows.append(dict(row))
        verdict = verdict_of(self.rows)
        if self._on_bar:
            self._meter.extra = f"loss {row['loss']:.4f}, {verdict.kind}"
        elif self._show:
            done = row["step"]
            seconds = (time.perf_counter() - self._begin) / max(done - self._start, 1)
            logger.info(
                "step %d/%d  loss %.4f  lr %.2e  grad norm %.3g  %.1f clips/s  data wait %.0f%%  %s left  %s",
                done,
                self._num_steps,
                row["loss"],
                row["lr"],
                row["grad_norm"],
                row["clips_per_sec"],
                100 * row["data_wait_share"],
                duration_text(seconds * (self._num_steps - done)),
                verdict.kind,
            )
        if self._show and verdict.is_bad and verdict.kind != self._health:
            logger.warning("%s", verdict)
        self._health = verdict.kind
