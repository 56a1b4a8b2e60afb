"""Position tables as modules: fixed ones, learned ones, and both at other grids."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from video_ssl.models.networks.positions import (
    Grid,
    interpolate_table,
    position_table,
    resampling_matrix,
)


class PositionTable(nn.Module):
    """A fixed table for one grid that answers for other grids by interpolation.

    The table is a buffer outside the state dict: its formula, not its values, is the model's.

    Args:
        kind: a name of `positions.TABLES`.
        dim: width D.
        grid: (t, h, w) of the model's tokens.
        made_for: the grid that the formula is computed for, by default `grid`; if it is another one
            the table is interpolated from it.
    """

    table: Tensor

    def __init__(self, kind: str, dim: int, grid: Grid, made_for: Grid | None = None) -> None:
        super().__init__()
        self.kind, self.dim, self.grid, self.made_for = kind, dim, grid, made_for or grid
        self.register_buffer("table", self._compute(grid), persistent=False)
        self._others: dict[Grid, Tensor] = {}

    def forward(self, grid: Grid | None = None) -> Tensor:
        """Returns float32 (L, D) for `grid`, by default the grid of the model."""
        if grid is None or grid == self.grid:
            return self.table
        other = self._others.get(grid)
        if other is None or other.device != self.table.device:
            other = self._compute(grid).to(self.table.device)
            self._others[grid] = other
        return other

    def _compute(self, grid: Grid) -> Tensor:
        table = position_table(self.kind, self.dim, self.made_for)
        return torch.from_numpy(interpolate_table(table, self.made_for, grid))


class LearnedTable(nn.Module):
    """A table that is trained, (1, L, D) for one grid; other grids get it interpolated, with gradient.

    It starts as a truncated normal of standard deviation 0.02.
    """

    def __init__(self, dim: int, grid: Grid) -> None:
        super().__init__()
        self.dim, self.grid, self.made_for = dim, grid, grid
        t, h, w = grid
        self.table = nn.Parameter(torch.zeros(1, t * h * w, dim))
        nn.init.trunc_normal_(self.table, std=0.02)

    def forward(self, grid: Grid | None = None) -> Tensor:
        """Returns (L, D) for `grid`, by default the grid that the table was made for."""
        if grid is None or grid == self.grid:
            return self.table[0]
        t = torch.from_numpy(resampling_matrix(self.grid[0], grid[0], "linear")).to(self.table)
        h, w = (
            torch.from_numpy(resampling_matrix(old, new, "cubic")).to(self.table)
            for old, new in zip(self.grid[1:], grid[1:], strict=True)
        )
        volume = self.table[0].unflatten(0, self.grid)
        return torch.einsum("at,bh,cw,thwd->abcd", t, h, w, volume).flatten(0, 2)


def make_positions(
    kind: str, dim: int, grid: Grid, *, made_for: Grid | None = None
) -> PositionTable | LearnedTable:
    """Returns the table of a kind of `ViTConfig.positions` for the grid of a model.

    A learned table is always of the model's own grid: `convert` interpolates it once.
    """
    if kind == "learned":
        return LearnedTable(dim, grid)
    return PositionTable(kind, dim, grid, made_for)
