"""Tar shards in the WebDataset layout as a table: reading a video needs no pass over its tar.

Beside a video lie what belongs to it: `a/0001.cls` (a number, or the name of a class), `a/0001.txt` (a caption),
`a/0001.vtt` or `a/0001.srt` (subtitles) and `a/0001.json` (columns of a table) for `a/0001.mp4`; see `tar_samples`.
"""

from __future__ import annotations

import functools
import glob
import itertools
import json
import logging
import os
import re
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any

import pyarrow as pa

from video_ssl.datasets.archives.tar_samples import divide_into_samples, members_taken
from video_ssl.datasets.archives.tars import Member, TarProblem, list_members
from video_ssl.datasets.columns import caption_of, known_column, table_of_columns
from video_ssl.datasets.errors import TableError
from video_ssl.datasets.left_out import BAD_SUBTITLES, LeftOut
from video_ssl.datasets.mapped import kept
from video_ssl.datasets.paths import PICTURE_SUFFIXES, VIDEO_SUFFIXES, local_path, natural_key
from video_ssl.datasets.remote.fetching import is_remote, list_uris, open_uri
from video_ssl.datasets.subtitle_files import noted_captions
from video_ssl.datasets.subtitles import MAX_BYTES, SubtitleError, parse_subtitles
from video_ssl.datasets.table import Table

log = logging.getLogger(__name__)

_MAX_SIDE_BYTES = 2**20
_SHARDS_AT_ONCE = 8
#: What the tar says, or what would lead out of it.
_NOT_FROM_JSON = ("id", "source", "byte_offset", "byte_size", "subtitles")


def is_shards(text: str) -> bool:
    """Returns whether `text` names tars: `x.tar`, `x-{000..010}.tar`, `x-*.tar`, alone or as a URI."""
    return text.lower().endswith(".tar")


def expand_braces(pattern: str) -> list[str]:
    """Returns what the braces of a pattern stand for, in order.

    >>> expand_braces("s-{08..10}.tar")
    ['s-08.tar', 's-09.tar', 's-10.tar']
    >>> expand_braces("{a,b}.tar")
    ['a.tar', 'b.tar']
    """
    parts: list[list[str]] = []
    for text in re.split(r"(\{[^{}]*\})", pattern):
        span = re.fullmatch(r"\{(\d+)\.\.(\d+)\}", text)
        if span:
            first, last = span.groups()
            width = len(first) if first.startswith("0") else 0
            parts.append([f"{n:0{width}d}" for n in range(int(first), int(last) + 1)])
        elif text.startswith("{") and "," in text:
            parts.append(text[1:-1].split(","))
        else:
            parts.append([text])
    return ["".join(chosen) for chosen in itertools.product(*parts)]


def list_shards(pattern: str) -> list[str]:
    """Returns the tars that a pattern of braces and wildcards names: absolute paths, or URIs.

    Raises:
        TableError: none.
        FetchError: a place that cannot be listed.
    """
    found: list[str] = []
    for text in expand_braces(pattern):
        plain = not any(sign in text for sign in "*?[")
        if plain or os.path.exists(local_path(text)):
            found.append(text if is_remote(text) else os.path.abspath(local_path(text)))
        elif is_remote(text):
            found += list_uris(text)
        else:
            found += sorted(map(os.path.abspath, glob.glob(local_path(text))), key=natural_key)
    if not found:
        raise TableError(f"{pattern} names no tar: no file matches.")
    return found


def open_shards(pattern: str | list[str], *, split: str | None = None, where: str = "") -> Table:
    """Returns `read_shards`, kept in the cache: the tars are listed once, as long as none of them changes.

    Tars elsewhere are taken to stay as they are.
    """
    shards = list_shards(pattern) if isinstance(pattern, str) else pattern
    where = where or str(pattern)
    key: list[Any] = [split]
    for shard in shards:
        state = None if is_remote(shard) or not os.path.exists(shard) else os.stat(shard)
        key.append((shard, state and (state.st_size, state.st_mtime_ns)))
    made: list[Table] = []
    table = kept(key, lambda: _made(made, shards, split, where), root=Path("/"))
    if not made:
        for line in table.metadata.get("left_out", ()):
            log.info("%s: left out %s", where, line)
    return table


def _made(made: list[Table], shards: list[str], split: str | None, where: str) -> Table:
    made.append(read_shards(shards, split=split, where=where))
    return made[0]


def read_shards(pattern: str | list[str], *, split: str | None = None, where: str = "") -> Table:
    """Returns the table of all samples with a video (or a picture) in the tars, in their order.

    `id` is SHARD/KEY without `.tar` (with folders before it where two tars have one name); `byte_offset` and
    `byte_size` are recorded, and for local tars size and time, so that a tar that is written again is noticed.

    Args:
        pattern: see `list_shards`; or the tars themselves.
        split: samples whose json says so under `split`.
        where: what errors call the tars.

    Raises:
        TableError: no tar, a tar that is refused (links, names that lead out, compressed), no video, labels that are
            neither numbers nor names.
    """
    shards = list_shards(pattern) if isinstance(pattern, str) else pattern
    where = where or str(pattern)
    left_out = LeftOut()
    read = functools.partial(_read_shard, left_out=left_out)
    with ThreadPoolExecutor(min(_SHARDS_AT_ONCE, len(shards))) as pool:
        rows = [row for part in pool.map(read, shards, _names(shards)) for row in part]
    if not rows:
        found = "".join(f" Found: {line}." for line in left_out.lines())
        raise TableError(
            f"{where}: no video in {len(shards)} tars: a member counts as one if it ends in "
            f"{', '.join((*VIDEO_SUFFIXES, *PICTURE_SUFFIXES))}.{found}"
        )
    left_out.log(where)
    names = list(dict.fromkeys(name for row in rows for name in row))
    raw = pa.table({name: _array([row.get(name) for row in rows], name, where) for name in names})
    about: dict[str, Any] = {"left_out": left_out.lines()} if len(left_out) else {}
    return table_of_columns(raw, where=where, root=Path("/"), split=split, **about)


def _array(values: list[Any], name: str, where: str) -> pa.Array:
    if name == "label":  # .cls files hold text, json numbers
        values = [None if value is None else str(value) for value in values]
    try:
        return pa.array(values)
    except (pa.ArrowInvalid, pa.ArrowTypeError) as err:
        raise TableError(f"{where}: {name!r} has values of several kinds: {err}") from err


def _names(shards: list[str]) -> list[str]:
    """What the tars are called in ids: their last name, with as many folders before it as tell them apart."""
    parts = [shard[: -len(".tar")].split("/") for shard in shards]
    for depth in range(1, max(map(len, parts)) + 1):
        names = ["/".join(part[-depth:]) for part in parts]
        if len(set(names)) == len(set(shards)):
            return names
    return shards


def _read_shard(shard: str, name: str, *, left_out: LeftOut) -> list[dict[str, Any]]:
    """The rows of one tar."""
    try:
        if is_remote(shard):
            with open_uri(shard) as file:
                return _samples(shard, name, file, list_members(shard, file), {}, left_out)
        state = os.stat(shard)
        about = {"file_size": state.st_size, "file_mtime": state.st_mtime}
        with open(shard, "rb") as file:
            return _samples(shard, name, file, list_members(shard), about, left_out)
    except TarProblem as err:
        raise TableError(str(err)) from err
    except FileNotFoundError as err:
        raise TableError(f"no tar {shard}: the file does not exist.") from err
    except OSError as err:
        raise TableError(f"{shard} cannot be read ({err.strerror}).") from err


def _samples(
    shard: str,
    name: str,
    file: IO[bytes],
    members: Iterator[Member],
    about: dict[str, Any],
    left_out: LeftOut,
) -> list[dict[str, Any]]:
    # The list comes first: with a remote tar, its reader and the reading of labels share one file.  Members of a sample
    # need not lie side by side: `tar --sort=none`, and tools that append the labels last, scatter them.
    taken = members_taken(shard, members, left_out)
    rows = []
    for sample in divide_into_samples(shard, taken, left_out):
        place = {
            "id": f"{name}/{sample.key}", "source": f"{shard}!/{sample.video.name}",
            "byte_offset": sample.video.offset, "byte_size": sample.video.size,
        }  # fmt: skip
        beside = _said_beside(sample.beside, file, shard)
        cues = _subtitles_beside(sample.beside, file, shard, left_out)
        if cues:
            beside["captions"] = [*beside.get("captions", ()), *cues]
        rows.append({**beside, **place, **about})
    return rows


def _said_beside(sample: Mapping[str, Member], file: IO[bytes], shard: str) -> dict[str, Any]:
    """Columns from the .json, .cls and .txt of a sample; .cls and .txt win."""
    given: dict[str, Any] = {}
    for suffix in ("json", "cls", "txt"):
        if suffix not in sample:
            continue
        member = sample[suffix]
        if member.size > _MAX_SIDE_BYTES:
            raise TableError(
                f"{shard}: {member.name} has {member.size} bytes, more than a label needs."
            )
        file.seek(member.offset)
        try:
            text = file.read(member.size).decode("utf-8-sig").strip()
            if suffix == "cls":
                given["label"] = text
            elif suffix == "txt":
                given["captions"] = [{"text": text}]
            else:
                given |= _columns_of(json.loads(text))
        except (ValueError, RecursionError) as err:
            raise TableError(f"{shard}: {member.name} cannot be read: {err}") from err
    return given


def _subtitles_beside(
    sample: Mapping[str, Member], file: IO[bytes], shard: str, left_out: LeftOut
) -> list[dict[str, Any]]:
    """The captions of the .vtt of a sample, or else of its .srt."""
    suffix = next((suffix for suffix in ("vtt", "srt") if suffix in sample), None)
    if suffix is None:
        return []
    member = sample[suffix]
    name = f"{os.path.basename(shard)}!/{member.name}"
    try:
        if member.size > MAX_BYTES:
            raise SubtitleError(f"it has {member.size:,} bytes, more than any subtitles")
        file.seek(member.offset)
        found = parse_subtitles(file.read(member.size), is_vtt=suffix == "vtt")
    except SubtitleError as err:
        left_out.add(BAD_SUBTITLES, f"{name} ({err})")
        return []
    return noted_captions(found, name, left_out)


def _columns_of(content: Any) -> dict[str, Any]:
    if not isinstance(content, dict):
        raise ValueError("it must hold one JSON object")  # noqa: TRY004
    given = {}
    for name, value in content.items():
        known = known_column(name)
        if known is None or known in _NOT_FROM_JSON:
            continue
        if known == "captions":
            items = value if isinstance(value, list) else [value]
            value = [caption_of(item, "it") for item in items]
        given[known] = value
    return given
