"""The captions of tables: all their texts, and which of them lie outside their videos."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from video_ssl.clips.text import is_outside
from video_ssl.datasets.record import Caption
from video_ssl.datasets.table import Table

_ROWS = 4096


def caption_texts(tables: Sequence[Table]) -> Iterator[str]:
    """Yields the text of every caption of tables, row by row; of a table without captions none."""
    for table in tables:
        if "captions" not in table.column_names:
            continue
        column = table.arrow["captions"]
        for begin in range(0, len(column), _ROWS):
            for captions in column.slice(begin, _ROWS).to_pylist():
                yield from (caption["text"] for caption in captions or ())


def late_captions(table: Table) -> tuple[int, str]:
    """Returns how many captions lie outside their videos, and the id of the first record that has one; (0, "") if none.

    Only records of whole videos are looked at whose length the table knows (from a scan, `duration_sec`).
    """
    needed = ("captions", "duration_sec")
    if any(name not in table.column_names for name in needed):
        return 0, ""
    content = table.arrow
    whole = [name for name in ("start_sec", "end_sec") if name in content.column_names]
    count, first = 0, ""
    for begin in range(0, len(content), _ROWS):
        for row in content.select(["id", *needed, *whole]).slice(begin, _ROWS).to_pylist():
            if row["duration_sec"] is None or any(row[name] is not None for name in whole):
                continue
            captions = (Caption(**caption) for caption in row["captions"] or ())
            late = sum(is_outside(caption, row["duration_sec"]) for caption in captions)
            first = first or (row["id"] if late else "")
            count += late
    return count, first
