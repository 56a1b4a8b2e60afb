"""Feature files: what a frozen encoder says about every clip, written once, read by every evaluator.

A feature file is an Arrow IPC file with one row a clip, read through a memory map:

    id                string                 the record (several clips of a video share it), unique within the file
    clip              int32                  0, 1, ... within the record
    source            string                 where the video is: an absolute path or a URI
    record_start_sec  float64                the stretch of it that the record is; null: from its start, to its end
    record_end_sec    float64
    content           string                 size and digest of its beginning and end
    digest            string                 of all of its bytes, where the features were made with `--check`
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

    .npz      features (N, D); labels (N,), numbers or names of classes; optionally ids, groups, sources, clips
              (N,), frame_features (N, T, D), frame_times_sec (N, T), frame_labels (N, T)
    .parquet  columns of the names above (singular or plural), features as lists of numbers

Which records of two files are the same is decided in `identity.py`.
"""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from video_ssl.datasets.archives.npz import BrokenArchive, read_npz
from video_ssl.datasets.arrow.checks import (
    BrokenArrow,
    checked_arrow,
    refuse_parquet_bomb,
    remember,
    seal,
    sealed,
    unsealed,
)
from video_ssl.embed.feature_arrays import (
    OTHER_NAMES,
    columns_of,
    known_arrays,
    label_array,
    ragged_vectors,
    vectors,
)
from video_ssl.embed.feature_arrays import FeatureError as FeatureError
from video_ssl.files import MADE_BY, made, remove_leftovers, temporary_name
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
#: Columns that files of format 3 and older do not have.
_LATER = {
    "source": pa.string(),
    "record_start_sec": pa.float64(),
    "record_end_sec": pa.float64(),
    "content": pa.string(),
    "digest": pa.string(),
}
#: What arrays of others may be called, singular or plural.
_ALLOWED = (*COLUMNS, "source", "record_start_sec", "record_end_sec")


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
        *(pa.field(name, kind) for name, kind in _LATER.items()),
    ]
    about = json.dumps(dict(metadata or {}))
    return pa.schema(fields, metadata={METADATA_KEY: about, MADE_BY: made("embed")})


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
        self._partial = temporary_name(self.path)

    def __enter__(self) -> FeatureWriter:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(self.path.parent, [self.path.name])
        self._sink = pa.OSFile(str(self._partial), "wb")
        self._sealed = sealed(self.schema)
        self._writer = pa.ipc.new_file(self._sink, self._sealed)
        return self

    def write(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Appends one record batch.

        Args:
            rows: mappings from the columns to values; `feature` is (D,), `frame_features` (T', D);
                everything but id, clip and feature may be absent.

        Raises:
            FeatureError: a feature that is not finite or of another width.
        """
        if rows:
            self.write_batch(rows_to_batch(rows, self.schema, self._embed_dim))

    def write_batch(self, batch: pa.RecordBatch) -> None:
        """Appends rows that are a record batch of this schema already."""
        self._writer.write_batch(batch.replace_schema_metadata(self._sealed.metadata))
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
            seal(self._partial, self._sealed)
            with open(self._partial, "rb") as file:
                os.fsync(file.fileno())
            os.replace(self._partial, self.path)
            remember(self.path, "arrow")


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
            columns.append(vectors(np.stack([row["feature"] for row in rows]), embed_dim))
        elif field.name == "frame_features":
            columns.append(ragged_vectors(values, embed_dim))
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
        self,
        table: pa.Table,
        *,
        path: Path | None = None,
        skipped: Sequence[Any] = (),
        ids_are_rows: bool = False,
    ) -> None:
        """
        Args:
            ids_are_rows: nobody has given ids, so they are numbers of rows and mean nothing in another file.
        """
        for name, kind in _LATER.items():
            if name not in table.column_names:
                table = table.append_column(name, pa.nulls(len(table), kind))
        self.table = table
        self.path = path
        self.ids_are_rows = ids_are_rows
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
        """Object (N,): what must not be split.

        Of a record without a group it is the file, whose stretches show the same scene; where that is unknown, the id.
        """
        return _objects(pc.coalesce(*(self.table[name] for name in ("group", "source", "id"))))

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
    given = known_arrays(columns, _ALLOWED, where)
    count, width = given["feature"].shape
    folder = Path(os.path.abspath(name)).parent if name else None
    made, about = columns_of(given, feature_schema(width), where, folder)
    made.setdefault("id", pa.array([str(row) for row in range(count)]))
    made.setdefault("clip", pa.array(_occurrence(made["id"].to_pylist()), pa.int32()))
    schema = feature_schema(width, {**(metadata or {}), **about})
    arrays = [made.get(field.name, pa.nulls(count, field.type)) for field in schema]
    return FeatureFile(pa.Table.from_arrays(arrays, schema=schema), ids_are_rows="id" not in given)


def _open_arrow(path: Path) -> FeatureFile:
    try:
        reader, table = checked_arrow(path)
    except BrokenArrow as err:
        raise FeatureError(f"{path} {err}") from err
    table = unsealed(table)
    skipped: list[Any] = []
    if reader.num_record_batches:
        found = reader.get_batch_with_custom_metadata(reader.num_record_batches - 1)
        notes = found.custom_metadata or {}
        skipped = _list_in(notes.get(SKIPPED_KEY, b"[]"), path)
    if METADATA_KEY not in (table.schema.metadata or {}):
        return _foreign_table(table, path)
    lacking = [c for c in COLUMNS if c not in table.column_names]
    if lacking:
        raise FeatureError(f"{path} lacks the columns {lacking}; embed the videos again.")
    _refuse_other_kinds(table, path)
    return FeatureFile(table, path=path, skipped=skipped)


def _list_in(text: bytes, path: Path) -> list[Any]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as err:
        raise FeatureError(f"{path} is damaged: its list of skipped videos is no JSON.") from err
    return found if isinstance(found, list) else []


def _refuse_other_kinds(table: pa.Table, path: Path) -> None:
    """Raises FeatureError if the columns of a file that calls itself ours are not what ours are."""
    kind = table.schema.field("feature").type
    width = kind.list_size if pa.types.is_fixed_size_list(kind) else 0
    for field in feature_schema(width):
        if field.name in table.column_names:
            found = table.schema.field(field.name).type
            if width < 1 or not found.equals(field.type):
                raise FeatureError(
                    f"{path} is damaged: its column {field.name!r} holds {str(found)[:80]}, not {field.type}. "
                    "Embed the videos again."
                )
            if not field.nullable and table[field.name].null_count:
                raise FeatureError(f"{path} is damaged: its column {field.name!r} has empty cells.")
    try:
        about = json.loads((table.schema.metadata or {})[METADATA_KEY])
    except (ValueError, RecursionError) as err:
        raise FeatureError(f"{path} is damaged: what it says about itself is no JSON.") from err
    if not isinstance(about, dict):
        raise FeatureError(f"{path} is damaged: what it says about itself is no JSON object.")


def _open_npz(path: Path) -> FeatureFile:
    try:
        arrays = read_npz(path)
    except BrokenArchive as err:
        raise FeatureError(f"{path} {err}") from err
    return _named(features_from_arrays(arrays, name=str(path)), path)


def _open_parquet(path: Path) -> FeatureFile:
    try:
        # Not as a data set, which would take columns from names of folders.
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            refuse_parquet_bomb(file, path.stat().st_size)
            table = file.read()
        table.validate(full=True)
        table.column_names  # noqa: B018  # names that are no text are found here
    except (pa.ArrowException, OSError, ValueError, MemoryError) as err:
        told = str(err).partition("\n")[0][:300]
        raise FeatureError(f"{path} is not readable as Parquet: {told}") from err
    return _foreign_table(table, path)


def _foreign_table(table: pa.Table, path: Path) -> FeatureFile:
    """Brings a table of somebody else to arrays; lists must all have the same length."""
    names = table.column_names
    doubled = next((name for name in names if names.count(name) > 1), None)
    if doubled is not None:
        raise FeatureError(f"{path} has {names.count(doubled)} columns {doubled!r}: keep one.")
    arrays: dict[str, np.ndarray] = {}
    for key in names:
        kind, column = table.schema.field(key).type, OTHER_NAMES.get(key, key)
        if column not in _ALLOWED and pa.types.is_nested(kind):
            continue
        if table[key].null_count == len(table):
            continue
        try:
            values = table[key]
            arrays[key] = label_array(values) if column == "label" else np.array(values.to_pylist())
        except ValueError as err:
            raise FeatureError(f"{path}: the lists in {key!r} have unequal lengths.") from err
    return _named(features_from_arrays(arrays, name=str(path)), path)


def _named(features: FeatureFile, path: Path) -> FeatureFile:
    features.path = path
    return features


def _occurrence(ids: Sequence[str]) -> np.ndarray:
    """0 for the first row of an id, 1 for its second, ..."""
    seen: dict[str, int] = {}
    counts = np.zeros(len(ids), np.int64)
    for row, key in enumerate(ids):
        counts[row] = seen.get(key, 0)
        seen[key] = int(counts[row]) + 1
    return counts


def _matrix(column: Any, width: int) -> np.ndarray:
    return column.flatten().to_numpy(zero_copy_only=False).reshape(-1, width)


def _objects(column: Any) -> np.ndarray:
    values = np.empty(len(column), dtype=object)
    values[:] = column.to_pylist()
    return values
