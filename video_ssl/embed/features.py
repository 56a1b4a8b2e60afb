"""Feature files: what a frozen encoder says about every clip, written once, read by every evaluator.

A feature file is an Arrow IPC file with one row a clip, read through a memory map:

    id                string                 the record (several clips of a video share it), unique within the file
    clip              int32                  0, 1, ... within the record
    source            string                 where the video is: an absolute path or a URI
    record_start_sec  float64                the stretch of it that the record is; null: from its start, to its end
    record_end_sec    float64
    content           string                 size and digest of its beginning and end
    digest            string                 of all of its bytes, where the features were made with `--check`
    label             int32                  class of the record, null where unknown
    group             string                 records that must not be split (same person, same source)
    start_sec         float64                first and last sampled frame, in seconds of the source
    end_sec           float64
    feature           float32[D]             the clip
    frame_features    list<float32[D]>       T' moments of the clip, in order of time
    frame_times_sec   list<float64>          when they are, in seconds of the source
    frame_labels      list<int16>            their labels where the table has them, -1 for none

Outputs have names: `feature` is "clip", `frame_features` is "moments".  Of encoders with spaces that video shares with
sound and text there are `common_sound` and `common_text`, float32[D] (see `vector_columns.py`).  On request there are
others, such as "tokens", with columns of their own (see `grids.py`).  Of a table that was embedded with several senses
what is heard and told is beside the clips, `FeatureFile.senses` (see `sense_columns.py`).

The schema carries JSON about encoder, preprocessing, table and versions.  Videos that could not be
read are not in the rows; they are listed with the reason in `FeatureFile.skipped`.

`open_features` also reads what others have made, as long as it holds no pickled objects:

    .npz      features (N, D); labels (N,), numbers or names of classes; optionally ids, groups, sources, clips
              (N,), frame_features (N, T, D), frame_times_sec (N, T), frame_labels (N, T), common_sound and
              common_text (N, D')
    .parquet  columns of the names above (singular or plural), features as lists of numbers

Which records of two files are the same is decided in `identity.py`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from video_ssl.datasets.archives.npz import BrokenArchive, read_npz
from video_ssl.datasets.arrow.checks import (
    BrokenArrow,
    checked_arrow,
    refuse_parquet_bomb,
    unsealed,
)
from video_ssl.embed.feature_arrays import (
    OTHER_NAMES,
    columns_of,
    known_arrays,
    label_array,
)
from video_ssl.embed.feature_arrays import FeatureError as FeatureError
from video_ssl.embed.feature_file import FeatureFile as FeatureFile
from video_ssl.embed.feature_file import Output as Output
from video_ssl.embed.feature_writer import COLUMNS, METADATA_KEY, SKIPPED_KEY, feature_schema
from video_ssl.embed.grids import refuse_other_grids
from video_ssl.embed.sense_columns import refuse_other_senses
from video_ssl.embed.vector_columns import VectorColumn, refuse_other_vectors
from video_ssl.models.contract import COMMON

#: What arrays of others may be called, singular or plural.
_ALLOWED = (*COLUMNS, "source", "record_start_sec", "record_end_sec", *COMMON)


def open_features(
    path: str | Path, *, root: str | Path | None = None, may_be_empty: bool = False
) -> FeatureFile:
    """Returns the features of a file: our Arrow files, or `.npz` and `.parquet` of anybody.

    Args:
        root: the folder that the videos lie in now, where they were moved since: pictures are taken from there.
        may_be_empty: a file without rows is no error.

    Raises:
        FeatureError: no folder `root`, missing file, unknown kind, missing column (the nearest is named), unequal
            lengths, pickled content, numbers that are not finite, or no rows.

    >>> features = open_features("features.arrow")
    >>> features.features.shape
    (18, 32)
    >>> frames, times_sec = features.frames_of(features.ids[0])
    >>> frames.shape, times_sec[:3].round(2).tolist()
    ((14, 32), [0.0, 0.1, 0.2])
    """
    path = Path(path)
    if root is not None and not Path(root).is_dir():
        raise FeatureError(
            f"no folder {root}: root is the folder that the videos of {path} lie in now."
        )
    if not path.is_file():
        raise FeatureError(f"no feature file {path}: give an .arrow, .npz or .parquet file.")
    readers = {".arrow": _open_arrow, ".npz": _open_npz, ".parquet": _open_parquet}
    if path.suffix not in readers:
        raise FeatureError(
            f"{path} is of unknown kind {path.suffix!r}: features are read from {list(readers)}."
        )
    opened = readers[path.suffix](path)
    if len(opened) == 0 and not may_be_empty:
        raise FeatureError(f"{path} has no rows.")
    opened.root = None if root is None else Path(root)
    return opened


def features_from_arrays(
    columns: Mapping[str, np.ndarray], *, metadata: Mapping[str, Any] | None = None, name: str = ""
) -> FeatureFile:
    """Returns features in memory from arrays: `features` (N, D), `labels` (N,), and optionally ids,
    groups, clips (N,), frame_features (N, T, D), frame_times_sec and frame_labels (N, T), common_sound and common_text
    (N, D').

    Raises:
        FeatureError: see `open_features`.
    """
    where = f"{name}: " if name else ""
    given = known_arrays(columns, _ALLOWED, where)
    count, width = given["feature"].shape
    folder = Path(os.path.abspath(name)).parent if name else None
    common = [
        VectorColumn(name=key, width=given[key].shape[-1] if given[key].ndim == 2 else 0)
        for key in COMMON
        if key in given
    ]
    made, about = columns_of(given, feature_schema(width, columns=common), where, folder)
    made.setdefault("id", pa.array([str(row) for row in range(count)]))
    made.setdefault("clip", pa.array(_occurrence(made["id"].to_pylist()), pa.int32()))
    schema = feature_schema(width, {**(metadata or {}), **about}, common)
    arrays = [made.get(field.name, pa.nulls(count, field.type)) for field in schema]
    return FeatureFile(pa.Table.from_arrays(arrays, schema=schema), ids_are_rows="id" not in given)


def _open_arrow(path: Path) -> FeatureFile:
    try:
        reader, table = checked_arrow(path)
    except BrokenArrow as err:
        raise FeatureError(f"{path} {err}") from err
    table = unsealed(table)
    skipped: list[Any] = []
    if reader.num_record_batches:
        found = reader.get_batch_with_custom_metadata(reader.num_record_batches - 1)
        notes = found.custom_metadata or {}
        skipped = _list_in(notes.get(SKIPPED_KEY, b"[]"), path)
    if METADATA_KEY not in (table.schema.metadata or {}):
        return _foreign_table(table, path)
    lacking = [c for c in COLUMNS if c not in table.column_names]
    if lacking:
        raise FeatureError(f"{path} lacks the columns {lacking}; embed the videos again.")
    _refuse_other_kinds(table, path)
    return FeatureFile(table, path=path, skipped=skipped)


def _list_in(text: bytes, path: Path) -> list[Any]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as err:
        raise FeatureError(f"{path} is damaged: its list of skipped videos is no JSON.") from err
    return found if isinstance(found, list) else []


def _refuse_other_kinds(table: pa.Table, path: Path) -> None:
    """Raises FeatureError if the columns of a file that calls itself ours are not what ours are."""
    kind = table.schema.field("feature").type
    width = kind.list_size if pa.types.is_fixed_size_list(kind) else 0
    for field in feature_schema(width):
        if field.name in table.column_names:
            found = table.schema.field(field.name).type
            if width < 1 or not found.equals(field.type):
                raise FeatureError(
                    f"{path} is damaged: its column {field.name!r} holds {str(found)[:80]}, not {field.type}. "
                    "Embed the videos again."
                )
            if not field.nullable and table[field.name].null_count:
                raise FeatureError(f"{path} is damaged: its column {field.name!r} has empty cells.")
    refuse_other_grids(table, str(path))
    refuse_other_vectors(table, str(path))
    refuse_other_senses(table, str(path))
    try:
        about = json.loads((table.schema.metadata or {})[METADATA_KEY])
    except (ValueError, RecursionError) as err:
        raise FeatureError(f"{path} is damaged: what it says about itself is no JSON.") from err
    if not isinstance(about, dict):
        raise FeatureError(f"{path} is damaged: what it says about itself is no JSON object.")


def _open_npz(path: Path) -> FeatureFile:
    try:
        arrays = read_npz(path)
    except BrokenArchive as err:
        raise FeatureError(f"{path} {err}") from err
    return _named(features_from_arrays(arrays, name=str(path)), path)


def _open_parquet(path: Path) -> FeatureFile:
    try:
        # Not as a data set, which would take columns from names of folders.
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            refuse_parquet_bomb(file, path.stat().st_size)
            table = file.read()
        table.validate(full=True)
        table.column_names  # noqa: B018  # names that are no text are found here
    except (pa.ArrowException, OSError, ValueError, MemoryError) as err:
        reason = str(err).partition("\n")[0][:300]
        raise FeatureError(f"{path} is not readable as Parquet: {reason}") from err
    return _foreign_table(table, path)


def _foreign_table(table: pa.Table, path: Path) -> FeatureFile:
    """Brings a table of somebody else to arrays; lists must all have the same length."""
    names = table.column_names
    doubled = next((name for name in names if names.count(name) > 1), None)
    if doubled is not None:
        raise FeatureError(f"{path} has {names.count(doubled)} columns {doubled!r}: keep one.")
    arrays: dict[str, np.ndarray] = {}
    for key in names:
        kind, column = table.schema.field(key).type, OTHER_NAMES.get(key, key)
        if column not in _ALLOWED and pa.types.is_nested(kind):
            continue
        if table[key].null_count == len(table):
            continue
        try:
            values = table[key]
            arrays[key] = label_array(values) if column == "label" else _array_of(values)
        except ValueError as err:
            raise FeatureError(f"{path}: the lists in {key!r} have unequal lengths.") from err
    return _named(features_from_arrays(arrays, name=str(path)), path)


def _array_of(values: pa.ChunkedArray) -> np.ndarray:
    """Returns (N, ...): a column of numbers, or of lists of numbers that all have the same length.

    Raises:
        ValueError: lists of unequal lengths.
    """
    flat, shape = values.combine_chunks(), [len(values)]
    whole = isinstance(flat, pa.Array)  # a column of more than 2 GiB of lists stays in pieces
    while whole and _is_list(flat.type) and not flat.null_count:
        lengths = pc.unique(pc.list_value_length(flat)).to_pylist()
        if len(lengths) != 1:
            raise ValueError(f"lists of {len(lengths)} lengths")
        flat = flat.flatten()
        shape.append(lengths[0])
    known = pa.types.is_floating(flat.type) or pa.types.is_integer(flat.type)
    if not whole or not known or flat.null_count:
        return np.array(values.to_pylist())
    # Not number by number through Python, which held 100,000 rows of 512 ten times over.
    found: np.ndarray = flat.to_numpy(zero_copy_only=False).reshape(shape)
    return found


def _is_list(kind: pa.DataType) -> bool:
    types = pa.types
    return bool(types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind))


def _named(features: FeatureFile, path: Path) -> FeatureFile:
    features.path = path
    return features


def _occurrence(ids: Sequence[str]) -> np.ndarray:
    """0 for the first row of an id, 1 for its second, ..."""
    seen: dict[str, int] = {}
    counts = np.zeros(len(ids), np.int64)
    for row, key in enumerate(ids):
        counts[row] = seen.get(key, 0)
        seen[key] = int(counts[row]) + 1
    return counts
