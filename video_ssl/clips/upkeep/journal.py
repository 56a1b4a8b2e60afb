"""A file of finished work that survives being killed: one JSON line per item, appended as soon as the item is done."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Any

from video_ssl.files import FULL, OutputError, full_disk_is_named
from video_ssl.locks import try_lock

_SYNC_SEC = 2.0
_BEGINNING = b'{"settings": '
_LONGEST_LINE = 1_000_000


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
        self.begun: set[str] = set()
        self._unwritten: dict[str, Any] | None = settings
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
        self._keep(key, entry)

    def begin(self, keys: Iterable[str]) -> None:
        """Notes items that are worked on from now on: what is known of them counts no more, until they are added."""
        keys = list(keys)
        if keys:
            self._append({"begun": keys})
            self._forget(keys)

    def delete(self) -> None:
        """Removes the file: everything in it has gone into the result."""
        self.path.unlink()

    def close(self) -> None:
        """Ends the work; a file in which nothing was noted is not left behind."""
        with contextlib.suppress(OSError):
            if os.fstat(self._file.fileno()).st_size == 0:
                self.path.unlink()
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
            same = try_lock(self._file) and os.path.samestat(
                os.fstat(self._file.fileno()), os.stat(self.path)
            )
        except FileNotFoundError:
            same = False  # another process has just ended with it
        if not same:
            raise ValueError(
                f"{self.path} is in use: the same command is already running; wait for it or choose another output."
            )

    def _read(self, settings: dict[str, Any]) -> None:
        self._file.seek(0)
        content = self._file.read()
        lines = content.split(b"\n")
        found = [entry for line in lines if (entry := _parsed(line)) is not None]
        begun = content.strip(b"\0\n")  # a power cut leaves zeros, a kill less than a line
        if not any("settings" in entry for entry in found) and not _BEGINNING.startswith(
            begun[: len(_BEGINNING)]
        ):
            raise OutputError(
                f"{self.path} is there already and is no list of finished work: it is not written. Give another "
                "output, or move that file away."
            )
        for entry in found:
            if "settings" in entry:
                self._refuse_other(entry["settings"], settings)
            elif "begun" in entry:
                self._forget(entry["begun"])
            elif "key" in entry:
                self._keep(entry.pop("key"), entry)
        if content and lines[-1]:  # torn: the next entry must not be glued to it
            self._write(b"\n")
        if any("settings" in entry for entry in found):
            self._unwritten = None

    def _keep(self, key: str, entry: dict[str, Any]) -> None:
        self.entries[key] = entry
        self.begun.discard(key)

    def _forget(self, keys: Iterable[str]) -> None:
        for key in keys:
            self.entries.pop(key, None)
            self.begun.add(key)

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
                "run with the same ones to finish it, or give another output."
            )

    def _append(self, entry: dict[str, Any]) -> None:
        lines = [entry] if self._unwritten is None else [{"settings": self._unwritten}, entry]
        self._unwritten = None
        self._write(b"".join(json.dumps(line).encode() + b"\n" for line in lines))
        if time.monotonic() - self._synced > _SYNC_SEC:
            os.fsync(self._file.fileno())
            self._synced = time.monotonic()

    def _write(self, content: bytes) -> None:
        with full_disk_is_named(self.path.parent):
            written = self._file.write(content)
            if written != len(content):  # the disk became full within the line
                raise OSError(FULL[0], os.strerror(FULL[0]), str(self.path))


def is_list(path: Path) -> bool:
    """Whether a file is a list of what was left out, and why, as scan and transcode write it."""
    with open(path, "rb") as file:
        entry = _parsed(file.readline(_LONGEST_LINE))
    return entry is not None and entry.keys() <= {"id", "source", "backend", "reason", "away"}


def _parsed(line: bytes) -> dict[str, Any] | None:
    try:
        entry = json.loads(line)
    except ValueError:
        return None
    return entry if isinstance(entry, dict) else None
