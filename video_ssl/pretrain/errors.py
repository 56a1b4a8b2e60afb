"""What can stop a run.  Every text says what happened, what is allowed and what to do."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator

_JAX_SIDE = ("jax", "jaxlib", "flax", "optax", "orbax")


class RunError(ValueError):
    """A run that cannot start, go on or be saved; the command line prints the text and exits non-zero."""


class CheckpointError(RunError):
    """A checkpoint that could not be written or does not fit."""


class NonFiniteLoss(RunError):
    """The loss or the gradient became NaN or infinite; what reproduces it lies in RUN/nonfinite."""


class Interrupted(SystemExit):
    """The run was asked to stop and has saved a checkpoint; ends the process with 128 + signal number."""

    def __init__(self, signal_number: int, message: str) -> None:
        super().__init__(128 + signal_number)
        self.signal_name = signal.Signals(signal_number).name
        self.message = message

    def __str__(self) -> str:
        return self.message


@contextlib.contextmanager
def missing_jax(what: str) -> Iterator[None]:
    """Turns the absence of a package of the jax side into a RunError of one line that says what to install.

    Args:
        what: what needs it: "objective.name=teg".
    """
    try:
        yield
    except ModuleNotFoundError as err:
        if (err.name or "").partition(".")[0] not in _JAX_SIDE:
            raise
        raise RunError(f"{what} needs {err.name}: pip install 'video_ssl[jax]'") from err
