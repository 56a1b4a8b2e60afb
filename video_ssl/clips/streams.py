"""The streams of a run: where the records of a batch come from, in which order, and how their batches are joined.

A run has one main stream, or several: BEVT takes images beside its videos, for example.  The main stream says what an
epoch is; the others cycle through their tables, shuffled anew in every pass.  Each stream draws from seeds of its own,
so the batches of one do not depend on whether there are others.
"""

from __future__ import annotations

import functools
import logging
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from video_ssl.clips.balance import BalanceConfig, BalancedOrder, balanced_order
from video_ssl.clips.samples import Plan, Position, SampleMaker
from video_ssl.datasets.table import Table

#: Between the name of a stream and that of its array in a batch: `image/video`.
SEPARATOR = "/"
#: The main stream, whose arrays stand in a batch under their own names.
MAIN = ""


@dataclass(frozen=True, kw_only=True)
class Stream:
    """What a part of every batch is made of.

    Attributes:
        tables: (table, weight) pairs; samples are drawn in the proportion of the weights, each table in its own
            order, shuffled anew in every pass.
        plan: makes the samples.
        records: samples in the batch of a step, over all hosts.
        balance: draw groups of videos of a few classes in place of the shuffled order; for one table.
    """

    tables: Sequence[tuple[Table, float]]
    plan: Plan
    records: int
    balance: BalanceConfig | None = None

    @property
    def only_tables(self) -> tuple[Table, ...]:
        """The tables without their weights."""
        return tuple(table for table, _ in self.tables)

    @property
    def num_examples(self) -> int:
        """Records of all tables together."""
        return sum(len(table) for table, _ in self.tables)

    @property
    def group_size(self) -> int:
        """Samples that follow each other and stay on one host."""
        return 1 if self.balance is None else self.balance.group_size


def prefix_of(name: str) -> str:
    """Returns what the names of a stream's arrays begin with in a batch.

    >>> prefix_of(MAIN), prefix_of("image")
    ('', 'image/')
    """
    return f"{name}{SEPARATOR}" if name else ""


def validate_streams(streams: Mapping[str, Stream], num_hosts: int, *, shuffle: bool) -> None:
    """Raises ValueError for streams that no pipeline can read."""
    for name, stream in streams.items():
        where = f"stream {name!r}: " if name else ""
        if SEPARATOR in name:
            raise ValueError(f"{where}a name of a stream must not hold {SEPARATOR!r}.")
        weights = [weight for _, weight in stream.tables]
        if not weights or any(not weight > 0 for weight in weights):
            raise ValueError(
                f"{where}tables with the weights {weights}: give at least one table, and positive weights."
            )
        size = "records" if name else "global_batch_size"
        if stream.records < 1 or stream.records % num_hosts:
            raise ValueError(
                f"{where}{size}={stream.records} must be a positive multiple of the {num_hosts} hosts."
            )
        if stream.balance is None:
            continue
        if len(stream.tables) != 1 or not shuffle:
            raise ValueError(
                f"{where}class-balanced batches are drawn at random from one table, not from {len(stream.tables)} "
                f"with shuffle={shuffle}: put the videos into one table, or leave data.balance empty."
            )
        stream.balance.check_batch(stream.records, num_hosts)


def seed_of(seed: int, name: str) -> int:
    """Returns the seed of a stream; that of the main one is the run's own."""
    return derive_seed(seed, 4, *name.encode()) if name else seed


def stream_order(stream: Stream, *, seed: int, shuffle: bool, num_steps: int) -> Any:
    """Returns the global order of a stream, random access from place in the order to `Position`; endless, unless the
    batches are balanced.

    Raises:
        ValueError: labels that `balance` cannot use.
    """
    if stream.balance is None:
        sizes = [(len(table), weight) for table, weight in stream.tables]
        return _mixed(sizes, seed=seed, shuffle=shuffle)
    rows = balanced_order(stream.tables[0][0], stream.balance, seed=derive_seed(seed, 3))
    return _balanced(rows, num_steps * stream.records)


def stream_batches(
    order: Any, stream: Stream, maker: SampleMaker, *, seed: int, host: tuple[int, int]
) -> Any:
    """Returns the batches of a host, random access by step; it gets whole groups of samples that follow each other."""
    index, count = host
    group, size = stream.group_size, stream.records // count
    samples = order.random_map(maker, seed=derive_seed(seed, 2))
    if group == 1:
        return samples[index::count].batch(size, drop_remainder=True)
    groups = samples.batch(group, drop_remainder=True)[index::count]
    return groups.batch(size // group, drop_remainder=True).map(_joined)


def join_streams(batches: Mapping[str, Any]) -> Any:
    """Returns one batch a step from those of every stream, which must be as many; a single stream stays as it is."""
    parts = list(batches.values())
    if len(parts) == 1:
        return parts[0]
    together = grain_module().experimental.ZipMapDataset(parts)
    return together.map(functools.partial(_merged, tuple(prefix_of(name) for name in batches)))


def derive_seed(*words: int) -> int:
    """Returns a 32-bit seed, independent for every combination of words."""
    return int(np.random.SeedSequence([word % 2**63 for word in words]).generate_state(1)[0])


@functools.cache
def grain_module() -> Any:
    """Returns grain, imported on first use: it takes a moment, and complains on stderr where jax is not installed.

    It would import jax and orbax, half a second and 150 MiB, for what is not used here; who wants them imports them.
    """
    from absl import flags

    quiet = logging.getLogger("absl")
    level = quiet.level
    quiet.setLevel(logging.ERROR)
    spared = [name for name in ("jax", "orbax") if name not in sys.modules]
    sys.modules.update(dict.fromkeys(spared))  # type: ignore[arg-type]
    try:
        import grain
    finally:
        quiet.setLevel(level)
        for name in spared:
            sys.modules.pop(name, None)
    if not flags.FLAGS.is_parsed():  # worker processes read grain's flags
        flags.FLAGS.mark_as_parsed()
    return grain


def _mixed(sizes: Sequence[tuple[int, float]], *, seed: int, shuffle: bool) -> Any:
    """The endless global order of positions: every table shuffled by its own seed, mixed by weight."""
    grain = grain_module()
    parts = []
    for table, (size, _) in enumerate(sizes):
        part = grain.MapDataset.range(size).seed(derive_seed(seed, 1, table))
        part = part.shuffle() if shuffle else part
        parts.append(part.repeat().map(functools.partial(_with_table, table)))
    mixed = parts[0]
    if len(parts) > 1:
        mixed = grain.MapDataset.mix(parts, weights=[weight for _, weight in sizes])
    return mixed.map_with_index(_to_position)


def _balanced(rows: BalancedOrder, num_samples: int) -> Any:
    """The order of class-balanced groups, for one table."""
    places = grain_module().MapDataset.range(num_samples)
    return places.map(rows.row).map(functools.partial(_with_table, 0)).map_with_index(_to_position)


def _with_table(table: int, row: int) -> tuple[int, int]:
    return table, row


def _to_position(index: int, place: tuple[int, int]) -> Position:
    return Position(index=int(index), table=place[0], row=int(place[1]))


def _joined(groups: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """(groups, samples, ...) -> (samples of all groups, ...)."""
    return {name: array.reshape(-1, *array.shape[2:]) for name, array in groups.items()}


def _merged(
    prefixes: Sequence[str], parts: Iterable[Mapping[str, np.ndarray]]
) -> dict[str, np.ndarray]:
    pairs = zip(prefixes, parts, strict=True)
    return {f"{prefix}{name}": array for prefix, part in pairs for name, array in part.items()}
