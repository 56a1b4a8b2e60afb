"""A video that lies in several files in a row: how a source names them.

    a_0000000_0005000.mp4||a_0005000_0010000.mp4||a_0010000_0012120.mp4

Every part is a source of its own: a file, a folder of frames, a URI, a member of a tar.  A file whose own name holds
the sign is written as a `file://` URI (see `paths.source_of_path`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from video_ssl.datasets.errors import TableError, shown

SIGN = "||"
STAMP_STEP_SEC = 0.2
"""Stamps of neighbours may differ by that much: files are cut at frames."""

_STAMPS = re.compile(r"_(\d{7,})_(\d{7,})(?:\.[^./\\]*)?$")


def divide_parts(source: str) -> tuple[str, ...]:
    """Returns the parts of a source in order; a source of one file is its only part.

    >>> divide_parts("a.mp4||b.mp4"), divide_parts("a.mp4")
    (('a.mp4', 'b.mp4'), ('a.mp4',))
    """
    return tuple(source.split(SIGN))


def join_parts(parts: Sequence[str]) -> str:
    """Returns the source of a video that lies in these files, one after the other."""
    return SIGN.join(parts)


def each_part(source: str, change: Callable[[str], str]) -> str:
    """Returns the source with every part changed."""
    return join_parts([change(part) for part in divide_parts(source)])


def each_part_of(sources: Any, change: Callable[[Any], Any]) -> Any:
    """Returns a column of sources with all parts changed by a function of a column; nothing is null."""
    divided = pc.match_substring(sources, SIGN)
    if not pc.any(divided).as_py():
        return change(sources)
    parts = pc.split_pattern(_whole(sources), SIGN)
    changed = _whole(change(pc.list_flatten(parts)))
    return pc.binary_join(pa.ListArray.from_arrays(parts.offsets, changed), SIGN)


def refuse_empty_parts(sources: Any, where: str) -> None:
    """Raises TableError for a source one of whose parts is empty, which would be taken for the folder of the table."""
    if not pc.any(pc.match_substring(sources, SIGN)).as_py():
        return
    empty = pc.match_substring_regex(sources, r"(^|\|\|)\s*\|\||\|\|\s*$")
    row = pc.index(empty, True).as_py()
    if row >= 0:
        raise TableError(
            f"{where}: row {row + 1} has an empty part in {shown(sources[row].as_py())}: a video in several files "
            f"names each of them, with one {SIGN} between two."
        )


def stamped_sec(source: str) -> float | None:
    """Returns the seconds of a video in several files by their names, which end in the milliseconds from which to which
    each goes; None where one name does not say it, or they are no row that begins at 0.

    Source: papers/hico.md section 2.1 (the reference takes the duration of a video from the name of its last file).

    >>> stamped_sec("v_a_0000000_0005000.mp4||v_a_0005000_0007120.mp4")
    7.12
    """
    found = [_STAMPS.search(part) for part in divide_parts(source)]
    stamps = [(int(m[1]) / 1000, int(m[2]) / 1000) for m in found if m is not None]
    if len(stamps) < len(found) or break_in(stamps) is not None:
        return None
    return stamps[-1][1]


def break_in(stamps: Sequence[tuple[float, float]]) -> int | None:
    """Returns the first place at which files in this order do not go on where the one before ended, or the beginning of
    the video; None where all of them do.

    Args:
        stamps: (start, end) of every file in seconds.
    """
    ends = [0.0, *(end for _, end in stamps)]
    for place, ((start, stop), before) in enumerate(zip(stamps, ends, strict=False)):
        if stop <= start or abs(start - before) > STAMP_STEP_SEC + 1e-9:
            return place
    return None


def _whole(column: Any) -> Any:
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
