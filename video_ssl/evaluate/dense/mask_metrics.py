"""How well masks of objects agree with the true ones: J and F of DAVIS, mean IoU of VIP; numpy only.

    J    intersection over union of a mask with the true one; 1 where both are empty
    F    of their boundaries: precision is the share of the found boundary within r pixels of the true one, recall the
         reverse, F = 2 P R / (P + R); r = ceil(0.008 * diagonal of the frame)

A boundary is where a pixel differs from its right, lower or lower-right neighbour.  DAVIS leaves out the first and the
last frame; its means run over objects.

Source: papers/frozen_protocols.md section 3.4 (arXiv:1704.00675, 1808.00661).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]


class Statistics(NamedTuple):
    """Of the values of an object over the frames of a video.

    Attributes:
        mean, recall: mean, and share of the frames above 0.5.
        decay: mean of the first quarter minus mean of the last.
    """

    mean: float
    recall: float
    decay: float


def region_similarity(found: ArrayLike, truth: ArrayLike) -> Floats:
    """Returns J of masks, float64 (...), of bool (..., H, W)."""
    a, b = np.asarray(found, bool), np.asarray(truth, bool)
    both, either = (a & b).sum((-2, -1)), (a | b).sum((-2, -1))
    return np.where(either == 0, 1.0, both / np.maximum(either, 1))


def boundary_accuracy(found: ArrayLike, truth: ArrayLike) -> Floats:
    """Returns F of masks, float64 (...), of bool (..., H, W)."""
    a, b = np.asarray(found, bool), np.asarray(truth, bool)
    flat = zip(a.reshape(-1, *a.shape[-2:]), b.reshape(-1, *b.shape[-2:]), strict=True)
    return np.array([_boundary_accuracy(*pair) for pair in flat]).reshape(a.shape[:-2])


def boundary_radius(height: int, width: int) -> int:
    """Returns r in pixels.

    >>> boundary_radius(480, 854)
    8
    """
    return math.ceil(0.008 * math.hypot(height, width))


def boundary(mask: Bools) -> Bools:
    """Returns where a mask (H, W) has its boundary; the last column looks down only, the last row right only."""
    found = np.zeros_like(mask)
    found[:-1, :-1] = mask[:-1, :-1] != mask[:-1, 1:]
    found[:-1, :-1] |= mask[:-1, :-1] != mask[1:, :-1]
    found[:-1, :-1] |= mask[:-1, :-1] != mask[1:, 1:]
    found[:-1, -1] = mask[:-1, -1] != mask[1:, -1]
    found[-1, :-1] = mask[-1, :-1] != mask[-1, 1:]
    return found


def _boundary_accuracy(found: Bools, truth: Bools) -> float:
    ours, theirs = boundary(found), boundary(truth)
    if not ours.any() or not theirs.any():
        return float(ours.any() == theirs.any())
    radius = boundary_radius(*found.shape)
    precision = (ours & _widened(theirs, radius)).sum() / ours.sum()
    recall = (theirs & _widened(ours, radius)).sum() / theirs.sum()
    return float(2 * precision * recall / (precision + recall)) if precision + recall else 0.0


def _widened(mask: Bools, radius: int) -> Bools:
    """The pixels within `radius` of a mask."""
    height, width = mask.shape
    out = np.zeros_like(mask)
    padded = np.pad(mask, radius)
    for dy in range(-radius, radius + 1):
        reach = math.isqrt(radius * radius - dy * dy)
        rows = padded[radius + dy : radius + dy + height]
        sums = np.cumsum(np.pad(rows, ((0, 0), (1, 0))), axis=1)
        begin = radius - reach
        end = begin + 2 * reach + 1
        out |= sums[:, end : end + width] > sums[:, begin : begin + width]
    return out


def statistics_of(values: ArrayLike) -> Statistics:
    """Returns mean, recall and decay of the values of an object, float (n,), n at least 1.

    Quarters end at round(linspace(1, n, 5)) - 1, both ends included.  The reference holds these in 8 bits, which is
    wrong above 256 frames; not here.  NaN is left out of means and is not above 0.5.
    """
    given = np.asarray(values, np.float64)
    ends = np.round(np.linspace(1, len(given), 5) + 1e-10).astype(np.int64) - 1
    first, last = given[ends[0] : ends[1] + 1], given[ends[3] : ends[4] + 1]
    return Statistics(
        float(np.nanmean(given)),
        float((given > 0.5).mean()),
        float(np.nanmean(first) - np.nanmean(last)),
    )


def summed_up(regions: Sequence[Statistics], boundaries: Sequence[Statistics]) -> dict[str, float]:
    """Returns the numbers of DAVIS's table over all objects of all videos: J&F-Mean, J-Mean, J-Recall, J-Decay and the
    same of F."""
    found: dict[str, float] = {}
    for letter, own in (("J", regions), ("F", boundaries)):
        mean, recall, decay = np.mean(np.array(own, np.float64), axis=0).tolist()
        found |= {f"{letter}-Mean": mean, f"{letter}-Recall": recall, f"{letter}-Decay": decay}
    return {"J&F-Mean": (found["J-Mean"] + found["F-Mean"]) / 2, **found}


# VIP ----------------------------------------------------------------------------------------------


def class_histogram(truth: ArrayLike, found: ArrayLike, num_classes: int) -> NDArray[np.int64]:
    """Returns how many pixels of each true class (rows) were given each class (columns), int64 (K, K).

    Pixels whose true class is none of them (255) are left out.
    """
    a, b = np.asarray(truth).ravel().astype(np.int64), np.asarray(found).ravel().astype(np.int64)
    known = (a >= 0) & (a < num_classes)
    places = num_classes * a[known] + b[known]
    return np.bincount(places, minlength=num_classes**2).reshape(num_classes, num_classes)


def class_ious(histogram: ArrayLike) -> Floats:
    """Returns the intersection over union of every class, float64 (K,); NaN for one that is nowhere."""
    counts = np.asarray(histogram, np.float64)
    both = np.diag(counts)
    either = counts.sum(0) + counts.sum(1) - both
    return np.where(either > 0, both / np.maximum(either, 1), np.nan)
