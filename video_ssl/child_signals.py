"""Ctrl-C and child processes: a terminal sends it to all processes of a command, and one of them should answer."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from multiprocessing import resource_tracker

_CTRL_C = {signal.SIGINT}


@contextlib.contextmanager
def deaf_children() -> Iterator[None]:
    """Child processes that are started within it are not reached by Ctrl-C, from their first moment on.

    Their parent is, and ends them; by themselves they would each print the traceback of whatever they were at, and
    until a child has loaded Python it cannot say otherwise.  It inherits the mask of the thread that starts it.

    In the main thread, Ctrl-C is heard when all of them are started: another thread may take the signal, and a child
    whose start is broken off prints a traceback too.
    """
    answer = signal.getsignal(signal.SIGINT)
    came: list[int] = []
    waits = callable(answer) and threading.current_thread() is threading.main_thread()
    if waits:
        signal.signal(signal.SIGINT, lambda number, _: came.append(number))
    # multiprocessing starts it with the first child, and lets Ctrl-C through again afterwards (Python 3.11).
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _CTRL_C)
    try:
        yield
    finally:
        if waits:
            signal.signal(signal.SIGINT, answer)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        if came:
            signal.raise_signal(signal.SIGINT)


def end_in_silence() -> None:
    """Lets Ctrl-C end this process, a child that was started deaf, without a word."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _CTRL_C)
