"""Which records of two feature files are the same, and which videos of one are hidden in the other.

Ids are names within one file: `run/0001.mp4` of two folders are two videos.  Two records are the same if their absolute
source and their stretch of it are (links are followed).  Where a file has no sources:

- features of others with ids: their ids are taken at their word, against other such files;
- features of others without ids, and our own files from before sources were written: nothing is the same as anything
  in another file, and a note says so where ids agree;
- a file of these compared with itself, or an old one with another of the same table: ids are enough.

Training videos among the test videos under another name are recognised by their contents: size, beginning and end.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import numpy as np

from video_ssl.datasets.archives.array_records import divide_record
from video_ssl.datasets.archives.tars import divide_member
from video_ssl.datasets.parts import SIGN, each_part
from video_ssl.datasets.paths import local_path
from video_ssl.datasets.remote.fetching import is_remote
from video_ssl.embed.features import FeatureFile

#: What makes records of two files the same: see above.
_SOURCE, _ID, _ROWS, _OLD = "source", "id", "rows", "old"


@dataclass(frozen=True, eq=False)
class Origins:
    """Where the V records of a feature file come from.

    Attributes:
        file: what identifies this file: its path, or the object itself.
        table: fingerprint of the table that was embedded, of our old files.
        kind: what the file has: sources, ids, nothing (rows), or ids of our old files.
        ids: object (V,).
        sources: object (V,), canonical, None where unknown.
        spans: object (V,), (start, end) of the stretch, None for the whole video.
        contents: object (V,), see `video_ssl.clips.contents`; None where unknown.
        groups: object (V,), as they are given, None where they are not.
    """

    file: Any
    table: str | None
    kind: str
    ids: np.ndarray
    sources: np.ndarray
    spans: np.ndarray
    contents: np.ndarray
    groups: np.ndarray

    def select(self, rows: np.ndarray) -> Origins:
        """Returns the origins of some of the records."""
        names = ("ids", "sources", "spans", "contents", "groups")
        parts = {name: getattr(self, name)[rows] for name in names}
        return Origins(file=self.file, table=self.table, kind=self.kind, **parts)


def origins_of(features: FeatureFile, rows: np.ndarray) -> Origins:
    """Returns the origins of the records behind some rows of a feature file."""
    sources, starts, ends, contents, groups = (
        _cells(features, name, rows)
        for name in ("source", "record_start_sec", "record_end_sec", "content", "group")
    )
    has_sources = len(rows) > 0 and all(source is not None for source in sources)
    known = {source: canonical(source) for source in set(sources) if source is not None}
    if has_sources:
        kind = _SOURCE
    elif features.ids_are_rows:
        kind = _ROWS
    else:
        kind = _OLD if "job" in features.metadata else _ID
    job = features.metadata.get("job", {}).get("table", {})
    return Origins(
        file=os.path.realpath(features.path) if features.path else id(features.table),
        table=job.get("fingerprint"),
        kind=kind,
        ids=features.ids[rows],
        sources=_objects([known.get(source) for source in sources]),
        spans=_objects([_span(a, b) for a, b in zip(starts, ends, strict=True)]),
        contents=contents,
        groups=groups,
    )


def _span(start: float | None, end: float | None) -> tuple[float, float | None] | None:
    return None if not start and end is None else (start or 0.0, end)


def canonical(source: str) -> str:
    """Returns the same text for every way to write a local source, in one file or several; URIs stay as they are."""
    if SIGN in source:
        return each_part(source, canonical)
    holder, member = divide_member(source)
    shard, index = divide_record(holder)
    if is_remote(shard):
        return source
    path = os.path.realpath(local_path(shard))
    inner = "" if index is None else f"#{index}"
    return f"{path}{inner}" if member is None else f"{path}{inner}!/{member}"


def record_keys(a: Origins, b: Origins) -> tuple[np.ndarray, np.ndarray]:
    """Returns texts (A,) and (B,) that are equal exactly where the records are the same."""
    if a.kind == b.kind == _SOURCE:
        return _places(a), _places(b)
    same = _of_one_table(a, b) or a.kind == b.kind == _ID
    return _texts("id" if same else "a", a.ids), _texts("id" if same else "b", b.ids)


def _of_one_table(a: Origins, b: Origins) -> bool:
    return a.file == b.file or (
        a.kind == b.kind == _OLD and a.table is not None and a.table == b.table
    )


def group_keys(a: Origins, b: Origins) -> tuple[np.ndarray, np.ndarray]:
    """Returns texts (A,) and (B,) that are equal where the records are of one group, or the same."""
    keys = record_keys(a, b)
    return tuple(  # type: ignore[return-value]
        np.array(
            [key if g is None else f"group {g}" for key, g in zip(own, side.groups, strict=True)]
        )
        for own, side in zip(keys, (a, b), strict=True)
    )


def overlap_notes(train: Origins, test: Origins) -> list[str]:
    """Returns warnings about test records that are in train as well, by any way of comparing."""
    ours, theirs = record_keys(train, test)
    same = np.isin(theirs, ours)
    files = _shared(train.sources, test.sources) & ~same
    copies = copies_of(train, test)
    notes = []
    if same.any():
        notes.append(_flatters(f"{int(same.sum())} videos", test.ids[same]))
    if files.any():
        notes.append(_flatters(f"other stretches of {int(files.sum())} videos", test.ids[files]))
    if copies.any():
        notes.append(
            f"{int(copies.sum())} videos of test are copies of training videos (equal in size, beginning and end), for "
            f"example {copy_example(train, test, copies)}: the result flatters the encoder"
        )
    groups = _shared(train.groups, test.groups)
    if groups.any() and not notes:
        notes.append(_flatters(f"{len(set(test.groups[groups]))} groups", test.groups[groups]))
    return notes + unknown_note(train, test)


def _flatters(what: str, examples: np.ndarray) -> str:
    example = min(map(str, examples))
    return (
        f"{what} are in train and in test, for example {example!r}: the result flatters the encoder"
    )


def copies_of(train: Origins, test: Origins) -> np.ndarray:
    """Returns bool (V,): the test records of files with the contents of a training file, at another place."""
    ours, theirs = record_keys(train, test)
    others = ~_shared(train.sources, test.sources) & ~np.isin(theirs, ours)
    return _shared(train.contents, test.contents) & others


def copy_example(train: Origins, test: Origins, copies: np.ndarray) -> str:
    """Returns `'ID' of 'ID'` of the first copy."""
    place = dict(zip(train.contents[::-1], train.ids[::-1], strict=True))
    first = int(np.flatnonzero(copies)[0])
    return f"{str(test.ids[first])!r} of {str(place[test.contents[first]])!r}"


def unknown_note(a: Origins, b: Origins) -> list[str]:
    """Returns a note where ids agree, but it is unknown whether the videos do."""
    comparable = a.kind == b.kind != _OLD or _of_one_table(a, b)
    shared = set(map(str, a.ids)) & set(map(str, b.ids))
    if comparable or _ROWS in (a.kind, b.kind) or not shared:
        return []
    return [
        f"{len(shared)} ids are in both files, for example {min(shared)!r}, but not both files say where their videos "
        "are: these are taken for different videos. Embed again to be sure"
    ]


def _shared(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Which of b are in a; None is in nothing."""
    known = {value for value in a if value is not None}
    return np.array([value in known for value in b], bool)


def _places(origins: Origins) -> np.ndarray:
    pairs = zip(origins.sources, origins.spans, strict=True)
    return np.array([f"{source}\n{'' if span is None else span}" for source, span in pairs], str)


def _texts(prefix: str, values: np.ndarray) -> np.ndarray:
    return np.array([f"{prefix} {value}" for value in values], str)


def _cells(features: FeatureFile, name: str, rows: np.ndarray) -> np.ndarray:
    return _objects(features.table[name].take(rows).to_pylist())


def _objects(values: list[Any]) -> np.ndarray:
    found = np.empty(len(values), object)
    found[:] = values
    return found
