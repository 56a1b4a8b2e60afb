"""Weights of one Swin for another: pictures to clips, and tables of biases for other windows.

Source: papers/bevt.md section 3 (the loaders of BEVT and Video Swin).
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch.nn.functional as F
from torch import Tensor

from video_ssl.models.networks.windows import Triple, table_rows

_TABLE = "relative_position_bias_table"


def inflated(state: Mapping[str, Tensor], *, window: Triple, frames: int) -> dict[str, Tensor]:
    """Returns the weights of a Swin of pictures as those of one of clips that takes pictures too.

    The embedding of patches becomes that of pictures (`patch_embed_2d`) and, repeated over the frames of a token and
    divided by their number, that of clips.  A table of biases is repeated for every difference in time; one of other
    windows is interpolated in space first.

    Args:
        state: weights, under the names of `VideoSwin`.
        window: of the new one.
        frames: of one of its tokens.
    """
    found = {}
    for key, value in state.items():
        if key.startswith("patch_embed."):
            found[key.replace("patch_embed.", "patch_embed_2d.")] = value
        if key == "patch_embed.proj.weight" and value.dim() == 4:
            value = value[:, :, None].expand(-1, -1, frames, -1, -1) / frames
        elif key.endswith(_TABLE):
            value = _repeated(value, window)
        found[key] = value.clone()
    return found


def fitted_tables(state: Mapping[str, Tensor], *, of: Triple, window: Triple) -> dict[str, Tensor]:
    """Returns weights whose tables of biases, made for windows `of`, fit others: interpolated in time and space."""
    return {
        key: _interpolated(value, of, window) if key.endswith(_TABLE) and of != window else value
        for key, value in state.items()
    }


def window_of(rows: int, tokens: int | None = None) -> Triple | None:
    """Returns the window, as high as it is wide, whose table of biases has so many rows; of pictures, (1, h, h).

    Args:
        rows: (2d - 1)(2h - 1)^2.
        tokens: d * h * h; None = not known, then the one of the largest area.

    >>> window_of(2535), window_of(169, 49), window_of(12)
    ((8, 7, 7), (1, 7, 7), None)
    """
    for side in range(math.isqrt(rows), 0, -1):
        moments, rest = divmod(rows, side * side)
        if rest or side % 2 == 0 or moments % 2 == 0:
            continue
        d, h = (moments + 1) // 2, (side + 1) // 2
        if tokens is None or d * h * h == tokens:
            return d, h, h
    return None


def _repeated(table: Tensor, window: Triple) -> Tensor:
    """A table of pictures, (rows, heads), for all differences in time."""
    d, h, w = window
    side = round(len(table) ** 0.5)
    if side * side != len(table):
        raise ValueError(
            f"a table of {len(table)} rows is none of pictures: their windows are square."
        )
    if (side, side) != (2 * h - 1, 2 * w - 1):
        picture = table.T.reshape(1, -1, side, side)
        new = F.interpolate(
            picture, size=(2 * h - 1, 2 * w - 1), mode="bicubic", align_corners=False
        )
        table = new.reshape(table.shape[1], -1).T
    return table.repeat(2 * d - 1, 1)


def _interpolated(table: Tensor, of: Triple, window: Triple) -> Tensor:
    if len(table) != table_rows(of):
        raise ValueError(
            f"a table of {len(table)} rows is not of windows of {of}, which have {table_rows(of)}."
        )
    old, new = ([2 * s - 1 for s in sides] for sides in (of, window))
    cube = table.T.reshape(1, -1, *old)
    found = F.interpolate(cube, size=new, mode="trilinear", align_corners=False)
    return found.reshape(table.shape[1], -1).T
