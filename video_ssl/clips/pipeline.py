"""From tables to batches of numpy arrays: one grain pipeline that every framework reads from.

The order of its parts is not free:

    source -> seed -> shuffle -> repeat -> (mix) -> random_map(plan) -> host slice -> batch -> [start_step:] ->
    (join the streams) -> workers

The plan runs before the host slice, so a sample draws by its place in the global order and two hosts never draw alike;
batches are made before the worker processes, so they are the same for any number of workers; and everything up to the
workers is random access, so a run is resumed from (seed, step) alone.
"""

from __future__ import annotations

import atexit
import functools
import logging
import os
import time
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import numpy as np

from video_ssl.clips.balance import BalanceConfig
from video_ssl.clips.decoders.reader import AUTO, READERS
from video_ssl.clips.processes.in_flight import InFlightBoard, TableRow
from video_ssl.clips.processes.shared_memory import interrupts_told
from video_ssl.clips.processes.workers import (
    WorkerDied,
    WorkerGroup,
    cause_of_death,
    sent_from_outside,
)
from video_ssl.clips.samples import Plan, SampleMaker
from video_ssl.clips.skips import PipelineStats, SkipLog
from video_ssl.clips.streams import (
    MAIN,
    Stream,
    grain_module,
    join_streams,
    prefix_of,
    seed_of,
    stream_batches,
    stream_order,
    validate_streams,
)
from video_ssl.datasets.table import Table
from video_ssl.recipes import nearest

log = logging.getLogger(__name__)

# Two kills from outside within so few steps, at different records: the machine is short of something.
_KILLS_APART_STEPS = 100

#: Of "auto": each holds batches in memory, and takes a second to start.
_MOST_WORKERS = 8


@dataclass(frozen=True, kw_only=True)
class LoaderConfig:
    """How clips are read.

    Attributes:
        num_workers: processes that make batches; 0 makes them in the training process, without threads; "auto" has one
            for every CPU core that this process may use, shared with the other training processes of the machine, at
            most 8.  Batches are the same whatever it is.
        prefetch_batches: finished batches that each worker holds ready, in shared memory (/dev/shm).
        backend: decoder, a key of `clips.decoders.reader.READERS`, used on a file only where it is exact; or "auto".
        max_bad_share: training stops when more than this share of samples meets a video that cannot be used, from the
            tenth such sample on; 0 = at the first one.  Objectives that compare videos also stop where of a table one
            video is left.
        video_timeout_sec: a video that takes longer counts as one that cannot be read.
        max_restarts: a video that crashes or hangs a data worker is left out from then on and the workers start again,
            at most this often in a run.
    """

    num_workers: int | Literal["auto"] = 2
    prefetch_batches: int = 2
    backend: str = "pyav"
    max_bad_share: float = 0.05
    video_timeout_sec: float = 60.0
    max_restarts: int = 10

    def __post_init__(self) -> None:
        if self.num_workers != "auto" and self.num_workers < 0:
            raise ValueError(f"num_workers={self.num_workers} must be 0 or more, or auto.")
        if self.prefetch_batches < 1:
            raise ValueError(f"prefetch_batches={self.prefetch_batches} must be at least 1.")
        if self.backend not in (AUTO, *READERS):
            raise ValueError(
                f"backend={self.backend!r} must be one of {[AUTO, *READERS]}.{nearest(self.backend, [AUTO, *READERS])}"
            )
        if not 0 <= self.max_bad_share <= 1:
            raise ValueError(f"max_bad_share={self.max_bad_share} must lie in [0, 1].")
        if self.max_restarts < 0:
            raise ValueError(f"max_restarts={self.max_restarts} must be 0 or more.")
        if not self.video_timeout_sec > 0:
            raise ValueError(f"video_timeout_sec={self.video_timeout_sec} must be positive.")

    @property
    def workers(self) -> int:
        """`num_workers`, of "auto" what it is here."""
        if self.num_workers != "auto":
            return self.num_workers
        here = max(1, int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
        return max(1, min(_MOST_WORKERS, len(os.sched_getaffinity(0)) // here))


class Pipeline:
    """Iterates over the batches of steps start_step .. num_steps - 1; a context manager.

    A batch is a dict of numpy arrays: what the plan returns, stacked, and `record_index`, `table_index` int64 (B,):
    the row and the table each sample was taken from.  B = global_batch_size / number of hosts.  The arrays of another
    stream NAME stand beside them as `NAME/array`, `NAME/record_index` and `NAME/table_index`, with as many rows as that
    stream has records for each host.

        with Pipeline([(table, 1.0)], plan, seed=0, global_batch_size=32, num_steps=1000) as batches:
            for batch in batches:
                ...
    """

    def __init__(
        self,
        tables: Sequence[tuple[Table, float]],
        plan: Plan,
        *,
        seed: int,
        global_batch_size: int,
        num_steps: int,
        start_step: int = 0,
        host: tuple[int, int] = (0, 1),
        config: LoaderConfig | None = None,
        skip_log: Path | None = None,
        shuffle: bool = True,
        on_bad: Literal["replace", "raise"] = "replace",
        balance: BalanceConfig | None = None,
        others: Mapping[str, Stream] | None = None,
        compares: bool = False,
    ) -> None:
        """The first arguments describe the main stream, `others` those beside it.

        Args:
            tables: (table, weight) pairs; samples are drawn in the proportion of the weights, each table in its own
                order, shuffled anew in every pass.
            plan: see `Plan`.
            seed: together with the step it determines every batch.
            global_batch_size: over all hosts, which must divide it.
            num_steps: of the whole training; also the scale of the plan's `progress`.
            start_step: first step to deliver, for resuming.
            host: (index, count); host h gets rows h, h + count, ... of the global batch.
            config: how clips are read.
            skip_log: JSON lines (id, source, reason, step), one for each video that was skipped; appended to.
            shuffle: False reads every table in its own order (one table: batch s holds rows s * B ...).
            on_bad: "replace" takes the next record of the table for one that cannot be read, "raise" raises BadVideo:
                evaluation never replaces.
            balance: draw groups of videos of a few classes in place of the shuffled order; for one table.
            others: name -> a further stream; their tables are gone through again and again, whatever the main one does.
            compares: samples of a batch are told from each other, so a table of which one video is left ends the run.

        Raises:
            ValueError: settings that do not fit together, or labels that `balance` cannot use.
        """
        config = config if config is not None else LoaderConfig()
        main = Stream(tables=tables, plan=plan, records=global_batch_size, balance=balance)
        self._streams = {MAIN: main, **(others or {})}
        _validate(num_steps, start_step, host)
        validate_streams(self._streams, host[1], shuffle=shuffle)
        self.stats = PipelineStats()
        self._seed, self._host = seed, host
        self._step = start_step
        self._num_steps = num_steps
        self._config = config
        self._iterator: Any = None
        self._closed = False
        self._workers: WorkerGroup | None = None
        self._board = InFlightBoard() if min(config.workers, num_steps - start_step) else None
        self._restarts, self._killed = 0, _Killed()
        tables_of = {name: stream.only_tables for name, stream in self._streams.items()}
        self._tables = tuple(table for own in tables_of.values() for table in own)
        self._skips = SkipLog(
            {prefix_of(name): own for name, own in tables_of.items()},
            self.stats,
            path=skip_log,
            max_bad_share=config.max_bad_share,
            host=host,
            compares=compares,
        )
        make = functools.partial(
            SampleMaker,
            backend=config.backend,
            timeout_sec=config.video_timeout_sec,
            on_bad=on_bad,
            board=self._board.folder if self._board is not None else None,
            banned=self._skips.banned,
        )
        self._makers = _makers_of(self._streams, make, num_steps)
        self._orders = {
            name: stream_order(
                stream, seed=seed_of(seed, name), shuffle=shuffle, num_steps=num_steps
            )
            for name, stream in self._streams.items()
        }
        _tell_few_cores(config.workers)
        self._begin()
        _open_pipelines.add(self)

    def _begin(self) -> None:
        """Lays out the batches from the current step on; workers start with the first one that is requested."""
        if self._step == self._num_steps:
            return
        num_workers = min(self._config.workers, self._num_steps - self._step)
        self._workers = WorkerGroup(num_workers) if num_workers else None
        parts = {
            name: stream_batches(
                self._orders[name],
                stream,
                self._makers[name],
                seed=seed_of(self._seed, name),
                host=self._host,
            )[self._step : self._num_steps]
            for name, stream in self._streams.items()
        }
        self._dataset = _to_workers(join_streams(parts), num_workers, self._config)

    def __len__(self) -> int:
        """Batches still to come."""
        return self._num_steps - self._step

    def __iter__(self) -> Iterator[dict[str, np.ndarray]]:
        return self

    def __next__(self) -> dict[str, np.ndarray]:
        if self._step >= self._num_steps:
            self.close()
            raise StopIteration
        if self._closed:
            raise RuntimeError("this pipeline is closed: make a new one with start_step.")
        begin = time.perf_counter()
        try:
            batch = self._own(self._next())
            self._skips.take(batch, self._step)
        except BaseException:
            self.close()
            raise
        self._step += 1
        self.stats.steps += 1
        self.stats.last_wait_sec = time.perf_counter() - begin
        self.stats.wait_sec += self.stats.last_wait_sec
        return batch

    @property
    def worker_pids(self) -> list[int]:
        """Process ids of the data workers; empty before the first batch."""
        return self._workers.pids if self._workers is not None else []

    def close(self) -> None:
        """Ends the workers and frees what they hold; calling it twice is allowed."""
        if self._closed:
            return
        self._closed = True
        _open_pipelines.discard(self)
        self._end()
        if self._board is not None:
            self._board.remove()

    def _end(self) -> None:
        iterator, self._iterator = self._iterator, None
        if self._workers is None:
            if iterator is not None:
                iterator.close()
            return
        self._workers.stop(iterator)
        del iterator
        self._workers.free_memory()

    def __enter__(self) -> Pipeline:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _next(self) -> dict[str, np.ndarray]:
        if self._workers is None:
            if self._iterator is None:
                self._iterator = iter(self._dataset)
            return dict(next(self._iterator))
        while True:
            try:
                if self._iterator is not None:
                    return dict(next(self._iterator))
                self._iterator = iter(self._dataset)
                with self._workers.starting():
                    return dict(next(self._iterator))
            except StopIteration as err:
                raise RuntimeError(f"the data ended before step {self._step}") from err
            except Exception as err:
                died = self._workers.explain(err)
                if died is None:
                    raise
                self._go_on_without(died, err)

    def _go_on_without(self, died: WorkerDied, err: Exception) -> None:
        """Bans the records that took workers down and starts the workers again, from the current step.

        Raises:
            WorkerDied: a worker died between two records, was killed from outside twice and not at the same record,
                or the workers have started again too often.
        """
        assert self._workers is not None
        assert self._board is not None
        deaths = self._workers.deaths(err, self._board.pids)
        blamed: dict[TableRow, str] = {}
        for pid, code in deaths.items():
            place = self._board.place_of(pid)
            if place is None:
                raise died from err
            if not sent_from_outside(code) or self._killed.place == place:
                blamed[place] = cause_of_death(code)
            elif not self._killed.first(place, self._step):
                raise died from err
        if not deaths or self._restarts >= self._config.max_restarts:
            named = [self._source(place) for place in blamed]
            limit = f"loader.max_restarts={self._config.max_restarts}; at last: {named}"
            raise WorkerDied(f"{died} ({limit})") from err
        self._restarts += 1
        for place, reason in blamed.items():
            self._skips.ban(place, reason, self._step)
        log.warning(
            "data workers start again from step %d (%d of at most %d times)",
            *(self._step, self._restarts, self._config.max_restarts),
        )
        self._end()
        self._board.clear()
        banned = dict(self._skips.banned)
        self._makers = {n: replace(maker, banned=banned) for n, maker in self._makers.items()}
        self._begin()

    def _source(self, place: TableRow) -> str:
        return self._tables[place[0]].record(place[1]).source

    def _own(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Copies arrays out of the workers' shared memory, so that it is freed now and not when a batch is."""
        if self._workers is None:
            return batch
        own = {name: np.array(value, subok=False) for name, value in batch.items()}
        with interrupts_told():
            batch.clear()
        return own


@dataclass
class _Killed:
    """Where a worker was when something outside killed it last: only at the same record again is that the reason."""

    place: TableRow | None = None
    step: int = 0

    def first(self, place: TableRow, step: int) -> bool:
        """Notes the record; False if another one was noted a moment ago."""
        if self.place is not None and step <= self.step + _KILLS_APART_STEPS:
            return False
        self.place, self.step = place, step
        return True


_open_pipelines: weakref.WeakSet[Pipeline] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    for pipeline in list(_open_pipelines):
        pipeline.close()


def _makers_of(
    streams: Mapping[str, Stream], make: Callable[..., SampleMaker], num_steps: int
) -> dict[str, SampleMaker]:
    """The makers of the samples of all streams, whose tables are counted one after the other."""
    makers: dict[str, SampleMaker] = {}
    first_table = 0
    for name, stream in streams.items():
        makers[name] = make(
            tables=stream.only_tables,
            plan=stream.plan,
            num_samples=num_steps * stream.records,
            global_batch_size=stream.records,
            first_table=first_table,
        )
        first_table += len(stream.tables)
    return makers


def _validate(num_steps: int, start_step: int, host: tuple[int, int]) -> None:
    index, count = host
    if not 0 <= index < count:
        raise ValueError(f"host={host} must be (index, count) with 0 <= index < count.")
    if not 0 <= start_step <= num_steps:
        raise ValueError(f"start_step={start_step} must lie in 0..num_steps={num_steps}.")


def _tell_few_cores(num_workers: int) -> None:
    """Warns where processes would only wait for each other."""
    cores = len(os.sched_getaffinity(0))
    if num_workers > cores:
        log.warning(
            "loader.num_workers=%d processes read videos, but this one may use %d CPU cores: they only wait for each "
            "other. Set loader.num_workers=%d, or ask for more cores (of SLURM: --set cpus_per_task=%d).",
            num_workers,
            cores,
            max(1, cores - 1),
            num_workers + 1,
        )


def _to_workers(batches: Any, num_workers: int, config: LoaderConfig) -> Any:
    grain = grain_module()
    stream = batches.to_iter_dataset(grain.ReadOptions(num_threads=0, prefetch_buffer_size=0))
    if num_workers == 0:
        return stream
    return stream.mp_prefetch(
        grain.MultiprocessingOptions(
            num_workers=num_workers, per_worker_buffer_size=config.prefetch_batches
        )
    )
