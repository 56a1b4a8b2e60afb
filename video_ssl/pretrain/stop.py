"""Signals that stop a run: all processes stop after the same step.  Free of torch and jax."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import time
from types import FrameType
from typing import Any

from video_ssl.pretrain.errors import Interrupted

logger = logging.getLogger(__name__)


class StopSignals:
    """Remembers SIGINT and SIGTERM as a request to stop, on which all processes agree between two steps.

    SIGUSR2 is what schedulers send before a time limit or a preemption (see the launch room).  The first signal sets a
    flag; one that comes later has its usual effect, unless the first was SIGUSR2.  A second one within
    SAME_SIGNAL_SEC counts as the first, since launchers pass on what the terminal has already sent to all.  Under
    several processes the largest flag is found by a collective (`_begin`, which the frameworks provide) that is started
    at one step boundary and read at the next, so that no process waits for it and all stop after the same step.
    """

    SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2)
    SAME_SIGNAL_SEC = 0.5

    def __init__(self, world_size: int) -> None:
        self._world_size = world_size
        self._asked = 0
        self._asked_at = 0.0
        self._before: dict[int, Any] = {}
        self._pending = False

    def __enter__(self) -> StopSignals:
        with contextlib.suppress(ValueError):  # not in the main thread: no handlers, no stopping
            for number in self.SIGNALS:
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None or issubclass(kind, Interrupted):
            self._finish()
        self._pending = False  # after an error the others may never answer
        self._restore()

    @property
    def asked(self) -> bool:
        """Whether a signal has reached this process."""
        return self._asked != 0

    def agreed(self) -> int:
        """Returns the signal after which every process stops now, or 0.  Called once per step by every process."""
        if self._world_size == 1:
            return self._asked
        found = self._finish()
        self._begin(self._asked)
        self._pending = True
        return found

    def _finish(self) -> int:
        if not self._pending:
            return 0
        self._pending = False
        return self._read()

    def _begin(self, asked: int) -> None:
        """Starts to find the largest flag of all processes."""
        raise NotImplementedError

    def _read(self) -> int:
        """Waits for what `_begin` has started."""
        raise NotImplementedError

    def _note(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if not self._asked:
            self._asked, self._asked_at = number, now
            logger.warning(
                "%s: stopping after this step; once more stops at once", signal.Signals(number).name
            )
        elif now - self._asked_at > self.SAME_SIGNAL_SEC and self._asked != signal.SIGUSR2:
            self._restore()
            os.kill(os.getpid(), number)

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}
