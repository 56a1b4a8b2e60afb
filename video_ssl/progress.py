"""How far a long job is: a bar on a terminal, a line every so often elsewhere.  The same for every verb.

Both tell the same: what is done of how many, how many seconds of video that were and how fast, and how long the rest
will take.  Videos may be long, so a job may tell where it is within one.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

logger = logging.getLogger(__name__)

#: Seconds between two lines where there is no terminal.
EVERY_SEC = 30.0


#: Columns that a table may take in a file or a pipe.
_WIDTH = 400


def console_for_tables() -> Console:
    """Returns where tables go: as wide as the terminal; a file or a pipe has room for all of them."""
    from rich.console import Console

    console = Console()
    if console.is_terminal or console.is_jupyter or "COLUMNS" in os.environ:
        return console
    return Console(width=_WIDTH)


class Meter:
    """Counts what is done.  Made by `metered`.

    Args:
        title: what is done.
        total: how many there are.
        unit: of what.
        done: how many were done before this job began; they cost it no time.
        now: a clock in seconds.
    """

    def __init__(
        self,
        title: str,
        *,
        total: int,
        unit: str = "videos",
        done: int = 0,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.title, self.total, self.unit = title, total, unit
        self.done = self._before = done
        self.extra = ""
        self._now, self._begin = now, now()
        self._video_sec = 0.0
        self._within: dict[Hashable, tuple[float, float]] = {}
        self._shown: Callable[[], None] = lambda: None

    def advance(self, count: int = 1, *, video_sec: float = 0.0, key: Hashable = None) -> None:
        """Notes that `count` more are done, `video_sec` seconds of video; `key` is what `within` called it."""
        self._within.pop(key, None)
        self.done += count
        self._video_sec += video_sec
        self._shown()

    def within(self, key: Hashable, share: float, video_sec: float) -> None:
        """Notes that of the one called `key` a share in [0, 1] is done, `video_sec` seconds of video."""
        self._within[key] = (share, video_sec)
        self._shown()

    def at(self, done: int) -> None:
        """Notes that `done` are done in all."""
        self.advance(done - self.done)

    @property
    def reached(self) -> float:
        """What is done, with the parts of those that have begun."""
        parts = sum(share for share, _ in list(self._within.values()))
        return min(self.done + parts, self.total)

    @property
    def video_sec(self) -> float:
        """Seconds of video that this job has done."""
        return self._video_sec + sum(sec for _, sec in list(self._within.values()))

    @property
    def elapsed_sec(self) -> float:
        return self._now() - self._begin

    def left_sec(self) -> float | None:
        """Returns the seconds that the rest will take at the pace so far; None before there is one."""
        made = self.reached - self._before
        if made <= 0:
            return None
        return self.elapsed_sec * (self.total - self.reached) / made

    def speed(self) -> str:
        """Returns how much video was done and how fast: "0:02:00 of video, 8 times real time"; "" without any."""
        video_sec, elapsed = self.video_sec, self.elapsed_sec
        if video_sec <= 0 or elapsed <= 0:
            return ""
        return f"{duration_text(video_sec)} of video, {video_sec / elapsed:.3g} times real time"

    def told(self) -> str:
        """Returns how far it is, in words."""
        left = self.left_sec()
        parts = [
            f"{self.done}/{self.total} {self.unit}",
            f"{100 * self.reached / self.total:.0f} %" if self._within and self.total else "",
            self.speed(),
            self.extra,
            f"{duration_text(self.elapsed_sec)} so far"
            if left is None
            else f"{duration_text(left)} left",
        ]
        return ", ".join(part for part in parts if part)


@contextmanager
def metered(
    title: str,
    *,
    total: int,
    unit: str = "videos",
    done: int = 0,
    show: bool = True,
    lines: bool = True,
) -> Iterator[Meter]:
    """Yields the meter of a job and shows it while the job lasts: as a bar where stderr is a terminal, else as lines.

    Args:
        title, total, unit, done: see `Meter`.
        show: False shows nothing.
        lines: False shows no lines, for jobs that write their own.
    """
    meter = Meter(title, total=total, unit=unit, done=done)
    if not show or done >= total:
        yield meter
    elif sys.stderr.isatty():
        with _bar(meter):
            yield meter
    elif lines:
        with _lines(meter):
            yield meter
    else:
        yield meter


@contextmanager
def _bar(meter: Meter) -> Iterator[None]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[told]}"))
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(meter.title, total=meter.total, completed=meter.done, told="")

        def show() -> None:
            bar.update(task, completed=meter.reached, told=meter.told())

        meter._shown = show
        yield
        show()


@contextmanager
def _lines(meter: Meter) -> Iterator[None]:
    """A thread writes them, so that a job that is within one long video tells that it lives."""
    over = threading.Event()

    def write() -> None:
        while not over.wait(EVERY_SEC):
            logger.info("%s: %s", meter.title, meter.told())

    thread = threading.Thread(target=write, name="progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


@contextmanager
def compiling(what: str) -> Iterator[None]:
    """Says that something is compiled, since until then nothing else is heard, and how long that took."""
    logger.info("compiling %s for flax (seconds on a GPU, up to minutes on a CPU)", what)
    begin = time.monotonic()
    yield
    logger.info("compiled in %s", duration_text(time.monotonic() - begin))


def duration_text(seconds: float) -> str:
    """Returns hours, minutes and seconds.

    >>> duration_text(3725)
    '1:02:05'
    """
    whole = round(seconds)
    return f"{whole // 3600}:{whole % 3600 // 60:02}:{whole % 60:02}"


def record_sec(num_frames: Any, fps: Any) -> float:
    """Returns the seconds of a video of which the table says frames and rate, 0 where it does not."""
    return num_frames / fps if num_frames and fps and fps > 0 else 0.0
