"""How good tracks are: one-pass evaluation as OTB measures it; numpy only.

Boxes are (left, top, width, height) in pixels, one for every frame, the first of which is given to the tracker.
Curves are averaged over sequences, each of which weighs the same however long it is.

Source: papers/const_cl.md section 6.2 (the toolkit of GOT-10k).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

#: Overlaps that a frame must exceed, and distances in pixels that it must not.
SUCCESS_THRESHOLDS: Floats = np.linspace(0, 1, 21)
PRECISION_THRESHOLDS: Floats = np.arange(51, dtype=np.float64)
#: The distance of the precision score, and the overlap of the success rate.
PRECISION_AT_PX, SUCCESS_AT = 20, 0.5


def track_overlaps(found: ArrayLike, truth: ArrayLike) -> Floats:
    """Returns the intersection over union of two boxes for every frame, float64 (T,) in [0, 1]."""
    a, b = (np.asarray(x, np.float64) for x in (found, truth))
    near, far = np.maximum(a[:, :2], b[:, :2]), np.minimum(a[:, :2] + a[:, 2:], b[:, :2] + b[:, 2:])
    shared = np.maximum(far - near, 0).prod(1)
    union = a[:, 2:].prod(1) + b[:, 2:].prod(1) - shared
    return np.clip(shared / (union + np.finfo(np.float64).eps), 0.0, 1.0)


def center_errors(found: ArrayLike, truth: ArrayLike) -> Floats:
    """Returns the distance of the centres in pixels for every frame, float64 (T,).

    A centre is left + (width - 1) / 2, top + (height - 1) / 2.
    """
    a, b = (np.asarray(x, np.float64) for x in (found, truth))
    shift = (a[:, :2] + (a[:, 2:] - 1) / 2) - (b[:, :2] + (b[:, 2:] - 1) / 2)
    return np.asarray(np.sqrt((shift**2).sum(1)))


def success_curve(overlap: ArrayLike) -> Floats:
    """Returns the share of frames that overlap by more than each of `SUCCESS_THRESHOLDS`, float64 (21,)."""
    return np.asarray((np.asarray(overlap)[:, None] > SUCCESS_THRESHOLDS).mean(0))


def precision_curve(errors: ArrayLike) -> Floats:
    """Returns the share of frames whose centre is off by at most each of `PRECISION_THRESHOLDS`, float64 (51,)."""
    return np.asarray((np.asarray(errors)[:, None] <= PRECISION_THRESHOLDS).mean(0))


class TrackScores(NamedTuple):
    """Scores of all sequences together, shares in [0, 1].

    Attributes:
        success: the mean of the success curve (the area below it).
        precision: at 20 pixels.
        success_rate: share of frames that overlap by more than a half.
        success_curve, precision_curve: means over the sequences, float64 (21,) and (51,).
    """

    success: float
    precision: float
    success_rate: float
    success_curve: Floats
    precision_curve: Floats


def track_scores(found: Sequence[ArrayLike], truth: Sequence[ArrayLike]) -> TrackScores:
    """Returns the scores of tracks, boxes (T, 4) of every sequence.

    Raises:
        ValueError: no sequence, or one with another number of boxes than frames, or with NaN.
    """
    if not len(found) or len(found) != len(truth):
        raise ValueError(
            f"{len(found)} tracks of {len(truth)} sequences: give one of each, at least one."
        )
    for i, (a, b) in enumerate(zip(found, truth, strict=True)):
        shapes = [np.asarray(x).shape for x in (a, b)]
        if shapes[0] != shapes[1] or shapes[0][1:] != (4,) or not shapes[0][0]:
            raise ValueError(
                f"sequence {i}: the track is {shapes[0]}, the truth {shapes[1]}: both must be (frames, 4)."
            )
        if not all(np.isfinite(np.asarray(x, np.float64)).all() for x in (a, b)):
            raise ValueError(f"sequence {i} has boxes that are not finite.")
    pairs = list(zip(found, truth, strict=True))
    success = np.mean([success_curve(track_overlaps(a, b)) for a, b in pairs], axis=0)
    precision = np.mean([precision_curve(center_errors(a, b)) for a, b in pairs], axis=0)
    return TrackScores(
        success=float(success.mean()),
        precision=float(precision[PRECISION_AT_PX]),
        success_rate=float(success[np.flatnonzero(SUCCESS_THRESHOLDS == SUCCESS_AT)[0]]),
        success_curve=success,
        precision_curve=precision,
    )
