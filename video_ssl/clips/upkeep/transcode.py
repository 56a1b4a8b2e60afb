"""`video-ssl transcode`: every video of a table as small H.264 files for fast random access, and the table of them.

Encodes with the x264 inside of PyAV: no ffmpeg program is needed.  Restartable like a scan: finished files are in a
journal, files are written under a temporary name and renamed.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from video_ssl.clips.reading import segment_frames
from video_ssl.clips.upkeep.config import TranscodeConfig, VideoFormat
from video_ssl.clips.upkeep.isolated import Failure, refuse_away, run_isolated
from video_ssl.clips.upkeep.journal import Journal, is_list
from video_ssl.clips.upkeep.probe import FILE_COLUMNS, said_of_frames, stamp
from video_ssl.clips.upkeep.transcode_file import Transcode
from video_ssl.clips.upkeep.transcode_targets import claim_targets, file_name
from video_ssl.datasets.boxes import PER_MOMENT
from video_ssl.datasets.frame_labels import resampled_labels
from video_ssl.datasets.parts import divide_parts
from video_ssl.datasets.paths import TRANSCODE_JOURNAL
from video_ssl.datasets.remote.errors import redacted
from video_ssl.datasets.table import METADATA_KEY, SCHEMA, Record, Table, TableError
from video_ssl.files import (
    claim_file,
    claim_folder,
    full_disk_is_named,
    remove_leftovers,
    write_json_lines,
)
from video_ssl.progress import metered

log = logging.getLogger(__name__)

TRANSCODE = "video_ssl.clips.upkeep.transcode_file:transcode_file"
_HANG_FACTOR = 2
# Columns that describe the old files.
_STALE = ("byte_offset", "byte_size", "exact", "part_frames", "part_sec")
_PER_FRAME = ("frame_labels", "boxes", "box_labels", "box_scores")
_ROUNDING_SEC = 5e-4  # annotations are rounded to milliseconds


@dataclass(frozen=True, kw_only=True)
class TranscodeResult:
    """What has been done: the table of the new files, and why records are missing in it."""

    table: Table
    skipped: list[dict[str, Any]]
    files: int
    written_now: int


@dataclass(frozen=True)
class _Job:
    """One new file, `key` below the folder of videos, and the rows of the table that use it."""

    key: str
    task: Transcode
    rows: list[int]


def transcode_table(
    table: Table,
    out: str | os.PathLike[str],
    config: TranscodeConfig | None = None,
    *,
    format: VideoFormat | None = None,
    progress: bool = True,
    function: str = TRANSCODE,
) -> TranscodeResult:
    """Returns the table of the new files, `OUT/table.arrow`; the files lie in `OUT/videos`.

    Labels and everything else that the table says are carried over; `OUT/skipped.jsonl` says which records could not
    be, and why.  Segments stay segments of one new file, unless they are cut: then captions and events outside of them
    are left out.  Per-frame labels and boxes follow a change of the frame rate.

    Args:
        table: any records.
        out: a folder; finished files in it are kept.
        config: how.
        format: what to write.
        progress: show a progress bar.
        function: what transcodes one file, for tests.

    Raises:
        ValueError: work on this folder with other settings has begun, or is running.
        OutputError: a file to be written is a source, or is there and was not written by an earlier transcode; or the
            folder cannot be written.
        DiskFull: nothing finished is lost, run again.
        TableError: not one usable record, or two with one id.
        AwayError: all is written, without records that cannot be reached now.
    """
    format, config = format or VideoFormat(), config or TranscodeConfig()
    out = _claim(out, table)
    settings = {**asdict(format), "cut": config.cut}
    with Journal(out / TRANSCODE_JOURNAL, settings) as journal:
        jobs = _jobs_of(
            table, out / "videos", format, cut=config.cut, timeout_sec=config.timeout_sec
        )
        targets = {job.key: job.task.target for job in jobs}
        sources = (part for job in jobs for part in divide_parts(job.task.record.source))
        claim_targets(targets, journal, sources, out)
        for folder in {target.parent for target in targets.values()}:
            remove_leftovers(folder, held=True)
        to_do = [job for job in jobs if not _is_done(job, journal, retry=config.retry)]
        journal.begin(job.key for job in to_do)
        hang_sec = _HANG_FACTOR * config.timeout_sec
        _run(jobs, to_do, journal, function, config.num_workers, hang_sec, progress)
        skipped = _skip_list(table, jobs, journal)
        with full_disk_is_named(out):
            write_json_lines(out / "skipped.jsonl", skipped)
            saved = _new_table(table, jobs, journal, out, cut=config.cut).save(
                out / "table.arrow", maker="transcode"
            )
    log.info("%d records of %d files in %s, %d left out (skipped.jsonl)", len(saved), len(jobs),
             saved.path, len(skipped))  # fmt: skip
    refuse_away([line for line in skipped if line.get("away")], out)
    return TranscodeResult(table=saved, skipped=skipped, files=len(jobs), written_now=len(to_do))


def _claim(out: str | os.PathLike[str], table: Table) -> Path:
    table.refuse_doubled_ids()  # now, and not when the new table is made
    read = [table.path] if table.path is not None else []
    out = claim_folder(out, "transcode", (), ours=True)
    claim_file(out / "table.arrow", "transcode", sources=read)
    claim_file(out / "skipped.jsonl", "transcode", is_ours=is_list)
    claim_folder(out / "videos", "transcode", (), ours=True)
    return out


def _jobs_of(
    table: Table, folder: Path, format: VideoFormat, *, cut: bool, timeout_sec: float
) -> list[_Job]:
    jobs, taken = [], set[str]()
    groups: dict[tuple[Any, ...], list[Record]] = {}
    for index in range(len(table)):
        record = table.record(index)
        place = (record.source, record.byte_offset, record.byte_size)
        extent = (record.start_sec, record.end_sec) if cut else ()
        groups.setdefault((*place, *extent), []).append(record)
    for key, records in groups.items():
        name = file_name(divide_parts(records[0].source)[0], table.root, key, taken)
        segments = ((None, None),) if cut else tuple((r.start_sec, r.end_sec) for r in records)
        task = Transcode(
            record=_what_to_take(records, cut=cut),
            target=folder / name,
            format=format,
            timeout_sec=timeout_sec,
            segments=segments,
            return_map=any(getattr(r, n) is not None for r in records for n in _PER_FRAME),
        )
        jobs.append(_Job(name, task, [record.index for record in records]))
    return jobs


def _what_to_take(records: Sequence[Record], *, cut: bool) -> Record:
    """The whole source, or the segment, without labels: it travels to a process."""
    record = records[0]
    # As many frames as a row of the whole folder says must be there; rows of segments count their own.
    stated = (number for each in records if (number := said_of_frames(each)[1]) is not None)
    return Record(
        index=0,
        id=record.id,
        source=record.source,
        start_sec=record.start_sec if cut else None,
        end_sec=record.end_sec if cut else None,
        fps=record.fps,
        num_frames=next(stated, None),
        byte_offset=record.byte_offset,
        byte_size=record.byte_size,
        file_size=record.file_size,
        file_mtime=record.file_mtime,
    )


def _run(
    jobs: Sequence[_Job],
    to_do: Sequence[_Job],
    journal: Journal,
    function: str,
    num_workers: int | None,
    limit_sec: float,
    show: bool,
) -> None:
    workers = min(num_workers or len(os.sched_getaffinity(0)), max(1, len(to_do)))
    tasks = ((job, job.task) for job in to_do)
    done = len(jobs) - len(to_do)
    with metered("transcoding", total=len(jobs), unit="files", done=done, show=show) as meter:
        for job, found in run_isolated(
            function,
            tasks,
            num_workers=workers,
            limit_sec=limit_sec,
            on_beat=lambda job, *reached: meter.within(job.key, *reached),
        ):
            source = job.task.record.source
            if isinstance(found, Failure):
                log.warning("%s: %s", redacted(source), found.reason)
                entry: dict[str, Any] = {
                    "source_stamp": list(stamp(source)),
                    "reason": found.reason,
                }
                if job.task.target.exists():  # of a source that could be read: still ours
                    entry["left"] = list(stamp(str(job.task.target)))
                if found.away:
                    entry["away"] = True
            else:
                entry = found
            journal.add(job.key, {"source": source, "asked": _asked(job), **entry})
            seconds = sum(sec for _, sec in entry.get("segments", ()))
            meter.advance(video_sec=seconds, key=job.key)


def _asked(job: _Job) -> dict[str, Any]:
    """What the table says that decides what an entry of the journal holds, in JSON."""
    return {
        "segments": [list(segment) for segment in job.task.segments],
        "frames": list(said_of_frames(job.task.record)),
    }


def _is_done(job: _Job, journal: Journal, *, retry: bool) -> bool:
    """Whether the journal's entry belongs to this source as it is now and to what the table says of it, and the new
    file is as it was written."""
    entry = journal.entries.get(job.key)
    if entry is None or entry["source"] != job.task.record.source:
        return False
    if entry["source_stamp"] != list(stamp(job.task.record.source)):
        return False
    # Journals of before do not say it: they count where nothing was to be said, as of whole videos.
    count = len(entry.get("segments", job.task.segments))
    nothing = {"segments": [[None, None]] * count, "frames": [None, None]}
    if entry.get("asked", nothing) != _asked(job):
        return False
    if "reason" in entry:
        return not retry and not entry.get("away")
    if job.task.return_map and "map" not in entry:
        return False
    return list(stamp(str(job.task.target))) == [entry["file_size"], entry["file_mtime"]]


def _skip_list(table: Table, jobs: Sequence[_Job], journal: Journal) -> list[dict[str, Any]]:
    lines = []
    for job in jobs:
        entry = journal.entries[job.key]
        for place, row in enumerate(job.rows):
            reason = entry.get("reason")
            if reason is None and not entry["segments"][min(place, len(entry["segments"]) - 1)][0]:
                reason = "has no frame in its segment."
            if reason is not None:
                record = table.record(row)
                line = {
                    "id": redacted(record.id),
                    "source": redacted(record.source),
                    "reason": reason,
                }
                lines.append((row, line | ({"away": True} if entry.get("away") else {})))
    return [line for _, line in sorted(lines, key=lambda item: item[0])]


def _new_table(
    table: Table, jobs: Sequence[_Job], journal: Journal, out: Path, *, cut: bool
) -> Table:
    old = table.arrow
    values: dict[str, list[Any]] = {
        name: old[name].to_pylist() for name in old.column_names if name not in _STALE
    }
    for name in (*FILE_COLUMNS, "num_frames", "duration_sec"):
        values[name] = [None] * len(table)
    for job in jobs:
        entry = journal.entries[job.key]
        if "reason" in entry:
            continue
        for place, row in enumerate(job.rows):
            frames, seconds = entry["segments"][min(place, len(entry["segments"]) - 1)]
            values["source"][row] = str(job.task.target)
            values["num_frames"][row], values["duration_sec"][row] = frames or None, seconds
            for name in FILE_COLUMNS:
                values[name][row] = entry.get(name)  # a journal may be older than a column
            if "map" in entry:
                _follow_frames(values, row, entry, cut=cut)
            if cut:
                _move_times(values, row, seconds, entry.get("origin_sec"))
    usable = np.flatnonzero([frames is not None for frames in values["num_frames"]])
    if not len(usable):
        first = journal.entries[jobs[0].key]
        raise TableError(
            f"no record can be used; the first: {redacted(first['source'])} {first['reason']}"
        )
    about = dict(json.loads((old.schema.metadata or {}).get(METADATA_KEY, b"{}")))
    ordered = {name: values[name] for name in SCHEMA.names if name in values}
    return Table.from_columns(ordered, root=out, **about).select(usable)


def _follow_frames(
    values: Mapping[str, list[Any]], row: int, entry: dict[str, Any], *, cut: bool
) -> None:
    """Per-frame values of the frames that the new file shows; labels in another number than frames are resampled."""
    shown, old, new = (np.array(entry[name]) for name in ("map", "old_times", "new_times"))
    first_old, end_old = 0, len(old)
    if not cut:
        stretch = _stretch(values, row)
        first_old, end_old = segment_frames(old, *stretch)
        first, last = segment_frames(new, *stretch)
        shown = shown[first:last]
    moments = values["box_times_sec"][row] if "box_times_sec" in values else None
    for name in _PER_FRAME if moments is None else ("frame_labels",):
        per_frame = values[name][row] if name in values else None
        if per_frame and name == "frame_labels" and end_old > first_old:
            per_frame = resampled_labels(per_frame, end_old - first_old).tolist()
        if per_frame:
            places = np.clip(shown - first_old, 0, len(per_frame) - 1)
            values[name][row] = [per_frame[place] for place in places.tolist()]


def _stretch(values: Mapping[str, list[Any]], row: int) -> tuple[float | None, float | None]:
    start, end = (
        values[name][row] if name in values else None for name in ("start_sec", "end_sec")
    )
    return start, end


def _move_times(
    values: Mapping[str, list[Any]], row: int, seconds: float, origin_sec: float | None
) -> None:
    """Times of a record whose segment became a file of its own, of `seconds`, which starts at 0.

    That is its first frame, at `origin_sec` of the old one; journals of before do not know it and have `start_sec`.
    Captions and events that lie outside of it are left out, captions that reach beyond it end with it.
    """
    begin, end = _stretch(values, row)
    start = origin_sec if origin_sec is not None else begin or 0.0
    for name in ("captions", "events"):
        items = values[name][row] if name in values else None
        if items is not None:
            values[name][row] = [item for item in items if _is_within(item, begin, end)]
            for item in values[name][row]:
                for key in ("start_sec", "end_sec", "time_sec"):
                    if item.get(key) is not None:
                        inside = item[key] if end is None else min(item[key], end)
                        item[key] = max(0.0, inside - start)
    moments = values["box_times_sec"][row] if "box_times_sec" in values else None
    if moments is not None:
        moved = np.array(moments) - start
        inside = np.flatnonzero(
            (moved > -_ROUNDING_SEC) & (moved < seconds + _ROUNDING_SEC)
        ).tolist()
        for name in PER_MOMENT:
            if name in values and values[name][row] is not None:
                values[name][row] = [values[name][row][place] for place in inside]
        values["box_times_sec"][row] = np.maximum(moved[inside], 0.0).tolist()
    for name in ("start_sec", "end_sec"):
        if name in values:
            values[name][row] = None


def _is_within(item: Mapping[str, Any], begin_sec: float | None, end_sec: float | None) -> bool:
    """Whether a caption has something in common with a stretch, or an event lies in it, its borders included."""
    first, last = (item.get("time_sec", item.get(key)) for key in ("start_sec", "end_sec"))
    first, begin = (-np.inf if at is None else at for at in (first, begin_sec))
    last, end = (np.inf if at is None else at for at in (last, end_sec))
    common = min(last, end) - max(first, begin)
    is_moment = last - first <= _ROUNDING_SEC
    return bool(common > (-_ROUNDING_SEC if is_moment else _ROUNDING_SEC))
