"""Data worker processes: how they start, how they end, and which error is raised when one dies.

grain spawns the processes; this module sees to it that they
- do not run the main program again (a worker of `train.py` would otherwise import torch, or start a second training),
- compute with one thread each and never import jax (grain would, where it is installed),
- leave Ctrl-C, SIGTERM and SIGUSR2 (which a scheduler sends to every process of a job) to the parent, end when asked
  between two samples, and end by themselves when the parent is gone,
- end with a message when a video hangs a decoder.
"""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import functools
import itertools
import logging
import multiprocessing
import os
import queue
import re
import signal
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from multiprocessing import connection, spawn
from typing import Any

import psutil

from video_ssl.clips.processes.shared_memory import (
    PREFIX_VARIABLE,
    free_shared_memory,
    name_shared_memory,
    new_prefix,
)

log = logging.getLogger(__name__)

_PROCESS_NAME = "grain-process-prefetch"
# `faulthandler`, which ends a process even where Python is stuck, exits with this.
_EXIT_STUCK = 1
# Who sends these knows nothing of files: mostly the system, out of memory or of shared memory.
_FROM_OUTSIDE = (-signal.SIGKILL, -signal.SIGBUS, -signal.SIGTERM, 128 + signal.SIGTERM)
# One thread of arithmetic each; and malloc gives every large array back at once: by default it learns to keep
# arrays of a batch's size in the heap, which fragments (hundreds of MiB within a thousand clips).
_ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "MALLOC_MMAP_THRESHOLD_": str(2**20),
    "MALLOC_ARENA_MAX": "2",
}
_START_LIMIT_SEC = 60
_STOP_LIMIT_SEC = 10
_CLOSE_LIMIT_SEC = 20
# After SIGTERM the parent still finishes its step, saves, and then ends its workers; this is for the case it cannot.
_TERM_LIMIT_SEC = 60
_SIGNALS_OF_THE_PARENT = {signal.SIGINT, signal.SIGTERM, signal.SIGUSR2}
_owned: set[int] = set()
_start_lock = threading.Lock()


class WorkerDied(RuntimeError):
    """A data worker process ended although there was more to do."""


# In the worker

_stop = threading.Event()
_samples = itertools.count(1)
_SAMPLES_PER_TRIM = 200


def prepare_worker() -> None:
    """Sets up a freshly started worker process; called before anything else is imported there."""
    for number in (signal.SIGINT, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGUSR1, lambda *_: _stop.set())
    signal.signal(signal.SIGTERM, _on_terminate)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS_OF_THE_PARENT)
    name_shared_memory()
    sys.modules.setdefault("jax", None)  # type: ignore[arg-type]
    logging.getLogger("absl").setLevel(logging.ERROR)
    threading.Thread(target=_end_with_the_parent, daemon=True, name="parent-watch").start()


def _on_terminate(*_: object) -> None:
    """The first SIGTERM leaves the end to the parent, who must free what this worker holds in shared memory."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    timer = threading.Timer(_TERM_LIMIT_SEC, os._exit, (128 + signal.SIGTERM,))
    timer.daemon = True
    timer.start()


def _end_with_the_parent() -> None:
    first = os.getppid()
    while (parent := multiprocessing.parent_process()) is None:  # not known yet this early
        if os.getppid() != first:
            os._exit(1)
        time.sleep(0.1)
    connection.wait([parent.sentinel])
    os._exit(1)


def in_worker() -> bool:
    """Returns whether this is a data worker (or another child of multiprocessing)."""
    return multiprocessing.parent_process() is not None


def stop_requested() -> bool:
    """Returns whether the parent has asked this worker to end."""
    return _stop.is_set()


def return_free_memory() -> None:
    """Gives what decoders have freed back to the system, now and then; does nothing outside of worker processes.

    Thousands of files opened and closed leave holes in the heap that libc keeps.
    """
    if in_worker() and next(_samples) % _SAMPLES_PER_TRIM == 0:
        with contextlib.suppress(OSError, AttributeError):  # another libc
            ctypes.CDLL(None).malloc_trim(0)


@contextlib.contextmanager
def hang_limit(limit_sec: float) -> Iterator[None]:
    """Ends the worker process if the block takes longer than `limit_sec`; the parent knows which record it was at.

    The reader stops by itself between packets; this is for a call into the decoder that never returns, whether it
    gives the interpreter free or not.  Does nothing outside of worker processes.
    """
    if not in_worker():
        yield
        return
    faulthandler.dump_traceback_later(limit_sec, exit=True, file=_nowhere())
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()


@functools.cache
def _nowhere() -> Any:
    return open(os.devnull, "w")  # kept open: faulthandler writes to it when the time is up


# In the parent


class WorkerGroup:
    """The worker processes of one pipeline."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._pids: dict[int, Any] = {}
        self._memory_prefix = new_prefix()

    @contextlib.contextmanager
    def starting(self) -> Iterator[None]:
        """Within it, processes that grain starts become members of this group."""
        with _start_lock, _worker_environment(self._memory_prefix), _own_main_module() as begun:
            try:
                yield
                limit = time.monotonic() + _START_LIMIT_SEC
                while len(begun) < self._count and time.monotonic() < limit:
                    time.sleep(0.01)
                # The last one may be about to be started, or (a short run) have ended already.
                limit = time.monotonic() + 1
                while self._collect() < self._count and time.monotonic() < limit:
                    time.sleep(0.01)
            finally:
                self._collect()

    def _collect(self) -> int:
        for child in multiprocessing.active_children():
            if child.name.startswith(_PROCESS_NAME) and child.pid not in _owned:
                assert child.pid is not None
                self._pids[child.pid] = child
                _owned.add(child.pid)
        return len(self._pids)

    @property
    def pids(self) -> list[int]:
        return list(self._pids)

    def explain(self, err: Exception) -> WorkerDied | None:
        """Returns what to raise in place of grain's error when a worker has died, or None if none has."""
        stated = _code_in_message(err)
        codes = [p.exitcode for p in self._pids.values() if p.exitcode not in (None, 0)]
        if stated is None and not codes:
            return None
        return WorkerDied(_death_message(stated if stated is not None else codes[0]))

    def deaths(self, err: Exception, pids: Iterable[int]) -> dict[int, int]:
        """Returns process id -> exit code of the workers that have died; a signal counts negative.

        Args:
            err: what grain raised; it contains the exit code of one of them.
            pids: of all workers that have worked: the group never gets to know one that dies within its first batch.
        """
        exits = {pid: process.exitcode for pid, process in self._pids.items()}
        codes = {pid: code for pid, code in exits.items() if code not in (None, 0)}
        stated = _code_in_message(err)
        for pid in pids:
            if stated is not None and pid not in exits and not _is_alive(pid):
                codes[pid] = stated
        return codes

    def stop(self, iterator: Any) -> None:
        """Ends all workers at once, after the sample that they are at, and closes grain's iterator.

        Left to itself grain ends them one after the other, each after the batch that it is at.
        """
        for process in self._pids.values():
            if process.is_alive():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process.pid, signal.SIGUSR1)
        # In a thread, which can be given up: Ctrl-C in the wrong moment leaves a lock of grain's buffers held for ever.
        closing = threading.Thread(target=self._close, args=(iterator,), daemon=True)
        try:
            closing.start()
        except RuntimeError:  # newer Pythons start no thread at exit
            self._close(iterator)
        else:
            closing.join(_CLOSE_LIMIT_SEC)
        self._end()

    def _close(self, iterator: Any) -> None:
        threads = _prefetch_threads(iterator)
        for node, _ in threads:
            node._prefetch_should_stop.set()
        limit = time.monotonic() + _STOP_LIMIT_SEC
        while any(thread.is_alive() for _, thread in threads) and time.monotonic() < limit:
            for node, thread in threads:
                with contextlib.suppress(queue.Empty):  # a full buffer would keep the thread
                    node._buffer.get_nowait()
                thread.join(0.01)
        if any(thread.is_alive() for _, thread in threads):
            self._kill()  # grain would wait for ever for a worker that hangs
        for node, _ in threads:
            # Only now: a thread that still reads from a worker which ended in peace would never return.
            flag = getattr(
                getattr(node, "_maybe_nonnative_parent", None), "_prefetch_should_stop", None
            )
            if flag is not None:
                flag.set()
        if iterator is not None:
            try:
                iterator.close()
            except Exception:  # a worker that died cannot be asked politely
                log.debug("closing the data workers", exc_info=True)

    def free_memory(self) -> None:
        """Frees the shared memory of workers that have ended; batches must have been copied."""
        free_shared_memory(self._memory_prefix)

    def _kill(self) -> None:
        for process in self._pids.values():
            if process.is_alive():
                process.kill()

    def _end(self, grace_sec: float = 2.0) -> None:
        """Ends whatever is still running, by force if need be."""
        limit = time.monotonic() + grace_sec
        for process in self._pids.values():
            process.join(max(0.0, limit - time.monotonic()))
            if process.is_alive():
                process.kill()
                process.join(5)
        _owned.difference_update(self._pids)
        self._pids.clear()


def _prefetch_threads(iterator: Any) -> list[tuple[Any, Any]]:
    """(grain's iterator, its thread) for every worker, where this version of grain has them."""
    nodes = [
        node for node in getattr(iterator, "_iterators_in_use", None) or () if node is not None
    ]
    threads = [(node, getattr(node, "_prefetch_thread", None)) for node in nodes]
    return [(node, thread) for node, thread in threads if thread is not None]


def _code_in_message(err: Exception) -> int | None:
    stated = re.search(r"terminated unexpectedly with exit code (-?\d+)", str(err))
    return int(stated[1]) if stated else None


def _is_alive(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def sent_from_outside(code: int) -> bool:
    """Returns whether an exit code says that something outside ended the worker, rather than what it worked on."""
    return code in _FROM_OUTSIDE


def cause_of_death(code: int) -> str:
    """Returns what a record did to the worker that died with this exit code: the end of a sentence on the record."""
    if code == _EXIT_STUCK:
        return "hangs the decoder, or ends the data worker that reads it (exit code 1)."
    what = f"exit code {code}"
    if code < 0:
        with contextlib.suppress(ValueError):
            what = signal.Signals(-code).name
    return f"takes the data worker that reads it down ({what})."


def _death_message(code: int) -> str:
    what = f"exit code {code}"
    if code < 0:
        with contextlib.suppress(ValueError):
            what = signal.Signals(-code).name
    hints = {
        -signal.SIGKILL: "mostly the machine ran out of memory: lower loader.num_workers or loader.prefetch_batches",
        -signal.SIGBUS: "mostly /dev/shm is full: enlarge it (docker: --shm-size) or lower loader.prefetch_batches",
        -signal.SIGSEGV: "a decoder crashed: run with loader.num_workers=0 to see at which file",
    }
    hint = hints.get(code, "run with loader.num_workers=0 to see the error where it happens")
    return f"a data worker died ({what}): {hint}. Training can resume from its last checkpoint."


@contextlib.contextmanager
def _worker_environment(memory_prefix: str) -> Iterator[None]:
    wanted = {**_ENVIRONMENT, PREFIX_VARIABLE: memory_prefix}
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextlib.contextmanager
def _own_main_module() -> Iterator[list[str]]:
    """Lets spawned grain workers run `worker_main` where they would run the parent's main program again.

    Yields the list of the workers begun so far.
    """
    original = spawn.get_preparation_data
    begun: list[str] = []

    def prepare(name: str) -> dict[str, Any]:
        data = original(name)
        if name.startswith(_PROCESS_NAME):
            data.pop("init_main_from_path", None)
            data["init_main_from_name"] = "video_ssl.clips.processes.worker_main"
            # The child inherits the mask of the thread that starts it, which is not the one that handles Ctrl-C.
            if threading.current_thread() is not threading.main_thread():
                signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS_OF_THE_PARENT)
            begun.append(name)
        return data

    spawn.get_preparation_data = prepare
    try:
        yield begun
    finally:
        spawn.get_preparation_data = original
