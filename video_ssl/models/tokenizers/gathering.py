"""What words are made of where several processes train them: all must end with the same."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor


def gathered(rows: Tensor) -> Tensor:
    """Returns the rows of all processes."""
    if not dist.is_available() or not dist.is_initialized() or dist.get_world_size() == 1:
        return rows
    parts = [torch.empty_like(rows) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, rows.contiguous())
    return torch.cat(parts)


def same_everywhere(rows: Tensor) -> Tensor:
    """Returns what was drawn at random, of process 0 in all of them."""
    if dist.is_available() and dist.is_initialized():
        dist.broadcast(rows, 0)
    return rows
