"""Outputs that are one vector a clip, beside the clip feature, as columns of a feature file.

They lie in spaces that video shares with sound or with text (`contract.COMMON`); each is a column of its name,
float32[D], in every row.  They are no longer or shorter than the encoder gives them: whoever compares two takes their
cosine.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from video_ssl.embed.feature_arrays import FeatureError, vectors
from video_ssl.embed.grids import GridColumn, grid_columns
from video_ssl.models.contract import COMMON


@dataclass(frozen=True, kw_only=True)
class VectorColumn:
    """An output that is one vector a clip: its name and its width."""

    name: str
    width: int

    def fields(self) -> list[pa.Field]:
        """Returns its column."""
        return [pa.field(self.name, pa.list_(pa.float32(), self.width), nullable=False)]

    def arrays(self, cells: Sequence[np.ndarray]) -> list[pa.Array]:
        """Returns the column of some rows."""
        return [vectors(np.stack(cells), self.width)]

    def refuse(self, row: Mapping[str, Any]) -> None:
        """Raises FeatureError where a row does not have this output as the file stores it."""
        where, cell = f"{self.name} of {row['id']!r}, clip {row['clip']},", row.get(self.name)
        if cell is None:
            raise FeatureError(f"{where} is missing, but the file has this output of every clip.")
        if cell.shape != (self.width,):
            raise FeatureError(
                f"{where} has shape {cell.shape}, but the file has {self.width} numbers."
            )
        if not np.isfinite(cell).all():
            raise FeatureError(
                f"{where} is not finite. Embed with precision=float32, and check that the encoder's weights are finite."
            )


Column = GridColumn | VectorColumn


class HasFields(Protocol):
    """Columns that belong together."""

    def fields(self) -> list[pa.Field]:
        """Returns them."""


def vector_columns(schema: pa.Schema) -> list[VectorColumn]:
    """Returns the outputs that are one vector a clip that a schema has columns for, in their order."""
    found = []
    for field in schema:
        kind = field.type
        of_floats = pa.types.is_fixed_size_list(kind) and kind.value_type == pa.float32()
        if field.name in COMMON and of_floats:
            found.append(VectorColumn(name=field.name, width=kind.list_size))
    return found


def output_columns(schema: pa.Schema) -> list[Column]:
    """Returns all outputs beside clip features and moments, in the order of their columns."""
    return [*vector_columns(schema), *grid_columns(schema)]


def refuse_other_vectors(table: pa.Table, where: str) -> None:
    """Raises FeatureError where a column of a common space is not what ours are."""
    known = {column.name for column in vector_columns(table.schema)}
    for name in COMMON:
        if name in table.column_names and (name not in known or table[name].null_count):
            raise FeatureError(
                f"{where} is damaged: its column {name!r} is not one vector in every row. Embed the videos again."
            )
