"""`video-ssl scan`: every file of a table is looked at once; what it is becomes columns, what is broken a skip list.

Files are read in processes of their own (`video_ssl.clips.upkeep.isolated`).  Finished files are kept in a journal
beside the output, so a scan that was killed goes on where it stopped; a file that has changed since is looked at again.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from video_ssl.clips.decoders.backends import OPTIONAL, missing
from video_ssl.clips.decoders.reader import ONLY_SOUND, StatedCount
from video_ssl.clips.upkeep.config import ScanConfig
from video_ssl.clips.upkeep.isolated import Failure, refuse_away, run_isolated
from video_ssl.clips.upkeep.journal import Journal, is_list
from video_ssl.clips.upkeep.probe import FILE_COLUMNS, Probe, is_folder, stamp, takes_rate
from video_ssl.clips.upkeep.proof import Proof
from video_ssl.clips.upkeep.summary import summary
from video_ssl.datasets.parts import divide_parts
from video_ssl.datasets.remote.errors import redacted
from video_ssl.datasets.table import METADATA_KEY, SCHEMA, Table, TableError
from video_ssl.files import claim_file, full_disk_is_named, write_json_lines
from video_ssl.progress import metered

log = logging.getLogger(__name__)

PROBE = "video_ssl.clips.upkeep.probe:probe"
PROVE = "video_ssl.clips.upkeep.proof:prove"
# The reader keeps its own limit between packets; this many times it, the process is ended.
_HANG_FACTOR = 2
# Of videos that lie in several files; other tables do without.
_PER_PART = ("part_frames", "part_sec")


@dataclass(frozen=True, kw_only=True)
class ScanResult:
    """What a scan has done: `table` holds the usable records, `skipped` says why the others are not in it."""

    table: Table
    skipped: list[dict[str, Any]]
    files: int
    read_now: int


@dataclass(frozen=True)
class _File:
    """One file and the rows of the table that take something of it."""

    probe: Probe
    rows: list[int]

    @property
    def key(self) -> str:
        task = self.probe
        about: list[Any] = [task.source, task.byte_range, task.segments]
        if task.stated_count is not None:
            about.append(task.stated_count.count)
        if task.fps is not None:
            about.append({"fps": task.fps})
        text = json.dumps(about)
        return hashlib.sha1(text.encode()).hexdigest()


def scan_table(
    table: Table,
    out: str | os.PathLike[str],
    config: ScanConfig | None = None,
    *,
    progress: bool = True,
    probe: str = PROBE,
) -> ScanResult:
    """Returns the table with what the files are, written to `out` (.arrow), and the skip list.

    Beside `out` lie `STEM.skipped.jsonl` (id, source, reason of every record that is left out) and, with `exact`,
    `STEM.inexact.jsonl` (source, backend, reason of every file and optional backend that do not go together).

    Args:
        table: any records; segments of one file cost one look at it.
        out: an Arrow file; replaced if an earlier scan has made it.
        config: how.
        progress: show a progress bar.
        probe: the function that looks at a file, for tests.

    Raises:
        ValueError: unknown setting, an unfinished scan with other settings, or one that is running.
        OutputError: `out` is the table itself, another's file, or cannot be written.
        DiskFull: nothing is lost, run again.
        TableError: not one usable record, or two with one id.
        AwayError: all is written, without records that cannot be reached now.
    """
    if Path(out).suffix != ".arrow":
        raise ValueError(f"{out} must end in .arrow: scan writes a table.")
    config = config or ScanConfig()
    exact = config.exact
    out = _claim(out, table)
    workers = config.num_workers or len(os.sched_getaffinity(0))
    files = _files_of(table, timeout_sec=config.timeout_sec, decode=config.decode)
    frames = config.exact_frames if exact else 0
    settings = {"decode": config.decode, "exact": exact, "exact_frames": frames}
    with Journal(out.with_name(f".{out.stem}.scan.jsonl"), settings) as journal:
        run = _Run(journal, workers, _HANG_FACTOR * config.timeout_sec, progress)
        read_now = run.look(files, probe, retry=config.retry)
        backends = [name for name in OPTIONAL if missing(name) is None] if exact else []
        for name in backends if exact else ():
            run.prove(files, name, config.exact_frames)
        if exact and not backends:
            log.warning("no optional decoder is installed: `exact` stays empty")
        skipped = _skip_list(table, files, journal)
        scanned = _with_columns(table, files, journal, backends if exact else None)
        with full_disk_is_named(out.parent):
            _write_lists(out, files, journal, skipped, backends)
            saved = scanned.save(out, maker="scan")
        away = [line for line in skipped if line.get("away")]
        if not away:
            journal.delete()
    count = sum(len(divide_parts(file.probe.source)) for file in files)
    log.info("%d records of %d files in %s, %d left out (%s)", len(saved), count, out,
             len(skipped), _list_path(out, "skipped").name)  # fmt: skip
    for line in summary(saved):
        log.info("  %s", line)
    _say_where_pixels_are_not_square(saved)
    refuse_away(away, out)
    return ScanResult(table=saved, skipped=skipped, files=len(files), read_now=read_now)


def _claim(out: str | os.PathLike[str], table: Table) -> Path:
    table.refuse_doubled_ids()  # now, and not when the new table is made
    read = [table.path] if table.path is not None else []
    out = claim_file(out, "scan", sources=read)
    for kind in ("skipped", "inexact"):
        claim_file(_list_path(out, kind), "scan", sources=read, is_ours=is_list)
    return out


def _say_where_pixels_are_not_square(table: Table) -> None:
    """Readers show pictures as they are stored, like every reader of the field: who cares must know."""
    odd = int((np.nan_to_num(table.column("pixel_aspect"), nan=1.0) != 1).sum())
    if odd:
        log.warning(
            "%d of %d records have pixels that are not square (column pixel_aspect): pictures are read as they are "
            "stored, not stretched to their shown shape.",
            odd,
            len(table),
        )  # fmt: skip


class _Run:
    """Sends files through the processes and keeps the answers in the journal."""

    def __init__(self, journal: Journal, workers: int, limit_sec: float, progress: bool) -> None:
        self._journal = journal
        self._workers = workers
        self._limit_sec = limit_sec
        self._progress = progress

    def look(self, files: Sequence[_File], probe: str, *, retry: bool) -> int:
        """Probes every file that the journal does not know; returns how many."""
        to_do = []
        for file in files:
            known = self._journal.entries.get(file.key)
            fresh = known is not None and known["stamp"] == list(stamp(file.probe.source))
            if not fresh or (
                known is not None and (known.get("away") or (retry and "reason" in known))
            ):
                to_do.append(file)
        # What was found of a decoder on the file that was there before counts no more.
        proven = [f"{name}:{file.key}" for name in OPTIONAL for file in to_do]
        self._journal.begin(key for key in proven if key in self._journal.entries)
        tasks = ((file, file.probe) for file in to_do)
        for file, found in self._each("looking at files", probe, tasks, len(files), len(to_do)):
            entry: dict[str, Any] = {"source": file.probe.source}
            if isinstance(found, Failure):
                entry |= {"stamp": list(stamp(file.probe.source)), "reason": found.reason}
            else:
                entry |= {"stamp": found.pop("stamp"), "facts": found}
            if isinstance(found, Failure) and found.away:
                entry["away"] = True
            self._journal.add(file.key, entry)
        return len(to_do)

    def prove(self, files: Sequence[_File], backend: str, frames: int) -> None:
        """Compares a backend with PyAV on every readable file that the journal does not know."""
        readable = [file for file in files if "facts" in self._journal.entries[file.key]]
        to_do = [f for f in readable if f"{backend}:{f.key}" not in self._journal.entries]
        tasks = (
            (file, Proof(probe=file.probe, backend=backend, num_frames=frames)) for file in to_do
        )
        title = f"comparing {backend}"
        for file, found in self._each(title, PROVE, tasks, len(readable), len(to_do)):
            reason = found.reason if isinstance(found, Failure) else found
            self._journal.add(f"{backend}:{file.key}", {"reason": reason})

    def _each(
        self, title: str, function: str, tasks: Any, total: int, to_do: int
    ) -> Iterator[tuple[_File, Any]]:
        done = total - to_do
        with metered(title, total=total, unit="files", done=done, show=self._progress) as meter:
            workers = min(self._workers, max(to_do, 1))
            for file, found in run_isolated(
                function,
                tasks,
                num_workers=workers,
                limit_sec=self._limit_sec,
                on_beat=lambda file, *reached: meter.within(file.key, *reached),
            ):
                if isinstance(found, Failure):
                    log.warning("%s: %s", redacted(file.probe.source), found.reason)
                yield file, found
                meter.advance(video_sec=_seconds(found), key=file.key)


def _seconds(found: Any) -> float:
    """Of the segments that a look at a file has found."""
    return sum(sec for _, sec in found["segments"]) if isinstance(found, dict) else 0.0


def _files_of(table: Table, *, timeout_sec: float, decode: str) -> list[_File]:
    """The files of a table in the order in which they occur."""
    names = ("start_sec", "end_sec", "byte_offset", "byte_size", "fps", "num_frames")
    data = table.arrow
    columns = [
        data[name].to_pylist() if name in data.column_names else [None] * len(table)
        for name in names
    ]
    groups: dict[tuple[str, Any], list[tuple[int, Any, Any, Any, Any]]] = {}
    for row, (source, *values) in enumerate(zip(data["source"].to_pylist(), *columns, strict=True)):
        start, end, offset, size, fps, count = values
        byte_range = None if offset is None or size is None else (offset, size)
        groups.setdefault((table.absolute(source), byte_range), []).append(
            (row, start, end, fps, count)
        )
    return [
        _File(
            Probe(
                source=source,
                byte_range=byte_range,
                fps=taken[0][3] if takes_rate(source) else None,
                stated_count=_stated_count(table, taken) if is_folder(source) else None,
                segments=tuple((start, end) for _, start, end, *_ in taken),
                timeout_sec=timeout_sec,
                decode=decode,
            ),
            [row for row, *_ in taken],
        )
        for (source, byte_range), taken in groups.items()
    ]


def _stated_count(table: Table, taken: Sequence[tuple[Any, ...]]) -> StatedCount | None:
    """What the table says about the number of frames of a whole folder, and where it says so."""
    for row, start, end, _, count in taken:
        if start is None and end is None and count is not None:
            lines = table.metadata.get("list_lines")
            if not lines:
                return StatedCount(count, "its table")
            line = lines[row if table._rows is None else int(table._rows[row])]
            return StatedCount(count, f"{table.metadata['list']} line {line}")
    return None


def _skip_list(table: Table, files: Sequence[_File], journal: Journal) -> list[dict[str, Any]]:
    ids = table.arrow["id"]
    skipped = []
    for file in files:
        entry = journal.entries[file.key]
        for place, row in enumerate(file.rows):
            reason = entry.get("reason")
            if reason is None and entry["facts"]["segments"][place][0] == 0:
                start, end = file.probe.segments[place]
                reason = f"has no frame from {start or 0:g} s to {'its end' if end is None else f'{end:g} s'}."
            if reason is not None:
                line = {
                    "id": redacted(ids[row].as_py()),
                    "source": redacted(file.probe.source),
                    "reason": reason,
                }
                if entry.get("away"):
                    line["away"] = True
                skipped.append((row, line))
    return [line for _, line in sorted(skipped, key=lambda item: item[0])]


def _with_columns(
    table: Table, files: Sequence[_File], journal: Journal, backends: Sequence[str] | None
) -> Table:
    """The usable records with the columns of the scan; earlier values of the table are replaced."""
    count = len(table)
    values: dict[str, list[Any]] = {
        name: [None] * count for name in (*FILE_COLUMNS, *_PER_PART, "num_frames", "duration_sec")
    }
    if backends is not None:
        values["exact"] = [None] * count
    for file in files:
        facts = journal.entries[file.key].get("facts")
        if facts is None:
            continue
        proven = [
            name
            for name in backends or ()
            if journal.entries[f"{name}:{file.key}"]["reason"] is None
        ]
        for (frames, seconds), row in zip(facts["segments"], file.rows, strict=True):
            values["num_frames"][row] = frames or None
            values["duration_sec"][row] = seconds
            for name in (*FILE_COLUMNS, *_PER_PART):
                values[name][row] = facts.get(name)  # a journal may be older than a column
            if backends is not None:
                values["exact"][row] = ",".join(proven)
    for name in _PER_PART:
        if all(value is None for value in values[name]) and name not in table.column_names:
            del values[name]
    usable = np.flatnonzero([frames is not None for frames in values["num_frames"]])
    if not len(usable):
        first = _skip_list(table, files, journal)[0]
        more = ""
        if first["reason"] == ONLY_SOUND:
            more = " A scan looks at pictures: recordings of sound alone are used as the table has them."
        raise TableError(
            f"not one of {count} records can be used; the first: {first['source']} {first['reason']}{more}"
        )
    return _replaced(table, values).select(usable)


def _replaced(table: Table, values: dict[str, list[Any]]) -> Table:
    old = table.arrow
    columns: dict[str, Any] = {name: old[name] for name in old.column_names}
    columns |= values
    ordered = {name: columns[name] for name in SCHEMA.names if name in columns}
    about = dict(json.loads((old.schema.metadata or {}).get(METADATA_KEY, b"{}")))
    for name in ("list", "list_lines"):  # it has been checked
        about.pop(name, None)
    return Table.from_columns(ordered, root=table.root, **about)


def _write_lists(
    out: Path,
    files: Sequence[_File],
    journal: Journal,
    skipped: list[dict[str, Any]],
    backends: Sequence[str],
) -> None:
    write_json_lines(_list_path(out, "skipped"), skipped)
    if not backends:
        return
    inexact = []
    for file in files:
        for name in backends:
            reason = journal.entries.get(f"{name}:{file.key}", {}).get("reason")
            if reason is not None:
                inexact.append(
                    {"source": redacted(file.probe.source), "backend": name, "reason": reason}
                )
    write_json_lines(_list_path(out, "inexact"), inexact)


def _list_path(out: Path, kind: str) -> Path:
    return out.with_name(f"{out.stem}.{kind}.jsonl")
