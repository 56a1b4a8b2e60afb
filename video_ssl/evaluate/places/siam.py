"""A head for tracking on frozen features, trained to tell the target from what is beside it, as SiamFC does.

A linear layer projects the cells of a feature map; the similarity of two boxes is the cosine of what comes
out, times a scale, plus a bias.  Pairs of frames of one target are drawn; among boxes at a grid of places around it,
those whose centres are near the target's are to be alike to it and the others not, both kinds weighing the same.

Source: papers/const_cl.md section 6.2 (SiamFC: pairs less than 100 frames apart, a balanced logistic loss, positives
within 16 of 255 pixels by L1 distance).  The head itself, and that it looks at boxes, is ours (the paper's is not
public).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True, kw_only=True)
class SiamConfig:
    """Settings of the head's training.

    Attributes:
        dim: width of the projection.
        pairs: of frames, over all targets.
        max_gap: frames between those of a pair, at most.
        radius: of the positives, as a share of the window's side (L1 distance).
        shift: the window of the second frame is centred off the target by up to so much of its side, so that the middle
            of a window means nothing.
        epochs, batch_size, lr, weight_decay: of AdamW (ours).
    """

    dim: int = 64
    pairs: int = 1000
    max_gap: int = 100
    radius: float = 16 / 255
    shift: float = 0.2
    epochs: int = 10
    batch_size: int = 32
    lr: float = 1e-3
    weight_decay: float = 1e-4

    def __post_init__(self) -> None:
        for name in ("dim", "pairs", "max_gap", "epochs", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1.")
        if not 0 < self.radius < 0.25 or not 0 <= self.shift <= 0.25:
            raise ValueError(
                f"radius={self.radius} must lie between 0 and 0.25, and shift={self.shift} in [0, 0.25]: places reach "
                "over half of a window."
            )
        if self.lr <= 0 or self.weight_decay < 0:
            raise ValueError(
                f"lr={self.lr} must be positive and weight_decay={self.weight_decay} not negative."
            )


class SiamHead(nn.Module):
    """See above.  Before any training it is a random projection.

    Args:
        width: of the features.
        dim: of the projection.
    """

    def __init__(self, width: int, dim: int) -> None:
        super().__init__()
        self.project = nn.Linear(width, dim, bias=False)
        self.scale = nn.Parameter(torch.tensor(10.0))
        self.bias = nn.Parameter(torch.tensor(-5.0))

    def forward(self, target: Tensor, found: Tensor) -> Tensor:
        """Returns logits (B, N) of targets (B, n, n, dim) and boxes (B, N, n, n, dim), projected both."""
        a = F.normalize(target.flatten(1), dim=-1)
        b = F.normalize(found.flatten(2), dim=-1)
        return self.scale * torch.einsum("bd,bnd->bn", a, b) + self.bias


def balanced_loss(logits: Tensor, near: Tensor) -> Tensor:
    """Returns the mean of binary cross-entropies in which positives and negatives weigh a half each.

    Args:
        logits: (B, N).
        near: bool (B, N); a row without one of both kinds counts what it has.
    """
    terms = F.binary_cross_entropy_with_logits(logits, near.float(), reduction="none")
    kinds = [near.float(), (~near).float()]
    means = [(terms * k).sum(1) / k.sum(1).clamp(min=1) for k in kinds]
    return ((means[0] + means[1]) / 2).mean()


@dataclass(frozen=True, kw_only=True, eq=False)
class Pair:
    """Two frames of one target, encoded.

    Attributes:
        first, second: feature maps (h, w, D), against the mean of the first one.
        box: of the target in the window of the first frame, (4,).
        candidates: at the grid of places in the second one, (N, 4).
        near: bool (N,), those at the target.
    """

    first: Tensor
    second: Tensor
    box: Tensor
    candidates: Tensor
    near: NDArray[np.bool_]


def fit_head(
    pairs: Sequence[Pair],
    config: SiamConfig,
    roi: Callable[[Tensor, Tensor], Any],
    seed: int,
) -> SiamHead:
    """Returns a head that was trained on pairs; the same one for the same seed.

    Args:
        pairs: at least one.
        config: see there.
        roi: what makes samples (B, N, n, n, D) of maps (B, h, w, D) and boxes (B, N, 4).
        seed: of first weights and of the order.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        head = SiamHead(pairs[0].first.shape[-1], config.dim)
    optimizer = torch.optim.AdamW(head.parameters(), lr=config.lr, weight_decay=config.weight_decay)
    rng = np.random.default_rng(seed)
    for _ in range(config.epochs):
        order = rng.permutation(len(pairs))
        for start in range(0, len(pairs), config.batch_size):
            part = [pairs[i] for i in order[start : start + config.batch_size]]
            first, second, boxes, candidates = (
                torch.stack(x)
                for x in zip(*((p.first, p.second, p.box, p.candidates) for p in part), strict=True)
            )
            # Samples of projected cells are projected samples, and a map has fewer cells than boxes have samples.
            target = roi(head.project(first), boxes[:, None])[:, 0]
            found = roi(head.project(second), candidates)
            near = torch.from_numpy(np.stack([p.near for p in part]))
            loss = balanced_loss(head(target, found), near)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return head.eval()
