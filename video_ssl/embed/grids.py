"""Outputs on a grid, patch tokens or feature maps, as columns of a feature file.

An output NAME of an encoder that is neither the clip feature nor the moments has three columns:

    NAME             list<float16[D]>    t * h * w vectors: moment by moment, within one row by row (or float32)
    NAME_grid        int32[3]            t, h, w
    NAME_times_sec   list<float64>       t, in seconds of the source; NaN where a moment shows only what fills up a
                                         short video

They make a file large, so that they are written on request only, in half precision unless asked otherwise, and read
row by row where they lie.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from video_ssl.embed.feature_arrays import FeatureError

GRID, TIMES = "_grid", "_times_sec"
#: Column of an output that every file has, as it is called in the file.
PLAIN = {"clip": "feature", "moments": "frame_features"}
Half = Literal["float16", "float32"]
_KINDS = {"float16": pa.float16(), "float32": pa.float32()}


@dataclass(frozen=True, kw_only=True)
class GridColumn:
    """An output on a grid: its name, the width of its vectors, and the precision they are stored in."""

    name: str
    width: int
    dtype: Half = "float16"

    def fields(self) -> list[pa.Field]:
        """Returns its three columns."""
        vector = pa.list_(_KINDS[self.dtype], self.width)
        return [
            pa.field(self.name, pa.list_(vector)),
            pa.field(self.name + GRID, pa.list_(pa.int32(), 3)),
            pa.field(self.name + TIMES, pa.list_(pa.float64())),
        ]

    def arrays(self, cells: Sequence[Grid]) -> list[pa.Array]:
        """Returns the three columns of some rows."""
        offsets = np.cumsum([0] + [len(cell.values) for cell in cells]).astype(np.int32)
        flat = np.concatenate([cell.values for cell in cells]).astype(self.dtype, copy=False)
        vectors = pa.FixedSizeListArray.from_arrays(pa.array(flat.reshape(-1)), self.width)
        grids = pa.array(np.array([cell.grid for cell in cells], np.int32).reshape(-1))
        return [
            pa.ListArray.from_arrays(pa.array(offsets), vectors),
            pa.FixedSizeListArray.from_arrays(grids, 3),
            pa.array([cell.times.tolist() for cell in cells], pa.list_(pa.float64())),
        ]

    def refuse(self, row: Mapping[str, Any]) -> None:
        """Raises FeatureError where a row does not have this output as the file stores it."""
        where, cell = f"{self.name} of {row['id']!r}, clip {row['clip']},", row.get(self.name)
        if cell is None:
            raise FeatureError(f"{where} is missing, but the file has this output of every clip.")
        expected = (int(np.prod(cell.grid)), self.width)
        if cell.values.shape != expected or cell.times.shape != cell.grid[:1]:
            raise FeatureError(
                f"{where} has shape {cell.values.shape} with {len(cell.times)} times, but a grid of {cell.grid} and a "
                f"width of {self.width} take {expected} and {cell.grid[0]}."
            )
        with np.errstate(over="ignore"):
            stored = cell.values.astype(self.dtype, copy=False)
        if np.isfinite(stored).all():
            return
        if np.isfinite(cell.values).all():
            raise FeatureError(
                f"{where} has numbers up to {np.abs(cell.values).max():g}, and float16 ends at 65504: store it with "
                "tokens_dtype=float32."
            )
        raise FeatureError(
            f"{where} is not finite. Embed with precision=float32, and check that the encoder's weights are finite."
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class Grid:
    """An output on a grid, of one clip.

    Attributes:
        values: (t * h * w, D), moment by moment, within one row by row.
        grid: (t, h, w).
        times: float64 (t,), seconds of the source; NaN where a moment shows only what fills up a short video.
    """

    values: np.ndarray
    grid: tuple[int, int, int]
    times: np.ndarray

    @property
    def map(self) -> np.ndarray:
        """(t, h, w, D): the values in their places."""
        return self.values.reshape(*self.grid, self.values.shape[-1])


def grid_columns(schema: pa.Schema) -> list[GridColumn]:
    """Returns the outputs on a grid that a schema has columns for, in their order."""
    found = []
    for field in schema:
        kind = field.type
        if field.name + GRID not in schema.names or not pa.types.is_list(kind):
            continue
        vector = kind.value_type
        if pa.types.is_fixed_size_list(vector) and vector.value_type in _KINDS.values():
            dtype: Half = "float16" if vector.value_type == pa.float16() else "float32"
            found.append(GridColumn(name=field.name, width=vector.list_size, dtype=dtype))
    return found


def grid_bytes(batch: pa.RecordBatch) -> int:
    """Returns how many bytes of a record batch are outputs on grids."""
    return sum(int(batch.column(column.name).nbytes) for column in grid_columns(batch.schema))


def refuse_other_grids(table: pa.Table, where: str) -> None:
    """Raises FeatureError where the columns of outputs on a grid do not fit each other."""
    known = {column.name + GRID: column for column in grid_columns(table.schema)}
    for name in [name for name in table.column_names if name.endswith(GRID)]:
        column = known.get(name)
        fields = [] if column is None else column.fields()
        if column is None or any(
            field.name not in table.column_names
            or not table.schema.field(field.name).type.equals(field.type)
            for field in fields
        ):
            raise FeatureError(
                f"{where} is damaged: the columns of {name!r} are not what ours are."
            )
        for chunk in table.select([field.name for field in fields]).to_batches():
            values, grid, times = chunk.columns
            sides = grid.flatten().to_numpy().reshape(-1, 3).astype(np.int64)
            fits = (
                not (values.null_count or grid.null_count or times.null_count)
                and (sides >= 0).all()
                and np.array_equal(values.value_lengths().to_numpy(), sides.prod(axis=1))
                and np.array_equal(times.value_lengths().to_numpy(), sides[:, 0])
            )
            if not fits:
                raise FeatureError(
                    f"{where} is damaged: {column.name!r} has other lengths than its grid says. Embed the videos again."
                )
