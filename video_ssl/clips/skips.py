"""Counts, names and bounds the videos that training had to skip."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from video_ssl.clips.samples import BAD_REASONS, BAD_ROWS, TooManyBadVideos, unpack_reason
from video_ssl.datasets.table import Table

log = logging.getLogger(__name__)

# So few say nothing about the share.
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
        tables: Sequence[Table],
        stats: PipelineStats,
        *,
        path: Path | None,
        max_bad_share: float,
    ) -> None:
        self._tables = tables
        self._stats = stats
        self._path = path
        self._max_bad_share = max_bad_share
        self._written = _sources_in(path)

    def take(self, batch: dict[str, np.ndarray], step: int) -> None:
        """Removes the bookkeeping arrays from `batch` and acts on them.

        Raises:
            TooManyBadVideos: the share of samples that met a broken video is over the limit.
        """
        rows, reasons = batch.pop(BAD_ROWS), batch.pop(BAD_REASONS)
        self._stats.samples += len(rows)
        self._stats.bad_samples += int((rows >= 0).any(axis=1).sum())
        for sample, place in zip(*np.nonzero(rows >= 0), strict=True):
            table = self._tables[batch["table_index"][sample]]
            self._note(table, int(rows[sample, place]), unpack_reason(reasons[sample, place]), step)
        self._refuse_too_many()

    def _note(self, table: Table, row: int, reason: str, step: int) -> None:
        record = table.record(row)
        if record.source in self._stats.bad_videos:
            return
        self._stats.bad_videos[record.source] = reason
        log.warning("skipped at step %d: %s: %s", step, record.source, reason)
        if self._path is None or record.source in self._written:
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        line = {"id": record.id, "source": record.source, "reason": reason, "step": step}
        with open(self._path, "a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def _refuse_too_many(self) -> None:
        stats = self._stats
        if stats.bad_samples < _MIN_BAD_SAMPLES:
            return
        if stats.bad_samples <= self._max_bad_share * stats.samples:
            return
        named = [f"  {source}: {reason}" for source, reason in stats.bad_videos.items()]
        more = [f"  and {len(named) - _NAMED} more"] if len(named) > _NAMED else []
        raise TooManyBadVideos(
            f"{stats.bad_samples} of {stats.samples} samples met a video that cannot be read, more than "
            f"max_bad_share={self._max_bad_share:g} allows:\n"
            + "\n".join([*named[:_NAMED], *more])
            + (f"\nAll are listed in {self._path}." if self._path is not None else "")
            + "\nRemove or repair these files, or raise loader.max_bad_share."
        )


def _sources_in(path: Path | None) -> set[str]:
    """Sources that an earlier part of the run has written already; a torn last line is ignored."""
    found: set[str] = set()
    if path is None or not path.is_file():
        return found
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            found.add(str(json.loads(line)["source"]))
        except (json.JSONDecodeError, KeyError, TypeError):
            continue
    return found
