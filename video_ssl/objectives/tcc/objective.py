"""Temporal cycle consistency (arXiv:1904.07846) with cycle-back regression.

For frame i of view u and a view v, with unit-length embeddings:

    soft neighbour  y_i = sum_j softmax_j(-|u_i - v_j|^2 / temperature) v_j
    cycle back      b_ik = softmax_k(-|y_i - u_k|^2 / temperature)
    mu_i = sum_k b_ik s_k,   var_i = sum_k b_ik (s_k - mu_i)^2,   s = share of the video, t / L
    loss = mean_i (s_i - mu_i)^2 / var_i + variance_weight * log var_i

The cycle and its regression loss are TCC's as recalled (unverified against its code); unit length in place of a
division by the width, the floor of the variance, and all ordered pairs of a batch are ours.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from video_ssl.objectives.frame_objective import FrameObjective, view_features
from video_ssl.objectives.frame_pairs import Views
from video_ssl.objectives.tcc.config import Config

#: Least variance of where a cycle ends: a hundredth of the video, squared.
FLOOR = 1e-4


class Objective(FrameObjective):
    """Cycle-back regression over all ordered pairs of views that `pairs` allows."""

    def __init__(self, config: Config, *, encoders: Mapping[str, Path] | None = None) -> None:
        super().__init__(config, encoders=encoders)
        self.config = config

    def forward(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Returns the loss and figures for a batch as `FrameSetSettings` describes it."""
        frames = self.frames_of(batch)
        z = F.normalize(frames.float(), dim=-1)
        views = Views.of(
            z, batch["steps"], batch["num_source_frames"], batch["frame_valid"], batch["label"]
        )
        pairs = views.same_video() if self.config.pairs == "video" else views.same_label()
        loss, error = cycle_back_loss(
            views,
            pairs,
            temperature=self.config.temperature,
            variance_weight=self.config.variance_weight,
        )
        figures = {
            "cycle_error": error,
            "pairs": pairs.sum().to(torch.float32),
            "features": view_features(frames, batch),
        }
        return loss, {"loss": loss.detach(), **figures}


def cycle_back_loss(
    views: Views, pairs: Tensor, *, temperature: float, variance_weight: float
) -> tuple[Tensor, Tensor]:
    """Returns the loss (0-d, 0 without a pair) and the mean distance |s_i - mu_i| at which cycles end.

    Args:
        views: of the batch.
        pairs: bool (N, N) over the N views: cycles start in the first and go through the second.  All pairs are
            computed and the others left out of the mean, so that the host need not know how many there are.
        temperature, variance_weight: see the head of the file.
    """
    with torch.autocast(views.z.device.type, enabled=False):
        every = torch.arange(len(pairs), device=pairs.device)
        u, v = every.repeat_interleave(len(pairs)), every.repeat(len(pairs))
        start, through = views.z[u], views.z[v]
        near = _soft(start, through, views.valid[v], temperature) @ through
        back = _soft(near, start, views.valid[u], temperature)
        share = (views.steps[u] / views.num_source[u][:, None]).to(back.dtype)
        mean = (back @ share[..., None]).squeeze(-1)
        spread = (share[:, None] - mean[..., None]).square()
        variance = (back * spread).sum(-1).clamp(min=FLOOR)
        each = (share - mean).square() / variance + variance_weight * variance.log()
        weights = (views.valid[u] & pairs.flatten()[:, None]).to(each.dtype)
        count = weights.sum().clamp(min=1)
        error = ((share - mean).abs() * weights).sum() / count
        return (each * weights).sum() / count, error.detach()


def _soft(query: Tensor, keys: Tensor, valid: Tensor, temperature: float) -> Tensor:
    """Softmax over the valid keys of the negative squared distances, (K, T, T)."""
    distance = query.square().sum(-1)[:, :, None] + keys.square().sum(-1)[:, None]
    distance = distance - 2 * query @ keys.transpose(1, 2)
    return (-distance / temperature).masked_fill(~valid[:, None], -torch.inf).softmax(-1)
