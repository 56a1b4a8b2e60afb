"""Writing beside the training: one piece of work at a time; its error is re-raised by the next call."""

from __future__ import annotations

import concurrent.futures
import logging
import time
from collections.abc import Callable

logger = logging.getLogger(__name__)

#: Work that takes no longer than this is waited for, so that small checkpoints are there when the step is over.
PATIENCE_SEC = 0.2


class BackgroundWriter:
    """A thread that does one piece of work at a time.

    Args:
        patience_sec: how long `start` waits for the work to be done.
    """

    def __init__(self, patience_sec: float = PATIENCE_SEC) -> None:
        self._pool = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="writer")
        self._patience_sec = patience_sec
        self._work: concurrent.futures.Future[float] | None = None
        self._begun = 0.0

    def start(self, work: Callable[[], None]) -> None:
        """Begins a piece of work; the one before must have been settled."""
        assert self._work is None, "settle the work before"
        self._begun = time.perf_counter()

        def timed() -> float:
            work()
            return time.perf_counter() - self._begun

        self._work = self._pool.submit(timed)
        concurrent.futures.wait([self._work], self._patience_sec)

    def look(self) -> float | None:
        """Returns the seconds that the work has taken, once when it has ended; None before and afterwards.

        Raises:
            whatever the work has raised, once.
        """
        if self._work is None or not self._work.done():
            return None
        work, self._work = self._work, None
        return work.result()

    def settle(self) -> float | None:
        """Waits until the work has ended; otherwise as `look`."""
        if self._work is not None:
            concurrent.futures.wait([self._work])
        return self.look()

    def close(self) -> None:
        """Waits until the work has ended and gives the thread back; an error that was not re-raised is logged."""
        try:
            self.settle()
        except Exception as err:
            logger.error("%s", err)
        finally:
            self._pool.shutdown()
