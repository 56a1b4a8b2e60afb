"""What shows, without reading it, that a video is another one than before: sizes, times of change, places in a tar.

The state of a source is JSON.  A file: its size and time.  A member of a tar: where it lies in it, how long it is, and
the size and time of the tar.  A record of an ArrayRecord shard: size and time of the shard.  A folder of frames: a
digest of the names, sizes and times of its pictures.  Several files in a row: the state of each.  A URI stands for the
same bytes for ever.  Contents are not read: a file of the same size with its old time put back is seen by `--check`
only.
"""

from __future__ import annotations

import hashlib
import os
from typing import Any

from video_ssl.datasets.archives.array_records import divide_record
from video_ssl.datasets.archives.tars import TarProblem, divide_member, list_members
from video_ssl.datasets.parts import SIGN, divide_parts
from video_ssl.datasets.paths import PICTURE_SUFFIXES, local_path
from video_ssl.datasets.remote.fetching import is_remote
from video_ssl.datasets.table import Record


class SourceStates:
    """States of the sources of one table; a tar or shard that holds many of them is looked at once."""

    def __init__(self) -> None:
        self._holders: dict[str, list[Any]] = {}
        self._members: dict[str, dict[str, tuple[int, int]]] = {}

    def of(self, record: Record) -> list[Any]:
        """Returns the state of a record's source; that of a missing one differs from every other."""
        place = None
        if record.byte_offset is not None and record.byte_size is not None:
            place = (record.byte_offset, record.byte_size)
        return self.of_source(record.source, place)

    def of_source(self, source: str, place: tuple[int, int] | None = None) -> list[Any]:
        """Returns the state of a source; of several files in a row those of all.

        Args:
            source: absolute.
            place: (offset, size) within its tar, if known.
        """
        if SIGN in source:
            return ["parts", *(self.of_source(part) for part in divide_parts(source))]
        holder, member = divide_member(source)
        shard, index = divide_record(holder)
        if is_remote(shard):
            return ["uri"]
        path = local_path(shard)
        if member is None and index is None:
            return _state(path)
        if path not in self._holders:
            self._holders[path] = _state(path)
        if member is not None and place is None:
            place = self._in_tar(path).get(member)
            if place is None:
                return ["missing"]
        return [*(place or ()), *self._holders[path]]

    def _in_tar(self, path: str) -> dict[str, tuple[int, int]]:
        if path not in self._members:
            try:
                found = {m.name: (m.offset, m.size) for m in list_members(path)}
            except (TarProblem, OSError):
                found = {}
            self._members[path] = found
        return self._members[path]


def _state(path: str) -> list[Any]:
    try:
        if os.path.isdir(path):
            return ["frames", listing_digest(path)]
        found = os.stat(path)
    except OSError:
        return ["missing"]
    return [found.st_size, found.st_mtime_ns]


def listing_digest(folder: str) -> str:
    """Returns a digest of names, sizes and times of the pictures in a folder.

    Raises:
        OSError: it cannot be listed.
    """
    digest = hashlib.blake2b(digest_size=16)
    with os.scandir(folder) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            if entry.name.lower().endswith(PICTURE_SUFFIXES):
                state = entry.stat()
                line = (os.fsencode(entry.name), state.st_size, state.st_mtime_ns)
                digest.update(repr(line).encode())
    return digest.hexdigest()
