"""Joints as label maps and back, and how many are where they should be (PCK); numpy only.

Source: papers/frozen_protocols.md sections 3.1 and 3.4 (JHMDB).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

_SIGMA = 0.5
_PATCH = 4  # cells; its centre is at index 2
#: Of the diagonal of the joints' box, that distances are measured in.
_SHARE = 0.6


def map_of_pose(
    joints: ArrayLike,
    size: tuple[int, int],
    grid: tuple[int, int],
    *,
    given: ArrayLike | None = None,
) -> NDArray[np.float32]:
    """Returns float32 (h, w, 1 + J): a Gaussian of sigma half a cell for each joint; channel 0 is 1 where no joint is.

    A patch of 4 x 4 cells goes from int(x - 1.5) to before int(x + 2.5), cut towards 0: joints within 1.5 cells
    of the left or upper edge land one cell too far and lose a part, as in the reference.

    Args:
        joints: float (J, 2), x and y in pixels.
        size: (H, W) of the frame in pixels.
        grid: (h, w).
        given: bool (J,), joints whose place is told; the map of any other is 0 everywhere.  None = all.
    """
    places, (h, w) = np.asarray(joints, np.float64), grid
    told = np.ones(len(places), bool) if given is None else np.asarray(given, bool)
    scale = np.array([w / size[1], h / size[0]])
    square = (np.arange(_PATCH) - 2.0) ** 2
    patch = np.exp(-(square[:, None] + square[None]) / (2 * _SIGMA**2))
    out = np.zeros((h, w, 1 + len(places)), np.float32)
    for j in np.flatnonzero(told):
        x, y = places[j] * scale
        columns, rows = _cells(x, w), _cells(y, h)
        out[rows[0] : rows[1], columns[0] : columns[1], 1 + j] = patch[
            rows[0] - int(y - 1.5) : rows[1] - int(y - 1.5),
            columns[0] - int(x - 1.5) : columns[1] - int(x - 1.5),
        ]
    out[..., 0] = out[..., 1:].sum(-1) == 0
    return out


def _cells(place: float, count: int) -> tuple[int, int]:
    """The first cell of a patch around a place, and the one behind its last, of `count` cells."""
    first = min(max(int(place - 1.5), 0), count)
    return first, max(min(int(place + _PATCH - 1.5), count), first)


def poses_of_maps(
    soft: ArrayLike, size: tuple[int, int], *, topk: int = 5
) -> tuple[Floats, NDArray[np.bool_]]:
    """Returns joints float64 (T, J, 2) in pixels, and whether each is there, bool (T, J).

    A joint is at the mean of its `topk` cells by their weights.  One whose map is 0 everywhere is at (-1, -1).  Half a
    cell is not added, as in the reference.

    Args:
        soft: float (T, h, w, 1 + J).
        size: (H, W) of the frame in pixels.
    """
    given = np.asarray(soft, np.float64)[..., 1:]
    t, h, w, count = given.shape
    flat = given.reshape(t, h * w, count).swapaxes(1, 2)
    places = np.argsort(-flat, axis=-1, kind="stable")[..., :topk]
    weights = np.take_along_axis(flat, places, -1)
    total = weights.sum(-1)
    there = total > 0
    shares = weights / np.where(there, total, 1)[..., None]
    x = (shares * (places % w)).sum(-1) * (size[1] / w)
    y = (shares * (places // w)).sum(-1) * (size[0] / h)
    return np.where(there[..., None], np.stack([x, y], -1), -1.0), there


def box_size(joints: ArrayLike, there: ArrayLike) -> Floats:
    """Returns 0.6 times the diagonal of the box of the joints that are there, float64 (T,), of (T, J, 2)."""
    given, known = np.asarray(joints, np.float64), np.asarray(there, bool)[..., None]
    high = np.where(known, given, -np.inf).max(-2)
    low = np.where(known, given, np.inf).min(-2)
    sides = np.where(known.any(-2), high - low, 0.0)
    return _SHARE * np.hypot(sides[..., 0], sides[..., 1])


def joint_distances(
    found: ArrayLike, truth: ArrayLike, there: ArrayLike, judged: ArrayLike | None = None
) -> list[Floats]:
    """Returns for each joint its distances from the true place, in sizes of the box, where it was found.

    The first frame, whose joints were given, is left out.

    Args:
        found, truth: float (T, J, 2).
        there: bool (T, J), joints that were found; only these count, for the box too.
        judged: bool (T, J), those of which distances are told; the others count for the box alone.  None = all.
    """
    a, b, known = (
        np.asarray(found, np.float64),
        np.asarray(truth, np.float64),
        np.asarray(there, bool),
    )
    asked = known if judged is None else known & np.asarray(judged, bool)
    scale = np.maximum(box_size(b, known), 1e-12)[:, None]
    apart = np.hypot(*np.moveaxis(a - b, -1, 0)) / scale
    return [apart[1:, j][asked[1:, j]] for j in range(apart.shape[1])]


def correct_joints(distances: Sequence[ArrayLike], thresholds: ArrayLike) -> Floats:
    """Returns the share of the distances of each joint within each threshold, float64 (thresholds, J).

    NaN for a joint that was found nowhere.  PCK is the mean over joints.
    """
    bounds = np.asarray(thresholds, np.float64)
    columns = [
        (np.asarray(own, np.float64)[None] <= bounds[:, None]).mean(1)
        if np.size(own)
        else np.full(len(bounds), np.nan)
        for own in distances
    ]
    return np.stack(columns, axis=1)
