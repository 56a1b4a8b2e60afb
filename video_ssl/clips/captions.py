"""The captions of tables: all their texts, and which of them lie outside their videos."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from video_ssl.datasets.table import Table

_ROWS = 4096


def caption_texts(tables: Sequence[Table]) -> Iterator[str]:
    """Yields the text of every caption of tables, row by row; of a table without captions none."""
    for table in tables:
        if "captions" not in table.column_names:
            continue
        column = table.arrow["captions"]
        for begin in range(0, len(column), _ROWS):
            flat = pc.list_flatten(column.slice(begin, _ROWS))
            yield from pc.struct_field(flat, "text").to_pylist()


def late_captions(table: Table) -> tuple[int, str]:
    """Returns how many captions lie outside their videos, and the id of the first record that has one; (0, "") if none.

    A caption is outside as `text.is_outside` says.  Only records of whole videos are looked at whose length the table
    knows (from a scan, `duration_sec`).
    """
    if any(name not in table.column_names for name in ("captions", "duration_sec")):
        return 0, ""
    count, first = 0, ""
    for part in table.arrow.to_batches(max_chunksize=_ROWS):
        rows = _rows_of_late(part)
        if len(rows) and not first:
            first = str(part["id"][int(rows[0])].as_py())
        count += len(rows)
    return count, first


def _rows_of_late(part: pa.RecordBatch) -> np.ndarray:
    """The row of every caption that is outside, in order."""
    captions = part["captions"]
    row = np.asarray(pc.list_parent_indices(captions))
    flat = pc.list_flatten(captions)
    begin, end = (
        np.asarray(pc.fill_null(pc.struct_field(flat, name), value))
        for name, value in (("start_sec", -np.inf), ("end_sec", np.inf))
    )
    duration = np.asarray(pc.fill_null(part["duration_sec"], np.inf))
    for name in ("start_sec", "end_sec"):
        if name in part.schema.names:  # of a stretch it is not known how long its video is
            duration = np.where(np.asarray(pc.is_valid(part[name])), np.inf, duration)
    known = np.isfinite(duration[row])
    return np.asarray(row[known & ((begin >= duration[row]) | (end < 0))])
