"""What a checkpoint remembers of its data, so that a run does not go on, unseen, with other videos.

Of every table: a digest of each column that identifies the videos, in order, and the sizes of some of the files
where the table does not say them.  Sources count as the table writes them, so a folder may be moved with its videos.
A million rows take 0.3 s of one core; files are looked at, not read, and only `SAMPLE` of them.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from video_ssl.datasets.parts import SIGN, divide_parts
from video_ssl.datasets.table import Table

#: Columns that say which stretch of which file a record is, and what they are called in errors.
COLUMNS = {
    "id": "ids",
    "source": "sources",
    "start_sec": "beginnings",
    "end_sec": "ends",
    "label": "labels",
    "byte_offset": "places in a tar",
    "byte_size": "sizes in a tar",
    "file_size": "sizes",
}
SAMPLE = 1024
_ROWS = 2**16


def describe_tables(tables: Sequence[Table]) -> list[dict[str, Any]]:
    """Returns for each table, as JSON: its columns' digests, and `sizes` of up to `SAMPLE` files (null = not known)."""
    return [_describe(table) for table in tables]


def table_changes(before: Any, now: Any) -> str:
    """Returns what differs between two descriptions, in words; "" where nothing that both know does.

    >>> table_changes([{"columns": {"id": "a"}}], [{"columns": {"id": "b"}}])
    'other ids'
    """
    if not isinstance(before, list) or len(before) != len(now):
        return f"{len(now)} tables instead of {len(before)}" if isinstance(before, list) else ""
    parts = []
    for number, (old, new) in enumerate(zip(before, now, strict=True), 1):
        words = _changes(old, new)
        if words:
            where = f" in table {number} of {len(now)}" if len(now) > 1 else ""
            parts.append(f"other {', '.join(words)}{where}")
    return "; ".join(parts)


def _changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    columns, past = new["columns"], old["columns"]
    words = [COLUMNS[c] for c in COLUMNS if c in columns and c in past and columns[c] != past[c]]
    pairs = zip(old.get("sizes") or (), new.get("sizes") or (), strict=False)
    resized = sum(a is not None and b is not None and a != b for a, b in pairs)
    if resized and not words:
        words.append(f"sizes of {resized} of {len(new['sizes'])} files looked at")
    return words


def _describe(table: Table) -> dict[str, Any]:
    content = table.arrow
    names = [name for name in COLUMNS if name in content.column_names]
    parts: dict[str, Any] = {"columns": {name: _digest(content[name]) for name in names}}
    if "file_size" not in names:
        rows = np.linspace(0, len(table) - 1, min(len(table), SAMPLE)).astype(int)
        parts["sizes"] = [_size(table.record(int(row)).source) for row in rows]
    return parts


def _digest(column: Any) -> str:
    """Of the values, however they are divided into chunks."""
    digest = hashlib.blake2b(digest_size=12)
    for begin in range(0, len(column), _ROWS):
        part = column.slice(begin, _ROWS).combine_chunks()
        part = pa.concat_arrays(part.chunks) if isinstance(part, pa.ChunkedArray) else part
        if pa.types.is_string(part.type) or pa.types.is_large_string(part.type):
            lengths = pc.fill_null(pc.cast(pc.binary_length(part), pa.int64()), -1)
            digest.update(lengths.to_numpy(zero_copy_only=False).tobytes())
            digest.update("".join(text or "" for text in part.to_pylist()).encode())
        else:
            values = pc.cast(part, pa.float64() if pa.types.is_floating(part.type) else pa.int64())
            digest.update(np.asarray(pc.is_valid(values)).tobytes())
            digest.update(pc.fill_null(values, 0).to_numpy(zero_copy_only=False).tobytes())
    return digest.hexdigest()


def _size(source: str) -> int | None:
    """Bytes of the file, or the files, that hold a video; None for a folder of frames, a URI, and what is not there."""
    if SIGN in source:
        sizes = [_size(part) for part in divide_parts(source)]
        return None if None in sizes else sum(size or 0 for size in sizes)
    path = source.partition("!/")[0]
    try:
        found = os.stat(path)
    except (OSError, ValueError):
        return None
    return found.st_size if os.path.isfile(path) else None
