"""What a column may not hold, and which names are slips of the pen: checks of tables that people write."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from video_ssl.datasets.errors import TableError, shown

# Short names are near to too many words: `part` is no slip of `path`, nor `code` one of `codec`.
_SHORTEST_KNOWN = 4
_SHORTEST_EDITED = 5
_NUMBERS = ("start_sec", "end_sec", "fps", "duration_sec")


def slip_of(name: str, known: Iterable[str]) -> str | None:
    """Returns the known name that `name` is a slip of, or None.

    A slip is one change that no other word explains: two neighbours exchanged; or, in names of five letters and more, a
    letter inside that is lacking, doubled or another one.  The first letter is seldom mistyped (`weight` is not
    `height`), and one more or less at the end is a plural or another word.

    >>> slip_of("lable", ["label"]), slip_of("strat_sec", ["start_sec"]), slip_of("durtion", ["duration"])
    ('label', 'start_sec', 'duration')
    >>> [slip_of(name, ["source", "height", "start", "path"]) for name in ("score", "weight", "starts", "patch")]
    [None, None, None, None]
    """
    return next((word for word in known if _is_slip(name, word)), None)


def _is_slip(name: str, known: str) -> bool:
    if name == known or len(known) < _SHORTEST_KNOWN or name[:1].isdigit():
        return False
    if len(name) == len(known):
        differ = [at for at, (a, b) in enumerate(zip(name, known, strict=True)) if a != b]
        if len(differ) == 2 and differ[1] == differ[0] + 1:
            return name[differ[0]] == known[differ[1]] and name[differ[1]] == known[differ[0]]
        return len(differ) == 1 and differ[0] > 0 and _is_long(known)
    longer, shorter = (name, known) if len(name) > len(known) else (known, name)
    if len(longer) != len(shorter) + 1 or not _is_long(known):
        return False
    inside = range(1, len(longer) - 1)
    return any(longer[:at] + longer[at + 1 :] == shorter for at in inside) and (
        longer[:-1] != shorter
    )


def _is_long(known: str) -> bool:
    return len(known) >= _SHORTEST_EDITED


def refuse_wrong_content(data: pa.Table, schema: pa.Schema, about_key: bytes, where: str) -> None:
    """Raises TableError for columns of a file that do not hold what the schema says of columns of their name.

    Args:
        data: has `id` and `source`.
        schema: of tables; other columns are not looked at.
        about_key: where the metadata holds JSON.
        where: the file, for errors.
    """
    refuse_doubled(data.column_names, where)
    for field in schema:
        if field.name not in data.column_names:
            continue
        column = data[field.name]
        if not _holds(column.type, field.type):
            raise TableError(
                f"{where}: column {field.name!r} holds {str(column.type)[:80]}, but a table has {field.type} there. "
                "Make the file with `Table.from_columns(...).save(...)`, or write a CSV or Parquet file."
            )
        if not field.nullable and column.null_count:
            row = _first(pc.is_null(column))
            raise TableError(f"{where}: row {(row or 0) + 1} has no {field.name}.")
    refuse_wrong_numbers(
        {name: data[name] for name in (*_NUMBERS,) if name in data.column_names}, where
    )
    try:
        about = json.loads((data.schema.metadata or {}).get(about_key, b"{}"))
    except (ValueError, RecursionError) as err:
        raise TableError(f"{where}: what it says about itself is no JSON ({err}).") from err
    if not isinstance(about, dict):
        raise TableError(f"{where}: what it says about itself is no JSON object: {shown(about)}.")


def refuse_doubled(
    names: Sequence[str], where: str, *, counts: Callable[[str], bool] | None = None
) -> None:
    """Raises TableError if two columns have one name, of those that count (all by default)."""
    for place, name in enumerate(names):
        first = names.index(name)
        if first < place and (counts is None or counts(name)):
            raise TableError(
                f"{where} has two columns {name!r}, the {first + 1}. and the {place + 1}. of {len(names)}: "
                "rename one, or take it out."
            )


def _holds(kind: pa.DataType, wanted: pa.DataType) -> bool:
    """Whether values of a kind can stand for those that are wanted: integers of any width, text of any."""
    if kind.equals(wanted):
        return True
    if pa.types.is_integer(wanted):
        return bool(pa.types.is_integer(kind))
    if pa.types.is_floating(wanted):
        return bool(pa.types.is_floating(kind) or pa.types.is_integer(kind))
    if pa.types.is_list(wanted) and pa.types.is_list(kind):
        return _holds(kind.value_type, wanted.value_type)
    return bool(pa.types.is_string(wanted) and pa.types.is_large_string(kind))


def refuse_wrong_numbers(columns: Mapping[str, Any], where: str) -> None:
    """Raises TableError for times and rates that are none: not finite, a stretch without length, fps <= 0.

    Args:
        columns: as the table holds them; those that are checked may be absent.
        where: the file, for errors.
    """
    for name in _NUMBERS:
        if name in columns:
            finite = pc.fill_null(pc.is_finite(columns[name]), True)
            _refuse_rows(pc.invert(finite), columns[name], where, name, "must be a finite number")
    if "fps" in columns:
        wrong = pc.less_equal(columns["fps"], 0)
        _refuse_rows(wrong, columns["fps"], where, "fps", "must be positive")
    if "end_sec" not in columns:
        return
    end = columns["end_sec"]
    start = columns.get("start_sec")
    begin = pa.scalar(0.0) if start is None else pc.fill_null(start, 0.0)
    row = _first(pc.less_equal(end, begin))
    if row is not None:
        first = None if start is None else start[row].as_py()
        raise TableError(
            f"{where}: row {row + 1} has end_sec={end[row].as_py():g} with start_sec={first or 0:g}: the end must come "
            "after the start. Times are seconds of the source; leave both empty for the whole video."
        )


def refuse_nothing_as_a_class(classes: Any, rows: np.ndarray, where: str) -> None:
    """Raises TableError for a null, an empty name or a negative number among the classes of a video.

    Args:
        classes: of all videos, one after the other.
        rows: int (len(classes),), the row of each, from 0.
        where: the file, for errors.
    """
    nothing = pc.is_null(classes)
    if pa.types.is_string(classes.type) or pa.types.is_large_string(classes.type):
        trimmed = pc.utf8_trim_whitespace(pc.fill_null(classes, ""))
        nothing = pc.equal(trimmed, "")
    elif pa.types.is_integer(classes.type):
        # -1 would be the last class to whoever counts from the end.
        nothing = pc.or_(nothing, pc.fill_null(pc.less(classes, 0), False))
    place = _first(nothing)
    if place is not None:
        raise TableError(
            f"{where}: row {int(rows[place]) + 1} has {shown(classes[place].as_py())} among its labels: take it out; "
            "classes are names, or numbers from 0, and a video without a class has an empty list."
        )


def refuse_wrong_labels(columns: Mapping[str, Any], where: str) -> None:
    """Raises TableError as `refuse_nothing_as_a_class`, for the column `labels` as a table holds it."""
    labels = columns.get("labels")
    if labels is None or labels.null_count == len(labels):
        return
    flat = pc.list_flatten(labels)
    if flat.null_count or (pc.min(flat).as_py() or 0) < 0:
        whole = labels.combine_chunks() if isinstance(labels, pa.ChunkedArray) else labels
        refuse_nothing_as_a_class(flat, np.asarray(pc.list_parent_indices(whole)), where)


def refuse_wrong_captions(columns: Mapping[str, Any], where: str) -> None:
    """Raises TableError for captions without text, or with times that are no stretch of a video."""
    captions = columns.get("captions")
    if captions is None or captions.null_count == len(captions):
        return
    flat = pc.list_flatten(captions)
    text, start, end = (pc.struct_field(flat, name) for name in ("text", "start_sec", "end_sec"))
    finite = [pc.fill_null(pc.is_finite(times), True) for times in (start, end)]
    fine = pc.and_(pc.and_(*finite), pc.is_valid(text))
    fine = pc.and_(fine, pc.fill_null(pc.greater_equal(end, pc.fill_null(start, 0.0)), True))
    wrong = _first(pc.invert(fine))
    if wrong is not None:
        row = int(np.asarray(pc.list_parent_indices(captions))[wrong])
        raise TableError(
            f"{where}: row {row + 1} has the caption {shown(flat[wrong].as_py())}: a caption needs a text, and its "
            "times must be seconds of the source, the end not before the start; without them it is about all."
        )


def _refuse_rows(wrong: Any, values: Any, where: str, name: str, rule: str) -> None:
    row = _first(wrong)
    if row is not None:
        raise TableError(
            f"{where}: column {name!r} {rule}, but row {row + 1} holds {shown(values[row].as_py())}; leave the cell "
            "empty where it is not known."
        )


def _first(flags: Any) -> int | None:
    """The first true row; null is not true."""
    found = np.flatnonzero(np.asarray(pc.fill_null(flags, False)))
    return int(found[0]) if len(found) else None
