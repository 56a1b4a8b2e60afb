"""Lists of videos: text files with one `path` or `path label` a line, as other projects write them.

Read are the VideoMAE and MVD style (fields separated by one space, the last one is the label), the PySlowFast and
jepa styles (`path label` or `path,label`), VideoMAE's lists of folders of frames (`folder num_frames label`), and lists
of paths alone.  The separator is decided once for the file, from its first line that has one, and so is whether there
are labels, and whether the paths are folders followed by a number of frames.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa

from video_ssl.datasets.errors import TableError
from video_ssl.datasets.paths import printable, source_of_path
from video_ssl.datasets.record_ids import made_ids
from video_ssl.datasets.table import Table
from video_ssl.datasets.text_files import refuse_zero_bytes

LIST_SUFFIXES = (".txt", ".csv", ".list")
_SEPARATORS = {"comma": ",", "tab": "\t", "space": " "}
_WITH_COUNT = re.compile(r"(?P<path>.*\S)\s*[\s,]\s*(?P<count>\d+)")
_NUMBER = re.compile(r"[+-]?\d+(\.\d*)?")


def read_list(path: str | os.PathLike[str], *, root: str | os.PathLike[str] | None = None) -> Table:
    """Returns the table of a list file, rows in the order of the file; `id` is the path as written
    (a path that is listed again is `path#2`).

    Args:
        path: the list.
        root: folder that relative paths are relative to; the list's own folder by default.

    Where the first line is `folder num_frames label` and there is a folder of that name (and none with the number in
    it), so is every line, and `num_frames` becomes a column.  A line may be blank (ignored); a path may hold the
    separator where the line ends in a label.  A leading header line `path,label` (or `path label`, `video ...`) is
    skipped.

    Raises:
        TableError: missing or empty file, a label or number of frames that is not an integer, a line without one where
            others have one.
    """
    path = Path(path)
    text = _read_text(path)
    lines = [(n, line.strip()) for n, line in enumerate(text.split("\n"), 1) if line.strip()]
    if lines and re.fullmatch(r"(path|video|file)\w*[\s,]+label\w*", lines[0][1], re.IGNORECASE):
        lines = lines[1:]
    if not lines:
        raise TableError(f"{path} names no video: give one `path label` (or `path`) a line.")
    sources, labels = _split_lines(path, lines)
    folder = Path(os.path.abspath(path)).parent if root is None else Path(root)
    counts: list[int] = []
    if labels and _is_folder_with_count(folder, sources[0]):
        numbers = [number for number, _ in lines]
        sources, counts = _split_counts(path, numbers, sources)
    columns: dict[str, Any] = {
        "id": made_ids(pa.array([printable(source) for source in sources])),
        "source": [_source(folder, source) for source in sources],
    }
    if labels:
        columns["label"] = labels
    if counts:
        columns["num_frames"] = counts
    return Table.from_columns(columns, root=folder)


def _source(folder: Path, path: str) -> str:
    return path if source_of_path(path) == path else source_of_path(os.path.join(folder, path))


def _read_text(path: Path) -> str:
    if not path.is_file():
        raise TableError(f"no list {path}: give a text file with one `path label` a line.")
    content = path.read_bytes()
    refuse_zero_bytes(path, content)
    # Paths on Linux are bytes: those that are not UTF-8 are kept, see `source_of_path`.
    return content.decode("utf-8-sig", "surrogateescape")


def _split_lines(path: Path, lines: list[tuple[int, str]]) -> tuple[list[str], list[int]]:
    split = _splitter(lines[0][1])
    if split is None:
        with_label = next((n for n, line in lines if _splitter(line) is not None), None)
        if with_label is None:
            return [line for _, line in lines], []
        raise TableError(
            f"{path} line {lines[0][0]} has no label, but line {with_label} has one: "
            "label all videos or none."
        )
    sources, labels = [], []
    for number, line in lines:
        source, label = split(line)
        if not source or not label:
            raise TableError(f"{path} line {number}: {line!r} has no label, but lines before have.")
        try:
            labels.append(int(label))
        except ValueError as err:
            raise TableError(
                f"{path} line {number}: the label {label!r} is not an integer. "
                "Write `path label` with labels 0, 1, ...; "
                "names of classes belong into a folder per class or a table."
            ) from err
        sources.append(source)
    return sources, labels


def _is_folder_with_count(folder: Path, text: str) -> bool:
    """Whether what precedes the label is a folder of frames and their number, and not a path that ends in a number."""
    match = _WITH_COUNT.fullmatch(text)
    return bool(
        match and os.path.isdir(folder / match["path"].strip('"')) and not (folder / text).exists()
    )


def _split_counts(path: Path, numbers: list[int], texts: list[str]) -> tuple[list[str], list[int]]:
    sources, counts = [], []
    for number, text in zip(numbers, texts, strict=True):
        match = _WITH_COUNT.fullmatch(text)
        if match is None or int(match["count"]) < 1:
            raise TableError(
                f"{path} line {number}: {text!r} is not `folder num_frames` before the label, with at least one frame, "
                "but the first line is."
                if number != numbers[0]
                else f"{path} line {number}: {text!r} announces no frame: write `folder num_frames label`."
            )
        sources.append(match["path"].strip('"'))
        counts.append(int(match["count"]))
    return sources, counts


def _splitter(line: str) -> Callable[[str], tuple[str, str]] | None:
    """How this line is split into (path, label), or None if it is a path alone."""
    for separator in _SEPARATORS.values():
        source, found, label = line.rpartition(separator)
        if not found:
            continue
        # `my video.mp4` is a path with a space: its last field is no label, it ends in a video's suffix.
        if not _NUMBER.fullmatch(label.strip()) and os.path.splitext(label)[1]:
            continue
        if source:
            return lambda text: _divide(text, separator)
    return None


def _divide(text: str, separator: str) -> tuple[str, str]:
    source, _, label = text.rpartition(separator)
    return source.strip().strip('"'), label.strip()
