"""The training loop of both frameworks: what happens around a step, when figures are written and checkpoints made.

It never asks which objective runs, nor which framework: those fill in `_step`, `check`, `_figures` and `_snapshot`.

A checkpoint holds up the training for as long as its tensors are copied; they are written beside the next steps.  The
one before must be written first, and a training that ends or is stopped waits for its last.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, NoReturn, TypeVar

import numpy as np

from video_ssl import __version__
from video_ssl.pretrain.background import BackgroundWriter
from video_ssl.pretrain.checkpoint_folders import sweep
from video_ssl.pretrain.errors import Interrupted
from video_ssl.pretrain.foresight import Pace, pace_line, pace_warning
from video_ssl.pretrain.probe import TrainingProbe
from video_ssl.pretrain.recipe import TrainingConfig
from video_ssl.pretrain.reporting import MetricsFile, Progress, Stopwatch, read_metrics
from video_ssl.pretrain.run_folder import METRICS
from video_ssl.pretrain.run_processes import RunProcesses
from video_ssl.pretrain.stop import StopSignals
from video_ssl.pretrain.trackers import Trackers

logger = logging.getLogger(__name__)

OpenBatches = Callable[[int], AbstractContextManager[Iterator[dict[str, np.ndarray]]]]


@dataclass(kw_only=True)
class BaseJob:
    """What a training needs whatever its framework, built and loaded.

    Attributes:
        lrs: float (num_steps,), the learning rate of every step.
        open_batches: gives this process's part of the batches from a step on.
        log_steps, checkpoint_steps, keep_steps: settings of the recipe in steps.
        num_examples: records of the main stream's tables; a resumed run must find as many.
        clips_per_record: as the settings of the objective say, for the clips per second.
        tables: what a resumed run must find again of them, see `table_digest`; those of the main stream first.
        stream_records: name -> records of a step, for every stream beside the main one.
        start_step: steps already done.
        validate_steps: from one trial on other videos to the next; None = there is none.
        probe_steps, probe: from one look at a small labelled table to the next, and that; None = there is none.
        averages: of the steps before it that are in no row of metrics yet, as `Session._averages` gave them.
        owed: the row of metrics of the step before it, where that step was stopped with a trial or a look still due.
    """

    name: str
    folder: Path
    seed: int
    training: TrainingConfig
    lrs: np.ndarray
    open_batches: OpenBatches
    log_steps: int
    checkpoint_steps: int
    keep_steps: int | None
    num_examples: int
    clips_per_record: int
    tables: list[dict[str, Any]] = field(default_factory=list)
    stream_records: dict[str, int] = field(default_factory=dict)
    validate_steps: int | None = None
    probe_steps: int | None = None
    probe: TrainingProbe | None = None
    start_step: int = 0
    averages: dict[str, Any] | None = None
    owed: dict[str, Any] | None = None

    @property
    def num_steps(self) -> int:
        return len(self.lrs)


J = TypeVar("J", bound=BaseJob)


class Session(Generic[J]):
    """The running parts of one training: figures, files and the order of things.  A context manager.

    Args:
        job: what to train.
        processes: of the run.
    """

    def __init__(self, job: J, processes: RunProcesses) -> None:
        self._job = job
        self._processes = processes
        self._clock = Stopwatch()
        self._saved = job.start_step
        self._held_sec = 0.0
        self._writer = BackgroundWriter()
        self._files: MetricsFile | None = None
        self._trackers: Trackers | None = None
        self._pace = Pace(job.start_step, job.num_steps)
        self._step_sec = 0.0
        self._owed: dict[str, Any] | None = None
        self.last_row: dict[str, Any] = {}

    def __enter__(self) -> Session[J]:
        job, main = self._job, self._processes.is_main
        self._progress = Progress(
            name=job.name, start_step=job.start_step, num_steps=job.num_steps, show=main
        )
        self._progress.__enter__()
        if main:
            # A row that is owed may have been written by a continuation that came no further.
            written = job.start_step - (job.owed is not None)
            self._files = MetricsFile(job.folder, start_step=written)
            self._trackers = Trackers(
                job.training.tracker_names,
                name=job.name,
                folder=job.folder,
                start_step=written,
            )
            self._progress.rows = read_metrics(job.folder / METRICS)
        return self

    def __exit__(self, kind: type[BaseException] | None = None, *_: object) -> None:
        self._writer.close()
        self._progress.__exit__()
        if self._files is not None:
            self._files.close()
        if self._trackers is not None:
            self._trackers.close(finished=kind is None)

    def run(self, feed: Iterator[Any], stop: StopSignals) -> dict[str, Any]:
        """Runs steps start_step .. num_steps - 1 and returns the last row of metrics ({} if no step was left).

        Raises:
            Interrupted: SIGINT or SIGTERM; a checkpoint of the last whole step exists.
            NonFiniteLoss: a loss or gradient was not finite.
            CheckpointError: a checkpoint could not be written.
        """
        job = self._job
        if job.owed is not None:
            self._write({**job.owed, **self._looked(job.start_step)})
        for step in range(job.start_step, job.num_steps):
            self._tell(stop, step)
            batch = self._next_batch(feed, stop)
            if batch is None:  # the workers went with the signal that stops us
                self._interrupt(step, stop.agreed())
            clips = self._step(step, batch)
            self._clock.trained(clips)
            self._progress.step(step + 1)
            done = step + 1
            self._measure(done)
            self._look()
            signal_number = stop.agreed()
            saves = done % job.checkpoint_steps == 0 or done == job.num_steps
            self._report(done, stopping=signal_number != 0)
            if saves and not signal_number:
                self._save(done)
            if signal_number:
                self._interrupt(done, signal_number)
        self._settle()
        return self.last_row

    # What the frameworks fill in ----------------------------------------------------------------

    def _step(self, step: int, batch: Any) -> int:
        """Trains on a batch and returns the number of clips in the global batch."""
        raise NotImplementedError

    def check(self) -> None:
        """Raises NonFiniteLoss if a step so far was not finite.  Waits for the device."""
        raise NotImplementedError

    def _figures(self) -> dict[str, float]:
        """Returns means since the last call, `loss` and `grad_norm` among them, and the health of the features."""
        raise NotImplementedError

    def _validate(self, done: int) -> dict[str, float]:
        """Returns figures of other videos than those that are trained on; asked where `validate_steps` are set."""
        raise NotImplementedError

    def _encode(self, clips: np.ndarray) -> np.ndarray:
        """Returns the features (N, D) that the first encoder has of clips, uint8 (N, T, S, S, 3), as it would leave the
        training now; nothing of the training changes.  Called by every process."""
        raise NotImplementedError

    def _averages(self) -> dict[str, Any]:
        """Returns what `_figures` would make means of, as JSON, so that a continued run makes the same; called by every
        process."""
        raise NotImplementedError

    def _memory(self) -> dict[str, float]:
        """Returns peak memory."""
        raise NotImplementedError

    def _snapshot(self, done: int, meta: dict[str, Any]) -> Callable[[], None]:
        """Copies what belongs to the checkpoint of `done` steps and returns what writes the copy, to be called in a
        thread; called by every process."""
        raise NotImplementedError

    def _versions(self) -> dict[str, str]:
        raise NotImplementedError

    def _wait(self) -> None:
        """Waits until this process's device has done the steps so far."""
        raise NotImplementedError

    # ---------------------------------------------------------------------------------------------

    def _next_batch(self, feed: Iterator[Any], stop: StopSignals) -> Any:
        """The next batch; None if there is none because this process has been asked to stop."""
        begin = time.perf_counter()
        try:
            batch = next(feed)
        except Exception:
            if stop.asked and self._processes.world_size == 1:
                return None
            raise
        self._clock.waited(time.perf_counter() - begin)
        return batch

    def _is_due(self, every: int | None, done: int) -> bool:
        """Whether what is done every so many steps, and at the end, is due; None = never."""
        return every is not None and (done % every == 0 or done == self._job.num_steps)

    def _looked(self, done: int) -> dict[str, float]:
        """Figures of the trial and of the look that are due."""
        return {**self._tried(done), **self._probed(done)}

    def _tried(self, done: int) -> dict[str, float]:
        """Figures of a trial on other videos, where one is due."""
        if not self._is_due(self._job.validate_steps, done):
            return {}
        self.check()
        begin = time.perf_counter()
        tried = self._validate(done)
        self._clock.stood(time.perf_counter() - begin)
        return tried

    def _probed(self, done: int) -> dict[str, float]:
        """Figures of a small labelled table, where a look at it is due; every process makes the same."""
        job = self._job
        if job.probe is None or not self._is_due(job.probe_steps, done):
            return {}
        self.check()
        begin = time.perf_counter()
        found = job.probe.run(self._encode)
        if self._processes.is_main:
            logger.info("step %d: %s", done, job.probe.told())
        self._clock.stood(time.perf_counter() - begin)
        return found

    def _tell(self, stop: StopSignals, step: int) -> None:
        """Says to whoever stops the run what that waits for."""
        begun, job = time.monotonic(), self._job
        usual = f", steps take about {self._step_sec:.3g} s" if self._step_sec else ""

        def doing() -> str:
            goes_on = f"goes on after step {self._saved:,}" if self._saved else "begins anew"
            return (
                f"stopping after step {step + 1:,} of {job.num_steps:,} ({time.monotonic() - begun:.0f} s so far"
                f"{usual}) and its checkpoint; once more stops at once, and the same command {goes_on}"
            )

        stop.doing = doing

    def _measure(self, done: int) -> None:
        """Tells once, after the first steps, how long a step takes and when the training will have ended."""
        if not self._processes.is_main or not self._pace.is_due(done, time.perf_counter()):
            return
        self._wait()
        seconds = self._pace.measure(done, time.perf_counter())
        if seconds is None:
            return
        last = self._job.num_steps
        self._step_sec = seconds
        logger.info("%s", pace_line(seconds, done=done, last=last, memory=self._memory()))
        warning = pace_warning(seconds, left=last - done, on_cpu=self._processes.on_cpu)
        if warning:
            logger.warning("warning: %s", warning)

    def _report(self, done: int, *, stopping: bool) -> None:
        """Writes a row of metrics where one is due: means since the last row, and health of the features of the last
        step.  Whoever is stopping does not wait for a trial or a look: the checkpoint keeps the row, and the
        continuation begins with them.
        """
        job = self._job
        looks = [job.validate_steps, job.probe_steps if job.probe is not None else None]
        looks_due = any(self._is_due(every, done) for every in looks)
        if not looks_due and not self._is_due(job.log_steps, done):
            return
        self.check()
        tried = {} if stopping else self._looked(done)
        row: dict[str, Any] = {
            "step": done,
            "progress": done / job.num_steps,
            "lr": float(job.lrs[done - 1]),
            **self._figures(),
            **tried,
            **self._clock.read(),
            **self._memory(),
            "time": time.time(),
        }
        if looks_due and stopping:
            self._owed = row
        else:
            self._write(row)

    def _write(self, row: dict[str, Any]) -> None:
        self.last_row = row
        if self._files is not None:
            self._files.write(row)
        if self._trackers is not None:
            self._trackers.write(row)
        self._progress.row(row)

    def _save(self, done: int) -> None:
        """Saves a checkpoint of `done` steps; never one with a non-finite step in it."""
        self.check()
        job = self._job
        if done == self._saved:
            return
        begin = time.perf_counter()
        self._settle()
        meta = {
            "num_steps": job.num_steps,
            "num_examples": job.num_examples,
            "tables": job.tables,
            "stream_records": job.stream_records,
            "averages": self._averages(),
            "owed": self._owed,
            "seed": job.seed,
            "global_batch_size": job.training.global_batch_size,
            "world_size": self._processes.world_size,
            "versions": {"video_ssl": __version__, **self._versions()},
        }
        write = self._snapshot(done, meta)

        def finish() -> None:
            write()
            if self._processes.is_main:
                folder = job.folder / "checkpoints"
                sweep(
                    folder,
                    keep=job.training.keep,
                    checkpoint_every=job.checkpoint_steps,
                    keep_every=job.keep_steps,
                )

        self._saved = done
        self._writer.start(finish)
        self._held_sec = time.perf_counter() - begin
        self._processes.on_main(self._look)  # an early failure is raised in every process

    def _look(self) -> None:
        """Raises the error of a checkpoint that was being written."""
        self._note_saved(self._writer.look())

    def _settle(self) -> None:
        """Waits until no checkpoint is being written; the error of process 0 is raised by every process."""
        self._processes.on_main(lambda: self._note_saved(self._writer.settle()))
        self._note_saved(self._writer.settle())

    def _note_saved(self, seconds: float | None) -> None:
        if seconds is not None and self._processes.is_main:
            text = "checkpoint of step %d: %.2f s, written in %.2f s"
            logger.info(text, self._saved, self._held_sec, seconds)

    def _interrupt(self, done: int, signal_number: int) -> NoReturn:
        """Saves, then ends the run with 128 + signal number."""
        self._save(done)
        self._settle()
        error = Interrupted(
            signal_number,
            f"stopped after step {done} of {self._job.num_steps}; everything up to there is in {self._job.folder}. "
            "Start the same command again to go on.",
        )
        if self._processes.is_main:
            logger.warning("%s", error)
        raise error
