"""From the moments of a clip to one vector.

    clip        the encoder's own clip feature                               D
    mean        mean of the frame features over time                         D
    max         their maximum                                                D
    mean_std    mean and standard deviation (of the population) over time    2 D
    concat_S    the clip in S equal parts in order, the mean of each         S D

Only `concat_S` knows the order of time.  A clip with fewer moments than S repeats some of them:
part s of S covers moments floor(s T' / S) up to ceil((s + 1) T' / S), at least one.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from video_ssl.recipes import nearest

if TYPE_CHECKING:
    from video_ssl.embed.features import FeatureFile

POOLINGS = ("clip", "mean", "max", "mean_std", "concat_2", "concat_4", "concat_8")


def check_poolings(names: Sequence[str]) -> None:
    """Raises ValueError for an empty list or an unknown pooling, naming the nearest."""
    if not names:
        raise ValueError(f"poolings is empty: name at least one of {list(POOLINGS)}.")
    for name in names:
        if name not in POOLINGS and not re.fullmatch(r"concat_[1-9]\d*", name):
            raise ValueError(
                f"unknown pooling {name!r}: there are clip, mean, max, mean_std and concat_S for "
                f"any number S of parts.{nearest(name, POOLINGS)}"
            )


def outputs_of(poolings: Sequence[str]) -> tuple[str, ...]:
    """Returns the outputs of an encoder that these poolings are made of.

    >>> outputs_of(["clip"]), outputs_of(["clip", "concat_4"])
    (('clip',), ('clip', 'moments'))
    """
    return ("clip",) if set(poolings) == {"clip"} else ("clip", "moments")


def distinct_poolings(features: FeatureFile, names: Sequence[str]) -> tuple[str, ...]:
    """Returns those of the poolings that tell something else: of clips with one moment, `clip` and one of the others.

    One moment is its own mean and maximum and all of its parts, several times as wide.
    """
    if not features.has_one_moment:
        return tuple(names)
    others = [name for name in names if name != "clip"]
    return tuple(name for name in names if name == "clip" or name in others[:1])


def pooled_features(features: FeatureFile, name: str, rows: np.ndarray | None = None) -> np.ndarray:
    """Returns float32 (N, D'): one vector for every clip, or for the clips `rows` (ascending), pooled as `name` says.

    Raises:
        ValueError: unknown pooling.
        FeatureError: clips without frame features, for any pooling but `clip`.
    """
    check_poolings([name])
    if name == "clip":
        return features.features if rows is None else features.features[rows]
    parts: list[np.ndarray] = []
    first = 0
    for moments, lengths in features.frame_batches():
        here = np.arange(len(lengths))
        if rows is not None:
            here = rows[(rows >= first) & (rows < first + len(lengths))] - first
        first += len(lengths)
        starts = np.cumsum(lengths) - lengths
        pooled: dict[int, np.ndarray] = {}
        for length in np.unique(lengths[here]):
            same = here[lengths[here] == length]
            frames = moments[starts[same][:, None] + np.arange(length)]
            for row, vector in zip(same, pool(frames, name), strict=True):
                pooled[int(row)] = vector
        if len(here):
            parts.append(np.stack([pooled[row] for row in here.tolist()]))
    if not parts:  # the width is that of any clip
        return pooled_features(features, name, np.zeros(1, np.int64))[:0]
    return np.concatenate(parts)


def pool(frames: np.ndarray, name: str) -> np.ndarray:
    """Returns (n, D') for frame features `frames` (n, T', D); every pooling but `clip`.

    >>> pool(np.array([[[1.0], [3.0], [5.0], [7.0]]]), "concat_2")
    array([[2., 6.]])
    """
    if name == "mean":
        return frames.mean(axis=1)
    if name == "max":
        return frames.max(axis=1)
    if name == "mean_std":
        return np.concatenate([frames.mean(axis=1), frames.std(axis=1)], axis=1)
    parts = int(name.removeprefix("concat_"))
    length = frames.shape[1]
    bounds = [(s * length // parts, -(-(s + 1) * length // parts)) for s in range(parts)]
    return np.concatenate([frames[:, a:b].mean(axis=1) for a, b in bounds], axis=1)
