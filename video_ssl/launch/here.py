"""Tasks as processes of this machine (profile `local`): one after the other, until all are over.

Ctrl-C and SIGTERM stop the launch: the processes save and end, and nothing is started any more.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

from video_ssl.errors import AlreadyReported
from video_ssl.launch.aftermath import settle
from video_ssl.launch.attempts import ATTEMPTS
from video_ssl.launch.batch import write_batch
from video_ssl.launch.errors import LaunchError
from video_ssl.launch.steps import LaunchPlan, Step, batch_of
from video_ssl.launch.task import ATTEMPT, JOB
from video_ssl.pretrain.run_processes import LOST_AFTER


def run_here(plan: LaunchPlan, folder: Path) -> str:
    """Returns what to tell the user when all tasks of a plan are finished.

    What lost a process is started again, and what fails does not keep those from running that do not wait for it, as on
    a cluster.

    Args:
        plan: what to run.
        folder: of its batches.

    Raises:
        LaunchError: tasks have failed; all of them are named.
        AlreadyReported: Ctrl-C or SIGTERM.
    """
    failed: list[str] = []
    broken: set[tuple[str, int]] = set()
    with _Stop() as stop:
        for step in plan.steps:
            batch = write_batch(folder / f"{step.name}.json", batch_of(step))
            for index in range(len(step.tasks)):
                if _waits_in_vain(step, index, broken):
                    broken.add((step.name, index))
                    continue
                stop.raise_if_asked(plan.home)
                try:
                    _until_over(step, batch, index, stop)
                except LaunchError as err:
                    failed.append(str(err))
                    broken.add((step.name, index))
    if len(failed) == 1:
        raise LaunchError(failed[0])
    if failed:
        listed = "\n  ".join(failed)
        raise LaunchError(f"{len(failed)} tasks of {plan.home} have failed:\n  {listed}")
    return f"finished: {plan.home}"


def _waits_in_vain(step: Step, index: int, broken: set[tuple[str, int]]) -> bool:
    """Whether a task needs one that has failed or was not run, as sbatch's dependencies say it."""
    if step.how == "afterany":
        return False
    if step.how == "aftercorr":
        return any((name, index) in broken for name in step.after)
    return any(name in step.after for name, _ in broken)


def local_command(step: Step, batch: Path, index: int) -> list[str]:
    """Returns the command that does a task of a batch with all its processes."""
    own = ["-m", "video_ssl.launch.task", str(batch), str(index)]
    if step.profile.world_size == 1:
        return [sys.executable, *own]
    count = f"--nproc-per-node={step.profile.tasks_per_node}"
    return [sys.executable, "-m", "video_ssl.launch.torchrun", "--standalone", count, *own]


def _until_over(step: Step, batch: Path, index: int, stop: _Stop) -> None:
    profile, task = step.profile, step.tasks[index]
    first = time.time_ns()  # notes of earlier launches must not be taken for ours
    job = f"local-{first // 10**9}"
    for attempt in itertools.count():  # `settle` knows how many there may be
        number = f"{first}-{attempt}"
        environment = {
            **os.environ,
            **{k: str(v) for k, v in profile.environment.items()},
            ATTEMPT: number,
            JOB: job,
            LOST_AFTER: str(profile.lost_after_sec),
        }
        with stop.reaching(local_command(step, batch, index), environment) as process:
            code = process.wait()
        again = settle(
            str(batch),
            index,
            job=job,
            attempt=number,
            code=code,
            processes=profile.world_size,
            state="",
            stopped_by=stop.asked,
            already_shown=True,
        )
        if code == 0:
            return
        stop.raise_if_asked(task.run)
        if not again:
            raise LaunchError(
                f"{task.name} has ended with exit code {code}; see {task.run}/{ATTEMPTS} and the log above."
            )


class _Stop:
    """Remembers the first Ctrl-C or SIGTERM.  SIGTERM is passed on to the process of the moment, with all its own;
    Ctrl-C of a terminal reaches them by itself.  A context manager.

    Attributes:
        asked: the signal, or 0.
    """

    def __init__(self) -> None:
        self.asked = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> _Stop:
        for number in (signal.SIGINT, signal.SIGTERM):
            # What the shell has made deaf stays so, and its children; and only the main thread may listen.
            if signal.getsignal(number) is not signal.SIG_IGN:
                with contextlib.suppress(ValueError):
                    self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.asked = self.asked or number
        if number == signal.SIGTERM and self._process is not None:
            self._process.send_signal(number)

    def raise_if_asked(self, folder: str | Path) -> None:
        """Raises AlreadyReported with exit code 128 + signal if there was one."""
        if self.asked:
            name = signal.Signals(self.asked).name
            raise AlreadyReported(f"{folder} was stopped by {name}", 128 + self.asked)

    @contextlib.contextmanager
    def reaching(
        self, command: list[str], environment: dict[str, str]
    ) -> Iterator[subprocess.Popen[bytes]]:
        """Yields a process that is told of signals, also of one that came while it was started."""
        known = self.asked
        self._process = subprocess.Popen(command, env=environment)
        if self.asked and not known:
            self._process.send_signal(self.asked)
        try:
            yield self._process
        finally:
            self._process = None
