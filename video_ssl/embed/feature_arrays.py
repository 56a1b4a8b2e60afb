"""Arrays of a feature file that somebody else has made, as columns of ours: numbers stay what they are, or are refused.

Nothing is rounded, cut off or wrapped around on the way: a fraction is no label, 2**40 does not fit into one, a complex
number is no feature.  Labels may be names of classes; they are then numbered, and `metadata` carries the names, by
which two files are matched (see `videos.matched_labels`).
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from video_ssl.datasets.parts import SIGN, each_part
from video_ssl.models.contract import COMMON
from video_ssl.recipes import nearest

OTHER_NAMES = {
    "features": "feature",
    "labels": "label",
    "ids": "id",
    "groups": "group",
    "clips": "clip",
    "sources": "source",
}
#: Metadata: labels were names of classes, numbered here.
NAMED_LABELS = "labels_are_names"
_INTEGER, _NUMBER = re.compile(r"[+-]?\d+"), re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.I)
_TEXTS = ("id", "group", "source")
_DIMENSIONS = {"id": 1, "group": 1, "source": 1, "clip": 1, "frame_times_sec": 2, "frame_labels": 2}
_SECONDS = ("start_sec", "end_sec", "record_start_sec", "record_end_sec")


class FeatureError(ValueError):
    """Features that cannot be used; the text says what was found and what is expected."""


def known_arrays(
    columns: Mapping[str, Any], allowed: Sequence[str], where: str
) -> dict[str, np.ndarray]:
    """Returns the arrays by the names of our columns; those that mean nothing here are left out.

    Raises:
        FeatureError: no features, a misspelt name, one column under two names, or unequal lengths.
    """
    given: dict[str, np.ndarray] = {}
    for key, value in columns.items():
        name = OTHER_NAMES.get(key, key)
        if name in given:
            raise FeatureError(f"{where}two arrays are the {key!r}: take out one of them.")
        given[name] = np.asarray(value)
    if "feature" not in given:
        hint = nearest("features", columns)
        raise FeatureError(f"{where}no array `features`; there are {sorted(columns)}.{hint}")
    for key in [key for key in given if key not in allowed]:
        # A misspelt name is an error, but an array that is not needed is no reason to refuse.
        free = [n for n in (*OTHER_NAMES, *allowed) if OTHER_NAMES.get(n, n) not in given]
        if difflib.get_close_matches(key, free, n=1, cutoff=0.75):
            raise FeatureError(f"{where}unknown array {key!r}.{nearest(key, free)}")
        del given[key]
    shape = given["feature"].shape
    if len(shape) != 2 or shape[1] == 0:
        raise FeatureError(f"{where}features must be (clips, width), but have shape {shape}.")
    lengths = {key: len(value) if value.ndim else None for key, value in given.items()}
    if len(set(lengths.values())) > 1:
        raise FeatureError(f"{where}arrays of unequal length: {lengths}.")
    return given


def columns_of(
    given: Mapping[str, np.ndarray], schema: pa.Schema, where: str, folder: Path | None
) -> tuple[dict[str, pa.Array], dict[str, Any]]:
    """Returns the columns of a feature file, and what its metadata is to say about labels.

    Args:
        given: as `known_arrays` returns them.
        schema: of the feature file.
        where: the file and a colon, for errors.
        folder: what relative sources are relative to; the current one if None.

    Raises:
        FeatureError: a value that the column cannot hold as it is; row (from 1) and value are named.
    """
    made: dict[str, pa.Array] = {}
    about: dict[str, Any] = {}
    width = given["feature"].shape[1]
    for key, values in given.items():
        kind = schema.field(key).type
        if key in _DIMENSIONS and values.ndim != _DIMENSIONS[key]:
            raise FeatureError(
                f"{where}{key} must be of {_DIMENSIONS[key]} dimensions (rows{', moments' * (_DIMENSIONS[key] - 1)}), "
                f"but has shape {values.shape}."
            )
        if key == "feature":
            made[key] = vectors(_floats(values, "features", where), width)
        elif key in COMMON:
            if values.ndim != 2 or values.shape[1] == 0:
                raise FeatureError(
                    f"{where}{key} must be (clips, width), but has shape {values.shape}."
                )
            made[key] = vectors(_floats(values, key, where), values.shape[1])
        elif key == "frame_features":
            made[key] = ragged_vectors(list(_frame_features(values, width, where)), width)
        elif key in _TEXTS:
            made[key] = pa.array(_texts(values, key, where), pa.string())
        elif key == "label":
            made[key], names = _labels(values, where)
            about = {"class_names": names, NAMED_LABELS: True} if names else {}
        elif key in _SECONDS or key == "frame_times_sec":
            made[key] = pa.array(_seconds(values, key, where).tolist(), kind, from_pandas=True)
        else:  # clip, frame_labels
            inner = kind.value_type if pa.types.is_list(kind) else kind
            whole = _whole_numbers(values, key, where, inner.to_pandas_dtype())
            made[key] = pa.array(whole.tolist(), kind)
    if "source" in made:
        base = str(folder or Path.cwd())
        made["source"] = pa.array([_absolute(s, base) for s in made["source"].to_pylist()])
    return made, about


def _absolute(source: str, folder: str) -> str:
    if SIGN in source:
        return each_part(source, lambda part: _absolute(part, folder))
    return source if "://" in source else os.path.normpath(os.path.join(folder, source))


def _first(wrong: np.ndarray, values: np.ndarray) -> str:
    """`row N holds VALUE` of the first row in which anything is wrong."""
    rows = wrong.reshape(len(wrong), -1).any(axis=1)
    row = int(np.argmax(rows))
    place = wrong[row].ravel()
    value = np.asarray(values[row]).ravel()[int(np.argmax(place))]
    return f"row {row + 1} holds {value.item() if isinstance(value, np.generic) else value!r}"


def _numeric(values: np.ndarray, key: str, where: str) -> np.ndarray:
    if values.dtype.kind not in "iuf":
        what = "complex numbers" if values.dtype.kind == "c" else str(values.dtype)
        sample = f" (row 1 holds {values.ravel()[0]!r})" if values.size else ""
        raise FeatureError(f"{where}{key} must be numbers, but are {what}{sample}.")
    return values


def _floats(values: np.ndarray, key: str, where: str) -> np.ndarray:
    """float32; what is not finite, or too large for it, is refused."""
    values = _numeric(values, key, where)
    with np.errstate(over="ignore"):
        narrow = values.astype(np.float32)
    wrong = ~np.isfinite(narrow)
    if wrong.any():
        rows = wrong.reshape(len(wrong), -1).any(axis=1)
        too_large = " in float32" if np.isfinite(values.astype(np.float64)).all() else ""
        raise FeatureError(
            f"{where}{key} is not finite{too_large} in {int(rows.sum())} of {len(values)} rows, "
            f"first: {_first(wrong, values)}. Remove these rows or embed them again."
        )
    return narrow


def _frame_features(values: np.ndarray, width: int, where: str) -> np.ndarray:
    if values.ndim != 3 or values.shape[2] != width:
        raise FeatureError(
            f"{where}frame_features must be (clips, moments, {width}), but have shape {values.shape}."
        )
    return _floats(values, "frame_features", where)


def _seconds(values: np.ndarray, key: str, where: str) -> np.ndarray:
    """float64; NaN (in Parquet null) stands for unknown."""
    if values.dtype == object and values.ndim == 1:
        values = np.array([np.nan if value is None else value for value in values.tolist()])
    found = _numeric(values, key, where).astype(np.float64)
    if np.isinf(found).any():
        raise FeatureError(
            f"{where}{key} must be seconds, NaN where unknown, but {_first(np.isinf(found), values)}."
        )
    return found


def _whole_numbers(values: np.ndarray, key: str, where: str, kind: Any) -> np.ndarray:
    """The values as integers of `kind`, -1 or more, where they are such numbers."""
    if values.dtype.kind not in "iufb":
        _numeric(values, key, where)
    top = np.iinfo(kind).max
    with np.errstate(invalid="ignore"):
        fits = (values >= -1) & (values <= top) & (values == np.floor(values.astype(np.float64)))
    if not fits.all():
        raise FeatureError(
            f"{where}{key} must be whole numbers from 0 to {top}, -1 where unknown, but "
            f"{_first(~fits, values)}."
        )
    return values.astype(kind)


def _labels(values: np.ndarray, where: str) -> tuple[pa.Array, list[str]]:
    """int32 labels, null where unknown, and the names of classes where labels were names."""
    if values.ndim > 1:
        shape, column = " x ".join(map(str, values.shape)), values.shape[1:] == (1,)
        advice = (
            "Take the column: labels[:, 0]."
            if column
            else "Of one-hot rows or scores take the place of the 1: labels.argmax(axis=1)."
        )
        first = np.asarray(values[:1]).tolist()
        raise FeatureError(
            f"{where}labels must be one number a row, but are {shape}{f' (row 1 holds {first[0]})' if first else ''}. "
            f"{advice}"
        )
    if values.dtype.kind in "USO":
        return _named_labels(values, where)
    labels = _whole_numbers(values, "labels", where, np.int32)
    return pa.array(labels, pa.int32(), mask=labels < 0), []


def _named_labels(values: np.ndarray, where: str) -> tuple[pa.Array, list[str]]:
    """Names numbered in sorted order, empty ones and None unknown; numbers that are written as text are numbers."""
    texts = [t.decode("utf-8", "replace") if isinstance(t, bytes) else t for t in values.tolist()]
    known = [text for text in texts if text is not None and text != ""]
    written = [isinstance(text, str) and bool(_INTEGER.fullmatch(text)) for text in known]
    if known and all(written):
        numbers = np.array([int(text) if text else -1 for text in texts])
        return _labels(numbers, where)
    for row, text in enumerate(texts, 1):
        if text is not None and (not isinstance(text, str) or _NUMBER.fullmatch(text)):
            raise FeatureError(
                f"{where}labels must be whole numbers, or names of classes, in all rows, but row {row} holds {text!r}."
            )
    names = sorted({str(text) for text in known})
    place = {name: number for number, name in enumerate(names)}
    return pa.array([place[text] if text else None for text in texts], pa.int32()), names


def _texts(values: np.ndarray, key: str, where: str) -> list[str | None]:
    """One text a row; only a group may be missing."""
    found: list[str | None] = []
    for row, value in enumerate(values.tolist(), 1):
        if value is None or value != value or value == "":
            if key != "group":
                raise FeatureError(
                    f"{where}{key} is empty in row {row} ({value!r}): fill it in every row, or leave the array out."
                )
            found.append(None)
        else:
            found.append(
                value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
            )
    return found


def label_array(column: Any) -> np.ndarray:
    """Returns the labels of a column of Arrow as they are; null is -1 among numbers, None among texts."""
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if pa.types.is_boolean(column.type):
        column = column.cast(pa.int8())
    if pa.types.is_integer(column.type) or pa.types.is_floating(column.type):
        if not column.null_count:
            return np.asarray(column.to_numpy())
        if pa.types.is_unsigned_integer(column.type):
            column = column.cast(pa.float64())
        return np.asarray(column.fill_null(-1).to_numpy())
    values = column.to_pylist()
    if pa.types.is_nested(column.type):
        return np.array(values)
    return np.array(values, dtype=object)


def vectors(values: np.ndarray, width: int) -> pa.Array:
    """Returns float32 (N, `width`) as a column."""
    flat = np.ascontiguousarray(values, np.float32).reshape(-1)
    return pa.FixedSizeListArray.from_arrays(pa.array(flat), width)


def ragged_vectors(values: Sequence[np.ndarray | None], width: int) -> pa.Array:
    """Returns N arrays (T', `width`), or None, as a column of lists."""
    if all(value is None for value in values):
        return pa.nulls(len(values), pa.list_(pa.list_(pa.float32(), width)))
    parts = [np.zeros((0, width), np.float32) if v is None else v for v in values]
    offsets = np.cumsum([0] + [len(part) for part in parts]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), vectors(np.concatenate(parts), width))
