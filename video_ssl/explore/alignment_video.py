"""Pictures of an alignment: two videos side by side in step, and the path on the matrix of distances."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np
from PIL import Image

from video_ssl.clips.decoders.reader import Reader
from video_ssl.clips.picture_video import write_pictures
from video_ssl.clips.reading import open_whole
from video_ssl.datasets.table import Record
from video_ssl.explore.alignment import Alignment, key_times
from video_ssl.files import written_aside

_PIECE = 32  # frames of each video in memory
_GAP = 4  # black pixels between the two

# From near (dark) to far (light); red is free for the path.
_COLORS = np.array([(20, 20, 60), (40, 90, 140), (60, 160, 150), (180, 210, 120), (250, 245, 220)])

#: uint8 (256, 3): the same in small steps.
PALETTE = np.stack(
    [np.interp(np.arange(256), np.linspace(0, 255, len(_COLORS)), c) for c in _COLORS.T], axis=1
).round().astype(np.uint8)  # fmt: skip


def write_side_by_side(
    path: Path,
    alignment: Alignment,
    *,
    query: Record,
    key: Record,
    query_sec: np.ndarray,
    key_sec: np.ndarray,
    height: int = 240,
) -> int:
    """Writes an H.264 mp4: query left, the key frame that belongs to it right; returns its frames.

    One picture for every frame of the query (of its segment, if it is one), at the query's mean rate.
    Memory holds a few frames, however long the videos are.

    Args:
        query_sec, key_sec: times of the frame features, as for `key_times`.
        height: of the pictures, in pixels; both keep their proportions.

    Raises:
        BadVideo: a video that cannot be read.

    >>> from video_ssl import align, open_features, open_table
    >>> table, features = open_table("videos"), open_features("features.arrow")
    >>> bow, wave = table.record(0), table.record(1)
    >>> (a, a_sec), (b, b_sec) = features.frames_of(bow.id), features.frames_of(wave.id)
    >>> write_side_by_side(
    ...     Path("both.mp4"), align(a, b), query=bow, key=wave, query_sec=a_sec, key_sec=b_sec
    ... )
    14
    """
    with (
        written_aside(path) as aside,
        open_whole(query) as left,
        open_whole(key) as right,
    ):
        shown = _frames_of(left, query)
        matched = key_times(alignment, query_sec, key_sec, left.times(shown))
        beside = frames_at(right, matched)
        rate = Fraction(left.info.fps or 25).limit_denominator(1001)
        write_pictures(aside, _pictures(left, right, shown, beside, height), rate)
    return len(shown)


def _frames_of(reader: Reader, record: Record) -> np.ndarray:
    times = reader.times(np.arange(reader.info.num_frames))
    start = -np.inf if record.start_sec is None else record.start_sec - 5e-4
    end = np.inf if record.end_sec is None else record.end_sec - 5e-4
    return np.flatnonzero((times >= start) & (times < end))


def frames_at(reader: Reader, times: np.ndarray) -> np.ndarray:
    """Returns int64 (T,): the frame that is shown at each time, in seconds."""
    known = reader.times(np.arange(reader.info.num_frames))
    return np.clip(np.searchsorted(known, times + 5e-4, side="right") - 1, 0, len(known) - 1)


def _pictures(
    left: Reader, right: Reader, shown: np.ndarray, beside: np.ndarray, height: int
) -> Iterator[np.ndarray]:
    sizes = [_size(reader, height) for reader in (left, right)]
    gap = np.zeros((sizes[0][0], _GAP, 3), np.uint8)
    for begin in range(0, len(shown), _PIECE):
        part = slice(begin, begin + _PIECE)
        a = left.frames(shown[part], sizes[0])
        # A frame that is shown several times is decoded once.
        needed, inverse = np.unique(beside[part], return_inverse=True)
        b = right.frames(needed, sizes[1])
        for one, other in zip(a, inverse, strict=True):
            yield np.concatenate([one, gap, b[other]], axis=1)


def _size(reader: Reader, height: int) -> tuple[int, int]:
    """Even height and width, as yuv420p needs them."""
    even = max(2, height - height % 2)
    width = round(even * reader.info.width / reader.info.height / 2) * 2
    return even, max(2, width)


def distance_levels(cost: np.ndarray) -> np.ndarray:
    """Returns uint8 (n, m): distances as places in `PALETTE`, from the nearest (0) to the farthest 2 % (255)."""
    distance = np.sqrt(cost)
    low, high = np.quantile(distance, [0.0, 0.98])
    share = np.clip((distance - low) / max(high - low, 1e-12), 0, 1)
    levels: np.ndarray = (share * 255).round().astype(np.uint8)
    return levels


def path_picture(alignment: Alignment, *, longest_px: int = 800) -> Image.Image:
    """Returns the matrix of distances (query downwards, key to the right; dark is near) with the path in red."""
    cost = alignment.cost
    colors = PALETTE[distance_levels(cost)]
    scale = longest_px / max(cost.shape)
    size = tuple(max(1, round(side * scale)) for side in reversed(cost.shape))
    picture = Image.fromarray(colors).resize(
        size, Image.Resampling.NEAREST if scale > 1 else Image.Resampling.BOX
    )
    pixels = np.array(picture)
    for i, j in _line(alignment, scale):
        pixels[max(0, i - 1) : i + 2, max(0, j - 1) : j + 2] = (230, 40, 40)
    return Image.fromarray(pixels)


def _line(alignment: Alignment, scale: float) -> Iterator[tuple[int, int]]:
    """Pixels (row, column) of the path; steps of `nearest` are not joined."""
    centres = (np.stack([alignment.path_i, alignment.path_j], axis=1) + 0.5) * scale
    if alignment.method != "nearest" and len(centres) > 1:
        steps = max(1, int(np.ceil(scale)))
        shares = np.arange(steps)[:, None, None] / steps
        centres = (centres[:-1] * (1 - shares) + centres[1:] * shares).reshape(-1, 2)
    yield from ((int(i), int(j)) for i, j in centres)
