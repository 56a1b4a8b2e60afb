"""From windows to rows of a feature file: batches for the encoder, rows in order, commits on the way."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from video_ssl.clips.windows import Window, feature_times, feature_valid
from video_ssl.datasets.frame_labels import resampled_labels
from video_ssl.datasets.table import Record, Table
from video_ssl.embed.grids import Grid
from video_ssl.embed.partial import PartialFeatures
from video_ssl.embed.window_workers import Piece
from video_ssl.models.contract import CLIP, COMMON, MOMENTS

#: Rows are written when there are this many of them, or bytes of features, or after this time.
_ROWS, _BYTES, _COMMIT_SEC = 256, 8 * 2**20, 30.0

#: Clips as they are read, uint8 (B, T, H, W, 3), float32 (B, N) or int64 (B, L) -> "clip" (B, D), perhaps "moments"
#: (B, T', D), common ones (B, D), and outputs on a grid (B, t, h, w, D).
Forward = Callable[[np.ndarray], Mapping[str, np.ndarray]]
Positions = Callable[[int], np.ndarray]


class RowCollector:
    """Collects the windows of successive records into batches, and hands their rows over in order.

    Memory holds one batch and the rows since the last commit, however long a record is.

    Args:
        forward: the encoder.
        positions: of its frame features in units of sampled frames, (T',), for a number of frames.
        batch_size: clips in one call of it.
        num_crops: clips of one window.
        every: of the moments of outputs on a grid every so many-th is there.
        partial: where rows go, and where an interrupted job had come to.
    """

    def __init__(
        self,
        forward: Forward,
        positions: Positions,
        *,
        table: Table,
        batch_size: int,
        num_crops: int,
        every: int = 1,
        partial: PartialFeatures,
    ) -> None:
        self._forward, self._positions, self._table = forward, positions, table
        self._batch_size, self._num_crops, self._partial = batch_size, num_crops, partial
        self._every = every
        # Windows and ends of records, in order, since the last call of the encoder.
        self._waiting: list[ReadClip | _End] = []
        self._num_clips = 0  # windows among them
        self._closed: list[dict[str, Any]] = []  # rows of records that are over
        self._open: list[dict[str, Any]] = []  # rows of the one that is not
        self._records = partial.state.records  # that are over, as far as the rows go
        self._record: Record | None = None
        self._clips = partial.state.clips  # clips of the open record so far
        self._written_of: int | None = self._records if self._clips else None
        if self._clips:
            self._record = table.record(self._records)
        self._last_commit = time.monotonic()

    def add(self, piece: Piece) -> None:
        """Takes the next windows of a record."""
        if self._record is None:
            self._record, self._clips = self._table.record(piece.index), 0
        for window in piece.windows:
            for clip in window.clips:
                self._waiting.append(ReadClip(self._record, self._clips, clip, window, piece))
                self._clips += 1
                self._num_clips += 1
                if self._num_clips == self._batch_size:
                    self._embed()

    def close_record(self) -> None:
        """Says that the record is over."""
        self._end(_End(None))

    def drop_record(self, index: int, entry: dict[str, Any]) -> None:
        """Says that record `index` cannot be read: what came of it is void, `entry` goes into the skip list."""
        self._waiting = [
            item for item in self._waiting if isinstance(item, _End) or item.record.index != index
        ]
        self._num_clips = sum(isinstance(item, ReadClip) for item in self._waiting)
        self._open = [row for row in self._open if row["record"].index != index]
        if self._written_of == index:
            self._partial.take_back()
            self._written_of = None
        self._end(_End(entry))

    def finish(self) -> None:
        """Embeds and commits what is left."""
        self._embed()
        self._commit_closed()

    def _end(self, end: _End) -> None:
        self._record, self._clips = None, 0
        self._waiting.append(end)
        if self._num_clips == 0:
            self._embed()

    def _embed(self) -> None:
        clips = [item for item in self._waiting if isinstance(item, ReadClip)]
        rows = iter(embedded_rows(clips, self._forward, self._positions, self._every))
        for item in self._waiting:
            if isinstance(item, _End):
                self._closed += self._open
                self._open = []
                self._records += 1
                self._written_of = None
                if item.skipped is not None:
                    self._partial.skip(item.skipped)
                continue
            self._open.append(next(rows))
        self._waiting, self._num_clips = [], 0
        late = time.monotonic() - self._last_commit > _COMMIT_SEC
        if late or _is_much(self._closed) or _is_much(self._open):
            self._commit_closed()
        if late or _is_much(self._open):
            self._commit_open()

    def _commit_closed(self) -> None:
        if self._closed:
            self._partial.append(self._closed)
            self._closed = []
        if self._records > self._partial.state.records:
            self._partial.commit(records=self._records, clips=0)
        self._last_commit = time.monotonic()

    def _commit_open(self) -> None:
        """Writes the rows of whole windows of a record that is not over."""
        if not self._open:
            return
        after = self._open[-1]["clip"] + 1
        count = len(self._open) - after % self._num_crops
        if count > 0:
            self._partial.append(self._open[:count])
            clips = self._open[count - 1]["clip"] + 1
            self._written_of = self._open[0]["record"].index
            self._open = self._open[count:]
            self._partial.commit(records=self._records, clips=clips)


class ReadClip:
    """A clip on its way into the encoder."""

    def __init__(
        self, record: Record, number: int, values: np.ndarray, window: Window, piece: Piece
    ) -> None:
        self.record, self.number, self.values, self.window = record, number, values, window
        self.content, self.digest = piece.content, piece.digest


class _End:
    """The end of a record; `skipped` is the reason if it could not be read."""

    def __init__(self, skipped: dict[str, Any] | None) -> None:
        self.skipped = skipped


def _is_much(rows: list[dict[str, Any]]) -> bool:
    if len(rows) >= _ROWS:
        return True
    values = (value for row in rows for value in row.values())
    return sum(_bytes(value) for value in values) >= _BYTES


def _bytes(value: Any) -> int:
    """How many bytes of features a cell of a row holds."""
    if isinstance(value, Grid):
        value = value.values
    return value.nbytes if isinstance(value, np.ndarray) and value.dtype == np.float32 else 0


def embedded_rows(
    clips: Sequence[ReadClip], forward: Forward, positions: Positions, every: int = 1
) -> list[dict[str, Any]]:
    """Returns the rows of some clips of one length, of one call of the encoder; see `make_row`."""
    if not clips:
        return []
    outputs = forward(np.stack([clip.values for clip in clips]))
    rows = []
    for place, clip in enumerate(clips):
        own = {name: values[place] for name, values in outputs.items()}
        rows.append(make_row(clip, own, positions(len(clip.values)), every))
    return rows


def make_row(
    clip: ReadClip, outputs: Mapping[str, np.ndarray], positions: np.ndarray, every: int = 1
) -> dict[str, Any]:
    """Returns the row of one clip.

    Moments that show only the filling of a short video are left out; outputs on a grid are kept whole, without times
    there, so that all clips of one length have one shape.

    Args:
        clip: it.
        outputs: of the encoder for it: "clip" (D,), "moments" (T', D), common ones (D,), others (t, h, w, D).
        positions: of the moments in units of sampled frames, (T',).
        every: which of them outputs on a grid have: every so many-th.
    """
    record, window = clip.record, clip.window
    times = window.times + window.origin_sec
    start, end = (times[0], times[window.valid].max()) if window.span is None else window.span
    row: dict[str, Any] = {
        "record": record,
        "id": record.id,
        "clip": clip.number,
        "label": record.label,
        "group": record.group,
        "start_sec": None if start is None else float(start),
        "end_sec": None if end is None else float(end),
        "feature": outputs[CLIP],
        "source": record.source,
        "record_start_sec": record.start_sec,
        "record_end_sec": record.end_sec,
        "content": clip.content,
        "digest": clip.digest,
    }
    for name, cells in outputs.items():
        if name in COMMON:
            row[name] = cells
        elif name not in (CLIP, MOMENTS):
            row[name] = _grid(window, times, cells, positions[::every])
    moments = outputs.get(MOMENTS)
    if moments is not None:
        shown = feature_valid(window.valid, positions)
        if window.own is None:
            row["frame_features"] = moments[shown]
            row["frame_times_sec"] = feature_times(times, positions)[shown]
            # Times and frames run at different paces where the rate varies, so places are taken from the frames.
            source = np.floor(feature_times(window.indices, positions)[shown] + 1e-6)
        else:
            at = np.flatnonzero(window.own)
            row["frame_features"] = features_at(moments[shown], positions[shown], at)
            row["frame_times_sec"] = times[at]
            source = window.indices[at]
        if window.span is None:
            row["frame_labels"] = labels_at(record, source.astype(np.int64), window.num_source)
    return row


def _grid(window: Window, times: np.ndarray, cells: np.ndarray, positions: np.ndarray) -> Grid:
    """An output on a grid, (t, h, w, D), with the times of its moments; per frame, those of the window's own frames."""
    shown = feature_valid(window.valid, positions)
    at = np.where(shown, feature_times(times, positions), np.nan)
    if window.own is not None:
        own = np.flatnonzero(window.own)
        flat = cells.reshape(len(cells), -1)[shown]
        cells = features_at(flat, positions[shown], own).reshape(len(own), *cells.shape[1:])
        at = times[own]
    t, h, w, width = cells.shape
    return Grid(values=cells.reshape(-1, width), grid=(t, h, w), times=at)


def features_at(moments: np.ndarray, positions: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Returns (n, D): moments (T', D) at `positions` (T',), interpolated linearly at the places `at` (n,).

    Before the first and behind the last position the nearest moment stays.

    >>> features_at(np.array([[0.0], [4.0]]), np.array([0.5, 2.5]), np.arange(4)).ravel().tolist()
    [0.0, 1.0, 3.0, 4.0]
    """
    high = np.searchsorted(positions, at).clip(0, len(positions) - 1)
    low = np.where((positions[high] > at) & (high > 0), high - 1, high)
    gap = np.where(high > low, positions[high] - positions[low], 1.0)
    share = np.clip((at - positions[low]) / gap, 0.0, 1.0)[:, None].astype(moments.dtype)
    mixed: np.ndarray = moments[low] * (1 - share) + moments[high] * share
    return mixed


def labels_at(record: Record, frames: np.ndarray, num_source: int) -> np.ndarray | None:
    """Returns int16 (n,): the labels of some frames of a record, or None where it has none.

    Args:
        record: its `frame_labels` are of its own frames (of its segment, if it is one), in their order; an array of
            another length than there are frames is resampled, see `resampled_labels`.
        frames: places of the frames among those of the record, (n,).
        num_source: how many frames it has.
    """
    labels = record.frame_labels
    if labels is None or not len(labels):
        return None
    if num_source != len(labels):
        labels = resampled_labels(labels, num_source)
    return np.asarray(labels[frames], np.int16)
