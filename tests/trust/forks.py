"""Runs a function in a process of its own, forked from this one, so that a crash, a hang or a bug is seen and named.

The parent must have imported what is heavy, and must have started no threads.
"""

from __future__ import annotations

import contextlib
import faulthandler
import gc
import os
import pickle
import resource
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

KINDS = ("read", "refused", "crash", "hang", "traceback", "memory")


@dataclass(frozen=True)
class Outcome:
    """How a function ended: `kind` is one of `KINDS`; `value` what it returned, `text` what was said."""

    kind: str
    value: Any = None
    text: str = ""


def run(act: Callable[[], Any], *, limit_sec: float, memory_bytes: int, log: Path) -> Outcome:
    """Returns how `act` ends in a process of its own.

    Args:
        act: returns something that pickles.
        limit_sec: after so long it counts as hanging.
        memory_bytes: that it may ask for beyond what this process has; address space, which costs nothing by itself.
        log: gets what it prints.
    """
    answers, child_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(answers)
        _child(act, child_end, memory_bytes, log)
    os.close(child_end)
    content = _receive(answers, time.monotonic() + limit_sec)
    os.close(answers)
    if content is None:
        os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    if content is None:
        return Outcome("hang", text=f"no end within {limit_sec:g} s\n{_tail(log)}")
    if not content:
        code = os.waitstatus_to_exitcode(status)
        how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        return Outcome("crash", text=f"{how}\n{_tail(log)}")
    return pickle.loads(content)


def _child(act: Callable[[], Any], answers: int, memory_bytes: int, log: Path) -> None:
    """Never returns."""
    try:
        gc.disable()
        place = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(place, 1)
        os.dup2(place, 2)
        faulthandler.enable(file=2)
        _bound_memory(memory_bytes)
        answer = pickle.dumps(_attempt(act))
    except BaseException:
        answer = pickle.dumps(Outcome("traceback", text=traceback.format_exc()))
    sent = memoryview(answer)
    while sent:
        sent = sent[os.write(answers, sent) :]
    with contextlib.suppress(Exception):
        sys.stdout.flush()
    os._exit(0)


def _attempt(act: Callable[[], Any]) -> Outcome:
    from video_ssl.error_sentences import sentence_of

    try:
        return Outcome("read", value=act())
    except (MemoryError, OverflowError) as err:
        return Outcome("memory", text="".join(traceback.format_exception(err)))
    except BaseException as err:
        told = sentence_of(err)
        if told is None:
            return Outcome("traceback", text="".join(traceback.format_exception(err)))
        if "not enough memory" in told or "malloc of size" in told:
            return Outcome("memory", text="".join(traceback.format_exception(err)))
        return Outcome("refused", text=told)


def _bound_memory(memory_bytes: int) -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + memory_bytes
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _receive(answers: int, deadline: float) -> bytes | None:
    """All that comes until the other end is closed; None if it stays open beyond the deadline."""
    content = b""
    while True:
        ready, _, _ = select.select([answers], [], [], max(0.0, deadline - time.monotonic()))
        if not ready:
            return None
        piece = os.read(answers, 2**20)
        if not piece:
            return content
        content += piece


def _tail(log: Path) -> str:
    with contextlib.suppress(OSError):
        return log.read_text(errors="replace")[-3000:]
    return ""
