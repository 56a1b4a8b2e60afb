"""Counts, names and bounds the videos that training had to skip."""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from video_ssl.clips.processes.in_flight import Ban, TableRow
from video_ssl.clips.samples import BAD_REASONS, BAD_ROWS, TooManyBadVideos, unpack_reason
from video_ssl.clips.too_short import what_helps
from video_ssl.datasets.remote.errors import redacted
from video_ssl.datasets.table import Record, Table

log = logging.getLogger(__name__)

# Fewer say nothing about a share; none at all is no share.
_MIN_BAD_SAMPLES = 10
_NAMED = 10


@dataclass
class PipelineStats:
    """What a pipeline has delivered so far, on this host.

    Attributes:
        steps: batches delivered.
        samples: samples in them.
        bad_samples: samples that had to be taken from another record.
        bad_videos: source -> reason of every video that could not be used.
        wait_sec: seconds spent waiting for batches; `last_wait_sec` is that of the latest one.
    """

    steps: int = 0
    samples: int = 0
    bad_samples: int = 0
    bad_videos: dict[str, str] = field(default_factory=dict)
    wait_sec: float = 0.0
    last_wait_sec: float = 0.0


class SkipLog:
    """Reads the broken videos off every batch: counts them in `stats`, warns and writes each one once."""

    def __init__(
        self,
        tables: Mapping[str, Sequence[Table]],
        stats: PipelineStats,
        *,
        path: Path | None,
        max_bad_share: float,
        host: tuple[int, int] = (0, 1),
        compares: bool = False,
    ) -> None:
        """
        Args:
            tables: what a stream's arrays begin with in a batch -> its tables; a `TableRow` counts them one after the
                other.
            stats: what was met is counted there.
            path, max_bad_share, host, compares: see `Pipeline` and `LoaderConfig`.
        """
        self._host = host
        self._streams = tables
        self._tables = [table for own in tables.values() for table in own]
        self._stats = stats
        self._path = path
        self._max_bad_share, self._compares = max_bad_share, compares
        lines = _lines_in(path)
        #: (what a stream's arrays begin with, table) -> its rows that could not be used when they were met last.
        self._bad_rows: dict[tuple[str, int], set[int]] = {}
        self._written = {line["source"] for line in lines}
        #: Records that took a data worker down in an earlier part of the run.
        self.banned: dict[TableRow, Ban] = dict(self._bans_of(lines))

    def take(self, batch: dict[str, np.ndarray], step: int) -> None:
        """Removes the bookkeeping arrays of every stream from `batch` and acts on them.

        Raises:
            TooManyBadVideos: the share of samples that met a broken video is over the limit, or all videos of a table
                but one are broken and samples are to be compared.
        """
        for prefix, tables in self._streams.items():
            rows, reasons = batch.pop(prefix + BAD_ROWS), batch.pop(prefix + BAD_REASONS)
            self._stats.samples += len(rows)
            self._stats.bad_samples += int((rows >= 0).any(axis=1).sum())
            numbers = batch[f"{prefix}table_index"]
            for sample, place in zip(*np.nonzero(rows >= 0), strict=True):
                number, row = int(numbers[sample]), int(rows[sample, place])
                self._note(tables[number], row, unpack_reason(reasons[sample, place]), step)
                self._bad_rows.setdefault((prefix, number), set()).add(row)
            for number, row in zip(numbers, batch[f"{prefix}record_index"], strict=True):
                self._bad_rows.get((prefix, int(number)), set()).discard(int(row))
        if self._compares:
            self._refuse_lone_videos()
        self._refuse_too_many()

    def ban(self, place: TableRow, reason: str, step: int) -> Ban:
        """Returns the ban of a record that took a data worker down, and writes it for those who resume the run."""
        record = self._tables[place[0]].record(place[1])
        self._stats.bad_videos[record.source] = reason
        log.warning("left out from step %d on: %s: %s", step, redacted(record.source), reason)
        self._write(record, reason, step, table=place[0], row=place[1], host=list(self._host))
        self.banned[place] = Ban(step=step, reason=reason)
        return self.banned[place]

    def _bans_of(self, lines: Sequence[dict[str, Any]]) -> Iterator[tuple[TableRow, Ban]]:
        """The bans that concern this host; of every host where their number has changed."""
        for line in lines:
            if "row" not in line:
                continue
            (host, count), table, row = line["host"], line["table"], line["row"]
            if count == self._host[1] and host != self._host[0]:
                continue
            known = table < len(self._tables) and row < len(self._tables[table])
            if known and redacted(self._tables[table].record(row).source) == line["source"]:
                yield (table, row), Ban(step=line["step"], reason=line["reason"])

    def _write(self, record: Record, reason: str, step: int, **more: Any) -> None:
        if self._path is None:
            return
        self._written.add(redacted(record.source))
        self._path.parent.mkdir(parents=True, exist_ok=True)
        line = {
            "id": redacted(record.id),
            "source": redacted(record.source),
            "reason": reason,
            "step": step,
            **more,
        }
        with open(self._path, "a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def _note(self, table: Table, row: int, reason: str, step: int) -> None:
        record = table.record(row)
        if record.source in self._stats.bad_videos:
            return
        self._stats.bad_videos[record.source] = reason
        log.warning("skipped at step %d: %s: %s", step, redacted(record.source), reason)
        if redacted(record.source) not in self._written:
            self._write(record, reason, step)

    def _refuse_lone_videos(self) -> None:
        """Refuses a table of several videos of which one can be used: whole batches would be made of that one."""
        for (prefix, number), rows in self._bad_rows.items():
            table = self._streams[prefix][number]
            if 0 < len(rows) == len(table) - 1:
                sources = [table.record(row).source for row in sorted(rows)]
                bad = {source: self._stats.bad_videos[source] for source in sources}
                raise TooManyBadVideos(
                    f"only one of the {len(table)} videos of {table.name} can be used, and would be taken in place of "
                    f"all others:\n{self._named(bad)}\n{what_helps(bad.values())}."
                )

    def _refuse_too_many(self) -> None:
        stats = self._stats
        if self._max_bad_share > 0 and stats.bad_samples < _MIN_BAD_SAMPLES:
            return
        if stats.bad_samples <= self._max_bad_share * stats.samples:
            return
        raise TooManyBadVideos(
            f"{stats.bad_samples} of {stats.samples} samples met a video that cannot be used, more than "
            f"max_bad_share={self._max_bad_share:g} allows:\n{self._named(stats.bad_videos)}\n"
            f"{what_helps(stats.bad_videos.values())}, or raise loader.max_bad_share."
        )

    def _named(self, bad: Mapping[str, str]) -> str:
        """Lines about bad videos, source -> reason: the first ones, and where all are listed."""
        lines = [f"  {redacted(source)}: {reason}" for source, reason in bad.items()]
        more = [f"  and {len(lines) - _NAMED} more"] if len(lines) > _NAMED else []
        listed = [f"All are listed in {self._path}."] if self._path is not None else []
        return "\n".join([*lines[:_NAMED], *more, *listed])


def _lines_in(path: Path | None) -> list[dict[str, Any]]:
    """What an earlier part of the run has written already; a torn last line is ignored."""
    found: list[dict[str, Any]] = []
    if path is None or not path.is_file():
        return found
    for text in path.read_text(encoding="utf-8").splitlines():
        with contextlib.suppress(json.JSONDecodeError):
            line = json.loads(text)
            if isinstance(line, dict) and "source" in line:
                found.append(line)
    return found
