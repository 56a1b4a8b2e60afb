"""Constant offsets between recordings of one scene, from features of their frames: numpy only.

Frame i of `a` meets frame i + d of `b`.  What is compared are the frames in which both go on at lag d, each without
its mean over just these: that takes away how a camera sees the scene, and a long overlap or a still stretch wins
nothing.

Source: our own definition (papers/frozen_protocols.md section 9); no reference code exists.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "Offset",
    "OffsetError",
    "Times",
    "find_offset",
    "lag_scores",
    "local_offsets",
    "reconcile",
]

Floats = NDArray[np.float64]
#: Scores that differ by less are equal: so much is left of the rounding of the Fourier transforms.
_TIE = 1e-10
#: Share of the whole energy below which that of an overlap is rounding alone, hence none.
_NO_ENERGY = 1e-12
_COLUMNS = 64  # features that are transformed at a time
#: Of the robust times: rounds, and the residual (in units of the offsets) up to which a pair keeps its whole weight.
_ROUNDS, _SMALL = 50, 1e-3


class OffsetError(ValueError):
    """Features that cannot be compared; the text says why."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Offset:
    """By how many frames one recording is ahead of another.

    Attributes:
        lag: frame i of `a` meets frame i + lag of `b`.
        subframe: the same between frames, by the parabola through the scores around it; within half a frame.
        score: of the lag, -1..1: correlation of the frames that meet.
        confidence: 0..1; 0 = another lag fits as well.
        overlap: frames that meet.
        lags: int64 (K,), all that were tried, in order.
        scores: float64 (K,).
    """

    lag: int
    subframe: float
    score: float
    confidence: float
    overlap: int
    lags: NDArray[np.int64]
    scores: Floats


def lag_scores(
    a: np.ndarray, b: np.ndarray, *, max_lag: int | None = None, min_overlap: int | None = None
) -> tuple[NDArray[np.int64], Floats]:
    """Returns all lags d, int64 (K,), and their scores, float64 (K,) in -1..1.

    score(d) = sum <a_i - mean a, b_(i+d) - mean b> / sqrt(sum |a_i - mean a|^2 sum |b_(i+d) - mean b|^2), sums and
    means over the frames that meet; 0 where one side does not change there.

    Args:
        a, b: (n, D), (m, D), at one common rate.
        max_lag: of either sign; None: as far as they overlap.
        min_overlap: frames that must meet; None: half of the shorter one, rounded up.

    Raises:
        OffsetError: no frames, unequal widths, numbers that are not finite, or no lag that is allowed.

    >>> walk = np.array([0.0, 2, 1, 5, 3, 3, 4, 1])[:, None]
    >>> lags, scores = lag_scores(walk[2:], walk)
    >>> int(lags[scores.argmax()])
    2
    """
    a, b = _checked(a, b)
    n, m = len(a), len(b)
    least = -(-min(n, m) // 2) if min_overlap is None else min_overlap
    most = max(n, m) if max_lag is None else max_lag
    lags = np.arange(-n + 1, m)
    counts = np.minimum(n, m - lags) - np.maximum(0, -lags)
    allowed = (np.abs(lags) <= most) & (counts >= max(least, 1))
    if not allowed.any():
        raise OffsetError(
            f"recordings of {n} and {m} frames never overlap by min_overlap={least} frames within max_lag={most}: "
            "lower the overlap that is asked for, or raise the largest offset."
        )
    lags, counts = lags[allowed], counts[allowed]
    a, b = a - a.mean(axis=0), b - b.mean(axis=0)
    first, last = np.maximum(0, -lags), np.minimum(n, m - lags)
    sums, products = _sums(a, b, lags, first, last)
    (a_square, b_square), (ab, aa, bb) = sums, products
    cross = ab[0] - ab[1] / counts
    energies = a_square - aa / counts, b_square - bb / counts
    known = np.ones(len(lags), bool)
    for energy, whole in zip(energies, (a, b), strict=True):
        known &= energy > _NO_ENERGY * max(float(np.square(whole).sum()), np.finfo(float).tiny)
    with np.errstate(all="ignore"):
        scores = cross / np.sqrt(energies[0] * energies[1])
    return lags, np.where(known, np.clip(scores, -1, 1), 0.0)


def _checked(a: np.ndarray, b: np.ndarray) -> tuple[Floats, Floats]:
    for name, frames in (("a", a), ("b", b)):
        if frames.ndim != 2 or not frames.size:
            raise OffsetError(f"{name} has no frame features: its shape is {frames.shape}.")
        if not np.isfinite(frames).all():
            raise OffsetError(f"{name} has frame features that are not finite: make them again.")
    if a.shape[1] != b.shape[1]:
        raise OffsetError(
            f"features of width {a.shape[1]} and {b.shape[1]} cannot be compared: take one encoder for all recordings."
        )
    return np.asarray(a, np.float64), np.asarray(b, np.float64)


def _sums(
    a: Floats, b: Floats, lags: NDArray[np.int64], first: np.ndarray, last: np.ndarray
) -> tuple[tuple[Floats, Floats], tuple[tuple[Floats, Floats], Floats, Floats]]:
    """Over the frames that meet at every lag, (K,): sum |a|^2, sum |b|^2; sum <a, b> and <sum a, sum b>, |sum a|^2,
    |sum b|^2.  A few features at a time, as transforms of all would fill the memory."""
    size = 1 << int(len(a) + len(b) - 1).bit_length()
    zero = np.zeros(len(lags))
    cross, means, aa, bb = zero.copy(), zero.copy(), zero.copy(), zero.copy()
    for begin in range(0, a.shape[1], _COLUMNS):
        x, y = a[:, begin : begin + _COLUMNS], b[:, begin : begin + _COLUMNS]
        spectrum = (np.fft.rfft(x, size, axis=0).conj() * np.fft.rfft(y, size, axis=0)).sum(axis=1)
        cross += np.fft.irfft(spectrum, size)[lags % size]
        xs, ys = _until(x), _until(y)
        of_a, of_b = xs[last] - xs[first], ys[last + lags] - ys[first + lags]
        means += (of_a * of_b).sum(axis=1)
        aa += np.square(of_a).sum(axis=1)
        bb += np.square(of_b).sum(axis=1)
    x2, y2 = _until(np.square(a).sum(axis=1)), _until(np.square(b).sum(axis=1))
    squares = x2[last] - x2[first], y2[last + lags] - y2[first + lags]
    return squares, ((cross, means), aa, bb)


def _until(values: Floats) -> Floats:
    """Sums of the first 0, 1, ... rows."""
    return np.concatenate([np.zeros((1, *values.shape[1:])), np.cumsum(values, axis=0)])


def find_offset(
    a: np.ndarray,
    b: np.ndarray,
    *,
    max_lag: int | None = None,
    min_overlap: int | None = None,
    window: int = 4,
) -> Offset:
    """Returns the lag whose score is the highest; of equal ones that nearest to 0, then the negative one.

    confidence = (best - best outside of lag +- window) / (best - median of all scores), 0 where nothing lies outside
    or the best is no higher than the median.

    Args:
        a, b, max_lag, min_overlap: see `lag_scores`.
        window: frames around the best within which another lag is the same answer.

    Raises:
        OffsetError: see `lag_scores`.

    >>> rng = np.random.default_rng(0)
    >>> scene = rng.normal(size=(60, 4)).cumsum(axis=0)
    >>> found = find_offset(scene[7:50], scene[:40] * 3 + 1)
    >>> found.lag, found.confidence > 0.3
    (7, True)
    """
    lags, scores = lag_scores(a, b, max_lag=max_lag, min_overlap=min_overlap)
    equal = np.flatnonzero(scores >= scores.max() - _TIE)
    best = int(min(equal, key=lambda k: (abs(lags[k]), lags[k])))
    lag, score = int(lags[best]), float(scores[best])
    outside = scores[np.abs(lags - lag) > window]
    above = score - float(np.median(scores))
    confidence = 0.0
    if len(outside) and above > _TIE:
        confidence = float(np.clip((score - outside.max()) / above, 0, 1))
    return Offset(
        lag=lag,
        subframe=lag + _between(scores, best),
        score=score,
        confidence=confidence,
        overlap=int(min(len(a), len(b) - lag) - max(0, -lag)),
        lags=lags,
        scores=scores,
    )


def _between(scores: Floats, best: int) -> float:
    """Where the top of the parabola through three scores lies, in frames from the middle one."""
    if not 0 < best < len(scores) - 1:
        return 0.0
    before, top, after = scores[best - 1 : best + 2]
    bend = before - 2 * top + after
    return float(np.clip((before - after) / (2 * bend), -0.5, 0.5)) if bend < 0 else 0.0


def local_offsets(
    a: np.ndarray, b: np.ndarray, *, lag: int, section: int, reach: int, window: int = 4
) -> tuple[Floats, Floats, Floats]:
    """Returns of every section of the overlap its middle in frames of `a`, its lag and its confidence, each (S,).

    Args:
        a, b: see `lag_scores`.
        lag: of the whole.
        section: frames of a section; they follow each other without gaps.
        reach: how far the lag of a section may lie from that of the whole.
        window: see `find_offset`.
    """
    first, last = max(0, -lag), min(len(a), len(b) - lag)
    found = []
    for begin in range(first, last - section + 1, section):
        left = max(begin + lag - reach, 0)
        there = b[left : begin + lag + section + reach]
        if len(there) < section:
            continue
        # All of the section must meet: a part of it would be another, shorter section.
        local = find_offset(a[begin : begin + section], there, min_overlap=section, window=window)
        found.append((begin + section / 2, local.subframe + left - begin, local.confidence))
    middles, lags, trust = np.array(found, np.float64).reshape(-1, 3).T
    return middles, lags, trust


@dataclass(frozen=True, kw_only=True, eq=False)
class Times:
    """Recordings on common clocks.

    Attributes:
        times: float64 (N,): the moment that the first recording of the group shows at 0 is shown at `times[k]` by
            recording k.
        groups: int64 (N,): recordings between which there is a way over pairs have the same number, that of their
            first recording.
        residuals: float64 (P,): of every pair, its offset less the difference of the times; NaN between two groups.
    """

    times: Floats
    groups: NDArray[np.int64]
    residuals: Floats


def reconcile(
    pairs: Sequence[tuple[int, int]] | np.ndarray,
    offsets: Sequence[float] | np.ndarray,
    weights: Sequence[float] | np.ndarray,
    *,
    num: int,
    robust: bool = False,
) -> Times:
    """Returns the times that fit the offsets of all pairs best: least squares, pairs weighted.

    Minimises sum w_ab (t_b - t_a - d_ab)^2 with t = 0 for the first recording of every group; pairs of weight 0 join
    nothing.

    Args:
        pairs: (P, 2): recordings a and b.
        offsets: (P,): d_ab.
        weights: (P,): at least 0.
        num: recordings.
        robust: the sum of w_ab |t_b - t_a - d_ab| instead, so that one wrong pair among several does not pull the
            others along (least squares, weighted anew: w / max(residual, a thousandth)).

    >>> found = reconcile([(0, 1), (1, 2), (0, 2)], [5.0, -2.0, 3.0], [1.0, 1.0, 1.0], num=4)
    >>> found.times.round(6).tolist(), found.groups.tolist()
    ([0.0, 5.0, 3.0, 0.0], [0, 0, 0, 3])
    """
    ends = np.asarray(pairs, np.int64).reshape(-1, 2)
    d, w = np.asarray(offsets, np.float64), np.asarray(weights, np.float64)
    groups = _joined(ends[w > 0], num)
    times = _least_squares(ends, d, w, groups)
    for _ in range(_ROUNDS if robust else 0):
        off = np.abs(times[ends[:, 1]] - times[ends[:, 0]] - d)
        times = _least_squares(ends, d, w / np.maximum(off, _SMALL), groups)
    residuals = d - (times[ends[:, 1]] - times[ends[:, 0]])
    apart = groups[ends[:, 0]] != groups[ends[:, 1]]
    return Times(times=times, groups=groups, residuals=np.where(apart, np.nan, residuals))


def _joined(pairs: np.ndarray, num: int) -> NDArray[np.int64]:
    groups = np.arange(num)
    for a, b in pairs:
        low, high = sorted((groups[a], groups[b]))
        groups[groups == high] = low
    return groups


def _least_squares(ends: np.ndarray, d: Floats, w: Floats, groups: np.ndarray) -> Floats:
    """The weighted Laplacian, solved where a recording is not the first of its group."""
    num = len(groups)
    laplacian, right = np.zeros((num, num)), np.zeros(num)
    for (a, b), offset, weight in zip(ends, d, w, strict=True):
        laplacian[[a, b], [a, b]] += weight
        laplacian[[a, b], [b, a]] -= weight
        right[b] += weight * offset
        right[a] -= weight * offset
    free = np.flatnonzero(groups != np.arange(num))
    times = np.zeros(num)
    if len(free):
        times[free] = np.linalg.solve(laplacian[np.ix_(free, free)], right[free])
    return times
