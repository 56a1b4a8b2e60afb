"""What the shared parts of both loops know about the processes of a run; free of torch and jax."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, TypeVar

T = TypeVar("T")


class Place(Protocol):
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

    def on_main(self, act: Callable[[], T]) -> T:
        """Returns what `act` returned in process 0, in every process; its error too is raised in every process."""
