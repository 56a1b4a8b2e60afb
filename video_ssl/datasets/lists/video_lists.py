"""Lists of videos: text files with one `path` or `path label` a line, as other projects write them.

Read are the VideoMAE and MVD style (fields separated by one space, the last one is the label), the PySlowFast and
jepa styles (`path label` or `path,label`), VideoMAE's lists of folders of frames (`folder num_frames label`), and lists
of paths alone.  How the lines are read is decided once for the file (`list_lines`).
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from video_ssl.datasets.errors import TableError, shown
from video_ssl.datasets.lists.lines import (
    Line,
    ends_in_label,
    fields_of,
    layout_of,
    refuse_absent,
    refuse_swallowed_fields,
)
from video_ssl.datasets.lists.text_files import refuse_zero_bytes
from video_ssl.datasets.parts import SIGN, each_part
from video_ssl.datasets.paths import at_home, printable, source_of_path
from video_ssl.datasets.record_ids import made_ids
from video_ssl.datasets.table import Table

LIST_SUFFIXES = (".txt", ".csv", ".list")


def read_list(
    path: str | os.PathLike[str],
    *,
    root: str | os.PathLike[str] | None = None,
    look: bool = False,
) -> Table:
    """Returns the table of a list file, rows in the order of the file; `id` is the path as written
    (a path that is listed again is `path#2`).

    Args:
        path: the list.
        root: folder that relative paths are relative to; the list's own folder by default.
        look: refuse a list of which no file that is looked for is there.

    A line that exists as written, as a file or folder, is a path.  Where the lines are `folder num_frames label`, with
    folders that exist, `num_frames` becomes a column.  A line may be blank (ignored); a path may hold the separator
    where the line ends in a label, and begin with `~`.  A leading header line `path,label` (or `path label`,
    `video ...`) is skipped.

    Raises:
        TableError: missing or empty file, a label or number of frames that is not an integer, a line without one where
            others have one, more fields than there may be.
    """
    path = Path(path)
    numbered = enumerate(re.split(r"\r\n|\n|\r", _read_text(path)), 1)
    lines = [Line(number, text.strip()) for number, text in numbered if text.strip()]
    header = r"(path|video|file)\w*[\s,;]+label\w*"
    if lines and re.fullmatch(header, lines[0].text, re.IGNORECASE):
        lines = lines[1:]
    if not lines:
        raise TableError(f"{path} names no video: give one `path label` (or `path`) a line.")
    folder = Path(os.path.abspath(path)).parent if root is None else Path(root)
    layout = layout_of(path, lines, folder)
    divided = [fields_of(path, line, layout, folder) for line in lines]
    if not layout.fields:
        _refuse_some_labels(path, lines, folder)
    sources = [source for source, _ in divided]
    refuse_swallowed_fields(path, lines, sources, folder)
    columns: dict[str, Any] = {
        "id": made_ids(pa.array([printable(source) for source in sources])),
        "source": [_source(folder, at_home(source)) for source in sources],
    }
    if layout.fields:
        named = zip(lines, divided, strict=True)
        columns["label"] = [_label(path, line, fields[-1]) for line, (_, fields) in named]
    if layout.fields == 2:
        named = zip(lines, divided, strict=True)
        columns["num_frames"] = [_count(path, line, fields[0]) for line, (_, fields) in named]
    if look:
        refuse_absent(path, lines, sources, folder)
    about: dict[str, Any] = {}
    if layout.fields == 2:  # folders that hold fewer frames than their line says are named with it
        about = {"list": path.name, "list_lines": [line.number for line in lines]}
    return Table.from_columns(columns, root=folder, **about)


def _source(folder: Path, path: str) -> str:
    if SIGN in path:
        return each_part(path, lambda part: _source(folder, part))
    return path if source_of_path(path) == path else source_of_path(os.path.join(folder, path))


def _read_text(path: Path) -> str:
    if not path.is_file():
        raise TableError(f"no list {path}: give a text file with one `path label` a line.")
    content = path.read_bytes()
    refuse_zero_bytes(path, content)
    # Paths on Linux are bytes: those that are not UTF-8 are kept, see `source_of_path`.
    return content.decode("utf-8-sig", "surrogateescape")


def _refuse_some_labels(path: Path, lines: Sequence[Line], folder: Path) -> None:
    """Raises TableError if the first line is a path alone, but a later one ends in a label."""
    for line in lines[1:]:
        if ends_in_label(line.text, folder):
            raise TableError(
                f"{path} line {lines[0].number} has no label, but line {line.number} has one "
                f"({shown(line.text)}): label all videos or none."
            )


def _label(path: Path, line: Line, field: str) -> int:
    try:
        label = int(field)
    except ValueError as err:
        raise TableError(
            f"{path} line {line.number}: the label {shown(field)} is not an integer. Write `path label` with labels "
            "0, 1, ...; names of classes belong into a folder per class or a table."
        ) from err
    if not -(2**31) <= label < 2**31:
        raise TableError(f"{path} line {line.number}: the label {shown(field)} is too large.")
    return label


def _count(path: Path, line: Line, field: str) -> int:
    if not re.fullmatch(r"\d{1,9}", field):
        raise TableError(
            f"{path} line {line.number}: {shown(line.text)} is not `folder num_frames label`, but lines before are."
        )
    if int(field) < 1:
        raise TableError(
            f"{path} line {line.number}: {shown(line.text)} announces no frame: write "
            "`folder num_frames label`, with at least one frame."
        )
    return int(field)
