"""Feature files: what a frozen encoder says about every clip, written once, read by every evaluator.

A feature file is an Arrow IPC file with one row a clip, read through a memory map:

    id                string                 the record (several clips of a video share it)
    clip              int32                  0, 1, ... within the record
    label             int32                  class of the record, null where unknown
    group             string                 records that must not be split (same person, same source)
    start_sec         float64                first and last sampled frame, in seconds of the source
    end_sec           float64
    feature           float32[D]             the clip
    frame_features    list<float32[D]>       T' moments of the clip, in order of time
    frame_times_sec   list<float64>          when they are, in seconds of the source
    frame_labels      list<int16>            their labels where the table has them, -1 for none

The schema carries JSON about encoder, preprocessing, table and versions.  Videos that could not be
read are not in the rows; they are listed with the reason in `FeatureFile.skipped`.

`open_features` also reads what others have made, as long as it holds no pickled objects:

    .npz      features (N, D); labels (N,); optionally ids, groups, clips (N,), frame_features
              (N, T, D), frame_times_sec (N, T), frame_labels (N, T)
    .parquet  columns of the names above (singular or plural), features as lists of numbers
"""

from __future__ import annotations

import difflib
import functools
import json
import os
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from video_ssl.recipes import nearest

METADATA_KEY = b"video_ssl.features"
SKIPPED_KEY = b"video_ssl.skipped"
COLUMNS = (
    "id",
    "clip",
    "label",
    "group",
    "start_sec",
    "end_sec",
    "feature",
    "frame_features",
    "frame_times_sec",
    "frame_labels",
)
_OTHER_NAMES = {
    "features": "feature",
    "labels": "label",
    "ids": "id",
    "groups": "group",
    "clips": "clip",
}


class FeatureError(ValueError):
    """Features that cannot be used; the text says what was found and what is expected."""


def feature_schema(embed_dim: int, metadata: Mapping[str, Any] | None = None) -> pa.Schema:
    """Returns the schema of a feature file of width `embed_dim`, with `metadata` as JSON in it."""
    vector = pa.list_(pa.float32(), embed_dim)
    fields = [
        pa.field("id", pa.string(), nullable=False),
        pa.field("clip", pa.int32(), nullable=False),
        pa.field("label", pa.int32()),
        pa.field("group", pa.string()),
        pa.field("start_sec", pa.float64()),
        pa.field("end_sec", pa.float64()),
        pa.field("feature", vector, nullable=False),
        pa.field("frame_features", pa.list_(vector)),
        pa.field("frame_times_sec", pa.list_(pa.float64())),
        pa.field("frame_labels", pa.list_(pa.int16())),
    ]
    return pa.schema(fields, metadata={METADATA_KEY: json.dumps(dict(metadata or {}))})


class FeatureWriter:
    """Writes a feature file batch by batch; the file has its name only once it is complete.

    Use as a context manager: leaving it without an error finishes the file, with an error removes
    what was written.  `skipped` may be filled until then.
    """

    def __init__(
        self, path: str | Path, *, embed_dim: int, metadata: Mapping[str, Any] | None = None
    ) -> None:
        self.path = Path(path)
        self.schema = feature_schema(embed_dim, metadata)
        self.skipped: list[dict[str, Any]] = []
        self.num_rows = 0
        self._embed_dim = embed_dim
        self._partial = self.path.with_name(f".{self.path.name}.{os.getpid()}.partial")

    def __enter__(self) -> FeatureWriter:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._sink = pa.OSFile(str(self._partial), "wb")
        self._writer = pa.ipc.new_file(self._sink, self.schema)
        return self

    def write(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Appends one record batch.

        Args:
            rows: mappings with the keys of `COLUMNS`; `feature` is (D,), `frame_features` (T', D);
                everything but id, clip and feature may be absent.

        Raises:
            FeatureError: a feature that is not finite or of another width.
        """
        if rows:
            self.write_batch(rows_to_batch(rows, self.schema, self._embed_dim))

    def write_batch(self, batch: pa.RecordBatch) -> None:
        """Appends rows that are a record batch of this schema already."""
        self._writer.write_batch(batch)
        self.num_rows += len(batch)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if kind is None:
                # The schema is on disk already, so the list travels on an empty last batch.
                empty = pa.RecordBatch.from_pylist([], schema=self.schema)
                self._writer.write_batch(empty, {SKIPPED_KEY: json.dumps(self.skipped).encode()})
            self._writer.close()
        finally:
            self._sink.close()
            if kind is not None:
                self._partial.unlink(missing_ok=True)
        if kind is None:
            with open(self._partial, "rb") as file:
                os.fsync(file.fileno())
            os.replace(self._partial, self.path)


def rows_to_batch(
    rows: Sequence[Mapping[str, Any]], schema: pa.Schema, embed_dim: int
) -> pa.RecordBatch:
    """Returns rows as a record batch; see `FeatureWriter.write`.

    Raises:
        FeatureError: a feature that is not finite or of another width.
    """
    for row in rows:
        _check_row(row, embed_dim)
    columns = []
    for field in schema:
        values = [row.get(field.name) for row in rows]
        if field.name == "feature":
            columns.append(_vectors(np.stack([row["feature"] for row in rows]), embed_dim))
        elif field.name == "frame_features":
            columns.append(_ragged_vectors(values, embed_dim))
        else:
            columns.append(pa.array(values, field.type))
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def _check_row(row: Mapping[str, Any], embed_dim: int) -> None:
    for name in ("feature", "frame_features"):
        value = row.get(name)
        if value is None:
            continue
        if value.shape[-1] != embed_dim:
            raise FeatureError(
                f"{name} of {row['id']!r} has {value.shape[-1]} numbers, but the file has {embed_dim}."
            )
        if not np.isfinite(value).all():
            raise FeatureError(
                f"{name} of {row['id']!r}, clip {row['clip']}, is not finite. Embed with precision=float32, and "
                "check that the encoder's weights are finite."
            )


class FeatureFile:
    """Features of N clips, read where they lie; columns become arrays when they are asked for."""

    def __init__(
        self, table: pa.Table, *, path: Path | None = None, skipped: Sequence[Any] = ()
    ) -> None:
        self.table = table
        self.path = path
        self.skipped = list(skipped)
        self.embed_dim = int(table.schema.field("feature").type.list_size)

    def __len__(self) -> int:
        return int(self.table.num_rows)

    def __repr__(self) -> str:
        return f"FeatureFile({self.path or 'in memory'}, {len(self)} clips, {self.embed_dim} wide)"

    @functools.cached_property
    def metadata(self) -> dict[str, Any]:
        """What the file says about its encoder, preprocessing, table and versions."""
        found = (self.table.schema.metadata or {}).get(METADATA_KEY)
        return dict(json.loads(found)) if found else {}

    @functools.cached_property
    def ids(self) -> np.ndarray:
        """Object (N,): the record of every clip."""
        return _objects(self.table["id"])

    @functools.cached_property
    def groups(self) -> np.ndarray:
        """Object (N,): what must not be split; a record without a group is its own."""
        groups = _objects(self.table["group"])
        lacking = np.array([group is None for group in groups], bool)
        return np.where(lacking, self.ids, groups)

    @functools.cached_property
    def labels(self) -> np.ndarray:
        """int64 (N,): the class of every clip, -1 where unknown."""
        return self.table["label"].fill_null(-1).to_numpy().astype(np.int64)

    @functools.cached_property
    def features(self) -> np.ndarray:
        """float32 (N, D): the clip features; a view of the file where it is in one piece."""
        parts = list(self.feature_batches())
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def feature_batches(self) -> Iterator[np.ndarray]:
        """Yields, record batch by record batch, the clip features float32 (n, D), where they lie."""
        for batch in self._batches():
            yield _matrix(batch.column("feature"), self.embed_dim)

    @property
    def has_frames(self) -> bool:
        column = self.table["frame_features"]
        return len(self) > 0 and column.null_count < len(self)

    def frames(self, row: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns (T', D) frame features of a clip and their times (T',) in seconds (may be NaN)."""
        cell = self.table["frame_features"][row]
        values = _matrix(cell.values, self.embed_dim)
        times = self.table["frame_times_sec"][row].as_py()
        return values, np.full(len(values), np.nan) if times is None else np.asarray(times)

    def frames_of(self, key: str) -> tuple[np.ndarray, np.ndarray]:
        """Returns all frame features of a record, (F, D), and their times (F,) in seconds, in order of time.

        Of a file embedded per frame, that is one feature for every sampled frame of the video.

        Raises:
            FeatureError: no such record, or it has no frame features.
        """
        rows = np.flatnonzero(self.ids == key)
        if not len(rows):
            raise FeatureError(
                f"{self._name} has no record {key!r}.{nearest(key, map(str, set(self.ids)))}"
            )
        column = self.table["frame_features"]  # `take` would copy all of it
        if not all(column[int(row)].is_valid for row in rows):
            raise FeatureError(f"{self._name} has no frame features of {key!r}.")
        parts = [self.frames(int(row)) for row in rows]
        values = np.concatenate([part[0] for part in parts])
        times = np.concatenate([part[1] for part in parts])
        order = np.argsort(times, kind="stable")
        return values[order], times[order]

    def frame_batches(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yields, record batch by record batch, (sum of T', D) frame features and T' (n,).

        Raises:
            FeatureError: a clip without frame features.
        """
        for batch in self._batches():
            column = batch.column("frame_features")
            lengths = np.diff(column.offsets.to_numpy())
            if column.null_count or (lengths == 0).any():
                raise FeatureError(
                    f"{self._name} has clips without frame features; embed again with "
                    "frames=true, or use pooling 'clip' only."
                )
            yield _matrix(column.flatten(), self.embed_dim), lengths

    def require_labels(self) -> np.ndarray:
        """Returns the labels (N,), all known.

        Raises:
            FeatureError: some or all clips have none.
        """
        lacking = int((self.labels < 0).sum())
        if lacking:
            raise FeatureError(
                f"{self._name} has {lacking} of {len(self)} clips without a label, but this "
                "evaluator needs one for each. Use a table with labels, or select its labelled rows."
            )
        return self.labels

    @property
    def _name(self) -> str:
        return str(self.path) if self.path else "the features"

    def _batches(self) -> list[pa.RecordBatch]:
        return [b for b in self.table.to_batches() if b.num_rows]


def open_features(path: str | Path) -> FeatureFile:
    """Returns the features of a file: our Arrow files, or `.npz` and `.parquet` of anybody.

    Raises:
        FeatureError: missing file, unknown kind, missing column (the nearest is named), unequal
            lengths, pickled content, numbers that are not finite, or no rows.
    """
    path = Path(path)
    if not path.is_file():
        raise FeatureError(f"no feature file {path}: give an .arrow, .npz or .parquet file.")
    readers = {".arrow": _open_arrow, ".npz": _open_npz, ".parquet": _open_parquet}
    if path.suffix not in readers:
        raise FeatureError(
            f"{path} is of unknown kind {path.suffix!r}: features are read from {list(readers)}."
        )
    opened = readers[path.suffix](path)
    if len(opened) == 0:
        raise FeatureError(f"{path} has no rows.")
    return opened


def features_from_arrays(
    columns: Mapping[str, np.ndarray], *, metadata: Mapping[str, Any] | None = None, name: str = ""
) -> FeatureFile:
    """Returns features in memory from arrays: `features` (N, D), `labels` (N,), and optionally ids,
    groups, clips (N,), frame_features (N, T, D), frame_times_sec and frame_labels (N, T).

    Raises:
        FeatureError: see `open_features`.
    """
    where = f"{name}: " if name else ""
    given = {_OTHER_NAMES.get(key, key): np.asarray(value) for key, value in columns.items()}
    if "feature" not in given:
        hint = nearest("features", columns)
        raise FeatureError(f"{where}no array `features`; there are {sorted(columns)}.{hint}")
    for key in [key for key in given if key not in COLUMNS]:
        # A misspelt name is an error, but an array nobody asked for is not ours to refuse.
        free = [n for n in (*_OTHER_NAMES, *COLUMNS) if _OTHER_NAMES.get(n, n) not in given]
        if difflib.get_close_matches(key, free, n=1, cutoff=0.75):
            raise FeatureError(f"{where}unknown array {key!r}.{nearest(key, free)}")
        del given[key]
    shape = given["feature"].shape
    if len(shape) != 2:
        raise FeatureError(f"{where}features must be (clips, width), but have shape {shape}.")
    lengths = {key: len(value) for key, value in given.items()}
    if len(set(lengths.values())) > 1:
        raise FeatureError(f"{where}arrays of unequal length: {lengths}.")
    for key in ("feature", "frame_features"):
        if key in given:
            _check_numbers(given[key], key, where)
    if "frame_features" in given and given["frame_features"].shape[2:] != shape[1:]:
        raise FeatureError(
            f"{where}frame_features must be (clips, moments, {shape[1]}), but have shape "
            f"{given['frame_features'].shape}."
        )
    return FeatureFile(_arrays_to_table(given, metadata))


def _arrays_to_table(given: Mapping[str, np.ndarray], metadata: Mapping[str, Any] | None) -> Any:
    count, width = given["feature"].shape
    schema = feature_schema(width, metadata)
    ids = given.get("id", np.arange(count)).astype(str)
    clips = given.get("clip", _occurrence(ids))
    made: dict[str, Any] = {"id": pa.array(ids.tolist()), "clip": pa.array(clips, pa.int32())}
    made["feature"] = _vectors(given["feature"], width)
    if "label" in given:
        labels = given["label"].astype(np.int64)
        made["label"] = pa.array(labels, pa.int32(), mask=labels < 0)
    if "group" in given:
        made["group"] = pa.array(given["group"].astype(str).tolist())
    if "frame_features" in given:
        made["frame_features"] = _ragged_vectors(list(given["frame_features"]), width)
    for key in ("start_sec", "end_sec", "frame_times_sec", "frame_labels"):
        if key in given:
            made[key] = pa.array(given[key].tolist(), schema.field(key).type)
    columns = [made.get(field.name, pa.nulls(count, field.type)) for field in schema]
    return pa.Table.from_arrays(columns, schema=schema)


def _open_arrow(path: Path) -> FeatureFile:
    try:
        reader = pa.ipc.open_file(pa.memory_map(str(path), "r"))
        table = reader.read_all()
    except (pa.ArrowInvalid, OSError) as err:
        raise FeatureError(f"{path} is not a complete Arrow file: {err}") from err
    skipped: list[Any] = []
    if reader.num_record_batches:
        found = reader.get_batch_with_custom_metadata(reader.num_record_batches - 1)
        notes = found.custom_metadata or {}
        skipped = json.loads(notes[SKIPPED_KEY]) if SKIPPED_KEY in notes else []
    if METADATA_KEY not in (table.schema.metadata or {}):
        return _foreign_table(table, path)
    lacking = [c for c in COLUMNS if c not in table.column_names]
    if lacking:
        raise FeatureError(f"{path} lacks the columns {lacking}; embed the videos again.")
    return FeatureFile(table, path=path, skipped=skipped)


def _open_npz(path: Path) -> FeatureFile:
    try:
        with np.load(path, allow_pickle=False) as content:
            arrays = {key: content[key] for key in content.files}
    except (ValueError, OSError, zipfile.BadZipFile, EOFError) as err:
        raise FeatureError(
            f"{path} is not readable: {err}. Arrays of objects are refused, because reading them "
            "runs code of the file; store numbers and strings."
        ) from err
    return _named(features_from_arrays(arrays, name=str(path)), path)


def _open_parquet(path: Path) -> FeatureFile:
    try:
        table = pq.read_table(path)
    except (pa.ArrowInvalid, OSError) as err:
        raise FeatureError(f"{path} is not readable as Parquet: {err}") from err
    return _foreign_table(table, path)


def _foreign_table(table: pa.Table, path: Path) -> FeatureFile:
    """Brings a table of somebody else to arrays; lists must all have the same length."""
    arrays: dict[str, np.ndarray] = {}
    for key in table.column_names:
        kind = table.schema.field(key).type
        known = _OTHER_NAMES.get(key, key) in COLUMNS
        if not known and pa.types.is_nested(kind):
            continue
        if _OTHER_NAMES.get(key, key) == "label":
            arrays[key] = table[key].cast(pa.int64()).fill_null(-1).to_numpy()
            continue
        values = table[key].to_pylist()
        if all(value is None for value in values):
            continue
        try:
            arrays[key] = np.array(values)
        except ValueError as err:
            raise FeatureError(f"{path}: the lists in {key!r} have unequal lengths.") from err
    return _named(features_from_arrays(arrays, name=str(path)), path)


def _named(features: FeatureFile, path: Path) -> FeatureFile:
    features.path = path
    return features


def _check_numbers(values: np.ndarray, key: str, where: str) -> None:
    if not np.issubdtype(values.dtype, np.number):
        raise FeatureError(f"{where}{key} must be numbers, but are {values.dtype}.")
    broken = ~np.isfinite(values.reshape(len(values), -1)).all(axis=1)
    if broken.any():
        raise FeatureError(
            f"{where}{key} is not finite in {int(broken.sum())} of {len(values)} rows, first in row "
            f"{int(np.argmax(broken))}. Remove these rows or embed them again."
        )


def _occurrence(ids: np.ndarray) -> np.ndarray:
    """0 for the first row of an id, 1 for its second, ..."""
    seen: dict[str, int] = {}
    counts = np.zeros(len(ids), np.int64)
    for row, key in enumerate(ids.tolist()):
        counts[row] = seen.get(key, 0)
        seen[key] = int(counts[row]) + 1
    return counts


def _vectors(values: np.ndarray, width: int) -> pa.Array:
    flat = np.ascontiguousarray(values, np.float32).reshape(-1)
    return pa.FixedSizeListArray.from_arrays(pa.array(flat), width)


def _ragged_vectors(values: Sequence[np.ndarray | None], width: int) -> pa.Array:
    if all(value is None for value in values):
        return pa.nulls(len(values), pa.list_(pa.list_(pa.float32(), width)))
    parts = [np.zeros((0, width), np.float32) if v is None else v for v in values]
    offsets = np.cumsum([0] + [len(part) for part in parts]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), _vectors(np.concatenate(parts), width))


def _matrix(column: Any, width: int) -> np.ndarray:
    return column.flatten().to_numpy(zero_copy_only=False).reshape(-1, width)


def _objects(column: Any) -> np.ndarray:
    values = np.empty(len(column), dtype=object)
    values[:] = column.to_pylist()
    return values
