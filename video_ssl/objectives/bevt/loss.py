"""BEVT's loss: which token of the vocabulary stands in a hidden cell?

Source: papers/bevt.md section 4 (arXiv:2112.01529, as its code does it).
"""

from __future__ import annotations

from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor


class TokenLoss(NamedTuple):
    """The mean cross-entropy over the hidden cells, and the share of them whose token is guessed; 0-d."""

    loss: Tensor
    accuracy: Tensor


def masked_token_loss(logits: Tensor, tokens: Tensor, hidden: Tensor) -> TokenLoss:
    """Returns the loss of a stream.

    Args:
        logits: (B, L, V).
        tokens: int64 (B, ...) with L entries each, in the order of the logits.
        hidden: bool of that shape; at least one is True.
    """
    where = hidden.flatten(1)
    return token_loss(logits.flatten(0, 1).float(), tokens.flatten(), where.flatten())


def token_loss(logits: Tensor, words: Tensor, hidden: Tensor) -> TokenLoss:
    """Returns the loss of cells, (N, V), int64 (N,) and bool (N,); 0 where none is hidden."""
    weight = hidden.to(logits.dtype)
    count = weight.sum().clamp(min=1)
    hits = (logits.detach().argmax(-1) == words).to(logits.dtype)
    loss = F.cross_entropy(logits, words, reduction="none")
    return TokenLoss((loss * weight).sum() / count, (hits * weight).sum() / count)
