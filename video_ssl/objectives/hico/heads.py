"""The heads of HiCo: two projections, and the judge of whether two clips belong to one topic.

Source: papers/hico.md section 3.3.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

#: Of the batch norms of the heads; the code has it larger than torch's own.
NORM_EPS = 1e-3


class Projection(nn.Sequential):
    """Linear, batch norm and ReLU for each hidden layer, then linear, then unit length: (M, D) -> (M, out_dim)."""

    def __init__(self, width: int, hidden_dims: tuple[int, ...], out_dim: int) -> None:
        super().__init__()
        for i, hidden in enumerate(hidden_dims):
            self.add_module(f"linear{i}", nn.Linear(width, hidden))
            self.add_module(f"norm{i}", nn.BatchNorm1d(hidden, eps=NORM_EPS))
            self.add_module(f"relu{i}", nn.ReLU(inplace=True))
            width = hidden
        self.add_module("linear_out", nn.Linear(width, out_dim))

    def forward(self, features: Tensor) -> Tensor:
        return F.normalize(super().forward(features), dim=-1)


class TopicJudge(nn.Module):
    """A small network of two topical embeddings side by side: is it one topic?"""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(2 * dim, hidden)
        self.out = nn.Linear(hidden, 1)

    def forward(self, h: Tensor) -> Tensor:
        """Returns logits (M, M) for (M, D): row i, column j judges [h_i ; h_j].

        The first layer is linear, so it is applied to each half once and not to all pairs.
        """
        first, second = self.hidden.weight.chunk(2, dim=1)
        pairs = (h @ first.T)[:, None] + (h @ second.T)[None] + self.hidden.bias
        return self.out(torch.relu(pairs)).squeeze(-1)
