"""Locks of files: who holds one keeps out every other process that asks for it; a killed process holds none."""

from __future__ import annotations

import contextlib
import fcntl
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any


def wait_for_lock(file: IO[Any], *, shared: bool = False) -> None:
    """Returns when this process holds the lock of an open file, alone or shared; closing the file gives it back."""
    fcntl.flock(file, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)


def try_lock(file: IO[Any]) -> bool:
    """Returns whether this process holds the lock of an open file now, alone; closing the file gives it back."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    return True


@contextlib.contextmanager
def alone(path: Path, busy: Callable[[], Exception]) -> Iterator[None]:
    """Keeps every other process out of the block that names the same file, which is made; its folder must be there.

    Args:
        busy: what to raise while another process is in it.
    """
    with open(path, "ab") as file:
        if not try_lock(file):
            raise busy()
        yield
