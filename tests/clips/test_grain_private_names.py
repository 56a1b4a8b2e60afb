"""Every private name of grain that `clips/processes` relies on; pyproject.toml bounds grain for their sake.

A newer grain that breaks this needs a look at `workers.py` and `shared_memory.py` before the bound is raised.
"""

from __future__ import annotations

import collections
import os
import queue
import signal
import threading
from typing import Any

import pytest

from video_ssl.clips.processes.workers import _PROCESS_NAME, WorkerGroup, _code_in_message
from video_ssl.clips.streams import grain_module


def needs(owner: object, name: str, kind: type, user: str) -> Any:
    found = getattr(owner, name, None)
    assert isinstance(found, kind), (
        f"grain {grain_module().__version__}: {type(owner).__name__}.{name} is {found!r} and no {kind.__name__}, but "
        f"video_ssl/clips/processes/{user} relies on it. Keep to the grain of pyproject.toml, or mend that first."
    )
    return found


def test_private_names_of_grain_are_there() -> None:
    from grain._src.python.ipc.shared_memory_array import SharedMemoryArray

    assert hasattr(SharedMemoryArray, "_del_thread_pool"), "shared_memory.py waits for this thread"
    grain = grain_module()
    numbers = grain.MapDataset.range(10**6).to_iter_dataset()
    numbers = numbers.mp_prefetch(grain.MultiprocessingOptions(num_workers=1))
    group = WorkerGroup(1)
    with group.starting():
        iterator = iter(numbers)
        assert next(iterator) == 0
    assert len(group.pids) == 1, f"no process of grain is called {_PROCESS_NAME}... any more"
    try:
        (node,) = needs(iterator, "_iterators_in_use", list, "workers.py")
        needs(node, "_prefetch_thread", threading.Thread, "workers.py")
        needs(node, "_buffer", queue.Queue, "workers.py")
        event = type(threading.Event())
        needs(node, "_prefetch_should_stop", event, "workers.py")
        parent = needs(node, "_maybe_nonnative_parent", object, "workers.py")
        assert hasattr(parent, "_prefetch_should_stop"), "workers.py sets this flag"
        os.kill(group.pids[0], signal.SIGKILL)
        with pytest.raises(RuntimeError) as caught:
            collections.deque(iterator, maxlen=0)
        assert _code_in_message(caught.value) == -signal.SIGKILL, (
            f"workers.py reads the exit code out of grain's message, which is now: {caught.value}"
        )
    finally:
        group.stop(iterator)
