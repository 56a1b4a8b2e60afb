"""Signals that stop a run: all processes stop after the same step.  Free of torch and jax."""

from __future__ import annotations

import _thread
import contextlib
import logging
import os
import signal
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

from video_ssl.pretrain.errors import Interrupted

logger = logging.getLogger(__name__)


class StopSignals:
    """Remembers SIGINT and SIGTERM as a request to stop, on which all processes agree between two steps.

    SIGUSR2 is what schedulers send before a time limit or a preemption (see the launch room).  The first signal sets a
    flag, and says what is waited for; one that comes later has its usual effect, unless the first was SIGUSR2.  A
    second one within SAME_SIGNAL_SEC counts as the first, since launchers pass on what the terminal has already sent to
    all.

    Python runs handlers between two lines of the main thread only, and a step may be a single call of minutes (a
    compiled step of jax, a convolution).  So a thread listens to the pipe that the interpreter writes signals to when
    they come.  It ends the process itself where the main thread has not done so AT_ONCE_SEC after the second signal.

    Under several processes the largest flag is found by a collective (`_begin`, which the frameworks provide) that is
    started at one step boundary and read at the next, so that no process waits for it and all stop after the same step.

    Attributes:
        doing: returns what a signal waits for, as the line that is logged.
    """

    SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2)
    SAME_SIGNAL_SEC = 0.5
    AT_ONCE_SEC = 5.0

    def __init__(self, world_size: int) -> None:
        self.doing: Callable[[], str] = lambda: "stopping after this step; once more stops at once"
        self._world_size = world_size
        self._asked = 0
        self._asked_at = 0.0
        self._at_once = False
        self._before: dict[int, Any] = {}
        self._pending = False
        self._ended = threading.Event()
        self._listener: _Listener | None = None

    def __enter__(self) -> StopSignals:
        with contextlib.suppress(ValueError):  # not in the main thread: no handlers, no stopping
            for number in self.SIGNALS:
                self._before[number] = signal.signal(number, self._end_now)
            self._listener = _Listener(self._note)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._ended.set()
        if kind is None or issubclass(kind, Interrupted):
            self._finish()
        self._pending = False  # after an error the others may never answer
        self._restore()
        if self._listener is not None:
            self._listener.close()
            self._listener = None

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

    def _note(self, number: int) -> None:
        """What a signal does when it comes, in the thread that listens."""
        now = time.monotonic()
        if not self._asked:
            self._asked, self._asked_at = number, now
            logger.warning("%s: %s", signal.Signals(number).name, self.doing())
        elif now - self._asked_at > self.SAME_SIGNAL_SEC and self._asked != signal.SIGUSR2:
            if self._at_once or self._ended.is_set():
                return
            self._at_once = True
            _thread.interrupt_main(signal.Signals(number))
            if not self._ended.wait(self.AT_ONCE_SEC):
                logger.warning("%s: stopped at once", signal.Signals(number).name)
                os._exit(128 + number)

    def _end_now(self, number: int, frame: FrameType | None) -> None:
        """What the main thread does about a signal, between two of its lines: nothing before the second one."""
        if self._at_once:
            self._restore()
            os.kill(os.getpid(), number)

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}


class _Listener:
    """A thread that calls `hear` with the number of every signal when it comes; the main thread makes and closes it."""

    def __init__(self, hear: Callable[[int], None]) -> None:
        self._hear = hear
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._writer, False)
        self._before = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        self._thread = threading.Thread(target=self._listen, daemon=True, name="signals")
        self._thread.start()

    def _listen(self) -> None:
        while number := os.read(self._reader, 1)[0]:
            if number in StopSignals.SIGNALS:
                self._hear(number)

    def close(self) -> None:
        signal.set_wakeup_fd(self._before)
        os.write(self._writer, b"\0")
        self._thread.join()
        os.close(self._reader)
        os.close(self._writer)
