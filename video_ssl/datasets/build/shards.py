"""What a build writes: the videos of a split, divided into shards, and which of them are still missing."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from video_ssl.datasets.archives.array_records import (
    BEGUN_SUFFIX,
    STAMP_SUFFIX,
    RecordProblem,
    count_records,
    divide_record,
    read_stamp,
    read_video,
)
from video_ssl.datasets.archives.tars import divide_member
from video_ssl.datasets.build.examples import MAX_VIDEO_BYTES, video_bytes
from video_ssl.datasets.parts import SIGN
from video_ssl.datasets.paths import local_path
from video_ssl.datasets.remote.fetching import is_remote
from video_ssl.datasets.source_states import SourceStates
from video_ssl.datasets.table import Table, TableError
from video_ssl.files import write_json

log = logging.getLogger(__name__)

NAME = "videos"
"""What tensorflow-datasets calls every data set that is written here; shards are `videos-SPLIT.array_record-...`."""

FORMAT = 2
_SHARD_BYTES = 256 * 2**20
_GUESSED_BYTES = 4 * 2**20
_NAMED = 5


@dataclass(frozen=True)
class PackedVideo:
    """One video file and the rows of the table that show something of it."""

    rows: list[int]
    size: int | None


@dataclass(frozen=True)
class Shard:
    """A part of a split: the videos from `first` on."""

    path: Path
    table: Table
    videos: Sequence[PackedVideo]


@dataclass(frozen=True)
class ShardPlan:
    """What a split consists of, and which of its shards are still to be written."""

    stamp: dict[str, Any]
    table: Table
    shards: list[Shard]
    missing: list[Shard]


def plan_shards(
    out: Path, split: str, table: Table, num_shards: int | None, check: bool
) -> ShardPlan | None:
    """What to write for a split; None where it is complete."""
    table.refuse_doubled_ids()
    videos = _videos(table)
    stamp_file, begun = (out / f"{split}{suffix}" for suffix in (STAMP_SUFFIX, BEGUN_SUFFIX))
    done = read_stamp(stamp_file)
    found = done or read_stamp(begun)
    if num_shards is None:
        total = sum(_GUESSED_BYTES if video.size is None else video.size for video in videos)
        num_shards = found["num_shards"] if found else -(-total // _SHARD_BYTES)
    num_shards = max(1, min(num_shards, len(videos)))
    stamp = {
        "format": FORMAT,
        "data": _fingerprint(table, videos),
        "files": _files_digest(table, videos),
        "num_shards": num_shards,
    }
    bounds = [round(i * len(videos) / num_shards) for i in range(num_shards + 1)]
    shards = [
        Shard(out / _shard_name(split, i, num_shards), table, videos[bounds[i] : bounds[i + 1]])
        for i in range(num_shards)
    ]
    # Shards without a stamp may be of anything.
    missing = shards if found is None else [shard for shard in shards if not _is_complete(shard)]
    if found is not None:
        there = [shard for shard in shards if shard not in missing]
        _refuse_other_data(f"{out} holds the split {split!r}", found, stamp, there, check=check)
    if done is not None and not missing and (out / f"{split}.arrow").is_file():
        if {**done, **stamp} != done:
            write_json(stamp_file, {**done, **stamp})
        log.info("%s: %s is complete", out, split)
        return None
    write_json(begun, stamp)
    stamp_file.unlink(missing_ok=True)
    (out / f"{split}.arrow").unlink(missing_ok=True)
    return ShardPlan(stamp, table, shards, missing)


def _refuse_other_data(
    what: str,
    found: Mapping[str, Any],
    stamp: Mapping[str, Any],
    there: list[Shard],
    *,
    check: bool,
) -> None:
    """Raises TableError unless what is there is what the stamp describes; with `check`, all bytes are compared."""
    way_out = "Choose another folder, or delete this one."
    if found.get("data") != stamp["data"]:
        raise TableError(
            f"{what} made of something else (another table, or of files that have changed since). {way_out}"
        )
    if found.get("num_shards") != stamp["num_shards"]:
        numbers = f"num_shards={found.get('num_shards')}, now {stamp['num_shards']}"
        raise TableError(f"{what} made of something else ({numbers}). {way_out}")
    if check:
        changed = [source for shard in there for source in _changed(shard)]
        if changed:
            more = f" and {len(changed) - _NAMED} more" if len(changed) > _NAMED else ""
            raise TableError(
                f"{what} with what these videos held before: {', '.join(changed[:_NAMED])}{more}. {way_out}"
            )
        log.info("%s: all bytes of its videos are as they are now", what)
    elif found.get("files") is None:
        raise TableError(
            f"{what} of an earlier version, which noted only how large videos were: whether they are still the same, "
            f"nobody can tell. With --check all bytes are compared. {way_out}"
        )
    elif found["files"] != stamp["files"]:
        raise TableError(
            f"{what} made of something else: videos have been changed, replaced or touched since (size, time of "
            f"change, place in a tar). If they were only copied or touched, --check compares all bytes. {way_out}"
        )


def _changed(shard: Shard) -> Iterator[str]:
    """The sources of a shard that do not hold any more what it holds."""
    for index, video in enumerate(shard.videos):
        record = shard.table.record(video.rows[0])
        try:
            same = read_video(str(shard.path), index) == video_bytes(record)
        except RecordProblem:
            same = False
        if not same:
            yield record.source


def _shard_name(split: str, index: int, count: int) -> str:
    return f"{NAME}-{split}.array_record-{index:05d}-of-{count:05d}"


def _is_complete(shard: Shard) -> bool:
    return shard.path.is_file() and count_records(str(shard.path)) == len(shard.videos)


def _videos(table: Table) -> list[PackedVideo]:
    """The files of a table in the order in which it comes to them.

    Raises:
        TableError: files that are missing or are folders.
    """
    data = table.arrow
    sources = data["source"].to_pylist()
    offsets: list[Any] = [None] * len(sources)
    if "byte_offset" in data.column_names:
        offsets = data["byte_offset"].to_pylist()
    groups: dict[tuple[str, int | None], list[int]] = {}
    for row, place in enumerate(zip(sources, offsets, strict=True)):
        groups.setdefault(place, []).append(row)
    videos, wrong = [], []
    for (source, _), rows in groups.items():
        try:
            videos.append(PackedVideo(rows, _size(table.absolute(source))))
        except TableError as err:
            wrong.append(str(err))
    for video in videos:
        if video.size is not None and video.size > MAX_VIDEO_BYTES:
            wrong.append(
                f"{sources[video.rows[0]]} has {video.size} bytes, a record less than 2 GiB"
            )
    if wrong:
        more = f" (and {len(wrong) - _NAMED} more)" if len(wrong) > _NAMED else ""
        raise TableError(
            f"{'; '.join(wrong[:_NAMED])}{more}. Files must be there: `video-ssl scan` writes a table without "
            "what is broken, `video-ssl transcode` makes videos of frames, and long videos small or (--cut) short."
        )
    return videos


def _size(source: str) -> int | None:
    """Bytes of a local file; None for members, records and URIs."""
    if SIGN in source:
        raise TableError(
            f"{source} is one video in several files: make it one file with `video-ssl transcode`"
        )
    holder = divide_member(source)[0]
    holder = divide_record(holder)[0]
    if is_remote(holder):
        return None
    path = local_path(holder)
    if os.path.isdir(path):
        raise TableError(f"{source} is a folder, not a video file")
    try:
        size = os.stat(path).st_size
    except OSError as err:
        raise TableError(f"{source} cannot be read ({err.strerror})") from err
    return size if holder == source else None


class _Digest:
    """A file that only remembers a hash of what is written."""

    closed = False

    def __init__(self) -> None:
        self.hash = hashlib.sha256()

    def write(self, content: Any) -> int:
        self.hash.update(content)
        return len(content)

    def flush(self) -> None: ...


def _fingerprint(table: Table, videos: Sequence[PackedVideo]) -> str:
    digest = _Digest()
    data = table.arrow.combine_chunks()
    with pa.ipc.new_stream(pa.PythonFile(digest, mode="w"), data.schema) as writer:
        writer.write_table(data)
    digest.write(str(table.root).encode())
    digest.write(np.array([-1 if v.size is None else v.size for v in videos], np.int64).tobytes())
    return digest.hash.hexdigest()


def _files_digest(table: Table, videos: Sequence[PackedVideo]) -> str:
    """A digest of sizes, times and places of the videos, see `source_states`."""
    states = SourceStates()
    found = [states.of(table.record(video.rows[0])) for video in videos]
    return hashlib.sha256(json.dumps(found).encode()).hexdigest()[:16]
