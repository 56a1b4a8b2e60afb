"""What is heard in a video and told of it, beside its clips: columns of a feature file that has several senses.

Sound and text have vectors of their own: of windows of the sound, and of captions.  Each stands in the row of one clip
of the same record, the one nearest to it in time, so that all rows of a record together have exactly what a feature
file of this sense alone has.  With SENSE for sound or text:

    SENSE_feature        list<float32[D]>   the clip features of this sense's encoder; an empty list where the record
                                            has some, but none at this clip; null where it has none at all
    SENSE_common_sound   list<float32[D']>  and SENSE_common_text: its vectors in common spaces, where it has them
    SENSE_clip           list<int32>        the number of the window or caption within its record
    SENSE_start_sec      list<float64>      when it is heard or said, null where that is unknown
    SENSE_end_sec        list<float64>
    SENSE_missing        string             why there is none of this record, null where there is

Readers that do not know these columns read the file as one of video.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from video_ssl.embed.feature_arrays import FeatureError
from video_ssl.models.contract import COMMON, COMMON_WITH

#: Metadata that all senses of a file have in common.
SHARED_METADATA = ("table", "class_names", "phase_names", "versions")
_MISSING = "missing"
#: Of the row of a clip, what is true of its record.
_OF_RECORD = (
    "id",
    "label",
    "group",
    "source",
    "record_start_sec",
    "record_end_sec",
    "content",
    "digest",
)
_TIMES = {"clip": pa.int32(), "start_sec": pa.float64(), "end_sec": pa.float64()}
#: Clips times windows or captions that are compared at once.
_BLOCK = 2**20


@dataclass(frozen=True, kw_only=True)
class SenseColumns:
    """The columns of a sense.

    Attributes:
        sense: "sound" or "text".
        widths: of its vectors, by their column in a file of this sense alone: `feature` and those in common spaces.
    """

    sense: str
    widths: Mapping[str, int]

    @property
    def kinds(self) -> dict[str, pa.DataType]:
        """What the lists hold, by the column in a file of this sense alone."""
        return {n: pa.list_(pa.float32(), width) for n, width in self.widths.items()} | _TIMES

    def fields(self) -> list[pa.Field]:
        """Returns the columns."""
        lists = [pa.field(self.column(n), pa.list_(kind)) for n, kind in self.kinds.items()]
        return [*lists, pa.field(self.column(_MISSING), pa.string())]

    def column(self, name: str) -> str:
        """Returns the column that has what `name` has in a file of this sense alone."""
        return f"{self.sense}_{name}"

    def read(self, table: pa.Table) -> tuple[pa.Table, list[dict[str, Any]]]:
        """Returns what a file of this sense alone holds of the same records, and what of it is left out, why.

        Args:
            table: with these columns, the clips of a record one behind the other.
        """
        counts = pc.fill_null(pc.list_value_length(table[self.column("clip")]), 0).to_numpy()
        row = np.repeat(np.arange(len(table)), counts)
        ids = table["id"].to_pylist()
        begins = np.array([n == 0 or ids[n] != ids[n - 1] for n in range(len(ids))], bool)
        record = (np.cumsum(begins) - 1)[row]
        lists = {n: _joined(pc.list_flatten(table[self.column(n)])) for n in self.kinds}
        columns = {n: _joined(table[n]).take(pa.array(row)) for n in _OF_RECORD}
        found = pa.table({**columns, **lists, **_nothing(len(row), self.widths["feature"])})
        order = np.lexsort((lists["clip"].to_numpy(), record))
        if not np.array_equal(order, np.arange(len(order))):
            found = found.take(pa.array(order))
        reasons = table[self.column(_MISSING)].to_pylist()
        skipped = [
            {"id": ids[n], "source": source, "reason": reasons[n]}
            for n, source in enumerate(table["source"].to_pylist())
            if begins[n] and reasons[n] is not None
        ]
        return found, skipped


def _joined(column: Any) -> pa.Array:
    """A column as one array."""
    whole = column.combine_chunks()
    return pa.concat_arrays(whole.chunks) if isinstance(whole, pa.ChunkedArray) else whole


def _nothing(count: int, width: int) -> dict[str, pa.Array]:
    """The columns of moments, which are not kept."""
    kinds = {
        "frame_features": pa.list_(pa.list_(pa.float32(), width)),
        "frame_times_sec": pa.list_(pa.float64()),
        "frame_labels": pa.list_(pa.int16()),
    }
    return {name: pa.nulls(count, kind) for name, kind in kinds.items()}


def sense_columns(schema: pa.Schema) -> list[SenseColumns]:
    """Returns the senses that a schema has columns for."""
    found = []
    for sense in COMMON_WITH:
        widths = {}
        for name in ("feature", *COMMON):
            place = schema.get_field_index(f"{sense}_{name}")
            kind = schema.field(place).type if place >= 0 else pa.null()
            if pa.types.is_list(kind) and pa.types.is_fixed_size_list(kind.value_type):
                widths[name] = kind.value_type.list_size
        if "feature" in widths:
            found.append(SenseColumns(sense=sense, widths=widths))
    return found


def refuse_other_senses(table: pa.Table, where: str) -> None:
    """Raises FeatureError where the columns of a sense do not fit each other."""
    for columns in sense_columns(table.schema):
        fields = columns.fields()
        right = all(
            field.name in table.column_names and table.schema.field(field.name).type == field.type
            for field in fields
        )
        lengths = [
            pc.fill_null(pc.list_value_length(table[field.name]), -1).to_numpy()
            for field in fields[:-1]
            if right
        ]
        if not right or any(not np.array_equal(own, lengths[0]) for own in lengths):
            raise FeatureError(
                f"{where} is damaged: its columns of {columns.sense} do not fit each other. Embed the videos again."
            )


class SenseRows:
    """The rows of a feature file of one sense, each at a clip of the file of videos of the same table.

    Args:
        columns: that they become.
        rows: the file of this sense.
        skipped: of this file, its list of what it has nothing of.
        clips: the file of videos.
    """

    def __init__(
        self,
        columns: SenseColumns,
        rows: pa.Table,
        skipped: Sequence[Mapping[str, Any]],
        clips: pa.Table,
    ) -> None:
        self._columns, self._table = columns, rows.select(list(columns.kinds))
        self._reasons = {str(entry["id"]): str(entry["reason"]) for entry in skipped}
        at = clips_of_rows(rows, clips, in_step=columns.sense == "sound")
        order = np.argsort(at, kind="stable")
        # A recording without pictures has no clip that it could stand at.
        self._rows = order[np.searchsorted(at[order], 0) :]
        self._clips = at[self._rows]
        self._known = set(rows["id"].to_pylist())

    def arrays(self, batch: pa.RecordBatch, begin: int) -> list[pa.Array]:
        """Returns the columns of some clips, which are those from number `begin` on."""
        low, high = np.searchsorted(self._clips, [begin, begin + len(batch)])
        own = self._rows[low:high]
        counts = np.bincount(self._clips[low:high] - begin, minlength=len(batch))
        ids = batch.column("id").to_pylist()
        missing = np.array([key not in self._known for key in ids], bool)
        offsets = pa.array(np.concatenate([[0], np.cumsum(counts)]).astype(np.int32))
        made = []
        for name, kind in self._columns.kinds.items():
            values = pa.array([], kind)
            if len(own):
                # `take` of all of a column copies it; rows of neighbouring clips lie close together.
                near = self._table[name].slice(int(own.min()), int(np.ptp(own)) + 1)
                values = _joined(near).take(pa.array(own - own.min()))
            made.append(pa.ListArray.from_arrays(offsets, values, mask=pa.array(missing)))
        reasons = [self._reasons.get(k, "unknown") if k not in self._known else None for k in ids]
        return [*made, pa.array(reasons, pa.string())]

    def told(self, ids: Sequence[str]) -> tuple[int, str | None]:
        """Returns how many of some records have rows, and why the first of the others has none."""
        others = [key for key in ids if key not in self._known]
        reason = f"{others[0]}: {self._reasons.get(others[0], 'unknown')}" if others else None
        return len(ids) - len(others), reason


def clips_of_rows(rows: pa.Table, clips: pa.Table, *, in_step: bool) -> np.ndarray:
    """Returns int64 (N,): of each row of sound or text the row of the clip it belongs to, -1 where the record has none.

    That is the clip during which it is heard or said, or the one with the shortest gap to it; of several the one whose
    middle is nearest, then the first; so captions are chosen in training, too.  Without times it is the first one.

    Args:
        rows: features of a sense, those of a record one behind the other.
        clips: features of videos of the same table.
        in_step: where a record has as many rows as clips, they belong together in their order: both were spread evenly
            over the video.
    """
    found = np.full(len(rows), -1, np.int64)
    there = dict(_records(clips))
    times = [(_seconds(t["start_sec"]), _seconds(t["end_sec"])) for t in (rows, clips)]
    for key, own in _records(rows):
        near = there.get(key)
        if near is None:
            continue
        if in_step and len(own) == len(near):
            found[own.start : own.stop] = np.arange(near.start, near.stop)
            continue
        starts, ends = (side[near.start : near.stop] for side in times[1])
        step = max(1, _BLOCK // len(near))
        for first in range(own.start, own.stop, step):
            part = slice(first, min(first + step, own.stop))
            nearest = _nearest(times[0][0][part], times[0][1][part], starts, ends)
            found[part] = near.start + nearest
    return found


def _nearest(
    starts: np.ndarray, ends: np.ndarray, clip_starts: np.ndarray, clip_ends: np.ndarray
) -> np.ndarray:
    """int64 (n,): of each stretch of time the nearest clip (m,); 0 where times are unknown."""
    starts, ends = (
        np.where(np.isnan(a), b, a)[:, None] for a, b in ((starts, ends), (ends, starts))
    )
    gaps = np.maximum(0, np.maximum(clip_starts - ends, starts - clip_ends))
    middles = np.abs((clip_starts + clip_ends) - (starts + ends))
    with np.errstate(invalid="ignore"):
        least = gaps <= gaps.min(axis=1, keepdims=True)
    nearest: np.ndarray = np.where(least, middles, np.inf).argmin(axis=1)
    return np.where(np.isnan(gaps).any(axis=1), 0, nearest)


def _seconds(column: Any) -> np.ndarray:
    return np.asarray(pc.fill_null(column, np.nan).to_numpy(), np.float64)


def _records(table: pa.Table) -> list[tuple[str, range]]:
    """Each record with its rows, which lie one behind the other."""
    ids = table["id"].to_pylist()
    begins = [n for n in range(len(ids)) if n == 0 or ids[n] != ids[n - 1]]
    ends = [*begins[1:], len(ids)][: len(begins)]
    return [(ids[begin], range(begin, end)) for begin, end in zip(begins, ends, strict=True)]
