"""Fingerprints of pictures by what they show: copies of a video are found although every byte of them is another.

A fingerprint is 128 signs: of the lowest frequencies of the brightness, horizontally and vertically together, without
the mean.  Another codec, quality, size, frame rate or brightness turns few of them, another picture about half.
Mirrored, cropped or framed copies are other pictures.  Numpy only.
"""

from __future__ import annotations

import functools

import numpy as np

from video_ssl.clips.decoders.reader import Reader, stream_frames

#: uint64 numbers of a fingerprint.
WORDS = 2
#: Most of the signs that may differ, on average over the pictures, between copies of one video.  Re-encoded copies of
#: noisy generated videos (x264 of crf 28 at 0.7 of the size) differ in 0.01 to 0.03, other videos of the same still
#: scene, in which one figure moves otherwise, in 0.09 to 0.2, others in 0.35 to 0.55.
COPY_DISTANCE = 0.07
#: Pictures of a video that are compared.
NUM_MOMENTS = 8

_SIDE = 32  # brightness is averaged over as many rows and columns
_LEAST_CONTRAST = 2.0  # standard deviation in grey levels of 0..255: below, a picture is blank
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601
_SAME_LENGTH = (
    0.25,
    0.03,
)  # seconds, or share of the length, by which lengths of copies may differ


def fingerprint(frames: np.ndarray) -> np.ndarray:
    """Returns uint64 (T, `WORDS`): the fingerprint of every picture; zeros of one that is blank (evenly black, say).

    Args:
        frames: uint8 (T, H, W, 3), at least one pixel.
    """
    height, width = frames.shape[1:3]
    rows, columns = _averaging(height), _averaging(width)
    grey = np.stack([rows @ (frame @ _LUMA) @ columns.T for frame in frames]).astype(np.float64)
    basis, order = _cosines()
    waves = (basis @ grey @ basis.T).reshape(len(frames), -1)[:, order]
    signs = (waves > 0) & (grey.std(axis=(1, 2)) >= _LEAST_CONTRAST)[:, None]
    return np.ascontiguousarray(np.packbits(signs, axis=1)).view(np.uint64)


def distance(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Returns float32 (...): the share of signs in which fingerprints (..., `WORDS`) differ, broadcast.

    0.5, as of any two pictures, where one of both is blank; NaN where both are: that they are equal says nothing.

    >>> one = np.array([[3, 0]], np.uint64)
    >>> distance(one, np.array([[1, 0], [0, 0]], np.uint64)).tolist()
    [0.0078125, 0.5]
    """
    differ = np.bitwise_count(a ^ b).sum(axis=-1, dtype=np.float32) / np.float32(64 * WORDS)
    blank_a, blank_b = (~one.any(axis=-1) for one in (a, b))
    differ = np.where(blank_a | blank_b, np.float32(0.5), differ)
    return np.where(blank_a & blank_b, np.float32(np.nan), differ)


def video_fingerprint(reader: Reader, num_moments: int = NUM_MOMENTS) -> np.ndarray:
    """Returns uint64 (num_moments, `WORDS`): fingerprints of a video in the middles of equal parts of its time.

    Raises:
        BadVideo: a frame that cannot be decoded.
    """
    info = reader.info
    times = reader.times(np.arange(info.num_frames))
    wanted = (np.arange(num_moments) + 0.5) / num_moments * info.duration_sec
    shown = np.searchsorted(times, wanted, side="right") - 1  # the frame that is shown then
    indices, moments = np.unique(shown.clip(min=0), return_inverse=True)
    prints = [fingerprint(frame[None]) for _, frame in stream_frames(reader, indices)]
    return np.concatenate(prints)[moments]


def copies(
    prints: np.ndarray, seconds: np.ndarray, *, threshold: float = COPY_DISTANCE
) -> np.ndarray:
    """Returns int64 (P, 2): the pairs of videos that are copies of each other as a whole, the earlier one first.

    Videos that are blank at every moment are copies of none.

    Args:
        prints: uint64 (V, moments, `WORDS`), see `video_fingerprint`.
        seconds: (V,) lengths; those of copies differ by a quarter of a second or 3 percent at most.
        threshold: most of the signs that differ, on average over the moments.
    """
    order = np.argsort(seconds, kind="stable")
    lengths, ordered = np.asarray(seconds, np.float64)[order], prints[order]
    least, share = _SAME_LENGTH
    ends = np.searchsorted(lengths, np.maximum(lengths + least, lengths * (1 + share)), "right")
    found = [np.empty((0, 2), np.int64)]
    for place, end in enumerate(ends):
        apart = distance(ordered[place], ordered[place + 1 : end])
        says = ~np.isnan(apart)
        mean = np.where(says, apart, 0).sum(axis=1) / np.maximum(says.sum(axis=1), 1)
        near = place + 1 + np.flatnonzero((mean <= threshold) & says.any(axis=1))
        found.append(np.stack([np.full(len(near), order[place]), order[near]], axis=1))
    pairs = np.sort(np.concatenate(found), axis=1)
    return pairs[np.lexsort(pairs.T[::-1])]


def tied(count: int, pairs: np.ndarray) -> np.ndarray:
    """Returns int64 (count,): for every video the first of those that it is tied to, through others too, or itself.

    Args:
        pairs: int (P, 2), of `copies`, or any.

    >>> tied(5, np.array([[1, 3], [3, 4]])).tolist()
    [0, 1, 2, 1, 1]
    """
    first = list(range(count))

    def root(one: int) -> int:
        while first[one] != one:
            first[one] = first[first[one]]
            one = first[one]
        return one

    for a, b in pairs.tolist():
        low, high = sorted((root(a), root(b)))
        first[high] = low
    return np.array([root(one) for one in range(count)], np.int64)


@functools.lru_cache(maxsize=64)
def _averaging(size: int) -> np.ndarray:
    """float32 (`_SIDE`, size): weights that average `size` pixels in equal parts, a pixel on a border in both."""
    edges = np.linspace(0, size, _SIDE + 1)
    pixels = np.arange(size)
    covered = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    return (covered.clip(min=0) * _SIDE / size).astype(np.float32)


@functools.cache
def _cosines() -> tuple[np.ndarray, np.ndarray]:
    """The cosines of the two-dimensional transform (`_SIDE`, `_SIDE`), and which of its values are taken."""
    place = np.arange(_SIDE)
    basis = np.cos(np.pi * (place[None] + 0.5) * place[:, None] / _SIDE)
    order = np.argsort((place[:, None] ** 2 + place[None] ** 2).ravel(), kind="stable")
    return basis, order[1 : 64 * WORDS + 1]
