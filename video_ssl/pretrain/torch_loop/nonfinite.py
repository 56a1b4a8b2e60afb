"""A loss or gradient that is not finite: noticed without asking the device every step, kept so that it can be replayed.

    RUN/nonfinite/report.json     step, seed, loss, gradient norm, processes
    RUN/nonfinite/state.pt        weights and optimizer as they were before that step
    RUN/nonfinite/batch_N.pt      what process N computed on

`replay.py` repeats the step.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from video_ssl.files import write_json
from video_ssl.pretrain.errors import NonFiniteLoss
from video_ssl.pretrain.evidence import evidence_folder, nonfinite_loss
from video_ssl.pretrain.processes import Processes
from video_ssl.pretrain.torch_loop.optimizers import leaves_nonfinite_alone
from video_ssl.pretrain.torch_loop.sharding import inner_optimizer

logger = logging.getLogger(__name__)


class FiniteGuard:
    """Freezes training on the device at the first step whose loss or gradient norm is not finite in any process.

    The flag it raises is the optimizer's `found_inf`: the fused step then leaves weights and state as they are, in this
    step and all later ones, so nothing is lost however late the host looks.  Buffers that a forward pass changes
    (batch norm statistics) are not covered.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, processes: Processes) -> None:
        self._processes = processes
        self._found = torch.zeros((), device=processes.device)
        self._first = torch.full((), -1, dtype=torch.int64, device=processes.device)
        if leaves_nonfinite_alone(optimizer):
            inner_optimizer(optimizer).found_inf = self._found  # type: ignore[attr-defined]

    def look(self, step: int, loss: Tensor, grad_norm: Tensor) -> None:
        """Takes note of a step before the optimizer acts; never waits for the device."""
        bad = (~(torch.isfinite(loss) & torch.isfinite(grad_norm))).float()
        bad = self._processes.largest(bad)
        self._first = torch.where((self._first < 0) & (bad > 0), step, self._first)
        self._found.copy_(torch.maximum(self._found, bad))

    def failed_step(self) -> int | None:
        """Returns the first step that was not finite, or None.  Waits for the device."""
        step = int(self._first.item())
        return None if step < 0 else step


def save_evidence(
    folder: Path,
    *,
    step: int,
    seed: int,
    processes: Processes,
    batch: Mapping[str, Tensor],
    state: Callable[[], Mapping[str, Any]],
    figures: Mapping[str, float],
) -> NonFiniteLoss:
    """Writes RUN/nonfinite and returns the error to raise.  Called by every process."""
    with evidence_folder(folder, step) as place:
        torch.save({k: v.cpu() for k, v in batch.items()}, place / f"batch_{processes.rank}.pt")
        content = dict(state())  # of divided states every process has a part
        if processes.is_main:
            torch.save(content, place / "state.pt")
            report = {"step": step, "seed": seed, "world_size": processes.world_size}
            as_text = {name: str(value) for name, value in figures.items()}
            write_json(place / "report.json", {**report, "figures": as_text})
    command = f"python -m video_ssl.pretrain.torch_loop.replay {folder}"
    return nonfinite_loss(place, step, figures, repeat=command)
