"""The local cache: where it is, how much it may hold, and how several processes share it.

Files in it are complete or absent: they are written under a `.partial` name, locked by the writer, and then renamed.
Whoever reads a file holds a shared lock on it, and only files without one are deleted, the least recently used first.
Locks belong to the open file, so they end with the process, however it ends.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from video_ssl.files import FULL
from video_ssl.locks import try_lock, wait_for_lock

FOLDER_ENVIRONMENT = "VIDEO_SSL_CACHE"
LIMIT_ENVIRONMENT = "VIDEO_SSL_CACHE_GIB"
DEFAULT_LIMIT_GIB = 20.0
_POLL_SEC = 0.05


class CacheError(OSError):
    """The cache folder cannot be used; the text says what to set."""

    def __init__(self, folder: Path, err: OSError) -> None:
        full = err.errno in FULL
        advice = (
            f"free space there, lower ${LIMIT_ENVIRONMENT}, or set ${FOLDER_ENVIRONMENT} to a folder with more room."
            if full
            else f"set ${FOLDER_ENVIRONMENT} to a folder that can be written."
        )
        super().__init__(f"the cache {folder} cannot be written ({err.strerror or err}): {advice}")


def cache_folder() -> Path:
    """Returns `$VIDEO_SSL_CACHE`, by default `video_ssl` below the user's cache folder; it need not exist."""
    chosen = os.environ.get(FOLDER_ENVIRONMENT)
    if chosen:
        return Path(os.path.abspath(os.path.expanduser(chosen)))
    parent = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(os.path.abspath(parent)) / "video_ssl"


def cache_limit_bytes() -> int:
    """Returns how much fetched files may take together, from `$VIDEO_SSL_CACHE_GIB`.

    Raises:
        ValueError: not a positive number.
    """
    text = os.environ.get(LIMIT_ENVIRONMENT) or str(DEFAULT_LIMIT_GIB)
    try:
        limit = float(text) * 2**30
    except ValueError as err:
        raise ValueError(f"${LIMIT_ENVIRONMENT}={text!r} must be a number of GiB.") from err
    if not 0 < limit < 2**62:
        raise ValueError(f"${LIMIT_ENVIRONMENT}={text!r} must be a positive number of GiB.")
    return int(limit)


class CachedFile:
    """A complete file of the cache that is not deleted until `release`."""

    def __init__(self, path: str, file: IO[bytes]) -> None:
        self.path = path
        self._file = file

    def release(self) -> None:
        """Lets the cache delete the file; calling it twice is allowed."""
        self._file.close()


def take(path: Path) -> CachedFile | None:
    """Returns the file of the cache, in use and marked as used now, or None if it is not there."""
    while True:
        try:
            file = open(path, "rb")  # noqa: SIM115
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as err:
            raise CacheError(path.parent, err) from err
        wait_for_lock(file, shared=True)  # held against us for the moment of a deletion only
        if _is_the_file_at(file, path):
            with contextlib.suppress(OSError):  # a read-only cache serves what it has
                os.utime(path)
            return CachedFile(str(path), file)
        file.close()


def claim(path: Path, deadline: float) -> IO[bytes] | None:
    """Returns an empty file to fill that `publish` turns into `path`, or None if another process has made `path`.

    Give the file back with `publish` or `abandon`.

    Raises:
        CacheError: the folder cannot be written.
        TimeoutError: another process is still writing it at `deadline` (of time.monotonic).
    """
    while True:
        file = _lock_new(_partial(path))
        if path.exists():
            if file is not None:
                abandon(file, path)
            return None
        if file is not None:
            return file
        if time.monotonic() > deadline:
            raise TimeoutError(f"another process is still writing {path}")
        time.sleep(_POLL_SEC)


def publish(file: IO[bytes], path: Path) -> None:
    """Makes the filled file the one at `path`."""
    file.flush()
    os.fsync(file.fileno())
    os.replace(_partial(path), path)
    file.close()


def abandon(file: IO[bytes], path: Path) -> None:
    """Deletes a file that `claim` has returned."""
    _partial(path).unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # closing writes what is buffered, which may not fit
        file.close()


def make_room(folder: Path, needed_bytes: int, limit_bytes: int) -> None:
    """Deletes the least recently used files that nobody reads until `needed_bytes` fit within the limit."""
    with contextlib.suppress(OSError), open(folder / ".lock", "ab") as lock:
        wait_for_lock(lock)
        entries = sorted(_entries(folder))
        total = sum(size for _, size, _ in entries)
        for _, size, path in entries:
            if total + needed_bytes <= limit_bytes:
                return
            if _delete_unused(path):
                total -= size


def _entries(folder: Path) -> Iterator[tuple[float, int, Path]]:
    for entry in os.scandir(folder):
        with contextlib.suppress(FileNotFoundError):
            if entry.is_file(follow_symlinks=False) and not entry.name.startswith("."):
                state = entry.stat()
                yield state.st_mtime, state.st_size, Path(entry.path)


def _delete_unused(path: Path) -> bool:
    try:
        with open(path, "rb") as file:
            if not try_lock(file):
                return False
            path.unlink()
            return True
    except (FileNotFoundError, PermissionError):
        return False


def _partial(path: Path) -> Path:
    return path.with_name(path.name + ".partial")


def _lock_new(partial: Path) -> IO[bytes] | None:
    """The locked, empty partial file, or None while another process holds it."""
    try:
        partial.parent.mkdir(parents=True, exist_ok=True)
        file = open(partial, "ab")  # noqa: SIM115
    except OSError as err:
        raise CacheError(partial.parent, err) from err
    if not try_lock(file):
        file.close()
        return None
    if not _is_the_file_at(file, partial):  # renamed or deleted between opening and locking
        file.close()
        return None
    file.truncate(0)
    return file


def _is_the_file_at(file: IO[bytes], path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), os.stat(path))
    except FileNotFoundError:
        return False
