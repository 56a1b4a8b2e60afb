"""Temporal cycle consistency (arXiv:1904.07846), as CARL's code trains it for comparison.

For frame t of view u and another view v of the batch, embeddings of width D, times s (share of the video, or number of
the frame) and s(a, b) = -|a - b|^2 / (D temperature), or a . b / (D temperature):

    soft neighbour  y_t = sum_k softmax_k s(u_t, v_k) v_k
    cycle back      logits_tk = s(y_t, u_k),  b_tk = softmax_k logits_tk
    label           l_tk = 1 - eps at k = t, eps / (T - 1) elsewhere
    found, true     mu_t = sum_k b_tk s_k,  true_t = sum_k l_tk s_k,  var_t = sum_k b_tk (s_k - mu_t)^2

    regression_mse_var   (true_t - mu_t)^2 / var_t + variance_weight * log var_t
    regression_mse       (true_t - mu_t)^2
    regression_huber     smooth L1 of true_t - mu_t with delta 1
    classification       mean over k of l_tk (log l_tk - logits_tk): no log softmax is taken

The loss is the mean over all t of all ordered pairs of views.  What is ours is off by default: pairs of one label or
video, a floor of the variance, padded slots left out.

Source: papers/tcc.md section 1 (the reference code; golden numbers of it in the tests).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from video_ssl.objectives.shared.frame_objective import FrameObjective, view_features
from video_ssl.objectives.shared.frame_pairs import Views
from video_ssl.objectives.shared.torch_objective import StepOutput
from video_ssl.objectives.tcc.config import Config


class Objective(FrameObjective):
    """Cycle-back loss over all ordered pairs of views that `pairs` allows."""

    def __init__(self, config: Config, *, stages: Mapping[str, Path] | None = None) -> None:
        super().__init__(config, stages=stages)
        self.config = config

    def forward(self, batch: Mapping[str, Tensor]) -> StepOutput:
        frames = self.frames_of(batch)
        z = frames.float()
        views = Views.of(
            F.normalize(z, dim=-1) if self.config.unit_length else z,
            batch["steps"],
            batch["num_source_frames"],
            batch["frame_valid"],
            batch["label"],
        )
        loss, error, pairs = cycle_back_loss(views, self.config)
        figures = {"cycle_error": error, "pairs": pairs}
        return StepOutput(loss, figures, view_features(frames, batch))


def cycle_back_loss(views: Views, config: Config) -> tuple[Tensor, Tensor, Tensor]:
    """Returns the loss (0 without a pair), the mean distance in time between where cycles end and where they should
    (in the unit of `normalize_indices`), and the number of pairs; each 0-d.

    All pairs of different views are computed, and those that `config.pairs` forbids left out of the mean, so that the
    host need not know how many there are.
    """
    with torch.autocast(views.z.device.type, enabled=False):
        u, v = _ordered_pairs(len(views.z), views.z.device)
        allowed = _allowed(views, config)[u, v]
        valid = views.valid if config.mask_padding else torch.ones_like(views.valid)
        start, through, seen = views.z[u], views.z[v], valid[u]
        near = _softmax(_similarity(start, through, config), valid[v]) @ through
        logits = _similarity(near, start, config)
        label = _labels(seen, config.label_smoothing).to(logits.dtype)
        time = views.steps.to(logits.dtype)
        if config.normalize_indices:
            time = time / views.num_source[:, None]
        counted = seen & allowed[:, None]
        each, error = _each(logits, label, time[u], seen, counted, config)
        weights = counted.to(each.dtype)
        count = weights.sum().clamp(min=1)
        pairs = allowed.sum().to(torch.float32)
        return (each * weights).sum() / count, ((error * weights).sum() / count).detach(), pairs


def _each(
    logits: Tensor, label: Tensor, time: Tensor, seen: Tensor, counted: Tensor, config: Config
) -> tuple[Tensor, Tensor]:
    """The loss and the distance in time of every frame of every pair, (K, T) each; values that are not `counted` are
    finite."""
    back = _softmax(logits, seen)
    found, wanted = ((share @ time[..., None]).squeeze(-1) for share in (back, label))
    error = wanted - found
    if config.loss == "classification":
        terms = (torch.xlogy(label, label) - label * logits).masked_fill(~seen[:, None], 0.0)
        return terms.sum(-1) / seen.sum(-1, keepdim=True).clamp(min=1), error.abs()
    if config.loss == "regression_huber":
        return F.smooth_l1_loss(found, wanted, reduction="none"), error.abs()
    if config.loss == "regression_mse":
        return error.square(), error.abs()
    variance = (back * (time[:, None] - found[..., None]).square()).sum(-1)
    if config.variance_floor:
        variance = variance.clamp(min=config.variance_floor)
    # A pair that is left out may have variance 0: 0 times its loss would not be 0, and its gradient neither.
    variance = torch.where(counted, variance, 1.0)
    return error.square() / variance + config.variance_weight * variance.log(), error.abs()


def _ordered_pairs(count: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """The ordered pairs of different numbers below `count`, int64 (count * (count - 1),) each."""
    first = torch.arange(count, device=device).repeat_interleave(max(count - 1, 0))
    second = torch.arange(count * (count - 1), device=device) % max(count - 1, 1)
    return first, second + (second >= first).to(second.dtype)


def _allowed(views: Views, config: Config) -> Tensor:
    if config.pairs == "label":
        return views.same_label()
    return views.same_video() if config.pairs == "video" else views.different()


def _similarity(query: Tensor, keys: Tensor, config: Config) -> Tensor:
    """(K, T, D), (K, S, D) -> (K, T, S)"""
    product = query @ keys.transpose(1, 2)
    if config.similarity == "l2":
        squares = query.square().sum(-1)[:, :, None] + keys.square().sum(-1)[:, None]
        product = 2 * product - squares
    width = keys.shape[-1] if config.divide_by_width else 1
    return product / (width * config.temperature)


def _softmax(logits: Tensor, seen: Tensor) -> Tensor:
    """Over the keys (K, S) that are seen."""
    return logits.masked_fill(~seen[:, None], -torch.inf).softmax(-1)


def _labels(seen: Tensor, smoothing: float) -> Tensor:
    """The shares of every frame's label, (K, T, T): on itself and on the others that are seen."""
    itself = torch.eye(seen.shape[1], dtype=torch.float64, device=seen.device)
    others = (seen.sum(-1, dtype=torch.float64) - 1)[:, None, None]
    moved = smoothing * (others > 0).double()  # a frame on its own has none to share with
    elsewhere = (1 - itself) * seen[:, None] * moved / others.clamp(min=1)
    return itself * (1 - moved) + elsewhere
