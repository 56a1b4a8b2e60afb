"""What is in a record: the tensorflow-datasets features, and the example that a video and its rows become."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from video_ssl.datasets.archives.array_records import (
    VIDEO_FEATURE,
    RecordProblem,
    divide_record,
    read_video,
)
from video_ssl.datasets.archives.tars import TarProblem, divide_member, find_member
from video_ssl.datasets.paths import local_path
from video_ssl.datasets.remote.errors import FetchError, Unreachable, redacted
from video_ssl.datasets.remote.fetching import fetch, is_remote
from video_ssl.datasets.table import Record, Table, TableError
from video_ssl.files import FULL

#: Columns about the file that the video came from, not about the record.
LEFT_OUT = ("byte_offset", "byte_size", "file_size", "file_mtime")
#: Protocol buffers end at 2 GiB; the rest is for labels.
MAX_VIDEO_BYTES = 2**31 - 2**20


def features_of(class_names: Sequence[str] = ()) -> Any:
    """Returns the tensorflow-datasets features of an example; -1 and NaN stand for what is not known."""
    import tensorflow_datasets as tfds

    make = tfds.features
    usable = len(set(class_names)) == len(class_names) > 0 and "\n" not in "".join(class_names)
    label = make.ClassLabel(names=list(class_names)) if usable else make.Scalar(np.int64)
    span = {"start_sec": make.Scalar(np.float64), "end_sec": make.Scalar(np.float64)}
    return make.FeaturesDict(
        {
            VIDEO_FEATURE: make.Tensor(shape=(), dtype=np.object_),
            "id": make.Text(),
            "label": label,
            "labels": make.Sequence(make.Scalar(np.int64)),
            "captions": make.Sequence({"text": make.Text(), **span}),
            "frame_labels": make.Tensor(shape=(None,), dtype=np.int32),
            "events": make.Sequence({"name": make.Text(), "time_sec": make.Scalar(np.float64)}),
            "boxes": make.Tensor(shape=(None, None, 4), dtype=np.float32, encoding="zlib"),
            "num_frames": make.Scalar(np.int64),
            "fps": make.Scalar(np.float64),
            "segments": make.Sequence({"id": make.Text(), **span, "label": make.Scalar(np.int64)}),
            "rows": make.Text(),
        }
    )


def make_serializer() -> Callable[[dict[str, Any]], bytes]:
    """Returns the function that turns an example into the bytes of a record; None becomes NaN."""
    import tensorflow_datasets as tfds

    features = features_of()
    writer = tfds.core.example_serializer.ExampleSerializer(features.get_serialized_info())

    def serialize(example: dict[str, Any]) -> bytes:
        message = writer.get_tf_example(features.encode_example(_nan_for_none(example)))
        # Without it the order of the features differs from process to process.
        return bytes(message.SerializeToString(deterministic=True))

    return serialize


def _nan_for_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _nan_for_none(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_nan_for_none(item) for item in value]
    return float("nan") if value is None else value


def make_example(table: Table, rows: Sequence[int], size: int | None) -> dict[str, Any]:
    """Returns the example of a video file and the rows of the table that show something of it.

    Args:
        table: the table.
        rows: of one source.
        size: bytes that the file had when the build was planned, if known.

    Raises:
        TableError: a file that cannot be read, has changed, or does not fit into a record.
    """
    records = [table.record(row) for row in rows]
    first = records[0]
    content = video_bytes(first)
    if size is not None and len(content) != size:
        raise TableError(f"{first.source} changes while it is read: build when it is complete.")
    if len(content) > MAX_VIDEO_BYTES:
        raise TableError(
            f"{first.source} has {len(content)} bytes, but a record holds less than 2 GiB: "
            "make it smaller with `video-ssl transcode`, or cut it into segments with --cut."
        )
    alone = len(records) == 1
    boxes = first.boxes if alone and first.boxes is not None else np.zeros((0, 0, 4), np.float32)
    frame_labels = first.frame_labels if alone and first.frame_labels is not None else ()
    return {
        VIDEO_FEATURE: content,
        "id": first.id if alone else os.path.basename(first.source),
        "label": _number(first.label if alone else None),
        "labels": list((first.labels if alone else None) or ()),
        "captions": [vars(caption_) for r in records for caption_ in r.captions or ()],
        "frame_labels": np.asarray(frame_labels, np.int32),
        "events": [vars(event) for event in (first.events if alone else None) or ()],
        "boxes": boxes,
        "num_frames": _number(first.num_frames if alone else None),
        "fps": first.fps,
        "segments": [
            {"id": r.id, "start_sec": r.start_sec, "end_sec": r.end_sec, "label": _number(r.label)}
            for r in records
        ],
        "rows": "" if alone else json.dumps([_plain_row(table, row) for row in rows]),
    }


def _number(value: int | None) -> int:
    return -1 if value is None else value


def _plain_row(table: Table, row: int) -> dict[str, Any]:
    at = row if table._rows is None else int(table._rows[row])
    (plain,) = table._all.slice(at, 1).drop_columns(["source"]).to_pylist()
    return {k: v for k, v in plain.items() if v is not None and k not in LEFT_OUT}


def video_bytes(record: Record) -> bytes:
    """Returns the bytes of a record's video file, wherever it lies.

    Raises:
        TableError: it cannot be read.
    """
    source = record.source
    holder, member = divide_member(source)
    holder, index = divide_record(holder)
    byte_range = None
    if record.byte_offset is not None and record.byte_size is not None:
        byte_range = (record.byte_offset, record.byte_size)
    cached = None
    try:
        path = local_path(holder)
        if is_remote(holder):
            cached = fetch(holder, byte_range=byte_range)
            path = cached.path
            byte_range = None if byte_range is None else (0, -1)  # the copy holds no more than it
        if index is not None:
            return read_video(path, index)
        if member is not None and byte_range is None:
            byte_range = find_member(path, member)
        offset, size = byte_range or (0, -1)
        with open(path, "rb") as file:
            file.seek(offset)
            return file.read(size)
    except (FetchError, TarProblem, RecordProblem) as err:
        raise TableError(f"{redacted(source)} cannot be read: {err}") from err
    except Unreachable:
        raise
    except OSError as err:
        if err.errno in FULL:
            raise
        raise TableError(f"{redacted(source)} cannot be read ({err.strerror}).") from err
    finally:
        if cached is not None:
            cached.release()
