"""Ids of records: made where a table has none, and refused where two rows share one.

A record is a video, or a stretch of one.  Whoever gives no ids gets `path`, or `path:start-end` for a stretch; a path
that is listed twice stays two records (`path`, `path#2`), since merging them would mix their labels.  Ids that somebody
has written are taken at their word, so two rows with one id are an error and not a guess.
"""

from __future__ import annotations

import logging
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from video_ssl.datasets.parts import SIGN, divide_parts
from video_ssl.datasets.remote.errors import redacted

_SECRET = r"^[A-Za-z][A-Za-z0-9+.-]*://([^/?#]*@|[^?#]*[?#])"
log = logging.getLogger(__name__)


def made_ids(sources: Any, starts: Any = None, ends: Any = None) -> Any:
    """Returns one id for every row: the source, with its stretch where it is one; later equals are numbered.

    Args:
        sources: strings.
        starts, ends: seconds, null where the video is taken from its start or to its end; or None.

    >>> made_ids(pa.array(["a", "b", "a"]), pa.array([0.0, None, 1.5]), pa.array([1.5, None, None])).to_pylist()
    ['a:0-1.5', 'b', 'a:1.5-']
    >>> made_ids(pa.array(["a", "b", "a"])).to_pylist()
    ['a', 'b', 'a#2']
    >>> made_ids(pa.array(["a||b||c"])).to_pylist()
    ['a||+2']
    """
    ids = _short(_without_secrets(_whole(sources).cast(pa.string())))
    if starts is not None or ends is not None:
        nothing = pa.nulls(len(ids), pa.float64())
        first, last = (
            nothing if t is None else _whole(t).cast(pa.float64()) for t in (starts, ends)
        )
        begin = pc.fill_null(first.cast(pa.string()), "0")
        end = pc.fill_null(last.cast(pa.string()), "")
        stretch = pc.binary_join_element_wise(begin, end, "-")
        named = pc.binary_join_element_wise(ids, stretch, ":")
        ids = pc.if_else(pc.and_(pc.is_null(first), pc.is_null(last)), ids, named)
    return _numbered(ids)


def doubled_id(ids: Any) -> tuple[str, int, int] | None:
    """Returns (id, row, row) of the first two rows that share an id, counted from 1, or None.

    >>> doubled_id(pa.array(["x", "y", "x"]))
    ('x', 1, 3)
    """
    ids = _whole(ids)
    if pc.count_distinct(ids).as_py() == len(ids):
        return None
    seen: dict[str, int] = {}
    for row, value in enumerate(ids.to_pylist(), 1):
        if value in seen:
            return value, seen[value], row
        seen[value] = row
    return None


def _without_secrets(sources: Any) -> Any:
    """Ids stand in logs, reports and feature files: passwords and signatures of URIs must not."""
    if not pc.any(pc.match_substring_regex(sources, _SECRET)).as_py():
        return sources
    return pa.array([redacted(source) for source in sources.to_pylist()], pa.string())


def _short(sources: Any) -> Any:
    """The first of several parts, and how many follow."""
    if not pc.any(pc.match_substring(sources, SIGN)).as_py():
        return sources
    parts = [divide_parts(source) for source in sources.to_pylist()]
    return pa.array([p[0] if len(p) == 1 else f"{p[0]}{SIGN}+{len(p) - 1}" for p in parts])


def _numbered(ids: Any) -> Any:
    if pc.count_distinct(ids).as_py() == len(ids):
        return ids
    taken = set(ids.to_pylist())
    counts: dict[str, int] = {}
    made = []
    for value in ids.to_pylist():
        count = counts[value] = counts.get(value, 0) + 1
        if count > 1:
            while (name := f"{value}#{count}") in taken:
                count += 1
            counts[value] = count
            taken.add(name)
            value = name
        made.append(value)
    # videos in several files share a made id where they only begin alike
    text = "%d rows list what an earlier row lists%s, for example %s: each is a record of its own (PATH#2, ...)"
    doubled = [name for name, count in counts.items() if count > 1]
    alike = (
        f", or begin with its file and have as many ({SIGN}+N)"
        if any(SIGN in d for d in doubled)
        else ""
    )
    log.warning(text, len(made) - len(counts), alike, doubled[0])
    return pa.array(made, pa.string())


def _whole(values: Any) -> Any:
    return values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values
