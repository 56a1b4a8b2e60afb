"""The pixel targets of MAE and VideoMAE."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

EPS = 1e-6


def pixel_targets(cubes: Tensor, kind: Literal["normalized", "raw"], *, per_colour: bool) -> Tensor:
    """Returns what the decoder must predict of each cube, float32 (N, M, E).

    Args:
        cubes: float (N, M, E), pixels in [0, 1]; E in the order time, row, column, colour.
        kind: "raw" = the pixels; "normalized" = minus the mean, over the standard deviation
            (unbiased variance), both of the cube.
        per_colour: statistics of each colour on its own (VideoMAE: eps is added to the standard
            deviation) or of all three together (MAE: eps is added to the variance).

    A constant cube gives 0.
    """
    cubes = cubes.float()
    if kind == "raw":
        return cubes
    groups = cubes.unflatten(-1, (-1, 3 if per_colour else 1))
    var, mean = torch.var_mean(groups, dim=-2, correction=1, keepdim=True)
    std = var.sqrt() + EPS if per_colour else (var + EPS).sqrt()
    return ((groups - mean) / std).flatten(-2)
