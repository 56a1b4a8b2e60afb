"""RUN/nonfinite: what is kept of a step whose loss or gradient is not finite; each loop writes its own arrays there."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path

from video_ssl.pretrain.errors import CheckpointError, NonFiniteLoss


@contextlib.contextmanager
def evidence_folder(run: Path, step: int) -> Iterator[Path]:
    """Yields RUN/nonfinite, to be written.

    Raises:
        CheckpointError: it cannot be.
    """
    place = run / "nonfinite"
    try:
        place.mkdir(parents=True, exist_ok=True)
        yield place
    except (OSError, RuntimeError) as err:
        raise CheckpointError(
            f"the loss of step {step} is not finite, and {place} could not be written: {err}. Make room, then start "
            "the same command again: it repeats the step."
        ) from err


def nonfinite_loss(
    place: Path, step: int, figures: Mapping[str, float], *, repeat: str = ""
) -> NonFiniteLoss:
    """Returns the error that ends such a run.

    Args:
        place: RUN/nonfinite.
        repeat: the command that repeats the step, where there is one.
    """
    again = f"; `{repeat}` repeats it" if repeat else ""
    return NonFiniteLoss(
        f"the loss or the gradient of step {step} is not finite ({dict(figures)}). The weights before it, its batch "
        f"and its seed are in {place}{again}. No checkpoint was made of it. Usual causes: a learning rate that is too "
        "high (optimizer.base_lr, optimizer.warmup), no training.grad_clip, precision."
    )
