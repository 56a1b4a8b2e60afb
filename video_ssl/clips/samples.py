"""One sample: a record is opened, the plan takes what it wants, and an unreadable video is replaced by its neighbour.

Runs inside data workers.  The result depends on nothing but the tables, the plan, the seed and the position of the
sample, so it is the same for any number of workers and hosts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, Protocol

import numpy as np

from video_ssl.clips.decoders.reader import BadVideo, Reader
from video_ssl.clips.processes.in_flight import Ban, TableRow, at_record
from video_ssl.clips.processes.workers import hang_limit, return_free_memory, stop_requested
from video_ssl.clips.reading import open_record
from video_ssl.clips.too_short import what_helps
from video_ssl.datasets.remote.errors import redacted
from video_ssl.datasets.table import Record, Table
from video_ssl.error_sentences import Foreseen, is_of_this_package, sentence_of
from video_ssl.errors import debugging

# A broken video is replaced by the next record, at most this often for one sample.
MAX_TRIES = 8
REASON_BYTES = 240
BAD_ROWS, BAD_REASONS = "_bad_rows", "_bad_reasons"
RESERVED = ("record_index", "table_index", BAD_ROWS, BAD_REASONS)
# A decoder call that never returns is given up after this many times the limit for a video.
_HANG_FACTOR = 3


class Plan(Protocol):
    """Says which clips of a record and which views of a clip make a sample.  Must pickle, and be small.

    One that asks for no frames has `sound_alone = True`: files of sound without pictures will do.
    """

    def __call__(
        self, record: Record, reader: Reader, rng: np.random.Generator, progress: float
    ) -> Mapping[str, np.ndarray]:
        """Returns the arrays of one sample; the same names, shapes and dtypes for every record.

        Args:
            record: the row of the table; `record.table_index` and `record.table` say of which one.
            reader: the open video, or segment; closed by the caller.
            rng: the only source of randomness.
            progress: position in training, 0 <= progress < 1.

        Raises:
            BadVideo: the record cannot serve (too short, for example); it is then replaced like an unreadable one.
        """


class Stopping(Exception):
    """The parent has asked this worker to end."""


class TooManyBadVideos(RuntimeError):
    """More videos cannot be read than the settings allow; the message names them."""


@dataclass(frozen=True)
class Position:
    """Where a sample stands: its place in the global order, and the row it asks for."""

    index: int
    table: int
    row: int


@dataclass(frozen=True, kw_only=True)
class SampleMaker:
    """Turns a position into the arrays of a sample; called by the pipeline with the position's own generator.

    `board` is the folder where workers note the record they are at, `banned` what has taken a worker down.  Both count
    the tables of all streams together, of which `first_table` is the first one here.
    """

    tables: tuple[Table, ...]
    plan: Plan
    num_samples: int
    backend: str
    timeout_sec: float
    on_bad: Literal["replace", "raise"]
    global_batch_size: int = 1
    board: str | None = None
    banned: Mapping[TableRow, Ban] = field(default_factory=dict)
    first_table: int = 0

    def __call__(self, position: Position, rng: np.random.Generator) -> dict[str, np.ndarray]:
        table = self.tables[position.table]
        progress = min(position.index / self.num_samples, 1.0)
        # Every try has its own generator: what the replacement draws does not depend on where the broken one stopped.
        root = rng.integers(2**63, size=2)
        bad: list[tuple[int, BadVideo]] = []
        return_free_memory()
        for attempt in range(min(MAX_TRIES, len(table))):
            if stop_requested():
                raise Stopping
            row = (position.row + attempt) % len(table)
            record = replace(table.record(row), table_index=position.table)
            own = np.random.Generator(np.random.Philox(np.random.SeedSequence([*root, attempt])))
            try:
                self._refuse_banned(record, position)
                with at_record(self.board, (self.first_table + position.table, record.index)):
                    sample = self._try(record, own, progress)
            except BadVideo as err:
                if self.on_bad == "raise":
                    raise
                # A copy: the traceback of `err` holds this frame, which would keep the sample in a cycle.
                bad.append((record.index, BadVideo(err.path, err.reason)))
                continue
            sample["record_index"] = np.array(record.index, np.int64)
            sample["table_index"] = np.array(position.table, np.int64)
            sample[BAD_ROWS], sample[BAD_REASONS] = _pack(bad)
            return sample
        named = "\n".join(f"  {err}" for _, err in bad)
        helps = what_helps([err.reason for _, err in bad])
        raise TooManyBadVideos(f"{len(bad)} records in a row cannot be used:\n{named}\n{helps}.")

    def _refuse_banned(self, record: Record, position: Position) -> None:
        ban = self.banned.get((self.first_table + position.table, record.index))
        if ban is not None and position.index // self.global_batch_size >= ban.step:
            raise BadVideo(record.source, ban.reason)

    def _try(
        self, record: Record, rng: np.random.Generator, progress: float
    ) -> dict[str, np.ndarray]:
        try:
            with (
                hang_limit(_HANG_FACTOR * self.timeout_sec),
                open_record(
                    record,
                    self.backend,
                    timeout_sec=self.timeout_sec,
                    sound_alone=getattr(self.plan, "sound_alone", False),
                ) as reader,
            ):
                sample = self.plan(record, reader, rng, progress)
            return _checked(sample)
        except BadVideo:
            raise
        except SystemExit as err:  # would end the worker as if it had finished
            raise RuntimeError(f"the plan called exit({err.code}) at {record.source}") from err
        except Exception as err:
            where = f"while making a sample of record {redacted(record.id)!r} ({redacted(record.source)})"
            # Told here: on the way out of a worker process an exception loses where it was raised.
            sentence = None if debugging() or is_of_this_package(err) else sentence_of(err)
            if sentence is not None:
                raise Foreseen(f"{sentence} This was {where}.") from err
            err.add_note(where)
            raise


def _checked(sample: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    taken = [name for name in sample if name in RESERVED]
    if taken:
        raise ValueError(f"the plan returns {taken}, but these names belong to the pipeline.")
    divided = [name for name in sample if "/" in name]
    if divided:
        raise ValueError(
            f"the plan returns {divided}, but '/' stands between a stream and its array: use another name."
        )
    return {name: np.asarray(value) for name, value in sample.items()}


def _pack(bad: Sequence[tuple[int, BadVideo]]) -> tuple[np.ndarray, np.ndarray]:
    """The broken rows (-1 = none) and their reasons as UTF-8, in arrays of fixed size that a batch can hold."""
    rows = np.full(MAX_TRIES, -1, np.int64)
    reasons = np.zeros((MAX_TRIES, REASON_BYTES), np.uint8)
    for place, (row, err) in enumerate(bad):
        rows[place] = row
        text = err.reason.encode()[:REASON_BYTES]
        reasons[place, : len(text)] = np.frombuffer(text, np.uint8)
    return rows, reasons


def unpack_reason(reason: np.ndarray) -> str:
    """Returns the text of one reason, uint8 (REASON_BYTES,)."""
    return reason.tobytes().rstrip(b"\0").decode(errors="ignore")
