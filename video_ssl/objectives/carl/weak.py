"""The weakly supervised term: frames of DIFFERENT videos with the same label, paired by dynamic time warping.

The abstract of arXiv:2212.03125 says that sample pairs among videos are built from video-level labels by dynamic time
warping, and no code or formula was seen: this formulation is ours (papers/carl.md section 10).  For every ordered
pair of views u, v of two videos with one label, without gradient:

    path  = DTW of the valid frames of u and v with cost 1 - z_i . z_j     (`warp="dtw"`)
    phi_i = mean of t_j over the frames j matched with i                   (`warp="linear"`: t_i * L_v / L_u)
    w_ij  = softmax_j( -(phi_i - t_j)^2 / (2 variance) )

and the loss is the mean over all rows i of all pairs of KL(w_i || softmax_j(z_i . z_j / temperature)), j over the valid
frames of v.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from video_ssl.objectives.shared.dtw import DtwResult, dtw, warped_times
from video_ssl.objectives.shared.frame_pairs import Views


def weak_loss(
    views: Views,
    *,
    temperature: float = 0.1,
    variance: float = 10.0,
    warp: str = "dtw",
    close_pairs_only: bool = False,
) -> tuple[Tensor, Tensor]:
    """Returns the loss (0-d, 0 where no two videos share a label) and the number of ordered pairs of views.

    Args:
        views: of the batch.
        temperature, variance: as in `scl_loss`.
        warp: "dtw" or "linear".
        close_pairs_only: leave out pairs whose mean cost along the path is not below the mean of the whole cost
            matrix: for sets where one label does not mean one order of events (FineGym).
    """
    with torch.autocast(views.z.device.type, enabled=False):
        z = views.z.to(torch.promote_types(views.z.dtype, torch.float32))
        u, v = views.pairs_of_label()
        if len(u) == 0:
            return z.sum() * 0.0, u.new_zeros(())
        times, keep = warp_pairs(views, u, v, warp=warp, close_pairs_only=close_pairs_only)
        u, v = u[keep], v[keep]
        rows, columns = views.valid[u], views.valid[v]
        distance = times[:, :, None] - views.steps[v][:, None].to(times.dtype)
        logits = (-distance.square() / (2 * variance)).masked_fill(~columns[:, None], -torch.inf)
        target = logits.softmax(-1).to(z.dtype)
        scores = z[u] @ z[v].transpose(1, 2) / temperature
        log_p = scores.masked_fill(~columns[:, None], -torch.inf).log_softmax(-1)
        # 0 * -inf of the columns that are not there is not a number.
        cross = torch.where(columns[:, None], target * log_p, 0.0)
        kl = (torch.xlogy(target, target) - cross).sum(-1)
        loss = torch.where(rows, kl, 0.0).sum() / rows.sum().clamp(min=1)
        return loss, torch.as_tensor(len(u), device=z.device)


@torch.no_grad()
def warp_pairs(
    views: Views, u: Tensor, v: Tensor, *, warp: str, close_pairs_only: bool = False
) -> tuple[Tensor, Tensor]:
    """Returns phi float64 (K', T), 0 at places that are not valid, and which pairs are kept, bool (K,)."""
    keep = torch.ones(len(u), dtype=torch.bool, device=u.device)
    if warp == "linear" and not close_pairs_only:
        scale = views.num_source[v].double() / views.num_source[u]
        return views.steps[u] * scale[:, None], keep
    result, cost = align_pairs(views, u, v)
    if warp == "linear":
        times = (
            views.steps[u] * (views.num_source[v].double() / views.num_source[u])[:, None]
        ).cpu()
    else:
        steps = views.steps[v].cpu().numpy()
        times = torch.from_numpy(
            np.nan_to_num(warped_times(result.path_i, result.path_j, steps, views.steps.shape[1]))
        )
    if close_pairs_only:
        keep = _close(result, cost, views.count[u], views.count[v]).to(u.device)
        times = times[keep.cpu()]
    return times.to(u.device), keep


def align_pairs(views: Views, u: Tensor, v: Tensor) -> tuple[DtwResult, np.ndarray]:
    """Returns the alignment of every pair and its cost matrix float64 (K, T, T), on the host."""
    z = views.z.detach().double()
    cost = (1 - z[u] @ z[v].transpose(1, 2)).cpu().numpy()
    rows, columns = views.count[u].cpu().numpy(), views.count[v].cpu().numpy()
    return dtw(cost, rows=rows, columns=columns), cost


def _close(result: DtwResult, cost: np.ndarray, rows: Tensor, columns: Tensor) -> Tensor:
    """Whether the mean cost along a path is below the mean cost of all pairs of valid frames."""
    n, m = rows.cpu().numpy(), columns.cpu().numpy()
    length = (result.path_i >= 0).sum(1)
    whole = [c[:a, :b].mean() for c, a, b in zip(cost, n, m, strict=True)]
    return torch.from_numpy(result.distance / length < np.array(whole))
