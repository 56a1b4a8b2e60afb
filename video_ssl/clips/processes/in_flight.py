"""Which record every data worker is at, so that a worker that dies names its file, and which records are banned.

A worker notes the record before it opens it, in a few bytes of a mapped file: what it wrote outlives it, however it
ends.  A record that took a worker down is banned from the step on at which the workers start again: it then counts as
one that cannot be read, and its samples come from the next record, in this run and after every resume of it.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import shutil
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from video_ssl.files import make_temporary_folder

#: (index of the table, row)
TableRow = tuple[int, int]

_SLOT = struct.Struct("<qq")
_NOWHERE = (-1, -1)
_slots: dict[str, mmap.mmap] = {}


@dataclass(frozen=True, kw_only=True)
class Ban:
    """Samples of step `step` and later do not use the record."""

    step: int
    reason: str


class InFlightBoard:
    """A folder with one small file for every worker process of a pipeline; the parent makes and removes it."""

    def __init__(self) -> None:
        self.folder = str(make_temporary_folder("workers"))

    def place_of(self, pid: int) -> TableRow | None:
        """Returns the record that the worker is at, or was at when it died; None between two records."""
        try:
            table, row = _SLOT.unpack(Path(self.folder, str(pid)).read_bytes())
        except (OSError, struct.error):
            return None
        return None if row < 0 else (table, row)

    @property
    def pids(self) -> list[int]:
        """Processes that have worked since the board was made or cleared."""
        return sorted(int(name) for name in os.listdir(self.folder))

    def clear(self) -> None:
        """Takes off the notes of workers that have ended."""
        for pid in self.pids:
            Path(self.folder, str(pid)).unlink(missing_ok=True)

    def remove(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)


@contextlib.contextmanager
def at_record(folder: str | None, place: TableRow) -> Iterator[None]:
    """Notes in this worker's slot of the board that the block works on a record; no board, no note."""
    if folder is None:
        yield
        return
    slot = _slots.get(folder)
    if slot is None:
        slot = _slots[folder] = _make_slot(folder)
    _SLOT.pack_into(slot, 0, *place)
    try:
        yield
    finally:
        _SLOT.pack_into(slot, 0, *_NOWHERE)


def _make_slot(folder: str) -> mmap.mmap:
    with open(os.path.join(folder, str(os.getpid())), "wb+") as file:
        file.write(_SLOT.pack(*_NOWHERE))
        file.flush()
        return mmap.mmap(file.fileno(), _SLOT.size)
