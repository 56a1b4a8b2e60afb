"""Videos in ArrayRecord shards: reading one by its number, and what a folder of shards must hold to be a table.

A folder that `video-ssl data build` has written holds, for every split, shards with one `tf.Example` per video, the
table `SPLIT.arrow` whose sources are `SHARD#INDEX`, and `SPLIT.build.json`, which knows how large every shard is.
Labels come from the table; a shard is touched only for the bytes of a video.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import re
from pathlib import Path
from typing import Any

from video_ssl.datasets.cache import CacheError, cache_folder
from video_ssl.datasets.remote.errors import MissingPackage
from video_ssl.datasets.table import TableError

#: The feature of an example that holds the bytes of the video file.
VIDEO_FEATURE = "video"
STAMP_SUFFIX = ".build.json"
BEGUN_SUFFIX = ".build.json.begun"

# The ending of a picture follows the number, since a picture is known by it.
_SOURCE = re.compile(r"(.+\.array_record(?:-\d+-of-\d+)?)#(\d+)(?:\.\w+)?", re.DOTALL)
_SHARD = re.compile(r"\.array_record(-\d+-of-\d+)?$")
_TFRECORD = re.compile(r"\.tfrecords?(-\d+-of-\d+)?$")
_OPEN_SHARDS = 8
# A larger video waits on the disk and not in memory for its reader.
_MEMORY_BYTES = 64 * 2**20
_OPTIONS = "readahead_buffer_size:0"
_BUFFER_BYTES = 2**15


class RecordProblem(ValueError):
    """A record that cannot be read; the text says why."""


def divide_record(source: str) -> tuple[str, int | None]:
    """Returns (shard, number of the record) of `SHARD#INDEX`, or (source, None) for anything else.

    >>> divide_record("/a/v-train.array_record-00000-of-00002#17")
    ('/a/v-train.array_record-00000-of-00002', 17)
    """
    found = _SOURCE.fullmatch(source)
    return (source, None) if found is None else (found[1], int(found[2]))


def read_video(path: str, index: int) -> bytes:
    """Returns the video file in record `index` of a local shard.

    Raises:
        RecordProblem: no such file or record, a shard that is cut off or damaged, a record without a video.
        MissingPackage: array_record or tensorflow-datasets is not installed.
    """
    try:
        state = os.stat(path)
    except OSError as err:
        raise RecordProblem(f"the shard {path} cannot be read ({err.strerror}).") from err
    try:
        reader, count = _open(path, state.st_size, state.st_mtime_ns, os.getpid())
        if index >= count:
            raise RecordProblem(f"the shard has {count} records.")
        (content,) = reader.read([index])
    except RuntimeError as err:  # how array_record reports everything
        raise RecordProblem(f"the shard {path} is cut off or damaged ({err}).") from err
    return _video_of(content)


def count_records(path: str) -> int:
    """Returns the number of records of a local shard, -1 where it is missing, cut off or damaged."""
    reader = None
    try:
        reader = _module().ArrayRecordReader(path, options=_OPTIONS)
        return int(reader.num_records()) if reader.ok() else -1
    except RuntimeError:
        return -1
    finally:
        if reader is not None:
            with contextlib.suppress(RuntimeError):
                reader.close()


@functools.lru_cache(maxsize=_OPEN_SHARDS)
def _open(path: str, size: int, mtime_ns: int, process: int) -> tuple[Any, int]:
    """(reader, number of records); a reader is of no use after a fork."""
    reader = _module().ArrayRecordReader(
        path, options=_OPTIONS, file_reader_buffer_size=_BUFFER_BYTES
    )
    count = int(reader.num_records())
    if not reader.ok():
        reader.read([0])  # raises the reason
    return reader, count


def _module() -> Any:
    try:
        from array_record.python import array_record_module
    except ImportError as err:
        raise MissingPackage(
            f"ArrayRecord files need the package array_record: pip install 'video_ssl[jax]' ({err})"
        ) from err
    return array_record_module


def _video_of(content: bytes) -> bytes:
    try:
        from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
        from tensorflow_datasets.proto import tf_example_pb2
    except ImportError as err:
        raise MissingPackage(
            f"ArrayRecord data sets need tensorflow-datasets: pip install 'video_ssl[jax]' ({err})"
        ) from err
    try:
        features = tf_example_pb2.Example.FromString(content).features.feature
    except DecodeError as err:
        raise RecordProblem(f"the record is no tf.Example ({err}).") from err
    there = VIDEO_FEATURE in features
    values = list(features[VIDEO_FEATURE].bytes_list.value) if there else []
    if len(values) != 1:
        raise RecordProblem(
            f"the record has no {VIDEO_FEATURE!r} of one file, but {sorted(features)}."
        )
    return bytes(values[0])


class HeldBytes:
    """Bytes as a file without a name, at `path` for this process, until `release`.

    Up to 64 MiB in memory, more in the cache folder; gone with the process, however it ends.
    """

    def __init__(self, content: bytes) -> None:
        """
        Raises:
            CacheError: a large file cannot be written.
        """
        self._file: int | None = _unnamed(len(content))
        self.path = f"/proc/self/fd/{self._file}"
        try:
            view = memoryview(content)
            while view:
                view = view[os.write(self._file, view) :]
        except OSError as err:
            self.release()
            raise CacheError(cache_folder(), err) from err

    def release(self) -> None:
        """Frees the bytes; calling it twice is allowed."""
        if self._file is not None:
            os.close(self._file)
            self._file = None


def _unnamed(size: int) -> int:
    if size <= _MEMORY_BYTES:
        return os.memfd_create("video_ssl")
    folder = cache_folder() / "held"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f".{os.getpid()}.{os.urandom(8).hex()}"
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        path.unlink()
    except OSError as err:
        raise CacheError(folder, err) from err
    return file


# Folders


def refuse_other_records(path: Path) -> None:
    """Raises TableError where a file or folder holds records, but not a table of them; returns for anything else."""
    if path.is_dir():
        if any(path.glob("*.arrow")):
            return
        names = [entry.name for entry in os.scandir(path)]
    else:
        names = [path.name]
    if any(map(_TFRECORD.search, names)):
        raise TableError(
            f"{path} holds TFRecord files, which only TensorFlow reads: ArrayRecord is needed. Write them again "
            'with file_format="array_record", or from the videos with `video-ssl data build VIDEOS OUT`.'
        )
    if any(name.endswith(BEGUN_SUFFIX) for name in names):
        raise _unfinished(path)
    if not any(map(_SHARD.search, names)):
        return
    if path.is_dir():
        raise TableError(
            f"{path} has ArrayRecord shards, but no SPLIT.arrow that says what is in them: "
            "only folders that `video-ssl data build` has written can be opened."
        )
    raise TableError(f"{path} is one shard: give the folder and the split, {path.parent}:SPLIT.")


def refuse_broken_shards(folder: Path, split: str) -> None:
    """Raises TableError, with the names, if shards of a split are missing or not of the size they were written with.

    So it does for a split whose build has not ended; nothing where a split is not made of shards.
    """
    if (folder / f"{split}{BEGUN_SUFFIX}").exists():
        raise _unfinished(folder, split)
    stamp = read_stamp(folder / f"{split}{STAMP_SUFFIX}")
    if stamp is None:
        return
    wrong = []
    for shard in stamp["shards"]:
        try:
            size = os.path.getsize(folder / shard["name"])
        except OSError:
            wrong.append(f"{shard['name']} is missing")
            continue
        if size < shard["bytes"]:
            wrong.append(f"{shard['name']} is cut off ({size} bytes of {shard['bytes']})")
        elif size > shard["bytes"]:
            wrong.append(f"{shard['name']} is another file ({size} bytes, not {shard['bytes']})")
    if wrong:
        raise TableError(
            f"{folder}: of the {len(stamp['shards'])} shards of {split!r}, {'; '.join(wrong[:5])}"
            + (f"; and {len(wrong) - 5} more" if len(wrong) > 5 else "")
            + ". Copy them again, or build the data set again with `video-ssl data build`."
        )


def _unfinished(folder: Path, split: str = "") -> TableError:
    what = f"the split {split!r} of an unfinished build" if split else "an unfinished build"
    return TableError(
        f"{folder} holds {what}: run the same `video-ssl data build` again, it goes on where it stopped."
    )


def read_stamp(path: Path) -> dict[str, Any] | None:
    """Returns what a build has written about a split, None if there is nothing readable."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None
