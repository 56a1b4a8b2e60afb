"""Cells are run, one after another or side by side: the training, then the evaluations, each as a command of its own,
with what it took."""

from __future__ import annotations

import contextlib
import logging
import queue
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import IO

from video_ssl.child_usage import Spent, spent, watched
from video_ssl.code_state import code_folder, git_state
from video_ssl.compare.cells import LOG, Cell, last_words
from video_ssl.compare.shares import Share
from video_ssl.errors import AlreadyReported
from video_ssl.files import temporary_folder

logger = logging.getLogger(__name__)


class Stopped(Exception):
    """The comparison was stopped by a signal, and with it the command that ran."""


class Commands:
    """The commands of a comparison that run now.  They are stopped together: Ctrl-C of a terminal reaches all of them
    without help, SIGTERM is passed on.

    Attributes:
        stopped: by which signal; None = they were not.
    """

    def __init__(self) -> None:
        self.stopped: int | None = None
        self._running: set[subprocess.Popen[bytes]] = set()
        self._lock = threading.RLock()  # a signal may come while its own thread holds it

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Passes SIGTERM on meanwhile; for the main thread."""
        before = signal.signal(signal.SIGTERM, lambda number, _: self.stop(number))
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, before)

    def stop(self, number: int, *, send: bool = True) -> None:
        """Starts no further command; those that run save and end.

        Args:
            number: the signal.
            send: to the commands too, which have not heard of it.
        """
        with self._lock:
            self.stopped = self.stopped or number
            for process in self._running if send else ():
                process.send_signal(number)

    @contextlib.contextmanager
    def started(
        self, words: Sequence[str], file: IO[str], env: Mapping[str, str] | None
    ) -> Iterator[subprocess.Popen[bytes]]:
        """Yields a process that was started, with what it says in a file.

        Raises:
            Stopped: the comparison was stopped before.
        """
        with self._lock:
            if self.stopped is not None:
                raise Stopped
            process = subprocess.Popen(
                words, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT, env=env
            )
            self._running.add(process)
            if self.stopped is not None:  # by a signal that came meanwhile
                process.send_signal(self.stopped)
        try:
            yield process
        finally:
            with self._lock:
                self._running.discard(process)

    def as_error(self) -> AlreadyReported:
        """Says that the comparison was stopped; returns the error that ends it."""
        text = "the comparison was stopped; the same command goes on where it was"
        logger.warning("%s", text)
        assert self.stopped is not None
        return AlreadyReported(text, 128 + self.stopped)


def run_cell(
    cell: Cell, commands: Commands | None = None, env: Mapping[str, str] | None = None
) -> None:
    """Runs what is missing of a cell; after a command that fails the rest of the cell is left.

    Args:
        commands, env: see `run_command`.
    """
    cell.keep(error=None, code=git_state(code_folder()))
    for what, words in cell.missing():
        log = cell.folder / LOG
        begin = time.strftime("%Y-%m-%d %H:%M")
        keep = partial(_keep_training, cell, begin) if what == "training" else None
        code, took = run_command(words, log, keep=keep, commands=commands, env=env)
        if code:
            said = f"{what} ended with code {code}: {last_words(log)}"
            logger.warning("%s: %s (%s)", cell.name, said, log)
            cell.keep(error=said)
            return
        if what != "training":
            cell.keep(**{f"evaluation {what}": asdict(took)})


def run_side_by_side(
    cells: Sequence[Cell], shares: Sequence[Share], *, done: Callable[[], object]
) -> None:
    """Runs what is missing of cells, as many at a time as there are shares of the machine, each on its own.

    Args:
        cells: in the order in which they are begun.
        shares: of the machine.
        done: called after each cell, in this thread.

    Raises:
        AlreadyReported: it was stopped, see `run_command`.
    """
    commands, waiting = Commands(), deque(enumerate(cells, 1))
    #: True: a cell has ended, False: a share has nothing more to do.
    ended: queue.SimpleQueue[BaseException | bool] = queue.SimpleQueue()

    def work(share: Share) -> None:
        try:
            share.take()
            while commands.stopped is None and (following := _next(waiting)) is not None:
                number, cell = following
                logger.info("%d of %d: %s", number, len(cells), cell.name)
                run_cell(cell, commands, share.environment())
                ended.put(True)
        except Stopped:
            pass
        except BaseException as err:  # whatever it is, nobody else would hear of it
            ended.put(err)
        ended.put(False)

    threads = [threading.Thread(target=work, args=(share,)) for share in shares]
    failed: BaseException | None = None
    with commands.listening():
        for thread in threads:
            thread.start()
        at_work = len(threads)
        while at_work:
            try:
                found = ended.get()
                if isinstance(found, BaseException):
                    raise found
                if found:
                    done()
                else:
                    at_work -= 1
            except KeyboardInterrupt:  # that of the terminal has reached the commands too
                commands.stop(signal.SIGINT, send=False)
            except BaseException as err:
                # Of a share or of `done`: the others must not go on without this thread.
                failed = failed or err
                commands.stop(signal.SIGTERM)
    if failed is not None:
        raise failed
    if commands.stopped is not None:
        raise commands.as_error()


def _next(waiting: deque[tuple[int, Cell]]) -> tuple[int, Cell] | None:
    try:
        return waiting.popleft()
    except IndexError:  # another share was quicker
        return None


def run_command(
    words: Sequence[str],
    log: Path,
    *,
    keep: Callable[[Spent], None] | None = None,
    commands: Commands | None = None,
    env: Mapping[str, str] | None = None,
) -> tuple[int, Spent]:
    """Runs `video-ssl` with these words, what it says in a file; returns its exit code and what it took.

    Ctrl-C and SIGTERM reach the command too, which saves and ends; then this one ends.

    Args:
        keep: is given what it took, however it ended.
        commands: those that run beside it, in whose hands the signals are; None = it is alone, in the main thread.
        env: its environment; None = that of this process.

    Raises:
        AlreadyReported: it was stopped so; `Stopped` where there are `commands`.
    """
    if commands is None:
        alone = Commands()
        try:
            with alone.listening():
                return run_command(words, log, keep=keep, commands=alone, env=env)
        except Stopped:
            raise alone.as_error() from None
    log.parent.mkdir(parents=True, exist_ok=True)
    with temporary_folder("compare") as folder, open(log, "a", encoding="utf-8") as file:
        file.write(f"$ {shlex.join(['video-ssl', *words])}\n")
        file.flush()
        whole = watched([sys.executable, "-m", "video_ssl", *words], folder / "took.json")
        with commands.started(whole, file, env) as process:
            _wait_for(process, commands)
        try:
            code, took = spent(folder / "took.json")
        except FileNotFoundError:  # killed with all that it had started, by somebody else
            code, took = process.returncode or -signal.SIGKILL, Spent(0.0, 0.0, 0.0)
    if keep is not None:
        keep(took)
    if commands.stopped is not None:
        raise Stopped
    return code, took


def _wait_for(process: subprocess.Popen[bytes], commands: Commands) -> None:
    while process.returncode is None:
        try:
            process.wait()
        except KeyboardInterrupt:  # that of the terminal has reached the process too
            commands.stop(signal.SIGINT, send=False)


def _keep_training(cell: Cell, begin: str, took: Spent) -> None:
    before = cell.state().get("training") or {}
    cell.keep(training=_added(before, took), date=begin)


def _added(before: Mapping[str, float], took: Spent) -> dict[str, float]:
    """What a training took in all its attempts, those that failed or were stopped too."""
    if not before:
        return asdict(took)
    return {
        "wall_sec": before["wall_sec"] + took.wall_sec,
        "processor_sec": before["processor_sec"] + took.processor_sec,
        "peak_gib": max(before["peak_gib"], took.peak_gib),
    }
