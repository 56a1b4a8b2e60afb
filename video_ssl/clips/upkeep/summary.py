"""What a scan has found, summed up in lines: how the videos are, and what is odd about some of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from video_ssl.clips.contents import content_digest, content_key
from video_ssl.datasets.table import Record, Table

#: Kinds that are listed before "and N others", and ids that are named.
_KINDS, _NAMED = 4, 3


def summary(table: Table) -> list[str]:
    """Returns lines about the videos of a scanned table; what is odd is there only where something is.

    Args:
        table: with the columns of a scan.
    """
    frames, seconds = _numbers(table, "num_frames"), _numbers(table, "duration_sec")
    sides = zip(_numbers(table, "width"), _numbers(table, "height"), strict=True)
    sizes = [f"{w:.0f}x{h:.0f}" for w, h in sides if np.isfinite([w, h]).all()]
    rates = [f"{rate:.4g}" for rate in _numbers(table, "fps") if np.isfinite(rate)]
    lines = [
        f"length   {_lengths(seconds)}",
        f"codecs   {_counted(_texts(table, 'codec'))}",
        f"sizes    {_counted(sizes)}",
        f"rates    {_counted(rates)} frames a second",
        f"sound    {_number_true(table, 'has_audio')} of {len(table)}",
    ]
    odd = {
        "one frame only": frames == 1,
        "shorter than a second": (seconds < 1) & (frames > 1),
        "turned (shown upright)": np.nan_to_num(_numbers(table, "rotation")) != 0,
        "upright format (higher than wide)": _numbers(table, "height") > _numbers(table, "width"),
        "rate that changes": _truths(table, "variable_fps"),
    }
    lines += [
        f"odd      {what}: {_named(table, np.flatnonzero(which))}"
        for what, which in odd.items()
        if which.any()
    ]
    return lines + [f"copies   {_ids(table, rows)}" for rows in same_contents(table)]


def same_contents(table: Table) -> list[list[int]]:
    """Returns the groups of rows whose files hold the same bytes; segments of one file are not copies of each other."""
    places: dict[tuple[str, Any], int] = {}
    for row in range(len(table)):
        record = table.record(row)
        places.setdefault((record.source, record.byte_offset), row)
    groups = [list(places.values())]
    for key in (
        _size,
        content_key,
        content_digest,
    ):  # each reads more than the one before, of fewer files
        groups = [
            found
            for rows in groups
            for found in _grouped((key(table.record(row)), row) for row in rows)
        ]
    return sorted(groups)


def _size(record: Record) -> str | None:
    """Bytes of the file; None of one that is not at hand."""
    return None if record.file_size is None else str(record.byte_size or record.file_size)


def _grouped(keyed: Iterable[tuple[str | None, int]]) -> list[list[int]]:
    """The rows of every key that has several; None is no key."""
    groups: dict[str, list[int]] = {}
    for key, row in keyed:
        if key is not None:
            groups.setdefault(key, []).append(row)
    return [rows for rows in groups.values() if len(rows) > 1]


def _numbers(table: Table, name: str) -> np.ndarray:
    return np.asarray(table.column(name), np.float64)


def _texts(table: Table, name: str) -> list[str]:
    return [text for text in table.arrow[name].to_pylist() if text is not None]


def _truths(table: Table, name: str) -> np.ndarray:
    return np.array([value is True for value in table.arrow[name].to_pylist()])


def _number_true(table: Table, name: str) -> int:
    return int(_truths(table, name).sum())


def _lengths(seconds: np.ndarray) -> str:
    known = seconds[np.isfinite(seconds)]
    if not len(known):
        return "unknown"
    low, middle, high = (_time(value) for value in np.quantile(known, [0, 0.5, 1]))
    return f"{low} to {high}, half of them up to {middle}; {_time(known.sum())} in all"


def _time(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _counted(values: Sequence[str]) -> str:
    found = Counter(values).most_common()
    parts = [f"{value} ({count})" for value, count in found[:_KINDS]]
    others = sum(count for _, count in found[_KINDS:])
    return ", ".join(parts) + (f", other ones ({others})" if others else "")


def _named(table: Table, rows: np.ndarray) -> str:
    return f"{len(rows)} ({_ids(table, rows.tolist())})"


def _ids(table: Table, rows: Sequence[int]) -> str:
    names = [table.record(row).id for row in rows[:_NAMED]]
    more = f", and {len(rows) - _NAMED} more" if len(rows) > _NAMED else ""
    return ", ".join(names) + more
