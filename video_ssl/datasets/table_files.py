"""Tables that people and other programs write: CSV and TSV with a header, JSON lines, Parquet."""

from __future__ import annotations

import codecs
import csv
import io
import json
import mmap
import os
from pathlib import Path

import pyarrow as pa

from video_ssl.datasets.columns import known_column, table_of_columns
from video_ssl.datasets.table import SCHEMA, Table, TableError

CSV_SUFFIXES = (".csv", ".tsv")
JSON_SUFFIXES = (".jsonl", ".ndjson")
TABLE_SUFFIXES = (*CSV_SUFFIXES, *JSON_SUFFIXES, ".parquet")
_TEXT_COLUMNS = {"id", "source", "label", "class_name", "labels", "captions", "group", "split"}
_CHUNK_BYTES = 2**24


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
        return []
    text = head.decode("utf-8-sig", "replace")
    return next(csv.reader(io.StringIO(text, newline=""), delimiter=_delimiter(path, text)), [])


def _delimiter(path: Path, text: str) -> str:
    if path.suffix.lower() == ".tsv":
        return "\t"
    first = text.partition("\n")[0]
    return max(",\t;", key=first.count)


def _read_csv(path: Path) -> pa.Table:
    from pyarrow import csv as arrow_csv

    _refuse_other_encodings(path)
    with open(path, "rb") as file:
        text = file.read(2**16).decode("utf-8-sig", "replace")
    names = _header(path)
    types = {}
    for name in names:
        known = known_column(name)
        numeric = known in SCHEMA.names and known not in _TEXT_COLUMNS
        types[name] = SCHEMA.field(known).type if numeric else pa.string()
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        quoted = content.find(b'"') >= 0
    try:
        return arrow_csv.read_csv(
            path,
            parse_options=arrow_csv.ParseOptions(
                delimiter=_delimiter(path, text), newlines_in_values=quoted
            ),
            convert_options=arrow_csv.ConvertOptions(
                column_types=types,
                null_values=["", "NaN", "nan", "null", "NULL", "None"],
                strings_can_be_null=False,
            ),
        )
    except pa.ArrowInvalid as err:
        raise TableError(
            f"{path} cannot be read as CSV with a header: {_named(err, names)}"
        ) from err


def _named(err: pa.ArrowInvalid, names: list[str]) -> str:
    """Arrow counts the columns; this says their names."""
    text = str(err)
    for number in reversed(range(len(names))):
        text = text.replace(f"CSV column #{number}:", f"column {names[number]!r}:")
    return text


def _read_json(path: Path) -> pa.Table:
    from pyarrow import json as arrow_json

    _refuse_other_encodings(path)
    if os.path.getsize(path) == 0:
        raise TableError(f"{path} is empty: give one JSON object a line.")
    texts = [pa.field(name, pa.string()) for name in _json_text_columns(path)]
    try:
        return arrow_json.read_json(
            path,
            read_options=arrow_json.ReadOptions(block_size=_CHUNK_BYTES),
            parse_options=arrow_json.ParseOptions(explicit_schema=pa.schema(texts)),
        )
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as err:
        raise TableError(
            f"{path} cannot be read as JSON lines: {err}. Every line must be one object, and a key must hold the same "
            "kind of value in all of them."
        ) from err


def _json_text_columns(path: Path) -> list[str]:
    """Keys of the first row whose texts Arrow might otherwise take for times."""
    with open(path, "rb") as file:
        line = file.readline(_CHUNK_BYTES)
    try:
        first = json.loads(line)
    except ValueError:
        return []
    return [
        key
        for key, value in (first.items() if isinstance(first, dict) else ())
        if isinstance(value, str) and known_column(key) in _TEXT_COLUMNS
    ]


def _read_parquet(path: Path) -> pa.Table:
    from pyarrow import parquet

    try:
        table = parquet.read_table(path, memory_map=True)
        for name in table.column_names:
            if pa.types.is_dictionary(table[name].type):
                decoded = table[name].cast(table[name].type.value_type)
                table = table.set_column(table.column_names.index(name), name, decoded)
        table.validate(full=True)
    except (pa.ArrowInvalid, OSError) as err:
        raise TableError(f"{path} cannot be read as Parquet: {err}") from err
    return table


def _refuse_other_encodings(path: Path) -> None:
    """Raises TableError with the line of the first byte that is not UTF-8."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    lines = 0
    with open(path, "rb") as file:
        while True:
            chunk = file.read(_CHUNK_BYTES)
            try:
                decoder.decode(chunk, final=not chunk)
            except UnicodeDecodeError as err:
                line = lines + bytes(err.object[: err.start]).count(b"\n") + 1
                raise TableError(
                    f"{path} line {line} is not UTF-8 ({err.reason}): save the file as UTF-8. Names of files that are "
                    "not UTF-8 themselves are written as file:///folder/name%FF.mp4."
                ) from err
            if not chunk:
                return
            lines += chunk.count(b"\n")
