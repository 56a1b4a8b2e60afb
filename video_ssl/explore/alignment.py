"""Aligning two videos frame by frame: which frame of the key shows what a frame of the query shows.

    dtw       dynamic time warping over squared Euclidean distances, whole videos matched end to end;
              the first matched key frame of every query frame
    nearest   the nearest key frame of every query frame, in any order
    linear    the key stretched to the length of the query, without looking: for comparison

Source: CARL's alignment (arXiv:2203.14957); `linear` is ours.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from video_ssl.evaluate.distances import squared_distances
from video_ssl.files import write_json, written_aside
from video_ssl.objectives.shared.dtw import dtw, first_match

METHODS = ("dtw", "nearest", "linear")

#: Cells of the cost matrix; more and the frames of both videos are thinned out.
MAX_CELLS = 4_000_000


class AlignmentError(ValueError):
    """Videos that cannot be aligned; the text says why."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Alignment:
    """Which key frame belongs to each query frame.

    Attributes:
        method: see above.
        match: int64 (n,), the key frame of every query frame.
        path_i, path_j: int64 (P,), the cells of the path; for `nearest` and `linear` (t, match[t]).
        cost: float64 (n, m), squared Euclidean distances.
        distance: the sum of the costs on the path, not divided by its length.
        stride: the rows of `match` are every `stride`-th frame feature of both videos.
    """

    method: str
    match: NDArray[np.int64]
    path_i: NDArray[np.int64]
    path_j: NDArray[np.int64]
    cost: NDArray[np.float64]
    distance: float
    stride: int = 1


def align(
    query: np.ndarray, key: np.ndarray, *, method: str = "dtw", max_cells: int = MAX_CELLS
) -> Alignment:
    """Returns the alignment of frame features `query` (n, D) with `key` (m, D).

    Where n m is above `max_cells`, every second, third, ... frame of both is used (see `stride`): memory
    and time are bounded, whatever the length of the videos.

    Raises:
        AlignmentError: no frames, unequal widths, or a number that is not finite.

    >>> walk = np.arange(5.0)[:, None]
    >>> align(walk, walk[[0, 0, 1, 2, 3, 4]]).match.tolist()
    [0, 2, 3, 4, 5]
    """
    if method not in METHODS:
        raise AlignmentError(f"method={method!r} must be one of {list(METHODS)}.")
    for name, frames in (("query", query), ("key", key)):
        if frames.ndim != 2 or not len(frames):
            raise AlignmentError(f"the {name} has no frame features: its shape is {frames.shape}.")
        if not np.isfinite(frames).all():
            raise AlignmentError(
                f"the {name} has frame features that are not finite: embed it again."
            )
    if query.shape[1] != key.shape[1]:
        raise AlignmentError(
            f"features of width {query.shape[1]} and {key.shape[1]} cannot be compared: embed both "
            "videos with one encoder."
        )
    stride = 1
    while -(-len(query) // stride) * -(-len(key) // stride) > max_cells:
        stride += 1
    cost = squared_distances(query[::stride], key[::stride])
    if method == "dtw":
        found = dtw(cost)
        path_i, path_j = np.asarray(found.path_i), np.asarray(found.path_j)
        match = first_match(path_i, path_j, len(cost))
    else:
        steps = np.arange(len(cost))
        match = cost.argmin(axis=1) if method == "nearest" else steps * cost.shape[1] // len(cost)
        path_i, path_j = steps, match
    return Alignment(
        method=method,
        match=match.astype(np.int64),
        path_i=path_i.astype(np.int64),
        path_j=path_j.astype(np.int64),
        cost=cost,
        distance=float(cost[path_i, path_j].sum()),
        stride=stride,
    )


def similarity(query: np.ndarray, key: np.ndarray, *, temperature: float = 0.1) -> np.ndarray:
    """Returns float64 (n, m): softmax over the key frames of -|q - k|^2 / temperature; rows sum to 1.

    0.1 goes with features of length 1, otherwise 1 (the reference's picture).
    """
    logits = -squared_distances(query, key) / temperature
    logits -= logits.max(axis=1, keepdims=True)
    weight = np.exp(logits)
    return weight / weight.sum(axis=1, keepdims=True)


def key_times(
    alignment: Alignment, query_sec: np.ndarray, key_sec: np.ndarray, at: np.ndarray
) -> np.ndarray:
    """Returns the time in the key for every moment `at` (T,) of the query, in seconds.

    Exact at the times of the query's features.  Between two of them the times of `dtw` and `linear` are
    interpolated, as they never run backwards; `nearest` keeps the one before.

    Args:
        query_sec, key_sec: times of the frame features, (n,) and (m,), before thinning out.
    """
    known = query_sec[:: alignment.stride]
    matched = key_sec[:: alignment.stride][alignment.match]
    if alignment.method == "nearest":
        return matched[np.clip(np.searchsorted(known, at + 1e-6) - 1, 0, len(known) - 1)]
    return np.interp(at, known, matched)


def save_path(
    alignment: Alignment,
    folder: Path,
    *,
    query_sec: np.ndarray,
    key_sec: np.ndarray,
    about: dict[str, Any],
) -> list[Path]:
    """Writes path.csv, path.json and path.npz and returns them.

    The CSV has a row for every cell of the path: frames and times of query and key, and the cost.  JSON
    holds the match of every query frame with `about`; npz everything, with the cost matrix.
    """
    folder.mkdir(parents=True, exist_ok=True)
    query, key = query_sec[:: alignment.stride], key_sec[:: alignment.stride]
    i, j = alignment.path_i, alignment.path_j
    files = [folder / f"path.{kind}" for kind in ("csv", "json", "npz")]
    content = {
        **about,
        "method": alignment.method,
        "distance": alignment.distance,
        "cost_per_step": alignment.distance / len(i),
        "stride": alignment.stride,
        "query_sec": _plain(query),
        "key_sec": _plain(key),
        "match": alignment.match.tolist(),
        "path": np.stack([i, j], axis=1).tolist(),
    }
    write_json(files[1], content, indent=None)
    with written_aside(files[0]) as aside, open(aside, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["query_frame", "key_frame", "query_sec", "key_sec", "cost"])
        columns = (
            i * alignment.stride,
            j * alignment.stride,
            query[i],
            key[j],
            alignment.cost[i, j],
        )
        writer.writerows(zip(*(c.tolist() for c in columns), strict=True))
    with written_aside(files[2], suffix=".npz") as aside:
        np.savez_compressed(
            aside,
            match=alignment.match,
            path_i=i,
            path_j=j,
            cost=alignment.cost.astype(np.float32),
            distance=alignment.distance,
            query_sec=query,
            key_sec=key,
            stride=alignment.stride,
        )
    return files


def _plain(times: np.ndarray) -> list[float | None]:
    return [float(t) if np.isfinite(t) else None for t in times]
