"""Runs one function on many files in processes of their own, so that no file can stop the others.

A decoder that hangs or crashes takes its process with it, nothing else: the process is replaced and the file comes
back with the reason.  The processes are plain children that talk over pipes: they do not run the main program again,
need no fork, and end when the parent ends.
"""

from __future__ import annotations

import collections
import contextlib
import logging
import os
import pickle
import selectors
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from video_ssl.child_signals import deaf_children
from video_ssl.files import DiskFull

log = logging.getLogger(__name__)

_START_LIMIT_SEC = 120
_ENVIRONMENT = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


@dataclass(frozen=True)
class Failure:
    """Why there is no result.

    Attributes:
        died: the process crashed or hung, not that the function failed.
        away: the video could not be reached, since a network or server is down.
        slow: it took longer than it may.
    """

    reason: str
    died: bool = False
    away: bool = False
    slow: bool = False

    @property
    def passing(self) -> bool:
        """Whether another time, or with more of it, all may be fine."""
        return self.died or self.away or self.slow


@dataclass(frozen=True)
class _Beat:
    """A task is not over; what is known of how far it is."""

    share: float | None = None
    video_sec: float = 0.0


class AwayError(ValueError):
    """A result has been written, without the records that could not be reached; the text says how to add them."""


def refuse_away(lines: Sequence[Mapping[str, Any]], out: Path) -> None:
    """Raises AwayError if there are lines of a skip list about records that could not be reached."""
    if lines:
        raise AwayError(
            f"{out} is written, but without {len(lines)} records that cannot be reached now (the first: "
            f"{lines[0]['source']} {lines[0]['reason'].rstrip('.')}). They are not taken for broken: give the same "
            "command again when network and server are up, and only they are looked at; or take them out of the table."
        )


def run_isolated(
    function: str,
    tasks: Iterable[tuple[Any, Any]],
    *,
    num_workers: int,
    limit_sec: float,
    on_beat: Callable[[Any, float, float], None] = lambda *_: None,
) -> Iterator[tuple[Any, Any]]:
    """Yields (key, result or Failure) for every (key, argument) of `tasks`, in the order in which they finish.

    Args:
        function: "module:name" of a function of one argument; argument and result must pickle.
        tasks: read as needed, so it may be endless.
        num_workers: processes.
        limit_sec: a task that neither ends nor calls `isolated_worker.beat` for so long is ended by force.
        on_beat: called with the key of a task, the share of it that is done and the seconds of video in that.

    Raises:
        DiskFull: a task met a full disk.
        RuntimeError: the processes cannot start.
    """
    queue = iter(tasks)
    with contextlib.ExitStack() as stack, selectors.DefaultSelector() as selector:
        idle: collections.deque[_Worker] = collections.deque()
        busy: set[_Worker] = set()
        started = 0
        exhausted = False
        while True:
            while not exhausted and (idle or started < num_workers):
                task = next(queue, None)
                if task is None:
                    exhausted = True
                    break
                while idle and idle[0].has_ended():
                    selector.unregister(idle[0].answers)
                    idle.popleft().close()
                    started -= 1
                if not idle:
                    worker = stack.enter_context(_Worker(function))
                    selector.register(worker.answers, selectors.EVENT_READ, worker)
                    started += 1
                else:
                    worker = idle.popleft()
                worker.give(task, limit_sec)
                busy.add(worker)
            if not busy:
                return
            for worker in _woken(selector, busy):
                outcome = worker.outcome()
                if isinstance(outcome, _Beat):
                    if outcome.share is not None:
                        on_beat(worker.key, outcome.share, outcome.video_sec)
                    continue
                busy.remove(worker)
                if worker.dead:
                    selector.unregister(worker.answers)
                    worker.close()
                    started -= 1
                else:
                    idle.append(worker)
                yield worker.key, outcome


def _woken(selector: selectors.BaseSelector, busy: set[_Worker]) -> list[_Worker]:
    """Workers that have sent a result, have died, or are over their time."""
    wait = max(0.0, min(worker.deadline for worker in busy) - time.monotonic())
    woken = [key.data for key, _ in selector.select(wait)]
    now = time.monotonic()
    return woken + [w for w in busy if w not in woken and w.deadline <= now]


class _Worker:
    """One child process."""

    def __init__(self, function: str) -> None:
        paths = os.pathsep.join(path or os.getcwd() for path in sys.path)
        with deaf_children():
            self._process = subprocess.Popen(
                [sys.executable, "-m", "video_ssl.clips.upkeep.isolated_worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                bufsize=0,
                env={**os.environ, **_ENVIRONMENT, "PYTHONPATH": paths},
            )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._orders, self.answers = self._process.stdin, self._process.stdout
        self._ready = self.dead = False
        self._limit_sec = 0.0
        self.deadline = 0.0
        self.key: Any = None
        self._say((list(sys.path), function))

    def give(self, task: tuple[Any, Any], limit_sec: float) -> None:
        self.key, argument = task
        self._limit_sec = limit_sec
        self._count_anew()
        self._say(argument)

    def outcome(self) -> Any:
        """The result of the task, a Failure, or a `_Beat`."""
        if time.monotonic() >= self.deadline and not self._has_answer():
            return self._killed()
        try:
            kind, *rest = pickle.loads(self._read(struct.unpack("<Q", self._read(8))[0]))
        except EOFError:
            return self._died()
        if kind in ("ready", "beat"):
            self._ready = True
            self._count_anew()
            return _Beat(*rest)
        if kind == "done":
            return rest[0]
        if kind == "full":
            raise DiskFull(
                f"the disk is full ({rest[0]}): free space and run the same command again, it goes on from here."
            )
        if kind == "error":
            log.warning("unexpected error at %s:\n%s", self.key, rest[1])
            return Failure(f"unexpected {rest[0]}")
        if kind in ("away", "slow"):
            return Failure(rest[0], **{kind: True})
        return Failure(rest[0])

    def has_ended(self) -> bool:
        return self._process.poll() is not None

    def close(self) -> None:
        self.dead = True
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        self._process.wait()
        for pipe in (self._orders, self.answers):
            with contextlib.suppress(OSError):
                pipe.close()

    def __enter__(self) -> _Worker:
        return self

    def __exit__(self, *_: Any) -> None:
        if not self.dead:
            self.close()

    def _say(self, message: Any) -> None:
        with contextlib.suppress(BrokenPipeError):  # seen as a death when the answer is read
            pickled = pickle.dumps(message)
            content = memoryview(struct.pack("<Q", len(pickled)) + pickled)
            while content:
                content = content[self._orders.write(content) :]

    def _read(self, size: int) -> bytes:
        # Not through a buffer: what it held would not wake `select`.
        content = b""
        while len(content) < size:
            piece = os.read(self.answers.fileno(), size - len(content))
            if not piece:
                raise EOFError
            content += piece
        return content

    def _count_anew(self) -> None:
        limit = self._limit_sec if self._ready else _START_LIMIT_SEC
        self.deadline = time.monotonic() + limit

    def _has_answer(self) -> bool:
        with selectors.DefaultSelector() as own:
            own.register(self.answers, selectors.EVENT_READ)
            return bool(own.select(0))

    def _killed(self) -> Failure:
        self.dead = True
        self._process.kill()
        self._refuse_if_never_ready()
        return Failure(
            f"hangs the decoder for more than {self._limit_sec:g} s; its process was ended.", True
        )

    def _died(self) -> Failure:
        self.dead = True
        code = self._process.wait()
        self._refuse_if_never_ready()
        how = f"exit code {code}"
        if code < 0:
            with contextlib.suppress(ValueError):
                how = signal.Signals(-code).name
        return Failure(f"crashes the decoder ({how}); its process was replaced.", True)

    def _refuse_if_never_ready(self) -> None:
        if not self._ready:
            raise RuntimeError(
                f"a worker process could not start (exit code {self._process.poll()}): its message is above."
            )
