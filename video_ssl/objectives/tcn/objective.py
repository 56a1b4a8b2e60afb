"""Single-view time-contrastive learning (TCN, arXiv:1704.06888), as CARL's code trains it for comparison.

"npairs": frames of a view come as anchor a_i, positive p_i, a frame shortly before it.  Per view

    mean_i -log( exp(a_i . p_i / temperature) / sum_k exp(a_i . p_k / temperature) )
        + norm_penalty / 4 * (mean_i |a_i|^2 + mean_i |p_i|^2)

and the mean over views: one direction, and the negatives are the other positives, however near in time.  Slots that
show no frame of their own count like others.  Source: papers/tcc.md section 4 (the reference code).

"window" (ours): frames of a view that lie at most `window` source frames apart are positives of each other, all others
of the view are negatives.  With similarities s = z_i . z_j / temperature:

    loss = mean over pairs of positives (i, p) of  -log( exp(s_ip) / (exp(s_ip) + sum over negatives n of exp(s_in)) )

Only frames of one view are compared, so an encoder that sees its position could solve either by counting: leave
positions out (`encoder.head: conv` has none; the transformer: `encoder.positions: none`).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from video_ssl.objectives.shared.frame_objective import FrameObjective, view_features
from video_ssl.objectives.shared.torch_objective import StepOutput
from video_ssl.objectives.tcn.config import Config


class Objective(FrameObjective):
    """Time-contrastive loss within every view."""

    def __init__(self, config: Config, *, stages: Mapping[str, Path] | None = None) -> None:
        super().__init__(config, stages=stages)
        self.config = config

    def forward(self, batch: Mapping[str, Tensor]) -> StepOutput:
        config = self.config
        frames = self.frames_of(batch)
        z = frames.float().flatten(0, 1)
        if config.unit_length:
            z = F.normalize(z, dim=-1)
        if config.loss == "npairs":
            loss, accuracy = npairs_loss(
                z, temperature=config.temperature, norm_penalty=config.norm_penalty
            )
        else:
            loss, accuracy = time_contrastive_loss(
                z,
                batch["steps"].flatten(0, 1),
                batch["frame_valid"].flatten(0, 1),
                window=config.window,
                temperature=config.temperature,
            )
        return StepOutput(loss, {"accuracy": accuracy}, view_features(frames, batch))


def npairs_loss(
    z: Tensor, *, temperature: float = 1.0, norm_penalty: float = 0.002
) -> tuple[Tensor, Tensor]:
    """Returns the loss (0-d) and the share of anchors whose own positive is the most similar one.

    Args:
        z: (N, T, D), views: anchor, positive, anchor, positive, ...
        temperature, norm_penalty: see the head of the file.
    """
    with torch.autocast(z.device.type, enabled=False):
        anchors, positives = z[:, 0::2], z[:, 1::2]
        scores = anchors @ positives.transpose(1, 2) / temperature
        own = torch.arange(scores.shape[1], device=z.device)
        contrast = F.cross_entropy(scores.flatten(0, 1), own.repeat(len(scores)))
        lengths = anchors.square().sum(-1).mean() + positives.square().sum(-1).mean()
        right = (scores.detach().argmax(-1) == own).to(torch.float32).mean()
        return contrast + 0.25 * norm_penalty * lengths, right


def time_contrastive_loss(
    z: Tensor, steps: Tensor, valid: Tensor, *, window: int, temperature: float
) -> tuple[Tensor, Tensor]:
    """Returns the loss (0-d, 0 without a positive) and the share of positives more similar than every negative.

    Args:
        z: (N, T, D), views.
        steps: int64 (N, T), source frames.
        valid: bool (N, T).
        window, temperature: see the head of the file.
    """
    with torch.autocast(z.device.type, enabled=False):
        scores = z @ z.transpose(1, 2) / temperature
        both = valid[:, :, None] & valid[:, None]
        near = (steps[:, :, None] - steps[:, None]).abs() <= window
        itself = torch.eye(z.shape[1], dtype=torch.bool, device=z.device)
        positive = (near & both & ~itself).to(scores.dtype)
        # exp(-1e4) is 0 and, unlike -inf, leaves no NaN where a frame has no negative.
        against = scores.masked_fill(near | ~both, -1e4)
        rest = against.logsumexp(-1, keepdim=True)
        each = torch.logaddexp(scores, rest) - scores
        count = positive.sum().clamp(min=1)
        right = (scores > against.amax(-1, keepdim=True)).to(scores.dtype)
        return (each * positive).sum() / count, ((right * positive).sum() / count).detach()
