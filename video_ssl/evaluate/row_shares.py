"""The rows of an evaluation divided among processes: who has which, and sums over all."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from video_ssl.pretrain.processes import Processes

#: A single process.
ALONE = Processes(0, 1, torch.device("cpu"))
_CHUNK = 4096


def own_rows(total: int, processes: Processes) -> np.ndarray:
    """Returns int64 (n,): the rows of `total` that this process works on; every row is one process's.

    >>> own_rows(5, Processes(1, 2, torch.device("cpu"))).tolist()
    [1, 3]
    """
    return np.arange(processes.rank, total, processes.world_size)


@dataclass(frozen=True, eq=False)
class Share:
    """Some rows of a matrix whose other rows are with the other processes.

    Attributes:
        places: int64 (n,), where the own rows lie among all, ascending.
        total: number of all rows.
        processes: who has a share; every one of them calls every function here.
    """

    places: np.ndarray
    total: int
    processes: Processes

    def __post_init__(self) -> None:
        lookup = torch.full((self.total,), -1, dtype=torch.int64)
        lookup[torch.from_numpy(self.places)] = torch.arange(len(self.places))
        object.__setattr__(self, "_lookup", lookup)

    def local(self, rows: Tensor) -> Tensor:
        """Returns which of the own rows are among `rows` (of all), in their order."""
        found: Tensor = self._lookup[rows]  # type: ignore[attr-defined]
        return found[found >= 0]

    def summed(self, *parts: Tensor) -> tuple[Tensor, ...]:
        """Returns the sums of tensors over processes, by one collective."""
        if self.processes.world_size == 1:
            return parts
        flat = torch.cat([part.flatten() for part in parts])
        dist.all_reduce(flat)
        pieces = flat.split([part.numel() for part in parts])
        return tuple(piece.view_as(part) for piece, part in zip(pieces, parts, strict=True))

    def moments(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Returns standard deviation (of the population) and mean of all rows of float32 (n, D)."""
        if self.processes.world_size == 1:
            return torch.std_mean(x, dim=0, correction=0)
        (total,) = self.summed(x.sum(0, dtype=torch.float64))
        mean = total / self.total
        squares = torch.zeros_like(mean)
        for piece in x.split(_CHUNK):
            squares += (piece.double() - mean).square().sum(0)
        (squares,) = self.summed(squares)
        return (squares / self.total).sqrt().float(), mean.float()

    def assemble(self, values: np.ndarray) -> np.ndarray:
        """Returns the rows (total, ...) of all processes, given the own ones (n, ...)."""
        if self.processes.world_size == 1:
            return values
        whole = torch.zeros((self.total, *values.shape[1:]), dtype=torch.float32)
        whole[torch.from_numpy(self.places)] = torch.from_numpy(values)
        dist.all_reduce(whole)  # every row is zero everywhere else
        return whole.numpy()
