"""A cell is run: its training, then its evaluations, each as a command of its own, with what it took."""

from __future__ import annotations

import logging
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from types import FrameType

from video_ssl.child_usage import Spent, spent, watched
from video_ssl.code_state import code_folder, git_state
from video_ssl.compare.cells import LOG, Cell, last_words
from video_ssl.errors import AlreadyReported
from video_ssl.files import temporary_folder

logger = logging.getLogger(__name__)


def run_cell(cell: Cell) -> None:
    """Runs what is missing of a cell; after a command that fails the rest of the cell is left."""
    cell.keep(error=None, code=git_state(code_folder()))
    for what, words in cell.missing():
        log = cell.folder / LOG
        begin = time.strftime("%Y-%m-%d %H:%M")
        keep = partial(_keep_training, cell, begin) if what == "training" else None
        code, took = run_command(words, log, keep=keep)
        if code:
            said = f"{what} ended with code {code}: {last_words(log)}"
            logger.warning("%s: %s (%s)", cell.name, said, log)
            cell.keep(error=said)
            return
        if what != "training":
            cell.keep(**{f"evaluation {what}": asdict(took)})


def run_command(
    words: Sequence[str], log: Path, *, keep: Callable[[Spent], None] | None = None
) -> tuple[int, Spent]:
    """Runs `video-ssl` with these words, what it says in a file; returns its exit code and what it took.

    Ctrl-C and SIGTERM reach the command too, which saves and ends; then this one ends.

    Args:
        keep: is given what it took, however it ended.

    Raises:
        AlreadyReported: it was stopped so.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    stopped: list[int] = []
    with temporary_folder("compare") as folder, open(log, "a", encoding="utf-8") as file:
        file.write(f"$ {shlex.join(['video-ssl', *words])}\n")
        file.flush()
        process = subprocess.Popen(
            watched([sys.executable, "-m", "video_ssl", *words], folder / "took.json"),
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
        )

        def pass_on(number: int, _: FrameType | None) -> None:
            stopped.append(number)
            process.send_signal(number)

        before = signal.signal(signal.SIGTERM, pass_on)
        try:
            _wait_for(process, stopped)
        finally:
            signal.signal(signal.SIGTERM, before)
        try:
            code, took = spent(folder / "took.json")
        except FileNotFoundError:  # killed with all that it had started, by somebody else
            code, took = process.returncode or -signal.SIGKILL, Spent(0.0, 0.0, 0.0)
    if keep is not None:
        keep(took)
    if stopped:
        text = "the comparison was stopped; the same command goes on where it was"
        logger.warning("%s", text)
        raise AlreadyReported(text, 128 + stopped[0])
    return code, took


def _wait_for(process: subprocess.Popen[bytes], stopped: list[int]) -> None:
    while process.returncode is None:
        try:
            process.wait()
        except KeyboardInterrupt:  # that of the terminal has reached the process too
            stopped.append(signal.SIGINT)


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
