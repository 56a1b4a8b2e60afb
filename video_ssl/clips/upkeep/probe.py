"""What a video file is, found out in a data worker: columns of a table, also which decoders are exact.

`file_facts` only demultiplexes (milliseconds); `probe` also counts frames and decodes the first and the last one.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from typing import Any

import numpy as np

from video_ssl.clips.decoders.files.facts import FileFacts, file_facts
from video_ssl.clips.decoders.reader import BadVideo, Reader, StatedCount
from video_ssl.clips.decoders.sources import locate
from video_ssl.clips.joined import JoinedReader
from video_ssl.clips.reading import open_video, segment_frames
from video_ssl.clips.upkeep.isolated_worker import beat
from video_ssl.datasets.archives.array_records import divide_record
from video_ssl.datasets.archives.tars import divide_member
from video_ssl.datasets.parts import SIGN, divide_parts
from video_ssl.datasets.paths import PICTURE_SUFFIXES, local_path
from video_ssl.datasets.remote.fetching import is_remote
from video_ssl.datasets.source_states import listing_digest
from video_ssl.datasets.table import Record

#: Columns of a table that `probe` finds out about a file, the same for all its segments.
FILE_COLUMNS = (
    *("fps", "width", "height", "has_audio", "codec", "container", "rotation", "variable_fps"),
    *("edit_list", "max_gop", "file_size", "file_mtime", "mirrored", "pixel_aspect"),
)
_DECODE = ("ends", "all")
_PIECE = 32


@dataclass(frozen=True, kw_only=True)
class Probe:
    """One file to find out about; `segments` are the (start_sec, end_sec) that a table takes of it."""

    source: str
    byte_range: tuple[int, int] | None = None
    fps: float | None = None
    stated_count: StatedCount | None = None
    segments: tuple[tuple[float | None, float | None], ...] = ((None, None),)
    timeout_sec: float = 60.0
    decode: str = "ends"


def probe(task: Probe) -> dict[str, Any]:
    """Returns the columns of the file, and under "segments" (num_frames, duration_sec) for each segment.

    Segments without a frame have 0 frames.  "stamp" is what `stamp` returns.

    Args:
        task: `decode="ends"` decodes the first and the last frame, "all" every frame.

    Raises:
        BadVideo: what the reader says.
    """
    assert task.decode in _DECODE
    before = stamp(task.source)
    with open_video(
        task.source,
        timeout_sec=task.timeout_sec,
        byte_range=task.byte_range,
        fps=task.fps,
        stated_count=task.stated_count,
    ) as reader:
        info = reader.info
        times = reader.times(np.arange(info.num_frames))
        _decode_some(reader, task.decode)
        parts = divide_parts(task.source)
        facts = [found for part in parts if (found := _facts_of(part, task)) is not None]
        joined = {}
        if isinstance(reader, JoinedReader):
            joined = {"part_frames": reader.part_frames.tolist(), "part_sec": reader.part_sec.tolist()}  # fmt: skip
    if stamp(task.source) != before:
        raise BadVideo(task.source, "changes while it is read: scan it when it is complete.")
    size, changed = before if isinstance(before[0], int) else (None, None)
    return {
        "stamp": list(before),
        "fps": info.fps,
        "width": info.width,
        "height": info.height,
        "has_audio": info.has_audio,
        "rotation": info.rotation,
        "mirrored": info.mirrored,
        "pixel_aspect": info.pixel_aspect,
        "variable_fps": _is_variable(times, info.fps),
        "codec": facts[0].codec if facts else info.codec,
        "container": facts[0].container if facts else "frames",
        "edit_list": any(found.edit_list for found in facts),
        "max_gop": max((found.max_gop for found in facts), default=1),
        "file_size": size,
        "file_mtime": changed,
        **joined,
        "segments": [_extent(times, info.duration_sec, *segment) for segment in task.segments],
    }


def _facts_of(source: str, task: Probe) -> FileFacts | None:
    """The facts of a file; None of frames."""
    place = locate(source, byte_range=task.byte_range, timeout_sec=task.timeout_sec)
    try:
        if place.is_frames:
            return None
        return file_facts(place.path, byte_range=place.byte_range, name=place.name)
    finally:
        place.release()


def stamp(source: str) -> tuple[Any, ...]:
    """Returns what shows, without reading it, that a source has changed; JSON keeps it, as a list.

    (size, time of last change) of the file that holds it; ("frames", digest of names, sizes and times) of a folder of
    frames; ("shard", size, time) of a record of an ArrayRecord shard; (None, None) of URIs and of what is missing.  Of
    several files in a row all bytes, and the last of their times; of others in a row ("parts", the stamp of each).
    """
    if SIGN in source:
        stamps = [stamp(part) for part in divide_parts(source)]
        if all(isinstance(found[0], int) for found in stamps):
            sizes, times = zip(*stamps, strict=True)
            return sum(sizes), max(times)
        known = any(found[0] is not None for found in stamps)
        return ("parts", *map(list, stamps)) if known else (None, None)
    holder, _ = divide_member(source)
    shard, index = divide_record(holder)
    if is_remote(shard):
        return None, None
    path = local_path(shard)
    try:
        if os.path.isdir(path):
            return "frames", listing_digest(path)
        status = os.stat(path)
    except OSError:
        return None, None
    found = (status.st_size, status.st_mtime)
    return found if index is None else ("shard", *found)


def is_folder(source: str) -> bool:
    """Returns whether a source, or a part of it, is a folder of frames on a local disk."""
    return any(os.path.isdir(local_path(part)) for part in divide_parts(source))


def takes_rate(source: str) -> bool:
    """Returns whether the rate in a table counts for a source, or a part of it: videos know their own."""
    parts = divide_parts(source.lower())
    return is_folder(source) or any(part.endswith(PICTURE_SUFFIXES) for part in parts)


def said_of_frames(record: Record) -> tuple[float | None, int | None]:
    """Returns what a table says that decides how frames are read, (rate, number of frames); None each for videos."""
    whole = record.start_sec is None and record.end_sec is None
    return (
        record.fps if takes_rate(record.source) else None,
        record.num_frames if whole and is_folder(record.source) else None,
    )


def look_key(record: Record) -> str:
    """Returns 40 hexadecimal digits that are others once what a look at a record found may not hold any more."""
    about: list[Any] = [record.source, record.start_sec, record.end_sec, record.byte_offset]
    about += stamp(record.source)
    said = said_of_frames(record)
    if said != (None, None):  # journals of videos were kept without it
        about += said
    return hashlib.sha1(json.dumps(about).encode()).hexdigest()


def _decode_some(reader: Reader, decode: str) -> None:
    count = reader.info.num_frames
    if decode == "ends":
        reader.frames(sorted({0, count - 1}), (16, 16))
        return
    for begin in range(0, count, _PIECE):
        end = min(begin + _PIECE, count)
        reader.frames(np.arange(begin, end), (16, 16))
        beat(end / count, end / reader.info.fps)


def _is_variable(times: np.ndarray, fps: float) -> bool:
    """Whether index / fps misses the time of a frame by more than half a frame."""
    return bool((np.abs(times * fps - np.arange(len(times))) > 0.5).any())


def _extent(
    times: np.ndarray, duration_sec: float, start_sec: float | None, end_sec: float | None
) -> tuple[int, float]:
    """Frames and seconds of a segment."""
    first, last = segment_frames(times, start_sec, end_sec)
    if last <= first:
        return 0, 0.0
    end = duration_sec if end_sec is None else min(end_sec, duration_sec)
    return last - first, float(end - times[first])
