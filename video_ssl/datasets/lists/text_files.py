"""Text files that people and other programs write: what is no text, or not in UTF-8, is refused with its line."""

from __future__ import annotations

import codecs
import csv
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from video_ssl.datasets.errors import TableError, shown
from video_ssl.recipes import nearest

_CHUNK_BYTES = 2**24
_OTHER_BOMS = {
    codecs.BOM_UTF32_LE: "UTF-32",
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}


def refuse_zero_bytes(path: Path, content: bytes, *, lines: int = 0) -> None:
    """Raises TableError if `content`, which begins behind `lines` lines of the file, is no text of one byte a sign."""
    for mark, name in _OTHER_BOMS.items():
        if not lines and content.startswith(mark):
            raise TableError(f"{path} is a text in {name}: save the file as UTF-8.")
    at = content.find(bytes(1))
    if at >= 0:
        line = lines + content.count(b"\n", 0, at) + 1
        raise TableError(
            f"{path} is not a text file: it holds zero bytes, the first in line {line}. If it is a text in UTF-16, "
            "save it as UTF-8; if not, write it again."
        )


def refuse_other_encodings(path: Path) -> None:
    """Raises TableError with the line of the first byte that is zero or not UTF-8."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    lines = 0
    with open(path, "rb") as file:
        while True:
            chunk = file.read(_CHUNK_BYTES)
            refuse_zero_bytes(path, chunk, lines=lines)
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


def read_text(path: Path) -> str:
    """Returns the text of a UTF-8 file, without a byte order mark.

    Raises:
        TableError: not there, not readable, or of another encoding; with its line.
    """
    try:
        refuse_other_encodings(path)
        return path.read_text(encoding="utf-8-sig")
    except OSError as err:
        raise TableError(f"{path} cannot be read ({err.strerror}).") from err


def numbered_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yields (number from 1, line without spaces around it) of every line that is not blank; see `read_text`."""
    for number, line in enumerate(read_text(path).split("\n"), 1):
        if line.strip():
            yield number, line.strip()


def read_json(path: Path, kind: type[dict] | type[list]) -> Any:
    """Returns what a JSON file holds, an object or a list.

    Raises:
        TableError: not JSON, or of the other kind; see `read_text`.
    """
    try:
        content = json.loads(read_text(path))
    except TableError:
        raise
    except (ValueError, RecursionError) as err:
        raise TableError(f"{path} is not JSON: {err}. Get the file again.") from err
    if not isinstance(content, kind):
        name = "list" if kind is list else "object"
        raise TableError(f"{path} must hold a JSON {name}, but holds {shown(content)}.")
    return content


def csv_rows(path: Path, needed: Sequence[str], example: str) -> list[tuple[int, dict[str, str]]]:
    """Returns (line, row by column) of a CSV file with a header; a row has a value, perhaps "", for every column.

    Args:
        path: the file.
        needed: columns that must be there.
        example: how the header should look, for errors.

    Raises:
        TableError: a column that is lacking, a row with more or fewer fields than the header; see `read_text`.
    """
    reader = csv.DictReader(read_text(path).splitlines(keepends=True))
    found = []
    try:
        columns = list(reader.fieldnames or [])
        for name in needed:
            if name not in columns:
                raise TableError(
                    f"{path} has no column {name!r}, only {shown(columns)}.{nearest(name, columns)} "
                    f"Such a file has {example}."
                )
        for row in reader:
            if None in row or None in row.values():
                fields = [v for v in row.values() if isinstance(v, str)]
                raise TableError(
                    f"{path} line {reader.line_num} has {len(fields)}{'+' if None in row else ''} fields, not the "
                    f"{len(columns)} of the header ({','.join(columns)}): {shown(','.join(fields))}. "
                    "Mend the line, or get the file again."
                )
            found.append((reader.line_num, row))
    except csv.Error as err:
        raise TableError(f"{path} line {reader.line_num} cannot be read as CSV: {err}.") from err
    return found
