"""Position tables found in checkpoints: which formula they are, and other sizes of learned ones."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from video_ssl.models.networks.positions import Grid, interpolate_table, position_table
from video_ssl.models.weights import WeightsError

#: Formulas by the dimensions of a patch, the likelier first.
FORMULAS = {4: ("sincos_2d",), 5: ("sincos_3d", "sincos_1d")}
#: Tables saved in half precision are off by up to 2^-9 (bfloat16); learned ones are off by ~1.
TOLERANCE = 5e-3


@dataclass(frozen=True)
class StoredTable:
    """What a stored table is.

    Attributes:
        kind: a formula, or "learned".
        grid: (t, h, w) that it was made for.
        values: float32 (L, D), without the rows of prefix tokens.
        prefix: float32 (P, D), those rows.
    """

    kind: str
    grid: Grid
    values: Tensor
    prefix: Tensor


def recognise(
    table: Tensor, *, patch_dim: int, num_prefix: int, expected: Sequence[Grid]
) -> StoredTable:
    """Returns what a table (1, P+L, D) of a checkpoint is.

    Args:
        table: as stored; without values (on "meta") it counts as the likeliest formula.
        patch_dim: dimensions of the patch embedding's weight, 4 for images, 5 for clips.
        num_prefix: class tokens in front, P.
        expected: grids that the caller believes, the likelier first; the table may have another one.

    Raises:
        WeightsError: the number of rows fits no grid.
    """
    rows = table.reshape(-1, table.shape[-1])
    prefix, values = rows[:num_prefix], rows[num_prefix:]
    grids = grids_of(len(values), patch_dim=patch_dim, expected=expected)
    if table.is_meta:
        return StoredTable(FORMULAS[patch_dim][0], grids[0], values, prefix)
    values, prefix = values.float(), prefix.float()
    dim = values.shape[1]
    for kind in FORMULAS[patch_dim]:
        if dim % {"sincos_1d": 2, "sincos_2d": 4, "sincos_3d": 16}[kind]:
            continue
        for grid in grids:
            formula = torch.from_numpy(position_table(kind, dim, grid))
            if (values - formula).abs().max() <= TOLERANCE:
                return StoredTable(kind, grid, values, prefix)
    return StoredTable("learned", grids[0], values, prefix)


def grids_of(num_tokens: int, *, patch_dim: int, expected: Sequence[Grid]) -> list[Grid]:
    """Returns the grids that a table with so many rows may have, the likeliest first: those expected
    that fit, then such with the expected frame or the expected number of moments.

    Raises:
        WeightsError: no grid has so many tokens.
    """
    found = [grid for grid in expected if math.prod(grid) == num_tokens]
    for t, h, w in expected:
        moments = t if patch_dim == 5 else 1
        side = math.isqrt(num_tokens // moments)
        if moments * side * side == num_tokens:
            found.append((moments, side, side))
        if patch_dim == 5 and num_tokens % (h * w) == 0:
            found.append((num_tokens // (h * w), h, w))
    if not found:
        t, h, w = expected[0]
        raise WeightsError(
            f"the stored position table has {num_tokens} rows, which are not {t} x N x N tokens, nor N x {h} x "
            f"{w}: give the size and the length of clips that the model was trained on (--trained-size, "
            "--trained-frames)."
        )
    return list(dict.fromkeys(found))


def regrid(values: Tensor, old: Grid, new: Grid) -> Tensor:
    """Returns (L', D) for another grid of (L, D): rows and columns cubic, time linear."""
    if old == new or values.is_meta:
        return values if old == new else values.new_empty(int(np.prod(new)), values.shape[1])
    return torch.from_numpy(interpolate_table(values.numpy(), old, new))


def describe(grid: Grid, patch_size: int, tubelet_size: int | None) -> str:
    """Returns the grid in words: `8x14x14 tokens (16 frames of 224 px)`."""
    t, h, w = grid
    pixels = f"{h * patch_size} px" if h == w else f"{h * patch_size}x{w * patch_size} px"
    frames = f"{t * tubelet_size} frames of " if tubelet_size else ""
    return f"{t}x{h}x{w} tokens ({frames}{pixels})"
