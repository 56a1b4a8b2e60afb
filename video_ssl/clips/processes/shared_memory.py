"""Shared memory that data workers send batches through, and its end.

grain frees a segment in a thread, when the last array on it is collected; a worker that is killed, and a batch that
Python still holds somewhere, would leave segments in /dev/shm.  So the workers of a pipeline give their segments names
with a prefix in common, and whatever of that name is left once they have ended is removed.
"""

from __future__ import annotations

import contextlib
import gc
import os
import secrets
import sys
from collections.abc import Iterator
from multiprocessing import resource_tracker, shared_memory
from pathlib import Path

from video_ssl.files import owner, remove_owned

PREFIX_VARIABLE = "VIDEO_SSL_SEGMENTS"
_FOLDER = Path("/dev/shm")
_BEGIN = "video_ssl_"
# Python's own limit of 14 characters is macOS's; there nothing is listed either, and the tracker has to do.
_NAME_LENGTH = 80


def new_prefix() -> str:
    """Returns a prefix that no other pipeline of this machine uses, and removes what killed ones have left."""
    remove_owned(_FOLDER, _BEGIN)
    return f"{_BEGIN}{owner()}_{secrets.token_hex(4)}_"


def name_shared_memory() -> None:
    """Makes this process name its segments by the prefix in the environment; does nothing where there is none."""
    prefix = os.environ.get(PREFIX_VARIABLE)
    if prefix and _FOLDER.is_dir() and hasattr(shared_memory, "_SHM_NAME_PREFIX"):
        shared_memory._SHM_NAME_PREFIX = f"/{prefix}"
        shared_memory._SHM_SAFE_NAME_LENGTH = _NAME_LENGTH  # type: ignore[attr-defined]


@contextlib.contextmanager
def interrupts_told() -> Iterator[None]:
    """Raises KeyboardInterrupt at its end where one came while arrays of shared memory were collected within.

    They free their memory in a `__del__` of Python, out of which nothing is raised: a Ctrl-C just then would be lost.
    """
    before, lost = sys.unraisablehook, False

    def note(unraisable: sys.UnraisableHookArgs) -> None:
        nonlocal lost
        if issubclass(unraisable.exc_type, KeyboardInterrupt):
            lost = True
        else:
            before(unraisable)

    sys.unraisablehook = note
    try:
        yield
    finally:
        sys.unraisablehook = before
    if lost:
        raise KeyboardInterrupt


def free_shared_memory(prefix: str) -> None:
    """Frees every segment of that prefix; to be called when the workers have ended and batches have been copied."""
    from grain._src.python.ipc.shared_memory_array import SharedMemoryArray

    gc.collect()  # closed iterators hold their batches in cycles
    deleter = getattr(SharedMemoryArray, "_del_thread_pool", None)
    if deleter is not None:
        deleter.apply(int)  # its one thread works in order: what was to be unlinked before now is
    for left in _FOLDER.glob(f"{prefix}*"):
        with contextlib.suppress(OSError):
            left.unlink()
            resource_tracker.unregister(f"/{left.name}", "shared_memory")
