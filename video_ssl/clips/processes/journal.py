"""A file of finished work that survives being killed: one JSON line per item, appended as soon as the item is done."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

from video_ssl.clips.processes.isolated import DiskFull
from video_ssl.datasets.full_disk import FULL

_SYNC_SEC = 2.0


class Journal:
    """Entries by key, of this run and of earlier ones; only one process at a time may hold it.

    A line that a kill or a full disk has torn is ignored, its item is done again.
    """

    def __init__(self, path: Path, settings: dict[str, Any]) -> None:
        """
        Args:
            path: the file; created with its folder.
            settings: what the entries depend on.

        Raises:
            ValueError: entries of other settings, or another process at work.
        """
        self.path = path
        self.entries: dict[str, dict[str, Any]] = {}
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = open(path, "ab+", buffering=0)  # noqa: SIM115
        self._synced = time.monotonic()
        try:
            self._lock()
            self._read(settings)
        except BaseException:
            self._file.close()
            raise

    def add(self, key: str, entry: dict[str, Any]) -> None:
        """Appends an entry; safe against a kill when it returns, against a power cut some seconds later.

        Raises:
            DiskFull: it could not be written; entries before it are safe.
        """
        self._append({"key": key, **entry})
        self.entries[key] = entry

    def delete(self) -> None:
        """Removes the file: everything in it has gone into the result."""
        self.path.unlink()

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _lock(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as err:
            raise ValueError(
                f"{self.path} is in use: the same command is already running; wait for it or choose another output."
            ) from err

    def _read(self, settings: dict[str, Any]) -> None:
        self._file.seek(0)
        content = self._file.read()
        lines = content.split(b"\n")
        found = [entry for line in lines if (entry := _parsed(line)) is not None]
        for entry in found:
            if "settings" in entry:
                self._refuse_other(entry["settings"], settings)
            elif "key" in entry:
                self.entries[entry.pop("key")] = entry
        if content and lines[-1]:  # torn: the next entry must not be glued to it
            self._write(b"\n")
        if not any("settings" in entry for entry in found):
            self._append({"settings": settings})

    def _refuse_other(self, there: dict[str, Any], given: dict[str, Any]) -> None:
        there, given = (json.loads(json.dumps(each)) for each in (there, given))
        changes = [
            f"{key}: {there.get(key)!r} then, {given.get(key)!r} now"
            for key in sorted({*there, *given})
            if there.get(key) != given.get(key)
        ]
        if changes:
            raise ValueError(
                f"{self.path} holds unfinished work with other settings ({', '.join(changes)}): "
                "run with the same ones to finish it, or delete this file to begin anew."
            )

    def _append(self, entry: dict[str, Any]) -> None:
        self._write(json.dumps(entry).encode() + b"\n")
        if time.monotonic() - self._synced > _SYNC_SEC:
            os.fsync(self._file.fileno())
            self._synced = time.monotonic()

    def _write(self, content: bytes) -> None:
        with full_disk_is_named():
            written = self._file.write(content)
            if written != len(content):  # the disk became full within the line
                raise OSError(FULL[0], os.strerror(FULL[0]), str(self.path))


@contextlib.contextmanager
def full_disk_is_named() -> Iterator[None]:
    """Turns the error of a full disk into DiskFull, which says that nothing is lost."""
    try:
        yield
    except OSError as err:
        if isinstance(err, DiskFull) or err.errno not in FULL:
            raise
        raise DiskFull(
            f"the disk is full ({err}): free space and run the same command again, it goes on from here."
        ) from err


def _parsed(line: bytes) -> dict[str, Any] | None:
    try:
        entry = json.loads(line)
    except ValueError:
        return None
    return entry if isinstance(entry, dict) else None
