"""From tables to batches of numpy arrays: one grain pipeline that every framework reads from.

The order of its parts is not free:

    source -> seed -> shuffle -> repeat -> (mix) -> random_map(plan) -> host slice -> batch -> [start_step:] -> workers

The plan runs before the host slice, so a sample draws by its place in the global order and two hosts never draw alike;
batches are made before the worker processes, so they are the same for any number of workers; and everything up to the
workers is random access, so a run is resumed from (seed, step) alone.
"""

from __future__ import annotations

import atexit
import functools
import logging
import time
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import numpy as np

from video_ssl.clips.balance import BalanceConfig, BalancedOrder, balanced_order
from video_ssl.clips.decoders.reader import AUTO, READERS
from video_ssl.clips.processes.casualties import InFlightBoard, Place
from video_ssl.clips.processes.workers import (
    WorkerDied,
    WorkerGroup,
    cause_of_death,
    sent_from_outside,
)
from video_ssl.clips.samples import Plan, Position, SampleMaker
from video_ssl.clips.skips import PipelineStats, SkipLog
from video_ssl.datasets.table import Table
from video_ssl.recipes import nearest

log = logging.getLogger(__name__)

# Two kills from outside within so few steps, at different records: the machine is short of something.
_KILLS_APART_STEPS = 100


@dataclass(frozen=True, kw_only=True)
class LoaderConfig:
    """How clips are read.

    Attributes:
        num_workers: processes that make batches; 0 makes them in the training process, without threads.
        prefetch_batches: finished batches that each worker holds ready, in shared memory (/dev/shm).
        backend: decoder, a key of `clips.decoders.reader.READERS`, used on a file only where it is exact; or "auto".
        max_bad_share: training stops when more than this share of samples meets a video that cannot be read.
        video_timeout_sec: a video that takes longer counts as one that cannot be read.
        max_restarts: a video that crashes or hangs a data worker is left out from then on and the workers start again,
            at most this often in a run.
    """

    num_workers: int = 2
    prefetch_batches: int = 2
    backend: str = "pyav"
    max_bad_share: float = 0.05
    video_timeout_sec: float = 60.0
    max_restarts: int = 10

    def __post_init__(self) -> None:
        if self.num_workers < 0:
            raise ValueError(f"num_workers={self.num_workers} must be 0 or more.")
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


class Pipeline:
    """Iterates over the batches of steps start_step .. num_steps - 1; a context manager.

    A batch is a dict of numpy arrays: what the plan returns, stacked, and `record_index`, `table_index` int64 (B,):
    the row and the table each sample was taken from.  B = global_batch_size / number of hosts.

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
    ) -> None:
        """
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

        Raises:
            ValueError: settings that do not fit together, or labels that `balance` cannot use.
        """
        config = config if config is not None else LoaderConfig()
        _validate(tables, global_batch_size, num_steps, start_step, host)
        self.stats = PipelineStats()
        self._step = start_step
        self._num_steps = num_steps
        self._config = config
        self._iterator: Any = None
        self._closed = False
        self._workers: WorkerGroup | None = None
        self._board = InFlightBoard() if min(config.num_workers, num_steps - start_step) else None
        self._restarts, self._killed = 0, _Killed()
        only_tables = tuple(table for table, _ in tables)
        self._skips = SkipLog(
            only_tables, self.stats, path=skip_log, max_bad_share=config.max_bad_share, host=host
        )
        self._maker = SampleMaker(
            tables=only_tables,
            plan=plan,
            num_samples=num_steps * global_batch_size,
            backend=config.backend,
            timeout_sec=config.video_timeout_sec,
            on_bad=on_bad,
            global_batch_size=global_batch_size,
            board=self._board.folder if self._board is not None else None,
            banned=self._skips.banned,
        )
        group = 1
        if balance is None:
            order = _order(
                [(len(table), weight) for table, weight in tables], seed=seed, shuffle=shuffle
            )
        else:
            _validate_balance(only_tables, balance, global_batch_size, host[1], shuffle)
            group = balance.group_size
            rows = balanced_order(only_tables[0], balance, seed=_derive(seed, 3))
            order = _balanced(rows, num_steps * global_batch_size)
        self._batches = functools.partial(
            _batches,
            order,
            seed=seed,
            host=host,
            global_batch_size=global_batch_size,
            group=group,
        )
        self._begin()
        _open_pipelines.add(self)

    def _begin(self) -> None:
        """Lays out the batches from the current step on; workers start with the first one that is asked for."""
        if self._step == self._num_steps:
            return
        num_workers = min(self._config.num_workers, self._num_steps - self._step)
        self._workers = WorkerGroup(num_workers) if num_workers else None
        batches = self._batches(self._maker)[self._step : self._num_steps]
        self._dataset = _to_workers(batches, num_workers, self._config)

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
        guilty: dict[Place, str] = {}
        for pid, code in deaths.items():
            place = self._board.place_of(pid)
            if place is None:
                raise died from err
            if not sent_from_outside(code) or self._killed.place == place:
                guilty[place] = cause_of_death(code)
            elif not self._killed.first(place, self._step):
                raise died from err
        if not deaths or self._restarts >= self._config.max_restarts:
            named = [self._source(place) for place in guilty]
            told = f"loader.max_restarts={self._config.max_restarts}; at last: {named}"
            raise WorkerDied(f"{died} ({told})") from err
        self._restarts += 1
        for place, reason in guilty.items():
            self._skips.ban(place, reason, self._step)
        log.warning(
            "data workers start again from step %d (%d of at most %d times)",
            *(self._step, self._restarts, self._config.max_restarts),
        )
        self._end()
        self._board.clear()
        self._maker = replace(self._maker, banned=dict(self._skips.banned))
        self._begin()

    def _source(self, place: Place) -> str:
        return self._maker.tables[place[0]].record(place[1]).source

    def _own(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Copies arrays out of the workers' shared memory, so that it is freed now and not when a batch is."""
        if self._workers is None:
            return batch
        return {name: np.array(value, subok=False) for name, value in batch.items()}


@dataclass
class _Killed:
    """Where a worker was when something outside killed it last: only at the same record again is that the reason."""

    place: Place | None = None
    step: int = 0

    def first(self, place: Place, step: int) -> bool:
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


def _validate(
    tables: Sequence[tuple[Table, float]],
    global_batch_size: int,
    num_steps: int,
    start_step: int,
    host: tuple[int, int],
) -> None:
    index, count = host
    if not tables or any(not weight > 0 for _, weight in tables):
        weights = [weight for _, weight in tables]
        raise ValueError(
            f"tables with the weights {weights}: give at least one table, and positive weights."
        )
    if not 0 <= index < count:
        raise ValueError(f"host={host} must be (index, count) with 0 <= index < count.")
    if global_batch_size < 1 or global_batch_size % count:
        raise ValueError(
            f"global_batch_size={global_batch_size} must be a positive multiple of the {count} hosts."
        )
    if not 0 <= start_step <= num_steps:
        raise ValueError(f"start_step={start_step} must lie in 0..num_steps={num_steps}.")


def _order(sizes: Sequence[tuple[int, float]], *, seed: int, shuffle: bool) -> Any:
    """The endless global order of positions: every table shuffled by its own seed, mixed by weight."""
    grain = _grain()
    parts = []
    for table, (size, _) in enumerate(sizes):
        part = grain.MapDataset.range(size).seed(_derive(seed, 1, table))
        part = part.shuffle() if shuffle else part
        parts.append(part.repeat().map(functools.partial(_with_table, table)))
    mixed = parts[0]
    if len(parts) > 1:
        mixed = grain.MapDataset.mix(parts, weights=[weight for _, weight in sizes])
    return mixed.map_with_index(_to_position)


def _balanced(rows: BalancedOrder, num_samples: int) -> Any:
    """The order of class-balanced groups, for one table."""
    places = _grain().MapDataset.range(num_samples)
    return places.map(rows.row).map(functools.partial(_with_table, 0)).map_with_index(_to_position)


def _validate_balance(
    tables: Sequence[Table], balance: BalanceConfig, batch_size: int, hosts: int, shuffle: bool
) -> None:
    if len(tables) != 1 or not shuffle:
        raise ValueError(
            f"class-balanced batches are drawn at random from one table, not from {len(tables)} with "
            f"shuffle={shuffle}: put the videos into one table, or leave data.balance empty."
        )
    balance.check_batch(batch_size, hosts)


def _batches(
    order: Any,
    maker: SampleMaker,
    *,
    seed: int,
    host: tuple[int, int],
    global_batch_size: int,
    group: int = 1,
) -> Any:
    """The batches of a host, which gets whole groups of `group` samples that follow each other."""
    index, count = host
    samples = order.random_map(maker, seed=_derive(seed, 2))
    if group == 1:
        return samples[index::count].batch(global_batch_size // count, drop_remainder=True)
    groups = samples.batch(group, drop_remainder=True)[index::count]
    return groups.batch(global_batch_size // count // group, drop_remainder=True).map(_joined)


def _joined(groups: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """(groups, samples, ...) -> (samples of all groups, ...)."""
    return {name: array.reshape(-1, *array.shape[2:]) for name, array in groups.items()}


def _to_workers(batches: Any, num_workers: int, config: LoaderConfig) -> Any:
    grain = _grain()
    stream = batches.to_iter_dataset(grain.ReadOptions(num_threads=0, prefetch_buffer_size=0))
    if num_workers == 0:
        return stream
    return stream.mp_prefetch(
        grain.MultiprocessingOptions(
            num_workers=num_workers, per_worker_buffer_size=config.prefetch_batches
        )
    )


def _with_table(table: int, row: int) -> tuple[int, int]:
    return table, row


def _to_position(index: int, place: tuple[int, int]) -> Position:
    return Position(index=int(index), table=place[0], row=int(place[1]))


def _derive(*words: int) -> int:
    """A 32-bit seed, independent for every combination of words."""
    return int(np.random.SeedSequence([word % 2**63 for word in words]).generate_state(1)[0])


@functools.cache
def _grain() -> Any:
    """grain, imported on first use: it takes a second, and complains on stderr where jax is not installed."""
    from absl import flags

    quiet = logging.getLogger("absl")
    level = quiet.level
    quiet.setLevel(logging.ERROR)
    try:
        import grain
    finally:
        quiet.setLevel(level)
    if not flags.FLAGS.is_parsed():  # worker processes read grain's flags
        flags.FLAGS.mark_as_parsed()
    return grain
