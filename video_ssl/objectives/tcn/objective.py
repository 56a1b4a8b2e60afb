"""Single-view time-contrastive learning, after TCN (arXiv:1704.06888).

Frames of a view that lie at most `window` source frames apart are positives of each other, all others of the view are
negatives.  With unit-length embeddings z and similarities s = z_i . z_j / temperature:

    loss = mean over pairs of positives (i, p) of  -log( exp(s_ip) / (exp(s_ip) + sum over negatives n of exp(s_in)) )

The window of positives and the n-pairs form are TCN's as TCC's authors use it (recalled, unverified); all positives of
a frame instead of a drawn one, unit length and temperature are ours.  Only frames of one view are compared, so an
encoder that sees its position could solve it by counting: recipes set `encoder.positions: none`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from video_ssl.objectives.frame_objective import FrameObjective, view_features
from video_ssl.objectives.tcn.config import Config


class Objective(FrameObjective):
    """Time-contrastive loss within every view."""

    def __init__(self, config: Config, *, encoders: Mapping[str, Path] | None = None) -> None:
        super().__init__(config, encoders=encoders)
        self.config = config

    def forward(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Returns the loss and figures for a batch as `FrameSetSettings` describes it."""
        frames = self.frames_of(batch)
        z = F.normalize(frames.float(), dim=-1)
        loss, accuracy = time_contrastive_loss(
            z.flatten(0, 1),
            batch["steps"].flatten(0, 1),
            batch["frame_valid"].flatten(0, 1),
            window=self.config.window,
            temperature=self.config.temperature,
        )
        figures = {"accuracy": accuracy, "features": view_features(frames, batch)}
        return loss, {"loss": loss.detach(), **figures}


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
