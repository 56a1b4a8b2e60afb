"""Subtitles of the videos of a table, beside them in a folder or named in a column; odd ones are named and counted."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from video_ssl.datasets.errors import TableError, shown
from video_ssl.datasets.left_out import (
    BAD_CUES,
    BAD_SUBTITLES,
    LONE_SUBTITLES,
    MORE_SUBTITLES,
    LeftOut,
)
from video_ssl.datasets.paths import at_home, local_path, printable
from video_ssl.datasets.record import SCHEMA
from video_ssl.datasets.remote.fetching import is_remote
from video_ssl.datasets.subtitles import SUBTITLE_SUFFIXES, SubtitleError, Subtitles, read_subtitles

Captions = list[dict[str, Any]]
#: Between the name of a video and .vtt or .srt: en, de-CH, pt_BR, en-orig.
_LANGUAGE = re.compile(r"\.[A-Za-z]{2,3}([-_][A-Za-z0-9]+)*")
_LONGEST_NAME = 200


def captions_beside(
    videos: Sequence[str], subtitles: Iterable[str], *, root: Path, left_out: LeftOut
) -> list[Captions | None]:
    """Returns the captions of every video from the subtitles beside it, None where there are none.

    `a.vtt` and `a.srt` belong to `a.mp4`, and so do `a.en.vtt` and the like; where there are several that without a
    language is taken, else the first by name, .vtt before .srt.

    Args:
        videos: paths.
        subtitles: paths of all subtitle files of these folders.
        root: what names in the log are relative to.
        left_out: notes subtitles of no video, further ones of a video, and what cannot be read.
    """
    places: dict[str, list[int]] = {}
    for row, video in enumerate(videos):
        places.setdefault(os.path.splitext(video)[0], []).append(row)
    chosen: dict[str, str] = {}
    for path in sorted(subtitles, key=_preference):
        stem = _stem_of(path, places)
        if stem is None:
            left_out.add(LONE_SUBTITLES, _below(root, path))
        elif stem in chosen:
            left_out.add(MORE_SUBTITLES, _below(root, path))
        else:
            chosen[stem] = path
    found: list[Captions | None] = [None] * len(videos)
    for stem, path in chosen.items():
        captions = _read(path, _below(root, path), left_out)
        for row in places[stem]:
            found[row] = captions
    return found


def add_subtitles(columns: dict[str, Any], *, root: Path, where: str) -> None:
    """Replaces the column `subtitles` by the captions of the files that it names, behind those of the table; of a
    stretch by those that are seen during it.

    Args:
        columns: Arrow arrays by the names of `SCHEMA`, and `subtitles`: a path for every row, or nothing.
        root: the folder that relative paths are relative to.
        where: the table, for the log and errors.

    Raises:
        TableError: none of the files can be read.
    """
    files = [
        name and name.strip() for name in columns.pop("subtitles").cast(pa.string()).to_pylist()
    ]
    empty = [None] * len(files)
    begins, ends, given = (
        columns[name].to_pylist() if name in columns else empty
        for name in ("start_sec", "end_sec", "captions")
    )
    left_out, known = LeftOut(), dict[str, Captions | None]()
    for name in files:
        if name and name not in known:
            known[name] = _read(_absolute(name, root), _short(name), left_out)
    left_out.log(where)
    if known and all(captions is None for captions in known.values()):
        raise TableError(f"{where}: no subtitles can be read. {left_out.lines()[0]}.")
    rows: list[Captions | None] = []
    for name, begin, end, own in zip(files, begins, ends, given, strict=True):
        more = _during(known[name] or [], begin, end) if name else []
        rows.append([*(own or []), *more] or own)
    columns["captions"] = pa.array(rows, SCHEMA.field("captions").type)


def _absolute(name: str, root: Path) -> str:
    return name if is_remote(name) else os.path.join(root, at_home(local_path(name)))


def _read(path: str, name: str, left_out: LeftOut) -> Captions | None:
    try:
        if is_remote(path):
            raise SubtitleError("subtitles are read from files on this machine")
        found = read_subtitles(path)
    except SubtitleError as err:
        left_out.add(BAD_SUBTITLES, f"{name} ({err})")
        return None
    return noted_captions(found, name, left_out)


def noted_captions(found: Subtitles, name: str, left_out: LeftOut) -> Captions:
    """Returns the captions of subtitles as rows hold them, and notes what of the file is left out."""
    if found.left_out:
        left_out.add(BAD_CUES, f"{name} ({found.left_out[0]})", count=len(found.left_out))
    return [vars(caption) for caption in found.captions]


def _short(name: str) -> str:
    """A path as it is, and what is too long for one as errors show it."""
    return name if len(name) <= _LONGEST_NAME else shown(name)


def _during(captions: Captions, begin: float | None, end: float | None) -> Captions:
    """The captions that share time with a stretch."""
    first, last = begin or 0.0, float("inf") if end is None else end
    return [c for c in captions if c["start_sec"] < last and c["end_sec"] > first]


def _stem_of(path: str, stems: Mapping[str, Any]) -> str | None:
    """The name without suffix of the video that a subtitle file belongs to: its own, or that without its language."""
    stem = os.path.splitext(path)[0]
    if stem in stems:
        return stem
    shorter, language = os.path.splitext(stem)
    return shorter if _LANGUAGE.fullmatch(language) and shorter in stems else None


def _preference(path: str) -> tuple[int, int, str]:
    """Names without a language first (they have fewer dots than those with one), .vtt before .srt."""
    stem, suffix = os.path.splitext(path)
    return os.path.basename(stem).count("."), SUBTITLE_SUFFIXES.index(suffix.lower()), path


def _below(root: Path, path: str) -> str:
    return printable(os.path.relpath(path, root))
