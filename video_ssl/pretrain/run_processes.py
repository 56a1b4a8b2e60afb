"""What the shared parts of both loops know about the processes of a run; free of torch and jax."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

from video_ssl.pretrain.errors import RunError

T = TypeVar("T")

LOST_AFTER = "VIDEO_SSL_LOST_AFTER_SEC"


def lost_after_sec() -> float:
    """Returns how long a process waits for another one before it takes it for lost; the launcher sets it.

    Raises:
        RunError: the variable is no number.
    """
    text = os.environ.get(LOST_AFTER, "1800")
    try:
        return float(text)
    except ValueError as err:
        raise RunError(f"{LOST_AFTER}={text!r} must be a number of seconds.") from err


class RunProcesses(Protocol):
    """The place of this process among those of the run; `Processes` of torch and `FlaxProcesses` are such."""

    @property
    def rank(self) -> int: ...

    @property
    def world_size(self) -> int: ...

    @property
    def device(self) -> Any:
        """Where this process computes; its text is shown."""

    @property
    def is_main(self) -> bool: ...

    @property
    def on_cpu(self) -> bool:
        """Whether it computes on a CPU."""

    def on_main(self, act: Callable[[], T]) -> T:
        """Returns what `act` returned in process 0, in every process; its error too is raised in every process."""
