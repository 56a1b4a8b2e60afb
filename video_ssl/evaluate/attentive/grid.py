"""Many attentive heads trained in one pass over the tokens, each with its own learning rate and weight decay.

Every head has an AdamW (.9, .999, eps 1e-8) of its own and ends where it would end alone.  Rates follow a cosine:
of T steps, W of them warm-up, step k = 1 .. T has

    k < W:  start + (rate - start) k / W            else:  final + (rate - final) (1 + cos(pi (k - W) / (T - W))) / 2

and weight decays the same cosine without warm-up.  So the first step without warm-up is below the rate already, and the
last has the final one.

Source: papers/frozen_protocols.md section 1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True)
class Wave:
    """A cosine over T steps.

    Attributes:
        first: at step 0 of a warm-up.
        peak: after it.
        last: at step T.
        steps: T.
        warmup: W steps.
    """

    first: float
    peak: float
    last: float
    steps: int
    warmup: int = 0

    def at(self, step: int) -> float:
        """Returns the value that step `step`, counted from 1, uses.

        >>> Wave(first=0.0, peak=1.0, last=0.0, steps=4).at(2)
        0.5
        """
        if step < self.warmup:
            return self.first + (self.peak - self.first) * step / self.warmup
        share = (step - self.warmup) / max(1, self.steps - self.warmup)
        return self.last + (self.peak - self.last) * 0.5 * (1 + math.cos(math.pi * share))


@dataclass(frozen=True, kw_only=True)
class HeadRates:
    """How one head is trained.

    Attributes:
        lr, weight_decay: how both go from step to step.
    """

    lr: Wave
    weight_decay: Wave


class HeadGrid:
    """Heads over the same tokens.

    Args:
        heads: from tokens (B, N, D) to logits (B, K); on their device.
        rates: of each.
        decay_all: biases, norms and other vectors decay too (V-JEPA 2).
        grad_clip: largest norm of a head's gradient; None = as it is.
        label_smoothing: of the targets.
    """

    def __init__(
        self,
        heads: Sequence[nn.Module],
        rates: Sequence[HeadRates],
        *,
        decay_all: bool = True,
        grad_clip: float | None = None,
        label_smoothing: float = 0.0,
    ) -> None:
        assert len(heads) == len(rates) > 0
        self.heads, self.rates = tuple(heads), tuple(rates)
        self.grad_clip, self.label_smoothing = grad_clip, label_smoothing
        self.optimizers = [
            torch.optim.AdamW(parameter_groups(head, decay_all=decay_all), betas=(0.9, 0.999))
            for head in heads
        ]
        self.steps = 0
        #: Of the last step, before it was cut: a norm a head where `grad_clip` is set.
        self.grad_norms: list[float] = []

    def step(self, tokens: Tensor, labels: Tensor) -> Tensor:
        """Returns the logits (H, B, K) of a batch, of before the step that every head takes.

        Args:
            tokens: float (B, N, D).
            labels: int64 (B,).
        """
        self.steps += 1
        found = []
        norms = []
        for head, rates, optimizer in zip(self.heads, self.rates, self.optimizers, strict=True):
            head.train()
            for group in optimizer.param_groups:
                group["lr"] = rates.lr.at(self.steps)
                decay = rates.weight_decay.at(self.steps)
                group["weight_decay"] = decay if group["decays"] else 0.0
            with torch.autocast(
                tokens.device.type, torch.bfloat16, enabled=tokens.device.type == "cuda"
            ):
                logits = head(tokens)
            loss = F.cross_entropy(logits.float(), labels, label_smoothing=self.label_smoothing)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            if self.grad_clip is not None:
                norms.append(float(nn.utils.clip_grad_norm_(head.parameters(), self.grad_clip)))
            optimizer.step()
            found.append(logits.detach().float())
        self.grad_norms = norms
        return torch.stack(found)

    @torch.no_grad()
    def probabilities(self, tokens: Tensor) -> Tensor:
        """Returns the softmax of every head, (H, B, K), of tokens (B, N, D)."""
        found = []
        for head in self.heads:
            head.eval()
            with torch.autocast(
                tokens.device.type, torch.bfloat16, enabled=tokens.device.type == "cuda"
            ):
                logits = head(tokens)
            found.append(logits.float().softmax(-1))
        return torch.stack(found)


def parameter_groups(head: nn.Module, *, decay_all: bool) -> list[dict[str, object]]:
    """Returns the groups of an optimizer: what decays, and where `decay_all` is false biases and vectors, which do
    not."""
    named = list(head.named_parameters())
    still = [] if decay_all else [n for n, p in named if p.ndim == 1 or n.endswith("bias")]
    groups: list[dict[str, object]] = [
        {"params": [p for n, p in named if n not in still], "decays": True},
        {"params": [p for n, p in named if n in still], "decays": False},
    ]
    return [group for group in groups if group["params"]]
