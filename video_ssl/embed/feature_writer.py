"""How a feature file is written: its columns, and batches of rows until it is complete.

Which columns there are and what they mean stands at the head of `features.py`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pyarrow as pa

from video_ssl.datasets.arrow.checks import remember, seal, sealed
from video_ssl.embed.feature_arrays import FeatureError, ragged_vectors, vectors
from video_ssl.embed.grids import grid_bytes
from video_ssl.embed.vector_columns import HasFields, output_columns
from video_ssl.files import MADE_BY, made, written_aside

METADATA_KEY = b"video_ssl.features"
SKIPPED_KEY = b"video_ssl.skipped"
#: Rows of a record batch, and bytes of its outputs on grids: what is copied at a time.
_ROWS, _GRID_BYTES = 256, 32 * 2**20
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
LATER = {
    "source": pa.string(),
    "record_start_sec": pa.float64(),
    "record_end_sec": pa.float64(),
    "content": pa.string(),
    "digest": pa.string(),
}


def feature_schema(
    embed_dim: int, metadata: Mapping[str, Any] | None = None, columns: Sequence[HasFields] = ()
) -> pa.Schema:
    """Returns the schema of a feature file of width `embed_dim` and other outputs; `metadata` is JSON in it."""
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
        *(pa.field(name, kind) for name, kind in LATER.items()),
        *(field for column in columns for field in column.fields()),
    ]
    about = json.dumps(dict(metadata or {}))
    return pa.schema(fields, metadata={METADATA_KEY: about, MADE_BY: made("embed")})


class FeatureWriter:
    """Writes a feature file batch by batch; the file has its name only once it is complete.

    Use as a context manager: leaving it without an error finishes the file, with an error removes
    what was written.  `skipped` may be filled until then.

    Args:
        path: of the file.
        embed_dim: width of clip features and moments.
        metadata: what the file says about itself.
        columns: of outputs that it has beside these.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        embed_dim: int,
        metadata: Mapping[str, Any] | None = None,
        columns: Sequence[HasFields] = (),
    ) -> None:
        self.path = Path(path)
        self.schema = feature_schema(embed_dim, metadata, columns)
        self.skipped: list[dict[str, Any]] = []
        self.num_rows = 0
        self._embed_dim = embed_dim
        self._aside = written_aside(self.path)

    def __enter__(self) -> FeatureWriter:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._partial = self._aside.__enter__()
        self._sink = pa.OSFile(str(self._partial), "wb")
        self._sealed = sealed(self.schema)
        self._writer = pa.ipc.new_file(self._sink, self._sealed)
        return self

    def write(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Appends one record batch.

        Args:
            rows: mappings from the columns to values; `feature` is (D,), `frame_features` (T', D), an output on a
                grid a `Grid`; everything but id, clip, feature and such outputs may be absent.

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
            self._close(complete=kind is None)
        except BaseException as err:
            self._aside.__exit__(type(err), err, err.__traceback__)
            raise
        self._aside.__exit__(kind, error, trace)  # gives the file its name, or removes it
        if kind is None:
            remember(self.path, "arrow")

    def _close(self, *, complete: bool) -> None:
        try:
            if complete:
                # The schema is on disk already, so the list travels on an empty last batch.
                empty = pa.RecordBatch.from_pylist([], schema=self.schema)
                self._writer.write_batch(empty, {SKIPPED_KEY: json.dumps(self.skipped).encode()})
            self._writer.close()
        finally:
            self._sink.close()
        if complete:
            seal(self._partial, self._sealed)


def rows_to_batch(
    rows: Sequence[Mapping[str, Any]], schema: pa.Schema, embed_dim: int
) -> pa.RecordBatch:
    """Returns rows as a record batch; see `FeatureWriter.write`.

    Raises:
        FeatureError: a feature that is not finite or of another width.
    """
    others = output_columns(schema)
    for row in rows:
        _check_row(row, embed_dim)
        for column in others:
            column.refuse(row)
    columns = []
    for field in list(schema)[: len(schema) - sum(len(column.fields()) for column in others)]:
        values = [row.get(field.name) for row in rows]
        if field.name == "feature":
            columns.append(vectors(np.stack([row["feature"] for row in rows]), embed_dim))
        elif field.name == "frame_features":
            columns.append(ragged_vectors(values, embed_dim))
        else:
            columns.append(pa.array(values, field.type))
    for column in others:
        columns += column.arrays([row[column.name] for row in rows])
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def larger_batches(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Yields the rows of many record batches in larger ones: some hundred rows, or some MiB of outputs on grids."""
    waiting: list[pa.RecordBatch] = []
    for batch in batches:
        waiting.append(batch)
        if sum(map(len, waiting)) >= _ROWS or sum(map(grid_bytes, waiting)) >= _GRID_BYTES:
            yield pa.concat_batches(waiting)
            waiting = []
    if waiting:
        yield pa.concat_batches(waiting)


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
