"""What tables say about boxes: their moments, labels and scores beside them, box for box.

boxes           one list of boxes for every frame of the record, or
box_times_sec   for every one of these moments (key frames), in seconds of the source
box_labels      the classes of every box, any number of them
box_scores      how sure a detector is of every box
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from video_ssl.datasets.errors import TableError

#: Columns with one entry for each list of boxes.
PER_MOMENT = ("boxes", "box_times_sec", "box_labels", "box_scores")


def padded_boxes(scalar: Any) -> np.ndarray:
    """Returns float32 (moments, objects, 4), NaN where a moment has fewer boxes than the fullest one."""
    return _padded(scalar, 4)


def padded_scores(scalar: Any) -> np.ndarray:
    """Returns float32 (moments, objects), NaN where a moment has fewer boxes than the fullest one."""
    return _padded(scalar, 1)[..., 0]


def _padded(scalar: Any, width: int) -> np.ndarray:
    moments = scalar.values
    lengths = np.diff(moments.offsets.to_numpy()) if len(moments) else np.zeros(0, np.int64)
    most = int(lengths.max(initial=0))
    found = np.full((len(moments), most, width), np.nan, np.float32)
    present = np.arange(most) < lengths[:, None]
    flat = moments.flatten()
    flat = flat.flatten() if width > 1 else flat
    found[present] = flat.to_numpy(zero_copy_only=False).reshape(-1, width)
    return found


def box_labels(scalar: Any) -> tuple[tuple[tuple[int, ...], ...], ...]:
    """Returns the labels of every box of every moment."""
    return tuple(tuple(tuple(box or ()) for box in moment or ()) for moment in scalar.as_py())


def refuse_wrong_boxes(columns: Mapping[str, Any], where: str) -> None:
    """Raises TableError for boxes that are none, and for times, labels or scores that do not go with those beside them.

    Args:
        columns: as a table holds them; any may be absent.
        where: the file, for errors.
    """
    if "boxes" in columns and _any(columns["boxes"]):
        _refuse_coordinates(_whole(columns["boxes"]), where)
    beside = [name for name in PER_MOMENT[1:] if name in columns and _any(columns[name])]
    if beside and ("boxes" not in columns or not _any(columns["boxes"])):
        raise TableError(f"{where} has a column {beside[0]!r} but no `boxes` for it to go with.")
    for name in beside:
        rows = np.flatnonzero(np.asarray(pc.is_valid(columns[name])))
        own, boxes = (_whole(columns[n]).take(pa.array(rows)) for n in (name, "boxes"))
        counts = [np.asarray(pc.fill_null(pc.list_value_length(c), 0)) for c in (own, boxes)]
        _refuse_counts(name, "moments", rows, counts, where)
        if name == "box_times_sec":
            _refuse_times(own, rows, where)
            continue
        starts = np.repeat(rows, counts[0])
        inner = [
            np.asarray(pc.fill_null(pc.list_value_length(pc.list_flatten(c)), 0))
            for c in (own, boxes)
        ]
        _refuse_counts(name, "boxes of a moment", starts, inner, where)


def _refuse_coordinates(boxes: Any, where: str) -> None:
    """Refuses pixels and edges in another order.  A box may reach over the picture by as much as the picture is large;
    NaN stands for a box that is not there."""
    moments = pc.list_flatten(boxes)
    found = pc.list_flatten(moments).flatten().to_numpy(zero_copy_only=False).reshape(-1, 4)
    far = (found < -1) | (found > 2)
    turned = (found[:, :2] > found[:, 2:]).any(1)
    wrong = np.flatnonzero(far.any(1) | turned)
    if len(wrong):
        of_boxes = pc.list_parent_indices(moments).to_numpy(zero_copy_only=False)[wrong[0]]
        row = pc.list_parent_indices(boxes).to_numpy(zero_copy_only=False)[of_boxes]
        raise TableError(
            f"{where}: row {row + 1} has the box {[round(float(x), 4) for x in found[wrong[0]]]}: a box is x_min, "
            "y_min, x_max, y_max as shares of width and height, 0 to 1, not pixels, and the smaller one first."
        )


def _refuse_counts(
    name: str, what: str, rows: np.ndarray, counts: Sequence[np.ndarray], where: str
) -> None:
    """Refuses counts of a column that differ from those of `boxes`; `rows` are those of the table."""
    own, wanted = counts
    wrong = np.flatnonzero(own != wanted)
    if len(wrong):
        first = wrong[0]
        raise TableError(
            f"{where}: row {rows[first] + 1} has {wanted[first]} {what} in `boxes`, but {own[first]} in {name!r}: "
            "give one entry for each."
        )


def _refuse_times(times: Any, rows: np.ndarray, where: str) -> None:
    for row, moments in zip(rows, times.to_pylist(), strict=True):
        values = np.array([np.nan if moment is None else moment for moment in moments])
        if not np.isfinite(values).all() or (values < 0).any() or (np.diff(values) < 0).any():
            raise TableError(
                f"{where}: row {row + 1} has box_times_sec={moments}: "
                "numbers of seconds in order, from 0 on, are needed."
            )


def _any(column: Any) -> bool:
    return bool(column.null_count < len(column))


def _whole(column: Any) -> Any:
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
