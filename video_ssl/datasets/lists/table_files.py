"""Tables that people and other programs write: CSV and TSV with a header, JSON lines, Parquet."""

from __future__ import annotations

import csv
import io
import json
import mmap
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from video_ssl.datasets.arrow.checks import BrokenArrow, refuse_parquet_bomb
from video_ssl.datasets.column_checks import refuse_doubled
from video_ssl.datasets.columns import known_column, means_something, table_of_columns
from video_ssl.datasets.errors import TableError, shown
from video_ssl.datasets.lists.text_files import refuse_other_encodings, refuse_zero_bytes
from video_ssl.datasets.table import Table

CSV_SUFFIXES = (".csv", ".tsv")
JSON_SUFFIXES = (".jsonl", ".ndjson")
TABLE_SUFFIXES = (*CSV_SUFFIXES, *JSON_SUFFIXES, ".parquet")
_TEXT_COLUMNS = {"id", "source", "label", "class_name", "labels", "captions", "group", "split"}
_CHUNK_BYTES = 2**24
_MAX_DEPTH = 100
_LONGEST_SAID = 300


def read_table_file(
    path: str | os.PathLike[str],
    *,
    root: str | os.PathLike[str] | None = None,
    split: str | None = None,
) -> Table:
    """Returns the table of a CSV or TSV file with a header, of JSON lines or of Parquet; rows in the order of the file.

    Columns may be called as in `SCHEMA` or by a common other name (`columns.SYNONYMS`): path,label is enough.  In CSV
    `labels` are separated by `;`.

    Args:
        path: the file; its suffix decides.
        root: folder that relative sources are relative to; the file's own by default.
        split: take the rows whose column `split` says so.

    Raises:
        TableError: missing, empty or broken file, text that is not UTF-8, and what `table_of_columns` refuses.
    """
    path = Path(path)
    if not path.is_file():
        raise TableError(f"no table {path}: there is no such file.")
    suffix = path.suffix.lower()
    if suffix in CSV_SUFFIXES:
        raw = _read_csv(path)
    elif suffix in JSON_SUFFIXES:
        raw = _read_json(path)
    else:
        raw = _read_parquet(path)
    folder = Path(os.path.abspath(path)).parent if root is None else Path(root)
    return table_of_columns(raw, where=str(path), root=folder, split=split)


def has_header(path: Path) -> bool:
    """Returns whether the first line of a CSV or TSV file names columns (else it is a `path label` list)."""
    return any(known_column(name) is not None for name in _header(path))


def _header(path: Path) -> list[str]:
    """The fields of the first record; a file that is not text has none."""
    with open(path, "rb") as file:
        head = file.read(2**16)
    if b"\0" in head:
        refuse_zero_bytes(path, head)
        return []
    text = head.decode("utf-8-sig", "replace")
    return next(csv.reader(io.StringIO(text, newline=""), delimiter=_delimiter(path, text)), [])


def _delimiter(path: Path, text: str) -> str:
    if path.suffix.lower() == ".tsv":
        return "\t"
    first = text.partition("\n")[0]
    return max(",\t;", key=first.count)


def _read_csv(path: Path) -> pa.Table:
    """All columns as texts: who turns them into numbers knows the row of one that is none."""
    from pyarrow import csv as arrow_csv

    refuse_other_encodings(path)
    with open(path, "rb") as file:
        text = file.read(2**16).decode("utf-8-sig", "replace")
    names = _header(path)
    refuse_doubled(names, str(path), counts=means_something)
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        quoted = content.find(b'"') >= 0
    options = {
        "parse_options": arrow_csv.ParseOptions(
            delimiter=_delimiter(path, text), newlines_in_values=quoted
        ),
        "convert_options": arrow_csv.ConvertOptions(
            column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=False
        ),
    }
    try:
        return arrow_csv.read_csv(path, **options)
    except pa.ArrowInvalid as err:
        raise TableError(
            f"{path} cannot be read as CSV with a header: {_with_row(err, path, options)}"
        ) from err


def _with_row(err: pa.ArrowInvalid, path: Path, options: dict[str, Any]) -> str:
    """What Arrow says; only without threads does it count the rows, the header as the first."""
    from pyarrow import csv as arrow_csv

    try:
        arrow_csv.read_csv(path, read_options=arrow_csv.ReadOptions(use_threads=False), **options)
    except pa.ArrowInvalid as again:
        err = again
    reason = re.sub(r"Row #(\d+)", lambda found: f"row {int(found[1]) - 1}", str(err))
    return (
        f"{reason[:_LONGEST_SAID]}. A field with the separator in it must stand in double quotes."
    )


def _read_json(path: Path) -> pa.Table:
    from pyarrow import json as arrow_json

    refuse_other_encodings(path)
    if os.path.getsize(path) == 0:
        raise TableError(f"{path} is empty: give one JSON object a line.")
    _refuse_deep_json(path)
    texts = [pa.field(name, pa.string()) for name in _json_text_columns(path)]
    try:
        return arrow_json.read_json(
            path,
            read_options=arrow_json.ReadOptions(block_size=_CHUNK_BYTES),
            parse_options=arrow_json.ParseOptions(explicit_schema=pa.schema(texts)),
        )
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as err:
        raise TableError(
            f"{path} cannot be read as JSON lines: {_wrong_line(path) or str(err)[:_LONGEST_SAID]}. Every line must be "
            "one object, and a key must hold the same kind of value in all of them."
        ) from err


def _wrong_line(path: Path) -> str:
    """Which line is no object, has a key twice, or a value of another kind than lines before; "" if none."""
    kinds: dict[str, tuple[str, int]] = {}
    with open(path, "rb") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line.decode("utf-8-sig"), object_pairs_hook=_pairs)
            except json.JSONDecodeError as err:
                return f"line {number} is no JSON, from column {err.colno} on ({err.msg})"
            except ValueError as err:
                return f"line {number}: {err}"
            if not isinstance(row, dict):
                return f"line {number} holds {shown(row)} and no object"
            for name, value in row.items():
                kind = _kind(value)
                first, at = kinds.setdefault(name, (kind, number)) if kind else (kind, number)
                if first != kind:
                    return f"{name!r} changed from {first} in line {at} to {kind} in line {number}: {shown(value)}"
    return ""


def _kind(value: Any) -> str:
    """What Arrow calls a value of JSON; "" for null, which goes with all."""
    kinds = {
        str: "string",
        bool: "boolean",
        int: "number",
        float: "number",
        list: "array",
        dict: "object",
    }
    return kinds.get(type(value), "")


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(
            f"the key {next(n for n in names if names.count(n) > 1)!r} stands in it twice"
        )
    return found


def _refuse_deep_json(path: Path) -> None:
    """Raises TableError for lines of many brackets inside each other, on which Arrow's reader ends the process."""
    with open(path, "rb") as file:
        line = 0
        while chunk := file.read(_CHUNK_BYTES):
            chunk += file.readline()
            codes = np.frombuffer(chunk, np.uint8)
            step = ((codes & 0xDF) == ord("[")).astype(np.int8)  # { is [ with one bit more, } is ]
            step -= (codes & 0xDF) == ord("]")
            depth = np.cumsum(step, dtype=np.int32)
            if depth.max() - depth.min() > _MAX_DEPTH:
                _refuse_deep_lines(path, chunk, line)
            line += chunk.count(b"\n")


def _refuse_deep_lines(path: Path, chunk: bytes, before: int) -> None:
    for number, line in enumerate(chunk.split(b"\n"), before + 1):
        depth = deepest = 0
        for sign in re.findall(rb'"(?:\\.|[^"\\])*"|[\[\]{}]', line):
            depth += (sign in b"[{") - (sign in b"]}")
            deepest = max(deepest, depth)
        if deepest > _MAX_DEPTH:
            raise TableError(
                f"{path} line {number} has {deepest} brackets inside each other: a row of a table needs a few."
            )


def _json_text_columns(path: Path) -> list[str]:
    """Keys of the first row whose texts Arrow might otherwise take for times."""
    with open(path, "rb") as file:
        line = file.readline(_CHUNK_BYTES)
    try:
        first = json.loads(line)
    except (ValueError, RecursionError):
        return []
    return [
        key
        for key, value in (first.items() if isinstance(first, dict) else ())
        if isinstance(value, str) and known_column(key) in _TEXT_COLUMNS
    ]


def _read_parquet(path: Path) -> pa.Table:
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(path, memory_map=True, page_checksum_verification=True) as file:
            refuse_parquet_bomb(file, os.path.getsize(path))
            refuse_doubled(file.schema_arrow.names, str(path), counts=means_something)
            # Only what means something: a column of pictures or sound may be large.
            given = file.schema_arrow.names
            table = file.read(columns=[name for name in given if known_column(name) is not None])
        for name in table.column_names:
            if pa.types.is_dictionary(table[name].type):
                decoded = table[name].cast(table[name].type.value_type)
                table = table.set_column(table.column_names.index(name), name, decoded)
        table.validate(full=True)
    except (pa.ArrowException, OSError, BrokenArrow, UnicodeDecodeError) as err:
        raise TableError(
            f"{path} cannot be read as Parquet: {str(err)[:_LONGEST_SAID]}. Write or copy the file again."
        ) from err
    empty = pa.nulls(table.num_rows)
    columns = [table[name] if known_column(name) is not None else empty for name in given]
    return pa.Table.from_arrays(columns, names=given)
