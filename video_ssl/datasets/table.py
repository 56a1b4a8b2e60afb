"""Tables of records: which videos there are and what is known about them, as one memory-mapped Arrow file.

A table costs no Python object per row: a million rows open in milliseconds, worker processes map the same pages, and a
row becomes a `Record` only when it is needed.  Only `id` and `source` are required; every other column of `SCHEMA`
may be absent, and any value may be null.

Conventions: times in seconds of the source; `label`, `labels` and `frame_labels` are indices into `class_names` (frame
labels into `phase_names` where the table has them), -1 in `frame_labels` means "none"; boxes are
[x_min, y_min, x_max, y_max] in 0..1 of width and height, those of every frame or, with `box_times_sec`, of some
moments (see `boxes`).
"""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from video_ssl.datasets.arrow.checks import (
    BrokenArrow,
    checked_arrow,
    is_known,
    remember,
    unsealed,
)
from video_ssl.datasets.arrow.files import below, relative_sources, write_arrow
from video_ssl.datasets.boxes import (
    box_labels,
    padded_boxes,
    padded_scores,
    refuse_wrong_boxes,
)
from video_ssl.datasets.column_checks import (
    refuse_wrong_captions,
    refuse_wrong_content,
    refuse_wrong_labels,
)
from video_ssl.datasets.errors import TableError as TableError
from video_ssl.datasets.parts import SIGN, each_part, join_parts, refuse_empty_parts
from video_ssl.datasets.record import SCHEMA as SCHEMA
from video_ssl.datasets.record import Caption as Caption
from video_ssl.datasets.record import Event as Event
from video_ssl.datasets.record import Record as Record
from video_ssl.datasets.record_ids import doubled_id, made_ids
from video_ssl.files import MADE_BY, made
from video_ssl.recipes import nearest

METADATA_KEY = b"video_ssl"
# Worker processes map a larger selection from a file instead of receiving a copy each.
_MAX_PICKLED_ROWS_BYTES = 2**20


class Table:
    """An ordered set of records over an Arrow table, optionally through a selection of rows.

    Pickles as a path plus selection when it comes from a file (the receiving process maps the file again), as Arrow
    bytes otherwise.  Made by `Table.open`, `Table.from_rows`, `Table.from_columns`, or `video_ssl.datasets.open_table`.
    """

    def __init__(
        self,
        *,
        path: Path | None = None,
        data: pa.Table | None = None,
        root: Path | None = None,
        rows: np.ndarray | None = None,
        name: str | None = None,
    ) -> None:
        """
        Args:
            path, data: the file, or what it would hold.
            root: the folder that relative sources are relative to.
            rows: of the file or data, those that the table shows.
            name: what plans know the table by; the path of the file, or nothing, by default.
        """
        assert (path is None) != (data is None), "a table is either a file or in memory"
        self.path = path
        self.name = name if name is not None else str(path or "")
        self.root = Path(os.path.abspath(root if root is not None else _folder_of(path)))
        self._memory = data
        self._rows = rows
        self._is_sound = False  # looked through by the process that this table came from

    # Making and saving

    @classmethod
    def open(cls, path: str | Path, *, root: str | os.PathLike[str] | None = None) -> Table:
        """Returns the table of an Arrow IPC file, memory-mapped.

        Args:
            path: the file.
            root: the folder that relative sources are relative to; the file's own by default.

        Raises:
            TableError: missing file, not an Arrow file, damaged, no rows, without the columns `id` and `source`, or
                with values that a table must not have (see `column_checks.refuse_wrong_content`).
        """
        table = cls(path=Path(os.path.abspath(path)), root=None if root is None else Path(root))
        columns = table._all.column_names
        missing = [name for name in ("id", "source") if name not in columns]
        if missing:
            raise TableError(
                f"{path} has no column {missing}: a table needs id and source, this one has {columns}."
            )
        if len(table) == 0:
            raise TableError(f"{path} has no rows: give a table with at least one record.")
        assert table.path is not None
        if not is_known(table.path, "table"):
            refuse_wrong_content(table._all, SCHEMA, METADATA_KEY, str(path))
            _refuse_wrong_details(dict(zip(columns, table._all.columns, strict=True)), str(path))
            remember(table.path, "table")
        return table

    @classmethod
    def from_columns(
        cls,
        columns: Mapping[str, Any],
        *,
        root: str | Path | None = None,
        class_names: Sequence[str] = (),
        **metadata: Any,
    ) -> Table:
        """Returns a table in memory from column name -> values (sequences, numpy or Arrow arrays of equal length).

        Args:
            columns: names of `SCHEMA`; `id`, where it is null or absent, is the source, or `source:start-end` of a
                stretch (see `record_ids`); a source may be a list of files that are one video in a row.
            root: the folder that relative sources are relative to; the current one by default.
            class_names: names of the labels.
            metadata: anything else that JSON can hold, for example `phase_names=[...]`.

        Raises:
            TableError: unknown column, no source, no rows, unequal lengths, a value of the wrong type, or two rows with
                one id.
        """
        for name in columns:
            if name not in SCHEMA.names:
                raise TableError(
                    f"unknown column {name!r}: allowed are {SCHEMA.names}.{nearest(name, SCHEMA.names)}"
                )
        if "source" not in columns or len(columns["source"]) == 0:
            raise TableError("a table needs a column `source` with at least one path.")
        content = {
            name: _to_arrow(columns[name], SCHEMA.field(name))
            for name in SCHEMA.names
            if name in columns
        }
        lengths = {name: len(values) for name, values in content.items()}
        if len(set(lengths.values())) > 1:
            raise TableError(f"columns of unequal length: {lengths}.")
        refuse_empty_parts(content["source"], "the table")
        _refuse_wrong_details(content, "the table")
        given = content.get("id")
        if given is None or given.null_count:
            made = made_ids(content["source"], content.get("start_sec"), content.get("end_sec"))
            content["id"] = made if given is None else pc.coalesce(given, made)
        if given is not None:  # those that are all made are unique
            refuse_doubled_ids(content["id"])
        about = json.dumps({"class_names": list(class_names), **metadata})
        fields = [field for field in SCHEMA if field.name in content]
        data = pa.Table.from_arrays(
            [content[field.name] for field in fields],
            schema=pa.schema(fields, metadata={METADATA_KEY: about}),
        )
        return cls(data=data, root=Path(root) if root is not None else Path.cwd())

    @classmethod
    def from_rows(
        cls,
        rows: Iterable[Mapping[str, Any]],
        *,
        root: str | Path | None = None,
        class_names: Sequence[str] = (),
        **metadata: Any,
    ) -> Table:
        """Returns a table in memory from one mapping per record; see `from_columns`.  A key left out is null."""
        listed = list(rows)
        names = list(dict.fromkeys(name for row in listed for name in row))
        columns = {name: [row.get(name) for row in listed] for name in names}
        if "id" in columns:
            columns["id"] = [name or None for name in columns["id"]]
        return cls.from_columns(columns, root=root, class_names=class_names, **metadata)

    def save(self, path: str | Path, *, maker: str | None = None) -> Table:
        """Writes the (selected) rows as an Arrow file, atomically, and returns the table opened on it.

        Sources below the file's folder are stored relative to it, so the folder can be moved; others are absolute.

        Args:
            path: replaced where it exists.
            maker: the verb that writes it, for `video_ssl.files.made_by`.
        """
        path = Path(os.path.abspath(path))
        path.parent.mkdir(parents=True, exist_ok=True)
        data = self.arrow
        sources = relative_sources(data["source"], self.root, path.parent)
        position = data.column_names.index("source")
        data = data.set_column(position, SCHEMA.field("source"), sources)
        write_arrow(data.replace_schema_metadata(_made_metadata(data.schema, maker)), path)
        return Table.open(path)

    # Looking at it

    def __len__(self) -> int:
        return int(self._all.num_rows if self._rows is None else len(self._rows))

    def __repr__(self) -> str:
        return (
            f"Table({self.path or 'in memory'}, {len(self)} records, columns {self.column_names})"
        )

    @property
    def column_names(self) -> list[str]:
        return list(self._all.column_names)

    @property
    def arrow(self) -> pa.Table:
        """The selected rows as an Arrow table (copied only where there is a selection)."""
        return self._all if self._rows is None else self._all.take(pa.array(self._rows))

    @functools.cached_property
    def metadata(self) -> dict[str, Any]:
        """What the table says about itself: `class_names`, `phase_names` and whatever its maker added."""
        found = (self._all.schema.metadata or {}).get(METADATA_KEY)
        return dict(json.loads(found)) if found else {}

    @property
    def class_names(self) -> tuple[str, ...]:
        return tuple(self.metadata.get("class_names", ()))

    @property
    def phase_names(self) -> tuple[str, ...]:
        return tuple(self.metadata.get("phase_names", ()))

    @functools.cached_property
    def no_flip(self) -> bool:
        """True where mirrored views would show something else: metadata `no_flip: true`, for example left and right."""
        return bool(self.metadata.get("no_flip", False))

    def record(self, index: int) -> Record:
        """Returns row `index` (0 <= index < len) as a Record with an absolute source."""
        if not 0 <= index < len(self):
            raise IndexError(f"record {index} of a table with {len(self)} records")
        row = int(index if self._rows is None else self._rows[index])
        values: dict[str, Any] = {}
        for name, column in self._record_columns:
            scalar = column[row]
            if scalar.is_valid:
                values[name] = _FROM_ARROW.get(name, _as_py)(scalar)
        values["source"] = self.absolute(values["source"])
        return Record(index=int(index), no_flip=self.no_flip, table=self.name, **values)

    def column(self, name: str) -> np.ndarray:
        """Returns one column: numbers as a numeric array (null is -1 or NaN), anything else as an array of objects.

        Raises:
            KeyError: the table has no such column.
        """
        if name not in self._all.column_names:
            known = self._all.column_names
            raise KeyError(f"no column {name!r}: this table has {known}.{nearest(name, known)}")
        column = (
            self._all[name] if self._rows is None else self._all[name].take(pa.array(self._rows))
        )
        if pa.types.is_integer(column.type):
            return np.asarray((column.fill_null(-1) if column.null_count else column).to_numpy())
        if pa.types.is_floating(column.type):
            return np.asarray(column.to_numpy(), dtype=np.float64)
        values = np.empty(len(column), dtype=object)
        values[:] = column.to_pylist()
        return values

    def select(self, indices: Sequence[int] | np.ndarray) -> Table:
        """Returns the table of the given rows in the given order (or of a boolean mask); copies no data."""
        chosen = np.asarray(indices)
        if chosen.dtype == bool:
            if len(chosen) != len(self):
                raise TableError(
                    f"a mask of {len(chosen)} values for a table of {len(self)} records."
                )
            chosen = np.flatnonzero(chosen)
        chosen = chosen.astype(np.int64)
        if len(chosen) == 0:
            raise TableError(f"the selection leaves no record of {len(self)}.")
        if chosen.min() < 0 or chosen.max() >= len(self):
            raise IndexError(
                f"rows {chosen.min()}..{chosen.max()} of a table with {len(self)} records"
            )
        rows = chosen if self._rows is None else self._rows[chosen]
        return Table(path=self.path, data=self._memory, root=self.root, rows=rows, name=self.name)

    def named(self, name: str) -> Table:
        """Returns the same table by another name: `Record.table` of its records."""
        return Table(path=self.path, data=self._memory, root=self.root, rows=self._rows, name=name)

    def refuse_doubled_ids(self) -> None:
        """Raises TableError, with both rows, if two records have one id; opening a file does not look at every row."""
        ids = self._all["id"]
        chosen = ids if self._rows is None else ids.take(pa.array(self._rows))
        refuse_doubled_ids(chosen, str(self.path or "the table"))

    def moved(self, parent: str) -> Table:
        """Returns the table, in memory, with sources that are relative put below the URI `parent`."""
        data = self.arrow
        sources = data["source"]
        sources = below(sources, parent)
        position = data.column_names.index("source")
        return Table(
            data=data.set_column(position, SCHEMA.field("source"), sources), root=self.root
        )

    # Inside

    @functools.cached_property
    def _all(self) -> pa.Table:
        if self._memory is not None:
            return self._memory
        assert self.path is not None
        try:
            if self._is_sound:
                return pa.ipc.open_file(pa.memory_map(str(self.path), "r")).read_all()
            return unsealed(checked_arrow(self.path)[1])
        except FileNotFoundError as err:
            raise TableError(f"no table {self.path}: the file does not exist.") from err
        except BrokenArrow as err:
            raise TableError(f"{self.path} {err}") from err
        except (pa.ArrowInvalid, OSError) as err:
            raise TableError(f"{self.path} is not an Arrow IPC file: {err}") from err

    @functools.cached_property
    def _record_columns(self) -> list[tuple[str, Any]]:
        return [(name, self._all[name]) for name in SCHEMA.names if name in self._all.column_names]

    def absolute(self, source: str) -> str:
        """Returns a source of the table, or every part of it, as an absolute path or a URI."""
        if SIGN in source:
            return each_part(source, self.absolute)
        if "://" in source or os.path.isabs(source):
            return source
        return os.path.normpath(os.path.join(self.root, source))

    def __getstate__(self) -> dict[str, Any]:
        data = None
        if self._memory is not None:
            sink = pa.BufferOutputStream()
            with pa.ipc.new_stream(sink, self._memory.schema) as writer:
                writer.write_table(self._memory)
            data = sink.getvalue().to_pybytes()
        rows: Any = self._rows
        if rows is not None and rows.nbytes > _MAX_PICKLED_ROWS_BYTES:
            from video_ssl.datasets.arrow.mapped_rows import map_rows

            rows = map_rows(rows)
        return {"path": self.path, "root": self.root, "rows": rows, "data": data, "name": self.name}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.path, self.root, self._rows = state["path"], state["root"], state["rows"]
        self.name = state["name"]
        if isinstance(self._rows, Path):
            self._rows = np.load(self._rows, mmap_mode="r")
        data = state["data"]
        self._memory = None if data is None else pa.ipc.open_stream(data).read_all()
        self._is_sound = True


def refuse_doubled_ids(
    ids: Any, where: str = "the table", rows: Sequence[int] | None = None
) -> None:
    """Raises TableError, with both rows, if two records have one id.

    Args:
        ids: strings.
        where: what the error calls the table.
        rows: numbers of the rows, where they are not 1, 2, ...
    """
    found = doubled_id(ids)
    if found is None:
        return
    name, *both = found
    first, second = (place if rows is None else rows[place - 1] for place in both)
    raise TableError(
        f"{where}: rows {first} and {second} have one id {name!r}, so results could not tell them apart. Give every "
        "row an id of its own, or leave the column out: ids are then made of path, start and end."
    )


def _refuse_wrong_details(columns: Mapping[str, Any], where: str) -> None:
    refuse_wrong_boxes(columns, where)
    refuse_wrong_captions(columns, where)
    refuse_wrong_labels(columns, where)


def _made_metadata(schema: pa.Schema, maker: str | None) -> dict[bytes, bytes]:
    """The metadata of a table that is written now: without who made the one that it comes from."""
    metadata = dict(schema.metadata or {})
    metadata.pop(MADE_BY.encode(), None)
    return metadata if maker is None else {**metadata, MADE_BY.encode(): made(maker).encode()}


def _folder_of(path: Path | None) -> Path:
    return path.parent if path is not None else Path.cwd()


def _to_arrow(values: Any, field: pa.Field) -> pa.Array:
    if isinstance(values, pa.ChunkedArray):
        values = values.combine_chunks()
    if field.name == "source" and not isinstance(values, (pa.Array, np.ndarray)):
        values = [join_parts(v) if isinstance(v, (list, tuple)) else v for v in values]
    if not isinstance(values, (pa.Array, np.ndarray)) or (
        isinstance(values, np.ndarray) and values.dtype.hasobject
    ):
        values = [_plain(value) for value in values]
    try:
        array = (
            values.cast(field.type)
            if isinstance(values, pa.Array)
            else pa.array(values, field.type)
        )
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError, OverflowError) as err:
        raise TableError(f"column {field.name!r} must be {field.type}: {err}") from err
    if not field.nullable and field.name != "id" and array.null_count:
        raise TableError(
            f"column {field.name!r} has {array.null_count} null values, but must have none."
        )
    return array


def _plain(value: Any) -> Any:
    """The value as Arrow takes it: arrays as lists, records as mappings, boxes padded with NaN without the padding."""
    if isinstance(value, np.ndarray) and value.ndim == 3:
        return [frame[~np.isnan(frame).any(-1)].tolist() for frame in value]
    if isinstance(value, np.ndarray) and value.ndim == 2 and value.dtype.kind == "f":
        return [scores[~np.isnan(scores)].tolist() for scores in value]
    if isinstance(value, (np.ndarray, np.generic)):
        return value.tolist()
    if isinstance(value, (Caption, Event)):
        return vars(value)
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def _as_py(scalar: Any) -> Any:
    return scalar.as_py()


def _numbers(scalar: Any) -> np.ndarray:
    return np.array(scalar.values.to_numpy(zero_copy_only=False))


_FROM_ARROW: dict[str, Any] = {
    "labels": lambda scalar: tuple(scalar.as_py()),
    "captions": lambda scalar: tuple(Caption(**item) for item in scalar.as_py()),
    "events": lambda scalar: tuple(Event(**item) for item in scalar.as_py()),
    "frame_labels": _numbers,
    "boxes": padded_boxes,
    "box_times_sec": _numbers,
    "part_frames": _numbers,
    "part_sec": _numbers,
    "box_labels": box_labels,
    "box_scores": padded_scores,
}
