"""LARS for torch; `flax_loop.optimizers.lars` is the same for flax."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from video_ssl.pretrain.torch_loop.sharding import is_divided, whole


class Lars(torch.optim.Optimizer):
    """Momentum whose step of each tensor w with gradient g is a share of the length of w.

        trust  = trust_coefficient * |w| / (|g| + weight_decay * |w|)
        d      = rate * trust * (g + weight_decay * w)
        buffer = momentum * buffer + d
        w      = w - buffer,   with nesterov w - (d + momentum * buffer)

    Trust is 1 for tensors that are not adapted, and where |g| + weight_decay * |w| is 0.  A tensor of zeros that is
    adapted stays as it is, as in the reference: biases that start there must not be adapted.

    As the fused optimizers of torch it takes a flag `found_inf` on the device: where that is not 0, weights and buffers
    stay as they are.

    Args:
        params: groups as those of `parameter_groups`: of `decayed` groups, or with `adapt_all` of all, the steps are
            adapted.
        lr, momentum, nesterov, trust_coefficient, weight_decay: see above.
        adapt_all: see `params`.

    Source: You et al. 2017 (arXiv 1708.03888), algorithm 1; LARS.step of HiCo (papers/hico.md section 5).  optax.lars
    and MAE's differ: they divide by |g + weight_decay * w|, and let tensors of zeros move.
    """

    found_inf: Tensor | None = None

    def __init__(
        self,
        params: Any,
        lr: float = 0.0,
        *,
        momentum: float = 0.9,
        nesterov: bool = False,
        trust_coefficient: float = 0.001,
        adapt_all: bool = False,
        weight_decay: float = 0.0,
    ) -> None:
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "nesterov": nesterov,
            "trust_coefficient": trust_coefficient,
            "adapt_all": adapt_all,
            "weight_decay": weight_decay,
            "decayed": True,
        }
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """Moves all parameters that have a gradient; `closure` is not supported."""
        assert closure is None
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._move(parameter, group)

    def _move(self, parameter: Tensor, group: dict[str, Any]) -> None:
        decay, momentum, gradient = group["weight_decay"], group["momentum"], parameter.grad
        assert gradient is not None
        scale: Any = group["lr"]
        if group["decayed"] or group["adapt_all"]:
            scale = scale * _trust(parameter, gradient, decay, group["trust_coefficient"])
        state = self.state[parameter]
        if not state:
            state["momentum_buffer"] = torch.zeros_like(parameter)
        weight, buffer = _local(parameter), _local(state["momentum_buffer"])
        step = (_local(gradient) + decay * weight) * scale
        moved = momentum * buffer + step
        change = step + momentum * moved if group["nesterov"] else moved
        if self.found_inf is not None:
            sound = self.found_inf == 0
            moved = torch.where(sound, moved, buffer)
            change = torch.where(sound, change, 0)
        buffer.copy_(moved)
        weight.sub_(change)


def _trust(weight: Tensor, gradient: Tensor, decay: float, coefficient: float) -> Tensor:
    """The factor of a step, 0-d; of divided tensors their whole lengths count."""
    length, slope = (whole(torch.linalg.vector_norm(t)) for t in (weight, gradient))
    below = slope + decay * length
    return torch.where(below == 0, 1.0, coefficient * length / torch.where(below == 0, 1.0, below))


def _local(tensor: Tensor) -> Tensor:
    """This process's part of a divided tensor, or the tensor itself; writing to it writes to the tensor."""
    return tensor.to_local() if is_divided(tensor) else tensor  # type: ignore[attr-defined]
