"""Figures that show whether features have collapsed."""

from __future__ import annotations

import torch
from torch import Tensor


def feature_std(features: Tensor) -> Tensor:
    """Returns the standard deviation over the batch, averaged over channels, of features of length 1.

    0-d float32.  A collapsed encoder gives 0; directions spread evenly give about D^-0.5.  With one
    sample it is 0.  `features` is float (B, D).
    """
    x = torch.nn.functional.normalize(features.detach().float(), dim=1)
    return x.std(dim=0, correction=0).mean()


def effective_rank(features: Tensor) -> Tensor:
    """Returns exp(entropy of the normalised singular values) of the centred features (B, D).

    0-d float32, between 1 (all variation along one direction; also when there is none) and
    min(B - 1, D).  Source: Roy and Vetterli, "The effective rank", EUSIPCO 2007.
    """
    x = features.detach().float()
    values = torch.linalg.svdvals(x - x.mean(dim=0, keepdim=True))
    share = values / values.sum().clamp_min(torch.finfo(torch.float32).tiny)
    return torch.exp(torch.special.entr(share).sum())
