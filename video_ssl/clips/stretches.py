"""Stretches that two videos have in common: runs of pictures that are alike one after the other, at one offset.

Videos are rows of fingerprints, or of features, at equal steps of time.  What was copied runs at the speed of the
original, so all its pictures lie on one diagonal of the table of distances; it may begin and end anywhere, and any
number of times.  Numpy only.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from video_ssl.clips.fingerprints import WORDS, distance

__all__ = ["FeatureTracks", "PrintTracks", "Stretch", "Tracks", "common_stretches", "covered"]

_BLOCK = 1 << 22  # distances held at a time
#: A single picture may differ by so many times the threshold, as one at the cut may.
_SLACK = 1.5
_WINDOW_BITS, _NUM_WINDOWS = 24, 8
#: A run of signs that more videos share tells them not apart: a title, a test picture.
_MOST_ALIKE = 100


@dataclass(frozen=True, kw_only=True)
class Stretch:
    """`length` steps of a video from `first` on, which are those of another from `other` on.

    `distance` is the mean over them.
    """

    first: int
    other: int
    length: int
    distance: float


class Tracks(Protocol):
    """The pictures of V videos, by which they are compared."""

    def __len__(self) -> int: ...

    def length(self, video: int) -> int:
        """Returns how many steps a video has."""

    def table(self, a: int, rows: slice, b: int) -> np.ndarray:
        """Returns float32 (rows, length of b): distances of steps of a from all of b, NaN where they say nothing."""

    def diagonal(self, a: int, first: int, b: int, other: int, length: int) -> np.ndarray:
        """Returns float32 (length,): distances of steps first, first + 1, ... of a and other, other + 1, ... of b."""

    def candidates(self) -> Iterator[tuple[int, int]]:
        """Yields the pairs of videos (the earlier one first) that may have a stretch in common."""


class PrintTracks:
    """Videos by the fingerprints of their pictures.

    Args:
        prints: for each video uint64 (L, `WORDS`), see `fingerprints`.
    """

    def __init__(self, prints: Sequence[np.ndarray]) -> None:
        self._prints = [np.asarray(p, np.uint64).reshape(-1, WORDS) for p in prints]

    def __len__(self) -> int:
        return len(self._prints)

    def length(self, video: int) -> int:
        return len(self._prints[video])

    def table(self, a: int, rows: slice, b: int) -> np.ndarray:
        return distance(self._prints[a][rows, None], self._prints[b][None])

    def diagonal(self, a: int, first: int, b: int, other: int, length: int) -> np.ndarray:
        return distance(
            self._prints[a][first : first + length], self._prints[b][other : other + length]
        )

    def candidates(self) -> Iterator[tuple[int, int]]:
        """Pairs that share a run of 24 of their 128 signs somewhere.

        Of copies whose pictures differ in 5 signs, nine in ten share one; of other pictures one in two million.
        """
        owner = np.repeat(np.arange(len(self)), [len(p) for p in self._prints])
        prints = np.concatenate([*self._prints, np.zeros((0, WORDS), np.uint64)])
        seen = prints.any(axis=1)
        signs = np.unpackbits(prints[seen].view(np.uint8), axis=1)
        last = signs.shape[1] - _WINDOW_BITS
        pairs: set[tuple[int, int]] = set()
        for start in np.linspace(0, last, _NUM_WINDOWS).round().astype(int):
            run = np.packbits(signs[:, start : start + _WINDOW_BITS], axis=1).astype(np.int64)
            key = (run[:, 0] << 16) | (run[:, 1] << 8) | run[:, 2]
            pairs |= _sharing(key, owner[seen])
        yield from sorted(pairs)


def _sharing(key: np.ndarray, owner: np.ndarray) -> set[tuple[int, int]]:
    """The pairs of different owners (the smaller one first) that have a key in common."""
    known = np.unique(np.stack([key, owner], axis=1), axis=0)
    borders = np.flatnonzero(np.diff(known[:, 0])) + 1
    found: set[tuple[int, int]] = set()
    for owners in np.split(known[:, 1], borders):
        if 1 < len(owners) <= _MOST_ALIKE:
            i, j = np.triu_indices(len(owners), 1)
            found |= set(zip(owners[i].tolist(), owners[j].tolist(), strict=True))
    return found


class FeatureTracks:
    """Videos by features of their frames: the distance is 1 - cosine.

    Args:
        embs: for each video float32 (L, D); rows of zeros are like nothing.
    """

    def __init__(self, embs: Sequence[np.ndarray]) -> None:
        self._units = []
        for rows in embs:
            length = np.linalg.norm(rows, axis=1, keepdims=True)
            with np.errstate(invalid="ignore", divide="ignore"):
                self._units.append((rows / length).astype(np.float32))  # NaN of zeros: says nothing

    def __len__(self) -> int:
        return len(self._units)

    def length(self, video: int) -> int:
        return len(self._units[video])

    def table(self, a: int, rows: slice, b: int) -> np.ndarray:
        return 1 - self._units[a][rows] @ self._units[b].T

    def diagonal(self, a: int, first: int, b: int, other: int, length: int) -> np.ndarray:
        one = self._units[a][first : first + length]
        found: np.ndarray = 1 - (one * self._units[b][other : other + length]).sum(axis=1)
        return found

    def candidates(self) -> Iterator[tuple[int, int]]:
        """All pairs."""
        count = len(self)
        yield from ((a, b) for a in range(count) for b in range(a + 1, count))


def common_stretches(
    tracks: Tracks, a: int, b: int, *, threshold: float, least: int
) -> list[Stretch]:
    """Returns the stretches that two videos have in common, the longest first.

    No two of them overlap in both videos.  Where a video stands still, the longest run stands for all offsets.

    Args:
        threshold: largest mean distance of a stretch; a single picture may be 1.5 times as far.
        least: steps that a stretch has at least.
    """
    found: list[Stretch] = []
    for offset in _offsets(tracks, a, b, threshold=threshold, least=least):
        first, other = max(0, offset), max(0, -offset)
        length = min(tracks.length(a) - first, tracks.length(b) - other)
        apart = tracks.diagonal(a, first, b, other, length)
        for begin, end, mean in _runs(apart, threshold=threshold, least=least):
            found.append(
                Stretch(first=first + begin, other=other + begin, length=end - begin, distance=mean)
            )
    kept: list[Stretch] = []
    for stretch in sorted(found, key=lambda s: (-s.length, s.distance)):
        if not any(_overlap(stretch, other) for other in kept):
            kept.append(stretch)
    return kept


def covered(stretches: Sequence[tuple[int, int]], length: int) -> float:
    """Returns the share of a video that lies in stretches (first step, number of steps).

    >>> covered([(0, 4), (2, 4)], 12)
    0.5
    """
    inside = np.zeros(length, bool)
    for first, count in stretches:
        inside[first : first + count] = True
    return float(inside.mean()) if length else 0.0


def _offsets(tracks: Tracks, a: int, b: int, *, threshold: float, least: int) -> list[int]:
    """Offsets (step of a - step of b) at which enough pictures are alike; looks at all, block by block."""
    rows, columns = tracks.length(a), tracks.length(b)
    counts = np.zeros(rows + columns, np.int64)
    step = max(1, _BLOCK // max(columns, 1))
    for begin in range(0, rows, step):
        table = tracks.table(a, slice(begin, begin + step), b)
        with np.errstate(invalid="ignore"):
            i, j = np.nonzero(table <= _SLACK * threshold)
        counts += np.bincount(begin + i - j + columns, minlength=len(counts))
    return (np.flatnonzero(counts >= max(1, least // 2)) - columns).tolist()


def _runs(apart: np.ndarray, *, threshold: float, least: int) -> Iterator[tuple[int, int, float]]:
    """Yields (begin, end, mean distance) of the runs of a diagonal that are a stretch.

    A picture between two that are alike is let pass, and blank ones are as long as they are fewer than half.
    """
    with np.errstate(invalid="ignore"):
        alike = np.isnan(apart) | (apart <= _SLACK * threshold)
    closed = alike.copy()
    closed[1:-1] |= alike[:-2] & alike[2:]
    edges = np.flatnonzero(np.diff(np.concatenate([[False], closed, [False]]).astype(np.int8)))
    for begin, end in edges.reshape(-1, 2).tolist():
        says = np.flatnonzero(~np.isnan(apart[begin:end]))
        if end - begin < least or 2 * len(says) < end - begin:
            continue
        mean = float(apart[begin:end][says].mean())
        if mean <= threshold:
            yield begin, end, mean


def _overlap(one: Stretch, other: Stretch) -> bool:
    """In both videos."""
    return (
        one.first < other.first + other.length
        and other.first < one.first + one.length
        and one.other < other.other + other.length
        and other.other < one.other + one.length
    )
