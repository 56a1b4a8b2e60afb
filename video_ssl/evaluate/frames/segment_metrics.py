"""Metrics of segments in time: temporal segmentation, localisation, counting.  Numpy only.

Segments are half-open, [start, end); labels whole numbers.

Source: segmentation after MS-TCN's eval.py, localisation after ActivityNet's eval_detection.py, counting after
TransRAC's test_looping.py and SEVERE; papers/frozen_protocols.md section 6.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = [
    "OVERLAPS",
    "TIOUS",
    "Segments",
    "average_precisions",
    "count_errors",
    "edit_score",
    "f1_of_counts",
    "hits_and_misses",
    "segments_of",
]

#: Overlaps of F1, and of the average mAP.
OVERLAPS = (0.1, 0.25, 0.5)
TIOUS = tuple(np.linspace(0.5, 0.95, 10).tolist())


class Segments(NamedTuple):
    """S segments: labels, starts and ends, each (S,)."""

    labels: NDArray[np.int64]
    starts: NDArray[np.int64]
    ends: NDArray[np.int64]


def segments_of(labels: ArrayLike, *, background: Sequence[int] = ()) -> Segments:
    """Returns the longest runs of one label, in order, without those of the background.

    Args:
        labels: int (L,), one for every frame.

    >>> [part.tolist() for part in segments_of([0, 3, 3, 0, 0, 1], background=[0])]
    [[3, 1], [1, 5], [3, 6]]
    """
    frames = np.asarray(labels, np.int64)
    starts = np.flatnonzero(np.diff(frames, prepend=frames[:1] - 1)) if len(frames) else frames
    ends = np.append(starts[1:], len(frames)) if len(frames) else frames
    kept = ~np.isin(frames[starts], list(background))
    return Segments(frames[starts][kept], starts[kept], ends[kept])


def edit_score(predicted: Segments, true: Segments) -> float:
    """Returns 1 - Levenshtein distance of the labels / the number of segments of the longer list, in 0..1.

    1 where both have no segment (the reference divides by zero).
    """
    a, b = predicted.labels, true.labels
    longest = max(len(a), len(b))
    if not longest:
        return 1.0
    row = np.arange(len(b) + 1)
    for i, label in enumerate(a, 1):
        above, row = row, np.empty_like(row)
        row[0] = i
        for j, other in enumerate(b, 1):
            row[j] = min(above[j] + 1, row[j - 1] + 1, above[j - 1] + (label != other))
    return 1 - float(row[-1]) / longest


def _overlap(start: float, end: float, starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
    both = np.minimum(end, ends) - np.maximum(start, starts)
    either = np.maximum(end, ends) - np.minimum(start, starts)
    shares: np.ndarray = both / either
    return shares


def hits_and_misses(predicted: Segments, true: Segments, overlap: float) -> NDArray[np.int64]:
    """Returns int64 (3,): true positives, false positives, missed segments of one video.

    Each predicted segment in turn takes the true one of its label that it overlaps best (of equal ones the first); it
    is a hit where they overlap enough and none has taken it before, else it is false: there is no second choice.  In a
    video without true segments all are false (the reference ends in an error).
    """
    used = np.zeros(len(true.labels), bool)
    hits = 0
    for label, start, end in zip(*predicted, strict=True):
        if not len(used):
            break
        shares = _overlap(start, end, true.starts, true.ends) * (true.labels == label)
        best = int(shares.argmax())
        if shares[best] >= overlap and not used[best]:
            used[best] = True
            hits += 1
    return np.array([hits, len(predicted.labels) - hits, int((~used).sum())], np.int64)


def f1_of_counts(counts: ArrayLike) -> float:
    """Returns F1 in 0..1 of (true positives, false positives, missed), summed over videos; 0 without a hit."""
    hits, false, missed = np.asarray(counts, np.float64)
    return float(2 * hits / (2 * hits + false + missed)) if hits else 0.0


def average_precisions(
    truth: np.ndarray, found: np.ndarray, *, num_classes: int, tious: Sequence[float] = TIOUS
) -> NDArray[np.float64]:
    """Returns float64 (T, K): interpolated average precision per overlap and class; NaN for a class without truth.

    Of each class detections are taken by falling score (of equal ones in the order given); each takes, of the true
    segments of its video, the one it overlaps best among those still free, and is false where none overlaps enough.
    The mean over the classes of the truth is the mAP; one without a detection counts 0.

    Args:
        truth: (N, 4): video, label, start, end.
        found: (M, 5): video, label, start, end, score; those of videos without truth are false.
        num_classes: labels are 0..num_classes - 1.
        tious: overlaps (intersection over union in time) from which on it is enough.
    """
    result = np.full((len(tious), num_classes), np.nan)
    for label in range(num_classes):
        own, ours = truth[truth[:, 1] == label], found[found[:, 1] == label]
        if not len(own):
            continue
        ours = ours[np.argsort(-ours[:, 4], kind="stable")]
        hit = np.zeros((len(tious), len(ours)), bool)
        used = np.zeros((len(tious), len(own)), bool)
        for k, (video, _, start, end, _) in enumerate(ours):
            rows = np.flatnonzero(own[:, 0] == video)
            shares = _overlap(start, end, own[rows, 2], own[rows, 3])
            order = np.argsort(-shares, kind="stable")
            for t, least in enumerate(tious):
                for row, share in zip(rows[order], shares[order], strict=True):
                    if share < least:
                        break
                    if not used[t, row]:
                        used[t, row] = hit[t, k] = True
                        break
        result[:, label] = [_interpolated(line, len(own)) for line in hit]
    return result


def _interpolated(hit: np.ndarray, num_true: int) -> float:
    """Area under precision that is made to fall from the right, over the steps of recall."""
    right = np.cumsum(hit)
    precision = np.concatenate([[0], right / np.arange(1, len(hit) + 1), [0]])
    recall = np.concatenate([[0], right / num_true, [1]])
    precision = np.maximum.accumulate(precision[::-1])[::-1]
    steps = np.flatnonzero(np.diff(recall)) + 1
    return float(((recall[steps] - recall[steps - 1]) * precision[steps]).sum())


def count_errors(
    predicted: ArrayLike, true: ArrayLike, *, rule: str = "transrac"
) -> dict[str, float]:
    """Returns `mae`, the mean of |p - c| relative to c, and `obo`, the share of |p - c| <= 1; predictions rounded.

    Args:
        predicted, true: counts (N,), c >= 0.
        rule: "transrac" divides by c + 0.1; "severe" by c, and leaves out videos with c = 0.  NaN without videos.

    Raises:
        ValueError: a count below 0.
    """
    p, c = np.round(np.asarray(predicted, np.float64)), np.asarray(true, np.float64)
    for counts in (p, c):
        if (counts < 0).any():
            raise ValueError(
                f"counts must be 0 or more, got {counts.min():g}: leave out videos whose count is unknown."
            )
    if rule == "severe":
        p, c = p[c > 0], c[c > 0]
    if not len(c):
        return {"mae": float("nan"), "obo": float("nan")}
    off = np.abs(p - c)
    below = c + 0.1 if rule == "transrac" else c
    return {"mae": float((off / below).mean()), "obo": float((off <= 1).mean())}
