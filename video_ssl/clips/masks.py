"""Which tokens are hidden: boolean masks over the tokens of a clip, True = hidden, made in the data workers.

Tokens are flat in the order time, row, column: a grid (t, h, w) has L = t * h * w of them.  Every
mask of one setting and one grid hides the same number of tokens, so a batch stays rectangular.  The
argument `rng` is a `numpy.random.Generator`; the tube and random masks call nothing but its
`shuffle`.
"""

from __future__ import annotations

from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from video_ssl.clips.config import MaskConfig
from video_ssl.clips.mask_blocks import sample_cuboids, sample_rectangles

Grid = tuple[int, int, int]
Mask = NDArray[np.bool_]
Rounding = Literal["hidden", "visible"] | None


class Shuffler(Protocol):
    """What the masks need of a random generator; numpy's old and new generators both have it."""

    def shuffle(self, x: Any) -> None: ...


def sample_mask(config: MaskConfig, grid: Grid, rng: np.random.Generator) -> Mask:
    """Returns a mask of the kind that the settings name: bool (L,), True = hidden.

    Raises:
        ValueError: nothing or everything would be hidden, or the grid does not suit the kind.
    """
    if config.kind == "tube":
        return sample_tube_mask(grid, config.ratio, rng, rounding=config.rounding)
    if config.kind == "random":
        return sample_random_mask(grid, config.ratio, rng, rounding=config.rounding)
    if config.kind in ("cube", "block"):
        return sample_block_mask(config, grid, rng)
    maps = running_cell_masks(grid, config.ratio)
    return maps[int(rng.integers(len(maps)))]


def sample_block_mask(config: MaskConfig, grid: Grid, rng: np.random.Generator) -> Mask:
    """Returns a mask of MaskFeat, of the kind "cube" or "block": bool (L,).

    Where its draws end before all cells are hidden, the rest are single cells anywhere (with "block": in every tubelet
    the same), so that every mask hides the same number.  The reference hides fewer then.

    Raises:
        ValueError: nothing or everything would be hidden, or the grid does not divide into cells.
    """
    config.num_masked(grid)
    cells, count = config.cells(grid), config.num_masked_cells(grid)
    if config.kind == "cube":
        mask = sample_cuboids(cells, count, rng)
    else:
        mask = sample_rectangles(cells[1:], count, rng)[None]
    left = np.flatnonzero(~mask)
    mask.flat[rng.choice(left, count - int(mask.sum()), replace=False)] = True
    tokens = mask.repeat(config.cell, axis=1).repeat(config.cell, axis=2)
    return np.broadcast_to(tokens, grid).reshape(-1)


def sample_tube_mask(grid: Grid, ratio: float, rng: Shuffler, *, rounding: Rounding = None) -> Mask:
    """Returns a mask that hides the same int(ratio * h * w) positions in every tubelet: bool (L,).

    A static scene then cannot be copied from a neighbouring frame.  One shuffle of a vector with
    the visible positions first, as in the reference: a generator in the same state gives the same
    mask.

    Source: VideoMAE, arXiv:2203.12602; papers/videomae.md section 2.
    """
    t, h, w = grid
    count = MaskConfig(kind="tube", ratio=ratio, rounding=rounding).num_masked(grid) // t
    return np.tile(_shuffled(h * w, count, rng), t)


def sample_random_mask(
    grid: Grid, ratio: float, rng: Shuffler, *, rounding: Rounding = None
) -> Mask:
    """Returns a mask that hides int(ratio * L) tokens anywhere: bool (L,).

    With rounding="visible" it leaves int(L * (1 - ratio)) visible, which may hide one token more:
    over an image, grid (1, h, w), that is the mask of MAE (arXiv:2111.06377).
    """
    count = MaskConfig(kind="random", ratio=ratio, rounding=rounding).num_masked(grid)
    return _shuffled(grid[0] * grid[1] * grid[2], count, rng)


def running_cell_masks(grid: Grid, ratio: float = 0.5) -> Mask:
    """Returns the four decoder masks of VideoMAE V2: bool (4, L), True = NOT decoded.

    A 2x2 cell with int(4 * ratio) hidden places is tiled over the grid.  Its places in reading
    order are a queue that is rolled by one with every tubelet, so every position is decoded at some
    time; map s starts s steps later.

    Source: arXiv:2303.16727; papers/videomae.md section 10.

    >>> running_cell_masks((2, 2, 2), 0.5)[0].reshape(2, 2, 2).astype(int).tolist()
    [[[1, 0], [0, 1]], [[0, 0], [1, 1]]]
    """
    t, h, w = grid
    MaskConfig(kind="running_cell", ratio=ratio).num_masked(grid)
    queue = np.arange(4) < int(4 * ratio)
    steps = np.arange(4)[:, None] + np.arange(t) + 1
    cells = queue[(steps[..., None] + np.arange(4)) % 4].reshape(4, t, 2, 2)
    return np.tile(cells, (1, 1, h // 2, w // 2)).reshape(4, t * h * w)


def _shuffled(length: int, count: int, rng: Shuffler) -> Mask:
    flags = np.arange(length) >= length - count
    rng.shuffle(flags)
    return flags
