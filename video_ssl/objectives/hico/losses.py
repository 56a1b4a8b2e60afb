"""The losses of HiCo, HiCo++ and SimCLR, as functions of embeddings and of judgements about topics.

Rows are videos b = 0..N-1 with S clips each; z_bs are visual embeddings of unit length, t is the temperature.

    negatives of a clip  neg = sum over the clips of all OTHER videos of exp(z . z' / t)
    visual               mean over anchors of  -log( E / (E + neg) ),  E = exp(clamp(z . z_partner, -1, 1) / t)
    SimCLR               the same, averaged over all other clips of the video as partners

Anchors of HiCo are clips 0 and 1, each the partner of the other; of HiCo++ all clips, in pairs (0, 1), (2, 3), ...  No
other clip of the same video takes part.  With p the probability that two clips are of one video, and the two means over
ordered pairs i != j:

    topical   -mean over pairs of one video [ (1-p)^focus log(p + 1e-5) ] - mean over others [ p^focus log(1-p + 1e-5) ]

Source: papers/hico.md sections 4 and 9 (arXiv:2204.03017, DOI 10.1109/TPAMI.2023.3273415, as their code does it).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

_LOG_EPS = 1e-5


@dataclass(frozen=True, eq=False)
class VisualLoss:
    """`loss` is 0-d; `positive` and `negative` are the means over anchors of E and of the summed negatives."""

    loss: Tensor
    positive: Tensor
    negative: Tensor


def visual_loss(z: Tensor, *, temperature: float, all_pairs: bool = False) -> VisualLoss:
    """Returns the visual loss.

    Args:
        z: (N, S, D) of unit length, N at least 2.
        temperature: t.
        all_pairs: every clip is an anchor, with its neighbour (HiCo++); else clips 0 and 1 only.
    """
    anchors = z if all_pairs else z[:, :2]
    partners = anchors.unflatten(1, (-1, 2)).flip(2).flatten(1, 2)
    positive = (anchors * partners).sum(-1).clamp(-1, 1) / temperature
    negative = _negatives(anchors, z, temperature)
    return VisualLoss(
        F.softplus(negative - positive).mean(), positive.exp().mean(), negative.exp().mean()
    )


def simclr_loss(z: Tensor, *, temperature: float) -> VisualLoss:
    """Returns the loss of instance discrimination: all clips of a video are positives of each other.

    Args:
        z: (N, S, D) of unit length, N and S at least 2.
        temperature: t.
    """
    same = (z @ z.transpose(1, 2)).clamp(-1, 1) / temperature
    others = ~torch.eye(z.shape[1], dtype=torch.bool, device=z.device)
    positive = same[:, others].unflatten(1, (z.shape[1], -1))
    negative = _negatives(z, z, temperature)
    return VisualLoss(
        F.softplus(negative[..., None] - positive).mean(),
        positive.exp().mean(),
        negative.exp().mean(),
    )


def _negatives(anchors: Tensor, z: Tensor, temperature: float) -> Tensor:
    """The logarithm of the summed negatives of every anchor, (N, A)."""
    scores = torch.einsum("nad,msd->nams", anchors, z) / temperature
    own = torch.eye(len(z), dtype=torch.bool, device=z.device)[:, None, :, None]
    return scores.masked_fill(own, -math.inf).flatten(2).logsumexp(-1)


def topical_loss(logits: Tensor, video: Tensor, *, focus: float) -> Tensor:
    """Returns the topical loss, 0-d.

    Args:
        logits: (..., M, M), judgements about ordered pairs of M clips (or pairs of clips).
        video: int64 (M,), whose clips they are; at least two videos, and two clips of one.
        focus: exponent that takes weight from what is judged well.
    """
    same = video[:, None] == video
    other_clip = ~torch.eye(len(video), dtype=torch.bool, device=video.device)
    # Powers of probabilities as exponentials of their logarithms: the slope of a root is infinite at 0.
    yes, no = logits.sigmoid(), (-logits).sigmoid()
    hit = (focus * F.logsigmoid(-logits)).exp() * (yes + _LOG_EPS).log()
    miss = (focus * F.logsigmoid(logits)).exp() * (no + _LOG_EPS).log()
    return -hit[..., same & other_clip].mean() - miss[..., ~same].mean()
