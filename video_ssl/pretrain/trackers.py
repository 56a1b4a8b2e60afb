"""Where the metrics of a run go besides metrics.jsonl, a line of `TRACKERS` each.  Free of torch and jax.

A tracker works in a thread of its own and gets copies of the rows: whatever it does, waits for or fails at, the
training neither stops nor changes, and metrics.jsonl has every row.  A failure is told once.  Only process 0 has
trackers.
"""

from __future__ import annotations

import importlib.util
import logging
import queue
import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

logger = logging.getLogger(__name__)

#: RUN/tracking/NAME: what a tracker keeps of a run, so that a continued run goes on there.
TRACKING = "tracking"

#: How long the end of a training waits for a tracker that is slow, and that of one that was stopped or has failed.
PATIENCE_SEC = 60.0
PATIENCE_STOPPED_SEC = 10.0

#: Rows that wait for a slow tracker; what comes then is lost to it.
MOST_WAITING = 10_000


@dataclass(frozen=True, kw_only=True)
class TrackedRun:
    """What a tracker is told of a run before its first row.

    Attributes:
        name: `name` of the recipe.
        folder: RUN; a tracker keeps its own things in `own`.
        own: RUN/tracking/NAME of this tracker; it may not exist.
        start_step: steps already done.  Rows of later steps that the tracker knows already are repeated.
    """

    name: str
    folder: Path
    own: Path
    start_step: int


class Tracker(Protocol):
    """What a line of `TRACKERS` names: a class that is made with a `TrackedRun`.  It may raise whatever it likes."""

    def write(self, row: Mapping[str, Any]) -> None:
        """Takes a row of metrics: `step`, numbers, and what else stands in metrics.jsonl."""

    def close(self, *, finished: bool) -> None:
        """Ends; `finished` unless the training was stopped or failed."""


@dataclass(frozen=True)
class Entry:
    """One tracker.

    Attributes:
        tracker: `module:class` of a `Tracker`; its module imports the package when a tracker is made.
        package: what must be installed.
        optional: without the package it is left out, with a line in the log.
    """

    tracker: str
    package: str
    optional: bool = False


_OURS = "video_ssl.pretrain.tracker_backends"
#: `training.trackers` of a recipe -> who takes the rows.
TRACKERS: dict[str, Entry] = {
    "tensorboard": Entry(f"{_OURS}:TensorBoardTracker", "tensorboard", optional=True),
    "mlflow": Entry(f"{_OURS}:MLflowTracker", "mlflow"),
    "wandb": Entry(f"{_OURS}:WandbTracker", "wandb"),
}


class Trackers:
    """All trackers of a run."""

    def __init__(self, names: Iterable[str], *, name: str, folder: Path, start_step: int) -> None:
        self._threads = []
        for tracker in names:
            entry = TRACKERS[tracker]
            if entry.optional and importlib.util.find_spec(entry.package) is None:
                logger.info("%s is not installed: metrics do not go there", tracker)
                continue
            run = TrackedRun(
                name=name, folder=folder, own=folder / TRACKING / tracker, start_step=start_step
            )
            self._threads.append(_Beside(tracker, entry, run))

    def write(self, row: Mapping[str, Any]) -> None:
        """Hands on a row; never waits."""
        for thread in self._threads:
            thread.write(row)

    def close(self, *, finished: bool) -> None:
        """Waits until every tracker has taken its rows, at most `PATIENCE_SEC` (`PATIENCE_STOPPED_SEC`) in all."""
        for thread in self._threads:
            thread.end(finished=finished)
        patience = PATIENCE_SEC if finished else PATIENCE_STOPPED_SEC
        until = time.monotonic() + patience
        for thread in self._threads:
            if not thread.wait(until):
                thread.give_up(f"has not taken its last rows within {patience:g} s")


class _Beside:
    """A tracker in a thread that ends with the process, however long the tracker takes."""

    def __init__(self, name: str, entry: Entry, run: TrackedRun) -> None:
        self._name, self._entry, self._run = name, entry, run
        self._rows: queue.Queue[dict[str, Any] | bool] = queue.Queue()
        self._failed = False
        self._thread = threading.Thread(target=self._work, name=f"tracker {name}", daemon=True)
        self._thread.start()

    def write(self, row: Mapping[str, Any]) -> None:
        if self._failed:
            return
        if self._rows.qsize() >= MOST_WAITING:
            self.give_up(f"has left {MOST_WAITING:,} rows waiting")
            return
        self._rows.put(dict(row))

    def end(self, *, finished: bool) -> None:
        self._rows.put(finished)

    def wait(self, until: float) -> bool:
        """Returns whether the tracker has ended by a time of `time.monotonic`."""
        self._thread.join(max(until - time.monotonic(), 0.0))
        return not self._thread.is_alive()

    def _work(self) -> None:
        try:
            module, _, attribute = self._entry.tracker.partition(":")
            tracker: Tracker = getattr(import_module(module), attribute)(self._run)
            while not isinstance(item := self._rows.get(), bool):
                tracker.write(item)
            tracker.close(finished=item)
        except BaseException as err:  # of code that is not ours
            self.give_up(f"failed: {type(err).__name__}: {_one_line(err)}")

    def give_up(self, what: str) -> None:
        """Says, the first time, why the tracker gets no more rows."""
        if self._failed:
            return
        self._failed = True
        logger.warning(
            "warning: training.trackers: %s %s. The training goes on as without it; metrics.jsonl in %s has every row",
            self._name,
            what,
            self._run.folder,
        )


def _one_line(err: BaseException) -> str:
    return " ".join(str(err).split())[:500]
