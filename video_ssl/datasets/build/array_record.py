"""`video-ssl data build`: any table as ArrayRecord shards that tensorflow-datasets, grain and `open_table` read.

One example is one video file, byte by byte, with what the table says about it.  Where several rows take stretches of
one video, the file is written once; the rows are in `segments`, and complete in `rows`.  The table itself is written
beside the shards, with sources `SHARD#INDEX`.

Every shard is written under another name and then renamed, so a build that was killed goes on with the shards that are
missing.  TensorFlow is not needed.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import re
import shlex
import shutil
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
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
from video_ssl.datasets.build.examples import (
    LEFT_OUT,
    MAX_VIDEO_BYTES,
    features_of,
    make_example,
    make_serializer,
    video_bytes,
)
from video_ssl.datasets.parts import SIGN
from video_ssl.datasets.paths import PICTURE_SUFFIXES, local_path
from video_ssl.datasets.remote.errors import MissingPackage
from video_ssl.datasets.remote.fetching import is_remote
from video_ssl.datasets.source_states import SourceStates
from video_ssl.datasets.table import SCHEMA, Table, TableError
from video_ssl.files import (
    FULL,
    claim_file,
    claim_folder,
    full_disk_is_named,
    remove_leftovers,
    temporary_name,
    write_json,
)
from video_ssl.locks import alone
from video_ssl.progress import Meter, metered, record_sec

log = logging.getLogger(__name__)

NAME = "videos"
"""What tensorflow-datasets calls every data set that is written here; shards are `videos-SPLIT.array_record-...`."""

FORMAT = 2
_SHARD_BYTES = 256 * 2**20
_GUESSED_BYTES = 4 * 2**20
_NAMED = 5
_DESCRIPTIONS = ("dataset_info.json", "features.json")
_DESCRIPTION = "Video files with labels, written by `video-ssl data build`."
# Videos do not get smaller, and a group of one is what random access needs.
_WRITER_OPTIONS = "group_size:1,uncompressed"


@dataclass(frozen=True)
class _Video:
    """One video file and the rows of the table that show something of it."""

    rows: list[int]
    size: int | None


@dataclass(frozen=True)
class _Shard:
    """A part of a split: the videos from `first` on."""

    path: Path
    table: Table
    videos: Sequence[_Video]


def build_array_records(
    tables: Mapping[str, Table],
    out: str | os.PathLike[str],
    *,
    num_shards: int | None = None,
    num_workers: int | None = None,
    check: bool = False,
    progress: bool = True,
) -> Path:
    """Returns `out` with ArrayRecord shards, tables and the description for tensorflow-datasets, made or completed.

    Splits that are there and not in `tables` stay.

    Args:
        tables: split -> its table; see `video_ssl.datasets.opening.open_splits`.
        out: the folder; created if needed.
        num_shards: of every split, at most one per video; None for about 256 MiB each, or what an unfinished build had.
        num_workers: shards that are written at once; None for one per core.  The files do not depend on it.
        check: compare all bytes of what is there with the videos, not their sizes and times.
        progress: show a progress bar.

    Raises:
        TableError: a video that is missing, has changed or is too large, folders of frames, a name of a split that
            tensorflow-datasets refuses, a folder that holds other data, or what the videos held before.
        MissingPackage: tensorflow-datasets or array_record is not installed.
        OutputError: a file to be written is a table that is read, or was made by somebody else; or the folder cannot
            be written.
        DiskFull: what is finished is kept.
    """
    _require_packages()
    for name, number in (("num_shards", num_shards), ("num_workers", num_workers)):
        if number is not None and number < 1:
            raise TableError(f"{name}={number} must be at least 1.")
    for split in tables:
        if not re.fullmatch(r"[A-Za-z]\w*", split, re.ASCII) or split == "all":
            raise TableError(
                f"the split {split!r} must be of letters, digits and underscores, and not `all`: "
                "tensorflow-datasets takes no other name."
            )
    out = _claim(out, tables)
    with full_disk_is_named(out), _only_build(out):
        remove_leftovers(out, held=True)
        plans = {
            split: _plan(out, split, table, num_shards, check) for split, table in tables.items()
        }
        _write_shards(out, [plan for plan in plans.values() if plan],
                      num_workers or len(os.sched_getaffinity(0)), progress)  # fmt: skip
        for split, plan in plans.items():
            if plan:
                _finish(out, split, plan)
        _describe(out)
    for split, table in tables.items():
        log.info("%s", _written(out, split, table))
    return out


def _written(out: Path, split: str, table: Table) -> str:
    """What there is of a split now, and how it is used."""
    shards = sorted(out.glob(f"{NAME}-{split}.array_record-*-of-*"))
    gib = sum(shard.stat().st_size for shard in shards) / 2**30
    return (
        f"{out}:{split}: {len(table)} records in {len(shards)} shards, {gib:.2f} GiB. To use them: "
        f"{shlex.quote(f'data.table={out}:{split}')} of a training, "
        f"{shlex.quote(f'train={out}:{split}')} of an evaluation"
    )


def _claim(out: str | os.PathLike[str], tables: Mapping[str, Table]) -> Path:
    """The folder, links followed; what describes all splits is ours where its text says so."""
    read = [table.path for table in tables.values() if table.path is not None]
    names = [f"{split}.arrow" for split in tables]
    out = claim_folder(out, "data build", names, ours=True, sources=read)
    for split in tables:
        _claim_split(out, split)
    described = out / _DESCRIPTIONS[0]
    ours = described.is_file() and _DESCRIPTION.encode() in described.read_bytes()
    return claim_folder(out, "data build", _DESCRIPTIONS, ours=ours)


def _claim_split(out: Path, split: str) -> None:
    """Refuses what somebody else has put where the files of a split go."""
    table, stamps = out / f"{split}.arrow", [f"{split}{s}" for s in (STAMP_SUFFIX, BEGUN_SUFFIX)]
    claim_file(table, "data build")
    for name in stamps:
        claim_file(out / name, "data build", is_ours=_is_stamp)
    ours = table.exists() or any(_is_stamp(out / name) for name in stamps)
    shards = [path.name for path in out.glob(f"{NAME}-{split}.array_record-*")]
    claim_folder(out, "data build", shards, ours=ours)


def _is_stamp(path: Path) -> bool:
    return "format" in (read_stamp(path) or {})


@dataclass(frozen=True)
class _Plan:
    """What a split consists of, and which of its shards are still to be written."""

    stamp: dict[str, Any]
    table: Table
    shards: list[_Shard]
    missing: list[_Shard]


def _plan(out: Path, split: str, table: Table, num_shards: int | None, check: bool) -> _Plan | None:
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
        _Shard(out / _shard_name(split, i, num_shards), table, videos[bounds[i] : bounds[i + 1]])
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
    return _Plan(stamp, table, shards, missing)


def _refuse_other_data(
    what: str,
    found: Mapping[str, Any],
    stamp: Mapping[str, Any],
    there: list[_Shard],
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


def _changed(shard: _Shard) -> Iterator[str]:
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


def _is_complete(shard: _Shard) -> bool:
    return shard.path.is_file() and count_records(str(shard.path)) == len(shard.videos)


def _videos(table: Table) -> list[_Video]:
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
            videos.append(_Video(rows, _size(table.absolute(source))))
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


def _fingerprint(table: Table, videos: Sequence[_Video]) -> str:
    digest = _Digest()
    data = table.arrow.combine_chunks()
    with pa.ipc.new_stream(pa.PythonFile(digest, mode="w"), data.schema) as writer:
        writer.write_table(data)
    digest.write(str(table.root).encode())
    digest.write(np.array([-1 if v.size is None else v.size for v in videos], np.int64).tobytes())
    return digest.hash.hexdigest()


def _files_digest(table: Table, videos: Sequence[_Video]) -> str:
    """A digest of sizes, times and places of the videos, see `source_states`."""
    states = SourceStates()
    found = [states.of(table.record(video.rows[0])) for video in videos]
    return hashlib.sha256(json.dumps(found).encode()).hexdigest()[:16]


# Writing


def _write_shards(out: Path, plans: list[_Plan], num_workers: int, progress: bool) -> None:
    missing = [shard for plan in plans for shard in plan.missing]
    if not missing:
        return
    total = sum(len(shard.videos) for plan in plans for shard in plan.shards)
    there = total - sum(len(shard.videos) for shard in missing)
    if there:
        log.info("%s: %d of %d videos are there already", out, there, total)
    stop = threading.Event()
    with (
        metered("packing", total=total, done=there, show=progress) as meter,
        ThreadPoolExecutor(max(1, min(num_workers, len(missing)))) as pool,
    ):
        running = [pool.submit(_write_shard, shard, stop, meter) for shard in missing]
        try:
            finished, _ = wait(running, return_when=FIRST_EXCEPTION)
        finally:
            stop.set()
            pool.shutdown(cancel_futures=True)
        for future in finished:
            future.result()


def _write_shard(shard: _Shard, stop: threading.Event, meter: Meter) -> None:
    from array_record.python import array_record_module

    serialize = make_serializer()
    partial = shard.path.with_name(f".{shard.path.name}.partial")
    writer = None
    try:
        writer = array_record_module.ArrayRecordWriter(str(partial), _WRITER_OPTIONS)
        for video in shard.videos:
            if stop.is_set():
                return
            writer.write(serialize(make_example(shard.table, video.rows, video.size)))
            meter.advance(video_sec=_seconds(shard.table, video))
        writer.close()
        writer = None
        with open(partial, "rb") as file:
            os.fsync(file.fileno())
        os.replace(partial, shard.path)
    except RuntimeError as err:  # how array_record reports everything
        raise _write_error(partial, err) from err
    finally:
        if writer is not None:
            with contextlib.suppress(RuntimeError):
                writer.close()
        partial.unlink(missing_ok=True)


def _seconds(table: Table, video: _Video) -> float:
    record = table.record(video.rows[0])
    return record_sec(record.num_frames, record.fps)


def _write_error(path: Path, err: RuntimeError) -> OSError:
    for code in FULL:
        if os.strerror(code) in str(err):
            return OSError(code, os.strerror(code), str(path))
    return OSError(f"{path} cannot be written ({err}).")


# Descriptions


def _finish(out: Path, split: str, plan: _Plan) -> None:
    """Writes the table of a split and its stamp."""
    data = plan.table.arrow
    old = data["source"].to_pylist()
    sources = [""] * len(old)
    for shard in plan.shards:
        for index, video in enumerate(shard.videos):
            for row in video.rows:
                ending = os.path.splitext(old[row])[1].lower()
                ending = ending if ending in PICTURE_SUFFIXES else ""
                sources[row] = f"{shard.path.name}#{index}{ending}"
    place = data.column_names.index("source")
    data = data.set_column(place, SCHEMA.field("source"), pa.array(sources, pa.string()))
    data = data.drop_columns([name for name in LEFT_OUT if name in data.column_names])
    Table(data=data, root=out).save(out / f"{split}.arrow", maker="data build")
    shards = [
        {"name": s.path.name, "records": len(s.videos), "bytes": s.path.stat().st_size}
        for s in plan.shards
    ]
    about = {**plan.stamp, "shards": shards, "class_names": list(plan.table.class_names)}
    write_json(out / f"{split}{STAMP_SUFFIX}", about)
    (out / f"{split}{BEGUN_SUFFIX}").unlink(missing_ok=True)


def _describe(out: Path) -> None:
    """Writes dataset_info.json and features.json over all splits that are complete."""
    import tensorflow_datasets as tfds

    core = tfds.core
    stamps = {}
    for file in sorted(out.glob(f"*{STAMP_SUFFIX}")):
        stamp = read_stamp(file)
        if stamp is not None:
            stamps[file.name.removesuffix(STAMP_SUFFIX)] = stamp
    names = {tuple(stamp["class_names"]) for stamp in stamps.values()}
    template = core.ShardedFileTemplate(
        data_dir=out, dataset_name=NAME, filetype_suffix="array_record"
    )
    info = core.DatasetInfo(
        builder=core.dataset_info.DatasetIdentity(
            name=NAME, version=core.Version("1.0.0"), data_dir=str(out), module_name=""
        ),
        description=_DESCRIPTION,
        features=features_of(names.pop() if len(names) == 1 else ()),
    )
    info.set_file_format(core.FileFormat.ARRAY_RECORD)
    splits = [
        core.SplitInfo(
            name=split,
            shard_lengths=[shard["records"] for shard in stamp["shards"]],
            num_bytes=sum(shard["bytes"] for shard in stamp["shards"]),
            filename_template=template.replace(split=split),
        )
        for split, stamp in stamps.items()
    ]
    info.set_splits(core.splits.SplitDict(splits))
    # By name, the one that says whose they are first: a build that is killed between them goes on.
    aside = temporary_name(out / "description")
    aside.mkdir()
    try:
        info.write_to_directory(aside)
        names_there = sorted(p.name for p in aside.iterdir())
        for name in dict.fromkeys([*_DESCRIPTIONS, *names_there]):
            os.replace(aside / name, out / name)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


# The folder


def _require_packages() -> None:
    try:
        import array_record.python.array_record_module  # noqa: F401
        import tensorflow_datasets  # noqa: F401
    except ImportError as err:
        raise MissingPackage(
            "to build ArrayRecord data sets tensorflow-datasets and array_record are needed: "
            f"pip install 'video_ssl[jax]' ({err})"
        ) from err


@contextlib.contextmanager
def _only_build(out: Path) -> Iterator[None]:
    """Keeps a second build out of the folder."""
    out.mkdir(parents=True, exist_ok=True)
    busy = f"another process is building {out}: wait for it."
    with alone(out / ".build.lock", lambda: TableError(busy)):
        yield
