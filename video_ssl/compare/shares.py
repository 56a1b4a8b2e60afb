"""Shares of a machine for cells that are run side by side: cores of their own, and a GPU where there are some."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass

from video_ssl.recipes import ConfigError

_VISIBLE = "CUDA_VISIBLE_DEVICES"


@dataclass(frozen=True)
class Share:
    """A share of the machine.

    Attributes:
        cores: numbers of its processor cores.
        gpu: its GPU, as `CUDA_VISIBLE_DEVICES` names it; None = there is none, or all of them.
    """

    cores: tuple[int, ...]
    gpu: str | None = None

    def take(self) -> None:
        """Confines this thread, and what it starts, to the cores."""
        if hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, self.cores)

    @contextlib.contextmanager
    def taken(self) -> Iterator[None]:
        """Confines this thread, and what it starts, meanwhile."""
        before = _cores()
        self.take()
        try:
            yield
        finally:
            Share(before).take()

    def environment(self) -> dict[str, str] | None:
        """Returns the environment of a process of the share; None = that of this one."""
        return None if self.gpu is None else {**os.environ, _VISIBLE: self.gpu}


def shares_of_machine(count: int) -> list[Share]:
    """Returns so many equal shares of the cores that this process may use (what is left over belongs to none), and of
    the GPUs, which go round where they are fewer.  A single share has all of them.

    Raises:
        ConfigError: fewer cores than shares.
    """
    cores, gpus = _cores(), _gpus() if count > 1 else []
    if not 1 <= count <= len(cores):
        raise ConfigError(
            f"--at-once {count}: give 1 to {len(cores)}, which is how many processor cores this process may use."
        )
    size = len(cores) // count
    return [
        Share(cores[i * size : (i + 1) * size], gpus[i % len(gpus)] if gpus else None)
        for i in range(count)
    ]


def _cores() -> tuple[int, ...]:
    if hasattr(os, "sched_getaffinity"):
        return tuple(sorted(os.sched_getaffinity(0)))
    return tuple(range(os.cpu_count() or 1))


def _gpus() -> list[str]:
    """As `CUDA_VISIBLE_DEVICES` names them, or numbers where it is not set."""
    named = os.environ.get(_VISIBLE)
    if named is not None:
        return [name.strip() for name in named.split(",") if name.strip()]
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return []
    lines = [line for line in listed.stdout.splitlines() if line.startswith("GPU ")]
    return [str(number) for number in range(len(lines))]
