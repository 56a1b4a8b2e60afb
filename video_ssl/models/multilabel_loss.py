"""The loss of clips with any number of classes, in which rare classes count as much as frequent ones.

Source: papers/vatt.md section 5 (fine-tuning on AudioSet), arXiv:2104.11178.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def balanced_weights(labels: Tensor) -> Tensor:
    """Returns float32 (B,): the mean over the classes of a sample of one over how often the batch has them.

    w_i = sum_c y_ic / n_c / sum_c y_ic with n_c = sum_i y_ic.  A sample without classes gets 0; the reference's gives
    NaN.

    Args:
        labels: (B, K) of shares in 0..1: 0 and 1, or mixtures of samples.

    >>> balanced_weights(torch.tensor([[1.0, 0.0], [1.0, 1.0], [0.0, 0.0]])).tolist()
    [0.5, 0.75, 0.0]
    """
    labels = labels.float()
    occurrences = labels.sum(0)
    rarity = torch.where(occurrences > 0, 1 / occurrences.clamp_min(1e-12), 0.0)
    total = labels.sum(1)
    return torch.where(total > 0, labels @ rarity / total.clamp_min(1e-12), 0.0)


def multilabel_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Returns the mean over a batch of the binary cross-entropies of a sample, summed over classes, times its weight.

    Args:
        logits: (B, K).
        labels: (B, K), as `balanced_weights` takes them.

    Raises:
        ValueError: other shapes, or no sample.
    """
    if logits.ndim != 2 or logits.shape != labels.shape or not len(logits):
        raise ValueError(
            "logits and labels must be (samples, classes) of one shape, but are "
            f"{tuple(logits.shape)} and {tuple(labels.shape)}."
        )
    each = F.binary_cross_entropy_with_logits(logits.float(), labels.float(), reduction="none")
    return (each.sum(1) * balanced_weights(labels)).mean()
