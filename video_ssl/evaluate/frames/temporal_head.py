"""A head over the frames of a video: dilated convolutions in time on frozen features.

The first stage of MS-TCN: a linear layer to `width` channels, `layers` residual layers whose kernel of 3 frames is
dilated by 1, 2, 4, ..., and a linear layer to the classes.  Cross-entropy of all frames, plus 0.15 times the squared
difference of the log-probabilities of neighbouring frames, cut off at 4 (16 after squaring), of which the earlier one
gets no gradient.  Adam, one video a step.  Without layers it is one linear layer, frame by frame.

Source: MS-TCN (arXiv:1903.01945), its first stage, with its loss and optimiser; input is of any frozen encoder here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["TemporalHead", "TemporalSchedule", "probabilities", "train_temporal_head"]

_SMOOTH, _CUT = 0.15, 4.0


@dataclass(frozen=True, kw_only=True)
class TemporalSchedule:
    """How a head is made and trained; see `SegmentationConfig`."""

    layers: int = 8
    width: int = 64
    dropout: float = 0.5
    epochs: int = 40
    lr: float = 1e-3


class TemporalHead(nn.Module):
    """Logits (1, K, L) of the frames of a video (1, D, L)."""

    def __init__(self, embed_dim: int, num_classes: int, *, schedule: TemporalSchedule) -> None:
        super().__init__()
        width = schedule.width
        if not schedule.layers:
            self.into: nn.Module = nn.Identity()
            width = embed_dim
        else:
            self.into = nn.Conv1d(embed_dim, width, 1)
        self.layers = nn.ModuleList(
            _Layer(width, 2**k, schedule.dropout) for k in range(schedule.layers)
        )
        self.out = nn.Conv1d(width, num_classes, 1)

    def forward(self, frames: Tensor) -> Tensor:
        x = self.into(frames)
        for layer in self.layers:
            x = layer(x)
        logits: Tensor = self.out(x)
        return logits


class _Layer(nn.Module):
    def __init__(self, width: int, dilation: int, dropout: float) -> None:
        super().__init__()
        self.wide = nn.Conv1d(width, width, 3, padding=dilation, dilation=dilation)
        self.mix = nn.Conv1d(width, width, 1)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.dropout(self.mix(F.relu(self.wide(x))))


def temporal_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Returns the loss of one video: logits (1, K, L), labels int64 (1, L)."""
    loss = F.cross_entropy(logits, labels)
    if logits.shape[-1] > 1:
        log_p = logits.log_softmax(dim=1)
        steps = (log_p[:, :, 1:] - log_p[:, :, :-1].detach()).square().clamp(max=_CUT**2)
        loss = loss + _SMOOTH * steps.mean()
    return loss


def train_temporal_head(
    embs: Sequence[np.ndarray],
    labels: Sequence[np.ndarray],
    *,
    num_classes: int,
    schedule: TemporalSchedule,
    seed: int,
) -> TemporalHead:
    """Returns a head, trained on whole videos in an order and from weights that follow from the seed.

    Args:
        embs: frame features (L_i, D); labels (L_i,) in 0..num_classes - 1.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        head = TemporalHead(embs[0].shape[1], num_classes, schedule=schedule).train()
        optimizer = torch.optim.Adam(head.parameters(), lr=schedule.lr)
        videos = [
            (_batch(e), torch.from_numpy(np.asarray(p, np.int64))[None])
            for e, p in zip(embs, labels, strict=True)
        ]
        for _ in range(schedule.epochs):
            for k in torch.randperm(len(videos)).tolist():
                frames, own = videos[k]
                optimizer.zero_grad()
                temporal_loss(head(frames), own).backward()
                optimizer.step()
    return head.eval()


def _batch(embs: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(embs.T, np.float32))[None]


@torch.no_grad()
def probabilities(head: TemporalHead, embs: np.ndarray) -> np.ndarray:
    """Returns float32 (L, K) of the frames (L, D) of a video."""
    found: np.ndarray = head(_batch(embs)).softmax(dim=1)[0].T.numpy()
    return found
