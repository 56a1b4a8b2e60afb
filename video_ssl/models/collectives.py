"""A gather over processes that gradients flow through, for losses that compare rows of all processes."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def gather_with_grad(rows: Tensor) -> Tensor:
    """Returns the rows (B, ...) of all processes under each other, (W * B, ...), in the order of ranks.

    Every process must call it with the same shape; with one process (or no process group) it returns `rows`.

        gradient of rows of process r = sum over processes q of d loss_q / d gathered[r]

    If every process computes the same loss over all the rows, this is W times the gradient of that loss, and the mean
    over processes that DDP and FSDP take of the gradients of the weights brings it back: training then equals that
    of one process with the joint batch.  Do not divide the loss by W.

    >>> gather_with_grad(torch.ones(4, 8)).shape  # one process
    torch.Size([4, 8])
    """
    if not dist.is_available() or not dist.is_initialized() or dist.get_world_size() == 1:
        return rows
    gathered: Tensor = _Gather.apply(rows)
    return gathered


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        ctx.size = len(rows)
        parts = [torch.empty_like(rows) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, rows.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].contiguous().clone()
        dist.all_reduce(total)
        begin = dist.get_rank() * ctx.size
        return total[begin : begin + ctx.size]
