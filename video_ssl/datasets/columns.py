"""From the columns that people write to those of a table: synonyms, numbers or names of classes, captions."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from video_ssl.datasets.boxes import PER_MOMENT
from video_ssl.datasets.column_checks import (
    refuse_doubled,
    refuse_nothing_as_a_class,
    refuse_wrong_numbers,
    slip_of,
)
from video_ssl.datasets.errors import TableError, shown
from video_ssl.datasets.parts import each_part, join_parts
from video_ssl.datasets.paths import at_home
from video_ssl.datasets.subtitle_files import add_subtitles
from video_ssl.datasets.table import SCHEMA, Table, refuse_doubled_ids
from video_ssl.limits import parse_json
from video_ssl.recipes import nearest

log = logging.getLogger(__name__)

# column -> other names for it, compared without case, spaces as underscores
SYNONYMS: dict[str, tuple[str, ...]] = {
    "source": (
        *("path", "video", "filename", "file", "filepath", "file_path", "file_name", "video_path"),
        *("uri", "url", "video_url", "location"),
    ),
    "id": ("video_id", "clip_id", "uid", "key"),
    "label": ("class", "class_id", "class_index", "class_idx", "label_id", "target", "category"),
    "class_name": ("label_name", "class_label", "category_name", "action", "activity"),
    "labels": ("classes", "targets"),
    "captions": ("caption", "text", "description", "sentence", "narration"),
    "start_sec": ("start", "start_time", "time_start", "begin"),
    "end_sec": ("end", "end_time", "time_end"),
    "group": ("subject", "person", "subject_id", "group_id"),
    "num_frames": ("frame_count", "total_frames", "n_frames"),
    "fps": ("frame_rate", "framerate"),
    "duration_sec": ("duration",),
    "box_times_sec": ("box_times", "key_times"),
    "split": ("subset", "partition"),
    "subtitles": ("subtitle_file", "subtitle_path", "subtitles_file", "subtitles_path"),
}
_NAMES = {name: name for name in (*SCHEMA.names, "class_name", "split", "subtitles")} | {
    other: name for name, others in SYNONYMS.items() for other in others
}
_NAMED = 20
# Columns of lists, which a cell of CSV holds as JSON; `labels` and captions have forms of their own.
_IN_JSON = ("frame_labels", "events", *PER_MOMENT)
_NULLS = ["null", "NULL", "None"]
_INTEGER = r"^\s*[+-]?\d+(\.0+)?\s*$"


def known_column(name: str) -> str | None:
    """Returns the column of a table that a name means, `class_name`, `split` or `subtitles`, or None."""
    return _NAMES.get(_plain(name))


def _plain(name: str) -> str:
    return name.strip().lower().replace(" ", "_").replace("-", "_")


def means_something(name: str) -> bool:
    """Returns whether a column of this name is understood."""
    return known_column(name) is not None


def table_of_columns(
    raw: pa.Table,
    *,
    where: str,
    root: Path,
    split: str | None = None,
    class_names: tuple[str, ...] = (),
    **metadata: Any,
) -> Table:
    """Returns the table of columns as somebody wrote them.

    A label is a number, or a name: names of `label` and `labels` together are numbered in sorted order over all rows,
    before a split is taken.  Columns
    that mean nothing here are left out with a line in the log, unless they look like a misspelt name.

    Args:
        raw: the columns; `source` or a synonym is needed.
        where: the file, for errors.
        root: the folder that relative sources are relative to.
        split: rows whose column `split` says so.
        class_names: names of numbered labels, if known from elsewhere.
        metadata: see `Table.from_columns`.

    Raises:
        TableError: no source, a misspelt or doubled column, labels that are neither numbers nor names, no such split.
    """
    columns = _renamed(raw, where)
    if "source" not in columns:
        names = _NAMES_OF_SOURCE
        close = next((n for n in (nearest(name, names) for name in raw.column_names) if n), "")
        raise TableError(
            f"{where} has no column for the videos, only {raw.column_names}: call it one of {names}.{close}"
        )
    columns["source"] = _paths(columns["source"], where)
    _refuse_missing_sources(columns["source"], where)
    columns["source"] = _opened_homes(columns["source"])
    class_names = _number_classes(columns, where) or class_names
    for name in _IN_JSON:
        if name in columns:
            columns[name] = _from_json(columns[name], name, where)
    if "captions" in columns:
        columns["captions"] = _captions(columns["captions"], where)
    for name, values in columns.items():
        if name in SCHEMA.names:
            columns[name] = _cast(values, SCHEMA.field(name).type, name, where)
    if "id" in columns:
        columns["id"] = _given_ids(columns["id"])
    refuse_wrong_numbers(columns, where)
    splits = columns.pop("split", None)
    rows = None
    if splits is not None or split is not None:
        columns, rows = _of_split(columns, splits, split, where)
    if "subtitles" in columns:
        add_subtitles(columns, root=root, where=where)
    if "id" in columns:
        _refuse_doubled(columns["id"], rows, where)
    return Table.from_columns(columns, root=root, class_names=class_names, **metadata)


_NAMES_OF_SOURCE = ["source", *SYNONYMS["source"]]


def _renamed(raw: pa.Table, where: str) -> dict[str, Any]:
    """The columns that mean something, by the name that the table has for them; the others are named in the log."""
    names = raw.column_names
    refuse_doubled(names, where, counts=means_something)
    chosen: dict[str, tuple[str, Any]] = {}
    unknown, spare = [], []
    for place, name in enumerate(names):
        known = known_column(name)
        if known is None:
            unknown.append(name)
        elif known not in chosen:
            chosen[known] = (name, raw.column(place))
        elif name == known or chosen[known][0] == known:
            other = chosen[known][0]
            spare.append(other if name == known else name)
            if name == known:
                chosen[known] = (name, raw.column(place))
        else:
            raise TableError(
                f"{where}: the columns {chosen[known][0]!r} and {name!r} both mean {known!r}: "
                f"call one of them {known!r}."
            )
    _refuse_misspelt(unknown, chosen, where)
    if unknown or spare:
        log.info(
            "%s: columns without a meaning here are left out: %s",
            where,
            [*unknown, *spare][:_NAMED],
        )
    return {known: _plain_lists(column) for known, (_, column) in chosen.items()}


def _plain_lists(values: Any) -> Any:
    """Lists of 64 bit offsets (polars writes them) or of one length as the lists that a table has."""
    kind = values.type
    if pa.types.is_large_list(kind):
        return values.cast(pa.list_(kind.value_type))
    if pa.types.is_fixed_size_list(kind):  # a cast would keep values behind rows that are null
        return pa.array(values.to_pylist(), pa.list_(kind.value_type))
    return values


def _refuse_misspelt(unknown: Sequence[str], chosen: Mapping[str, Any], where: str) -> None:
    """Raises TableError for a name that is a slip of one whose column the file lacks."""
    lacking = [name for name, known in _NAMES.items() if known not in chosen]
    for name in unknown:
        meant = slip_of(_plain(name), lacking)
        if meant is not None and "source" in chosen:
            raise TableError(
                f"{where} has an unknown column {name!r}. Did you mean {meant!r}? Rename it, or take it out. "
                f"Known are {SCHEMA.names}."
            )


def _paths(sources: Any, where: str) -> Any:
    """The column of sources, several in a list joined; of {bytes, path}, as Hugging Face writes videos, the paths where
    there are no bytes."""
    kind = sources.type
    if pa.types.is_list(kind) and _is_text(kind.value_type):
        return pa.array([join_parts(parts or ()) for parts in sources.to_pylist()], pa.string())
    if not pa.types.is_nested(kind):
        return sources
    fields = [field.name for field in kind] if pa.types.is_struct(kind) else []
    if "path" in fields and (
        "bytes" not in fields or pc.struct_field(sources, "bytes").null_count == len(sources)
    ):
        return pc.struct_field(sources, "path")
    holds = "the videos themselves" if "bytes" in fields else f"values of the kind {str(kind)[:80]}"
    raise TableError(
        f"{where}: the column of videos holds {holds} and not their paths or URIs: write every video to a file of its "
        "own (or into tars) and its path into the table."
    )


def _is_text(kind: Any) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _opened_homes(sources: Any) -> Any:
    """The sources with `~` as the folder that a shell means by it."""
    if not _is_text(sources.type):
        return sources
    if not pc.any(pc.match_substring_regex(sources, r"(^|\|\|)~")).as_py():
        return sources
    return pa.array([each_part(source, at_home) for source in sources.to_pylist()], pa.string())


def _refuse_missing_sources(sources: Any, where: str) -> None:
    if len(sources) == 0:
        raise TableError(f"{where} has no rows: give at least one video.")
    empty = pc.is_null(sources)
    if _is_text(sources.type):
        empty = pc.or_(empty, pc.equal(pc.utf8_trim_whitespace(pc.fill_null(sources, "")), ""))
    count = pc.sum(empty).as_py()
    if count:
        first = pc.index(empty, True).as_py() + 1
        raise TableError(f"{where}: {count} rows name no video, the first is row {first}.")
    if _is_text(sources.type):
        zero = pc.index(pc.match_substring(sources, "\0"), True).as_py()
        if zero >= 0:
            raise TableError(
                f"{where}: the path in row {zero + 1} holds a zero byte: {shown(sources[zero].as_py())}."
            )


def _given_ids(ids: Any) -> Any:
    """The ids, null where a cell is empty: those rows are named by their paths, as all are where no column says it."""
    empty = pc.equal(pc.utf8_trim_whitespace(ids), "")
    return pc.if_else(empty, pa.scalar(None, pa.string()), ids)


def _strings(values: Any) -> Any:
    """The values as strings without spaces around them; empty ones are null."""
    values = pc.utf8_trim_whitespace(values.cast(pa.string()))
    return pc.if_else(pc.equal(values, ""), pa.scalar(None, pa.string()), values)


def _number_classes(columns: dict[str, Any], where: str) -> tuple[str, ...]:
    """Makes numbers of `label` and `labels`, of one class the same in both, and returns the names of the classes."""
    named = columns.pop("class_name", None)
    found: dict[str, list[str]] = {}
    if "label" in columns:
        columns["label"], found["label"] = label_numbers(columns["label"], where)
    elif named is not None:
        columns["label"], found["label"] = label_numbers(named, where, are_names=True)
        named = None
    if "labels" in columns:
        columns["labels"], found["labels"] = _multi_labels(columns["labels"], where)
    with_names = [name for name, names in found.items() if names]
    numbers = [name for name in found if name not in with_names and _says_a_class(columns[name])]
    if with_names and numbers:
        raise TableError(
            f"{where} has names of classes in the column {with_names[0]!r} and numbers in {numbers[0]!r}: which number "
            "is which name, it does not say. Use one or the other in both."
        )
    if len(with_names) == 2 and found["label"] != found["labels"]:
        union = sorted({*found["label"], *found["labels"]})
        for name in with_names:
            places = np.searchsorted(union, found[name]).astype(np.int32)
            columns[name] = _renumbered(columns[name], pa.array(places))
        return tuple(union)
    if with_names:
        return tuple(found[with_names[0]])
    if named is not None and "label" in columns:
        return _names_of_numbers(columns["label"], _strings(named), where)
    return ()


def _says_a_class(values: Any) -> bool:
    flat = pc.list_flatten(values) if pa.types.is_list(values.type) else values
    return len(flat) > flat.null_count


def _renumbered(values: Any, places: Any) -> Any:
    """Labels (or an array of lists of them) i as places[i]."""
    if not pa.types.is_list(values.type):
        return pc.take(places, values)
    flat = pc.take(places, values.values)
    return pa.ListArray.from_arrays(values.offsets, flat, mask=pc.is_null(values))


def label_numbers(values: Any, where: str, *, are_names: bool = False) -> tuple[Any, list[str]]:
    """Returns (int32 labels, class names) of numbers (no names), or of names, numbered in sorted order.

    Raises:
        TableError: fractions, lists, or a mixture of numbers and names.
    """
    if pa.types.is_dictionary(values.type):
        values = values.cast(values.type.value_type)
    if pa.types.is_list(values.type):
        raise TableError(
            f"{where}: a label is one number or name; call a column of lists `labels`."
        )
    if pa.types.is_integer(values.type) or pa.types.is_floating(values.type):
        return _cast(values, pa.int32(), "label", where), []
    values = _strings(values)
    known = values.drop_null()
    if len(known) == 0:
        return values.cast(pa.int32()), []
    numeric = pc.match_substring_regex(values, _INTEGER)
    count = 0 if are_names else pc.sum(numeric).as_py()
    if count == len(known):
        return _cast(values.cast(pa.float64()), pa.int32(), "label", where), []
    if count:
        number, name = (pc.index(numeric, flag).as_py() for flag in (True, False))
        raise TableError(
            f"{where} mixes numbers and names as labels: {values[number].as_py()!r} in row {number + 1}, "
            f"{values[name].as_py()!r} in row {name + 1}. Use one or the other."
        )
    if (
        not are_names
        and pc.all(pc.match_substring_regex(known, r"^[+-]?\d*\.?\d+(e[+-]?\d+)?$")).as_py()
    ):
        raise TableError(
            f"{where}: labels are numbers with a fraction, the first is {known[0].as_py()}; "
            "a label must be an integer or the name of a class."
        )
    names = sorted(pc.unique(known).to_pylist())
    return pc.index_in(values, pa.array(names, pa.string())).cast(pa.int32()), names


def _names_of_numbers(labels: Any, names: Any, where: str) -> tuple[str, ...]:
    """Class names from a column of numbers and one of names."""
    pairs = pa.table({"label": labels, "name": names}).group_by(["label", "name"]).aggregate([])
    found: dict[int, str] = {}
    for row in pairs.to_pylist():
        label, name = row["label"], row["name"]
        if label is None or name is None:
            continue
        if found.setdefault(label, name) != name:
            raise TableError(f"{where}: label {label} has the names {found[label]!r} and {name!r}.")
    if not found or min(found) < 0:
        return ()
    return tuple(found.get(label, "") for label in range(max(found) + 1))


def _multi_labels(values: Any, where: str) -> tuple[Any, list[str]]:
    in_text = not pa.types.is_list(values.type)
    if in_text:  # "1;2" or "run;jump" in a CSV
        values = pc.split_pattern_regex(_strings(values), r"\s*[;|]\s*")
    values = values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values
    flat, rows = pc.list_flatten(values), np.asarray(pc.list_parent_indices(values))
    if in_text:  # "run;" is one class
        said = np.asarray(pc.not_equal(flat, ""))
        flat, rows = flat.filter(pa.array(said)), rows[said]
    refuse_nothing_as_a_class(flat, rows, where)
    numbers, names = label_numbers(pa.chunked_array([flat]), where)
    refuse_nothing_as_a_class(numbers, rows, where)
    counts = np.bincount(rows, minlength=len(values))
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
    flat = numbers.combine_chunks() if isinstance(numbers, pa.ChunkedArray) else numbers
    return pa.ListArray.from_arrays(pa.array(offsets), flat, mask=pc.is_null(values)), names


def _from_json(values: Any, name: str, where: str) -> Any:
    """Cells of CSV that hold JSON, as lists; columns of other files as they are."""
    if not _is_text(values.type):
        return values
    kind = SCHEMA.field(name).type
    found = []
    for row, text in enumerate(values.to_pylist(), 1):
        try:
            item = parse_json(text) if text and text.strip() else None
            pa.array([item], kind)
        except (ValueError, pa.ArrowException) as err:
            raise TableError(
                f"{where}: column {name!r} must be {kind} as JSON, but row {row} holds {shown(text)}."
            ) from err
        found.append(item)
    return pa.array(found, kind)


def _captions(values: Any, where: str) -> Any:
    """Captions as texts or lists, each a text or one with its times; in CSV a text, or such a list as JSON."""
    plain: list[Any] = []
    for row, items in enumerate(values.to_pylist(), 1):
        if isinstance(items, str):
            items = _caption_list(items, row, where)
        if isinstance(items, Mapping):  # one caption with its times: a list of one
            items = [items]
        plain.append(items and [caption_of(item, f"{where}: row {row}") for item in items if item])
    try:
        return pa.array(plain, SCHEMA.field("captions").type)
    except pa.ArrowException as err:
        raise TableError(f"{where}: a caption holds what is no text or time: {err}.") from err


def _caption_list(text: str, row: int, where: str) -> Any:
    if not text.lstrip().startswith("[{"):
        return [text] if text else None
    try:
        return parse_json(text)
    except ValueError as err:
        raise TableError(
            f"{where}: row {row} has captions that begin like JSON and are none: {shown(text)}."
        ) from err


def caption_of(item: Any, where: str) -> dict[str, Any]:
    """Returns a caption as the column holds it: of a text, or of one with its times.

    Raises:
        TableError: something else stands beside them.
    """
    if not isinstance(item, Mapping):
        return {"text": str(item)}
    names = {name: known_column(str(name)) for name in item}
    names = {name: "text" if known == "captions" else known for name, known in names.items()}
    wrong = [name for name, known in names.items() if known not in ("text", "start_sec", "end_sec")]
    if wrong:
        raise TableError(
            f"{where} has a caption with {wrong[0]!r}: a caption holds text, start_sec and end_sec."
        )
    return {str(names[name]): value for name, value in item.items()}


def _cast(values: Any, kind: Any, name: str, where: str) -> Any:
    """The values as the table holds them, or an error that names the column, the row and the value."""
    try:
        if pa.types.is_nested(kind) and values.type != kind:
            return pa.array(values.to_pylist(), kind)
        if pa.types.is_string(values.type) and not pa.types.is_string(kind):
            return _numbers(_strings(values), kind)
        return values.cast(kind)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowTypeError) as err:
        row, value = _first_wrong(values, kind)
        raise TableError(
            f"{where}: column {name!r} must be {kind}, but row {row} holds {shown(value)}."
        ) from err


def _numbers(texts: Any, kind: Any) -> Any:
    """Texts as numbers or flags; whole numbers may be written 30.0, as programs do whose column has empty cells."""
    texts = pc.if_else(pc.is_in(texts, pa.array(_NULLS)), pa.scalar(None, pa.string()), texts)
    try:
        return texts.cast(kind)
    except pa.ArrowInvalid:
        if not pa.types.is_integer(kind):
            raise
        return texts.cast(pa.float64()).cast(kind)


def _first_wrong(values: Any, kind: Any) -> tuple[int, Any]:
    is_text = pa.types.is_string(values.type) and not pa.types.is_string(kind)
    for row in range(len(values)):
        one = values.slice(row, 1)
        try:
            if pa.types.is_nested(kind):
                pa.array(one.to_pylist(), kind)
            elif is_text:
                _numbers(_strings(one), kind)
            else:
                one.cast(kind)
        except pa.ArrowException:
            return row + 1, one[0].as_py()
    return 0, None


def _refuse_doubled(ids: Any, rows: np.ndarray | None, where: str) -> None:
    """Refuses ids that stand in two rows of the file; rows without one get their own later."""
    numbers = np.arange(len(ids)) if rows is None else rows
    known = np.asarray(pc.is_valid(ids))
    refuse_doubled_ids(ids.drop_null(), where, (numbers[known] + 1).tolist())


def _of_split(
    columns: dict[str, Any], splits: Any, split: str | None, where: str
) -> tuple[dict[str, Any], np.ndarray]:
    """The rows of a split, and their numbers in the file."""
    if splits is None:
        raise TableError(
            f"{where} has no column `split`: leave out {':' + str(split)!r}, or add the column."
        )
    splits = _strings(splits)
    known = sorted(pc.unique(splits.drop_null()).to_pylist())
    if split is None and len(known) == 1 and not splits.null_count:
        split = known[0]  # a file of one split, as train.csv often is, leaves nothing to choose
    if split is None:
        raise TableError(
            f"{where} has the splits {known} in one file: write which one, for example {where}:{known[0]}."
            if known
            else f"{where} has a column `split` without values: fill it, or take it out."
        )
    if split not in known:
        raise TableError(f"{where} has no split {split!r}: it has {known}.{nearest(split, known)}")
    wanted = pc.fill_null(pc.equal(splits, split), False)
    chosen = {
        name: (pa.chunked_array([values]) if isinstance(values, pa.Array) else values).filter(
            wanted
        )
        for name, values in columns.items()
    }
    return chosen, np.flatnonzero(np.asarray(wanted))
