"""The sequence contrastive loss (SCL) of CARL, between all frames of a batch.

Rows are the N = B * V * T frames of the batch in the order video, view, frame.

    s_ij = z_i . z_j / temperature
    d_ij = | t_i / L_i * L_j - t_j |,   1e6 where one of the two frames is not valid
    g(d) = exp(-d^2 / (2 variance))
    w_ij = g(d_ij) / sum_j g(d_ij) over the frames j of the OTHER views of the same video
    p_ij = exp(s_ij) / sum_k a_ik exp(s_ik)
    loss = sum_ij m_i m_j w_ij (log w_ij - log(p_ij + 1e-6)) / sum_i m_i

a_ik is 0 for frames that are no negatives, 1e-6 where a frame is not valid, else 1.  The numerator is not weighted,
and a row without a target (no counterpart near enough) still counts in the mean.

Source: papers/carl.md section 4 (arXiv:2203.14957, as its reference code does it; the paper's sum over both views is
twice this mean, unverified).  The reference exponentiates without a shift; here logs are added, which is the same
number and does not overflow at low temperatures.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from video_ssl.objectives.shared.frame_pairs import per_view

EPS = 1e-6
FAR = 1e6
#: Smallest normal float32: below it, back ends that flush denormals to zero would disagree about a target.
TINY = 2.0**-126


@dataclass(frozen=True, eq=False)
class SCLTerms:
    """The operands of the loss: `loss` 0-d; `target` w_ij and `log_prob` log(p_ij + 1e-6), both (N, N)."""

    loss: Tensor
    target: Tensor
    log_prob: Tensor


def scl_loss(
    z: Tensor,
    steps: Tensor,
    num_source: Tensor,
    valid: Tensor,
    *,
    negatives: str = "single_noself",
    temperature: float = 0.1,
    variance: float = 10.0,
) -> SCLTerms:
    """Returns the loss of a batch and its operands, in float32 (float64 for embeddings of that kind).

    Args:
        z: (B, V, T, D), projected embeddings, normally of unit length.
        steps: int64 (B, V, T), source frames.
        num_source: int64 (B,), frames of the videos, or (B, V) where the views of a video differ in length.
        valid: bool (B, V, T).
        negatives: "single..." takes frames of the same video only, "batch..." of all; "..._noself" leaves the own view
            out.
        temperature: of the similarities.
        variance: of the Gaussian over time distances, in source frames squared.
    """
    with torch.autocast(z.device.type, enabled=False):
        z = z.to(torch.promote_types(z.dtype, torch.float32))
        _, num_views, num_frames, _ = z.shape
        video, view = _owners(z.shape[0], num_views, num_frames, z.device)
        rows = z.flatten(0, 2)
        flat = valid.flatten()
        both_valid = flat[:, None] & flat
        same_video = video[:, None] == video
        same_view = same_video & (view[:, None] == view)
        target = _target(steps, num_source, both_valid, same_video & ~same_view, variance)
        target = target.to(z.dtype)
        scores = rows @ rows.T / temperature
        allowed = ~same_view if negatives.endswith("_noself") else torch.ones_like(same_view)
        if negatives.startswith("single"):
            allowed = allowed & same_video
        log_weights = torch.zeros_like(scores).masked_fill(~allowed, -math.inf)
        log_weights = log_weights.masked_fill(~both_valid, math.log(EPS))
        log_p = scores - torch.logsumexp(scores + log_weights, dim=1, keepdim=True)
        log_prob = torch.logaddexp(log_p, log_p.new_tensor(math.log(EPS)))
        kl = torch.xlogy(target, target) - target * log_prob
        loss = (kl * both_valid).sum() / valid.sum().clamp(min=1)
        return SCLTerms(loss, target, log_prob)


def _owners(
    num_videos: int, num_views: int, num_frames: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """The video and the view of every row."""
    views = torch.arange(num_videos * num_views, device=device).repeat_interleave(num_frames)
    return views // num_views, views % num_views


def _target(
    steps: Tensor, num_source: Tensor, both_valid: Tensor, other_view: Tensor, variance: float
) -> Tensor:
    """w, float32 (N, N).  Distances and Gaussian are float32, as in the reference, whatever the embeddings are."""
    t = steps.flatten().float()
    length = per_view(num_source, steps)[:, :, None].expand_as(steps).flatten().float()
    distance = ((t / length)[:, None] * length[None] - t[None]).abs()
    distance = distance.masked_fill(~both_valid, FAR)
    gauss = torch.exp(-distance.square() / (2 * variance)) * other_view
    best = gauss.amax(dim=1, keepdim=True)
    total = gauss.sum(dim=1, keepdim=True)
    has_target = best >= TINY
    return torch.where(has_target, gauss / torch.where(has_target, total, 1.0), 0.0)
