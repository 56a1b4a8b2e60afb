"""`video-ssl data build`: any table as ArrayRecord shards that tensorflow-datasets, grain and `open_table` read.

One example is one video file, byte by byte, with what the table says about it.  Where several rows take stretches of
one video, the file is written once; the rows are in `segments`, and complete in `rows`.  The table itself is written
beside the shards, with sources `SHARD#INDEX`.

Every shard is written under another name and then renamed, so a build that was killed goes on with the shards that are
missing.  TensorFlow is not needed.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import shlex
import shutil
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from pathlib import Path

import pyarrow as pa

from video_ssl.datasets.archives.array_records import BEGUN_SUFFIX, STAMP_SUFFIX, read_stamp
from video_ssl.datasets.build.config import BuildConfig
from video_ssl.datasets.build.examples import LEFT_OUT, features_of, make_example, make_serializer
from video_ssl.datasets.build.shards import NAME, PackedVideo, Shard, ShardPlan, plan_shards
from video_ssl.datasets.paths import PICTURE_SUFFIXES
from video_ssl.datasets.remote.errors import MissingPackage
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

_DESCRIPTIONS = ("dataset_info.json", "features.json")
_DESCRIPTION = "Video files with labels, written by `video-ssl data build`."
# Videos do not get smaller, and a group of one is what random access needs.
_WRITER_OPTIONS = "group_size:1,uncompressed"


def build_array_records(
    tables: Mapping[str, Table],
    out: str | os.PathLike[str],
    *,
    num_shards: int | None = BuildConfig.num_shards,
    num_workers: int | None = BuildConfig.num_workers,
    check: bool = BuildConfig.check,
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
            split: plan_shards(out, split, table, num_shards, check)
            for split, table in tables.items()
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


# Writing


def _write_shards(out: Path, plans: list[ShardPlan], num_workers: int, progress: bool) -> None:
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


def _write_shard(shard: Shard, stop: threading.Event, meter: Meter) -> None:
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


def _seconds(table: Table, video: PackedVideo) -> float:
    record = table.record(video.rows[0])
    return record_sec(record.num_frames, record.fps)


def _write_error(path: Path, err: RuntimeError) -> OSError:
    for code in FULL:
        if os.strerror(code) in str(err):
            return OSError(code, os.strerror(code), str(path))
    return OSError(f"{path} cannot be written ({err}).")


# Descriptions


def _finish(out: Path, split: str, plan: ShardPlan) -> None:
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
