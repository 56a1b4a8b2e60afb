"""A moving average of the trained weights."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn

from video_ssl.pretrain.recipe import EMAConfig


class WeightAverage:
    """Keeps average = d * average + (1 - d) * weights of the trainable parameters of a module, in float32.

    Args:
        module: the objective; frozen parameters and buffers are not averaged.
        config: d at the start and at the end.
        num_steps: length of the cosine between the two.
    """

    def __init__(self, module: nn.Module, config: EMAConfig, *, num_steps: int) -> None:
        final = config.decay if config.final_decay is None else config.final_decay
        self._names = [n for n, p in module.named_parameters() if p.requires_grad]
        self._weights = [p for p in module.parameters() if p.requires_grad]
        self._averages = [p.detach().clone() for p in self._weights]
        wave = 0.5 * (1 + np.cos(np.pi * np.arange(num_steps) / max(num_steps - 1, 1)))
        self._decays = final + (config.decay - final) * wave

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Takes the weights in that optimizer step `step` (from 0) has left."""
        torch._foreach_lerp_(
            self._averages, [p.detach() for p in self._weights], 1 - float(self._decays[step])
        )

    def state(self) -> dict[str, Tensor]:
        return dict(zip(self._names, self._averages, strict=True))

    def load_state(self, state: dict[str, Tensor]) -> None:
        for name, average in self.state().items():
            average.copy_(state[name])

    def restart(self) -> None:
        """Sets the averages to the current weights."""
        for average, weight in zip(self._averages, self._weights, strict=True):
            average.copy_(weight.detach())

    @contextlib.contextmanager
    def in_place(self) -> Iterator[None]:
        """Within it the module holds the averages; afterwards its own weights again."""
        own = [p.detach().clone() for p in self._weights]
        self._write(self._averages)
        try:
            yield
        finally:
            self._write(own)

    @torch.no_grad()
    def _write(self, values: list[Tensor]) -> None:
        for parameter, value in zip(self._weights, values, strict=True):
            parameter.copy_(value)
