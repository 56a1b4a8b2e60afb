"""A feature file that is open: what of it is read when, and by which names.  What is in it: see `features`."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from video_ssl.embed.feature_arrays import FeatureError
from video_ssl.embed.feature_writer import LATER, METADATA_KEY
from video_ssl.embed.grids import GRID, PLAIN, TIMES, Grid, grid_columns
from video_ssl.embed.sense_columns import SHARED_METADATA, sense_columns
from video_ssl.embed.vector_columns import vector_columns
from video_ssl.models.contract import COMMON
from video_ssl.recipes import nearest


@dataclass(frozen=True, kw_only=True)
class Output:
    """What a feature file has under a name.

    Attributes:
        name: "clip", "moments", or of another output of the encoder, such as "tokens".
        width: D of its vectors.
        dtype: in which they are stored, "float32" or "float16".
        per_clip: vectors of one clip; None where clips differ.
        grid: (t, h, w) of an output on a grid; None of others, and where clips differ.
    """

    name: str
    width: int
    dtype: str
    per_clip: int | None
    grid: tuple[int, int, int] | None = None


class FeatureFile:
    """Features of N clips, read where they lie; columns become arrays when they are used."""

    def __init__(
        self,
        table: pa.Table,
        *,
        path: Path | None = None,
        skipped: Sequence[Any] = (),
        ids_are_rows: bool = False,
        root: Path | None = None,
    ) -> None:
        """
        Args:
            root: the folder that the videos lie in now, where they were moved.
            ids_are_rows: nobody has given ids, so they are numbers of rows and mean nothing in another file.
        """
        for name, kind in LATER.items():
            if name not in table.column_names:
                table = table.append_column(name, pa.nulls(len(table), kind))
        self.table = table
        self.path = path
        self.root = root
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
    def records(self) -> tuple[np.ndarray, np.ndarray]:
        """(V,) the first row of each record, in order of first appearance, and (N,) the record 0..V-1 of every clip."""
        names, first, inverse = np.unique(
            self.ids.astype(str), return_index=True, return_inverse=True
        )
        order = np.argsort(first)
        rank = np.empty(len(names), np.int64)
        rank[order] = np.arange(len(names))
        return first[order], rank[inverse]

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

    # By name

    @functools.cached_property
    def outputs(self) -> dict[str, Output]:
        """What the file has, by name: clip features, and where there are any moments, common ones, outputs on grids."""
        found = {"clip": Output(name="clip", width=self.embed_dim, dtype="float32", per_clip=1)}
        if self.has_frames:
            found["moments"] = Output(
                name="moments",
                width=self.embed_dim,
                dtype="float32",
                per_clip=_only(self._lengths("frame_features").tolist()),
            )
        for vector in vector_columns(self.table.schema):
            found[vector.name] = Output(
                name=vector.name, width=vector.width, dtype="float32", per_clip=1
            )
        for column in grid_columns(self.table.schema):
            grids = self.table[column.name + GRID].combine_chunks().flatten().to_numpy()
            grid = _only([tuple(own) for own in grids.reshape(-1, 3).tolist()])
            found[column.name] = Output(
                name=column.name,
                width=column.width,
                dtype=column.dtype,
                per_clip=None if grid is None else int(np.prod(grid)),
                grid=grid,
            )
        return found

    @functools.cached_property
    def senses(self) -> dict[str, FeatureFile]:
        """What the file has beside video, by sense: "sound" and "text", as files of their own have it.

        Their rows are those of the videos that have rows here; `skipped` are those of which nothing is heard or told.
        """
        found = {}
        for columns in sense_columns(self.table.schema):
            about = self.metadata.get("senses", {}).get(columns.sense, {})
            own = {k: v for k, v in self.metadata.items() if k in SHARED_METADATA} | about
            table, skipped = columns.read(self.table)
            table = table.replace_schema_metadata({METADATA_KEY: json.dumps(own)})
            found[columns.sense] = FeatureFile(
                table, path=self.path, skipped=skipped, root=self.root
            )
        return found

    def read(self, name: str, rows: Sequence[int] | np.ndarray) -> np.ndarray:
        """Returns an output of some clips as it is stored: (n, D) of "clip" and common ones, otherwise (n, L, D).

        Only these rows are read, whatever the size of the file.

        Args:
            name: one of `outputs`.
            rows: which clips, in any order.

        Raises:
            FeatureError: no such output; or the clips have different numbers of vectors.
        """
        spec = self.require(name)
        if name == "clip":
            return self.features[np.asarray(rows, np.int64)]
        if name in COMMON:
            return self.vectors(name)[np.asarray(rows, np.int64)]
        column = PLAIN.get(name, name)
        cells = [_matrix(self._cell(column, int(row)), spec.width) for row in rows]
        lengths = sorted({len(cell) for cell in cells})
        if len(lengths) > 1:
            raise FeatureError(
                f"{self._name}: {name} of these clips have {lengths} vectors, which do not go into one array. Read "
                "them clip by clip, or embed windows of one length (without per_frame)."
            )
        return (
            np.stack(cells) if cells else np.zeros((0, spec.per_clip or 0, spec.width), spec.dtype)
        )

    def vectors(self, name: str) -> np.ndarray:
        """Returns float32 (N, D): an output that is one vector a clip, "clip" or one in a common space.

        Raises:
            FeatureError: no such output, or it has several vectors a clip.
        """
        parts = list(self.vector_batches(name))
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def vector_batches(self, name: str) -> Iterator[np.ndarray]:
        """Yields `vectors`, record batch by record batch, where they lie; raises as that does."""
        spec = self.require(name)
        if name != "clip" and name not in COMMON:
            raise FeatureError(f"{name} of {self._name} is not one vector a clip: use `read`.")
        for batch in self._batches():
            yield _matrix(batch.column(PLAIN.get(name, name)), spec.width)

    def grid(self, name: str, row: int) -> Grid:
        """Returns an output on a grid of one clip, read where it lies, with its grid and times.

        Raises:
            FeatureError: no such output, or it is on no grid.
        """
        spec = self.require(name)
        if name in PLAIN or name in COMMON:
            raise FeatureError(f"{name} is on no grid: use `read`, or `frames` for its times.")
        t, h, w = self._cell(name + GRID, row).to_pylist()
        return Grid(
            values=_matrix(self._cell(name, row), spec.width),
            grid=(t, h, w),
            times=self._cell(name + TIMES, row).to_numpy(zero_copy_only=False),
        )

    def require(self, name: str) -> Output:
        """Returns what the file has under a name.

        Raises:
            FeatureError: nothing; what there is is named.
        """
        if name not in self.outputs:
            raise FeatureError(
                f"{self._name} has no output {name!r}, only {', '.join(self.outputs)}: embed again with "
                f"outputs={name} (video-ssl embed --outputs {name})."
            )
        return self.outputs[name]

    def _cell(self, column: str, row: int) -> Any:
        return self.table[column][row].values

    def _lengths(self, column: str) -> np.ndarray:
        lengths = pc.list_value_length(self.table[column]).fill_null(0)
        return np.asarray(lengths.to_numpy(), np.int64)

    @property
    def has_frames(self) -> bool:
        column = self.table["frame_features"]
        return len(self) > 0 and column.null_count < len(self)

    @property
    def has_one_moment(self) -> bool:
        """Whether every clip has exactly one frame feature."""
        return len(self) > 0 and bool((self._lengths("frame_features") == 1).all())

    def frames(self, row: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns (T', D) frame features of a clip and their times (T',) in seconds (may be NaN)."""
        cell = self.table["frame_features"][row]
        values = _matrix(cell.values, self.embed_dim)
        times = self.table["frame_times_sec"][row].as_py()
        return values, (
            np.full(len(values), np.nan) if times is None else np.asarray(times, np.float64)
        )

    def frames_of(self, key: str) -> tuple[np.ndarray, np.ndarray]:
        """Returns all frame features of a record, (F, D), and their times (F,) in seconds, in order of time.

        Where a time is unknown (NaN), they stay in the order of the file.  Of a file embedded per frame,
        that is one feature for every sampled frame of the video.

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
        if not np.isfinite(times).all():
            return values, times
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

    def select(self, rows: np.ndarray) -> FeatureFile:
        """Returns the features of some clips, in memory: clip and frame features, without outputs on other grids.

        Args:
            rows: int (n,), which clips; they come in this order.
        """
        grids = {c.name + end for c in grid_columns(self.table.schema) for end in ("", GRID, TIMES)}
        kept = self.table.select([name for name in self.table.column_names if name not in grids])
        return FeatureFile(
            kept.take(pa.array(rows, pa.int64())),
            path=self.path,
            ids_are_rows=self.ids_are_rows,
            root=self.root,
        )

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


def _only(values: Sequence[Any]) -> Any:
    """The value that all have, or None."""
    return values[0] if len(set(values)) == 1 else None


def _matrix(column: Any, width: int) -> np.ndarray:
    return column.flatten().to_numpy(zero_copy_only=False).reshape(-1, width)


def _objects(column: Any) -> np.ndarray:
    values = np.empty(len(column), dtype=object)
    values[:] = column.to_pylist()
    return values
