"""A look at every video of a table, each in a process of its own; what was seen is kept, and not looked at again."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

from video_ssl.clips.upkeep.isolated import Failure, run_isolated
from video_ssl.clips.upkeep.journal import Journal
from video_ssl.clips.upkeep.probe import look_key
from video_ssl.datasets.table import Record, Table
from video_ssl.progress import metered

_HANG_FACTOR = 2  # of the reader's own limit
_MOST_BYTES = 900_000  # of what a line of the journal holds: fingerprints of hours of video


def looks(
    function: str,
    table: Table,
    journal: Journal,
    argument: Callable[[Record], Any],
    *,
    num_workers: int | None,
    timeout_sec: float,
    progress: bool,
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yields (row, what was seen of it) of every row, from the journal where it is known.

    What was seen is `prints` and `seconds`, or the `reason` why it cannot be read.  A reason that need not hold another
    time is told and not kept.

    Args:
        function: "module:name" of what looks at a video: argument -> (prints, seconds).
        argument: of a record.
        num_workers: processes; by default one per core.
        timeout_sec: of the reader, for a video.
    """
    to_do, keys = [], {}
    for row in range(len(table)):
        record = table.record(row)
        keys[row] = look_key(record)
        if keys[row] in journal.entries:
            yield row, journal.entries[keys[row]]
        else:
            to_do.append((row, argument(record)))
    workers = min(num_workers or len(os.sched_getaffinity(0)), max(len(to_do), 1))
    done = len(table) - len(to_do)
    with metered("looking for copies", total=len(table), done=done, show=progress) as meter:
        for row, found in run_isolated(
            function,
            to_do,
            num_workers=workers,
            limit_sec=_HANG_FACTOR * timeout_sec,
            on_beat=meter.within,
        ):
            if isinstance(found, Failure):
                entry: dict[str, Any] = {"reason": found.reason}
                lasts = not found.passing
            else:
                entry = dict(zip(("prints", "seconds"), found, strict=True))
                lasts = not isinstance(found[0], str) or len(found[0]) < _MOST_BYTES
            if lasts:
                journal.add(keys[row], entry)
            yield row, entry
            meter.advance(video_sec=entry.get("seconds", 0.0), key=row)
