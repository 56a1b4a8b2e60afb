"""Networks that help in a training and never learn: teachers, tokenizers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor, nn


class FrozenNetwork(ABC):
    """A frozen network as an objective asks it; it stands in `TorchObjective.frozen` under a name.

    It is no `Module`, so its weights are in nobody's state dict, optimizer, DDP or FSDP; every process has all of them.
    The objective takes it along from device to device.  It is always in evaluation mode, and no gradient goes through a
    call of it; a class may have a method whose gradient reaches the inputs, never the weights.
    `video-ssl bench step` times its `compute` apart from the rest of a step.

    Args:
        module: the network; its parameters are frozen here.
    """

    def __init__(self, module: nn.Module) -> None:
        self.module = module.requires_grad_(False).eval()

    def __call__(self, inputs: Tensor) -> Any:
        """Returns what `compute` makes of the inputs, without a gradient."""
        with torch.no_grad():
            return self.compute(inputs)

    @abstractmethod
    def compute(self, inputs: Tensor) -> Any:
        """Returns what the objective wants of the network."""
