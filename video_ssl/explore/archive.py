"""The frames of a feature file as one long, memory-mapped list, and the nearest of them.

Exact search multiplies the queries with one block of frames after the other; what is held is a block
and the best so far, however large the file is.  Similarity is the cosine; a frame of zeros or with a
number that is not finite is similar to nothing (-inf).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from video_ssl.embed.features import FeatureError, FeatureFile
from video_ssl.evaluate.identity import origins_of
from video_ssl.evaluate.neighbours import Nearest, unit_rows

#: Numbers in one block of frames, 4 bytes each.
BLOCK = 2**23


@dataclass(frozen=True, kw_only=True, eq=False)
class Block:
    """Frames `first`, `first` + 1, ... of an archive.

    Attributes:
        vectors: float32 (n, D), a view of the file.
        videos: int64 (n,), the video of each.
    """

    first: int
    vectors: np.ndarray
    videos: np.ndarray


class Archive:
    """All frames of a feature file, numbered row by row; videos in order of first appearance.

    Attributes:
        num_frames: in the file.
        ids: object (V,), the videos.
        origins: of the videos.

    Raises:
        FeatureError: the file has no frame features.
    """

    def __init__(self, features: FeatureFile) -> None:
        self.features = features
        self.path = features.path
        if not features.has_frames:
            raise FeatureError(
                f"{features.path or 'the features'} has no frame features; embed again with "
                "frames=true (every frame: --per-frame)."
            )
        self._chunks = features.table["frame_features"].chunks
        rows = [len(chunk) for chunk in self._chunks]
        self._first_row = np.cumsum([0, *rows])
        counts = [_lengths(chunk) for chunk in self._chunks]
        self._first_frame = np.append(0, np.cumsum(np.concatenate(counts))).astype(np.int64)
        self.num_frames = int(self._first_frame[-1])
        first, self._video_of_row = features.records
        self.ids = features.ids[first]
        self.origins = origins_of(features, first)
        self._rows = np.argsort(self._video_of_row, kind="stable")
        self._rows_of_video = np.searchsorted(
            self._video_of_row[self._rows], np.arange(len(first) + 1)
        )

    def __len__(self) -> int:
        return self.num_frames

    @property
    def counted(self) -> str:
        """What it holds, in words."""
        return f"{self.num_frames} frames"

    def extent(self, key: str) -> tuple[float, float] | None:
        """Returns when the first and the last frame of a video are; None where that is unknown."""
        times = self.times(self.frames_of(int(np.flatnonzero(self.ids == key)[0])))
        return (float(times[0]), float(times[-1])) if np.isfinite(times).all() else None

    def blocks(self, size: int | None = None) -> Iterator[Block]:
        """Yields all frames in order, at most `size` at a time (by default `BLOCK` numbers)."""
        size = size or max(1, BLOCK // self.features.embed_dim)
        for number in range(len(self._chunks)):
            rows = np.arange(self._first_row[number], self._first_row[number + 1])
            first = self._first_frame[rows[0]] if len(rows) else 0
            frames = self._matrix(number)
            for begin in range(0, len(frames), size):
                vectors = frames[begin : begin + size]
                numbers = first + begin + np.arange(len(vectors))
                yield Block(first=int(first + begin), vectors=vectors, videos=self.videos(numbers))

    def videos(self, frames: np.ndarray) -> np.ndarray:
        """Returns int64 (n,): the videos (places in `ids`) of frames by number."""
        return self._video_of_row[self._row(frames)]

    def vectors(self, frames: np.ndarray) -> np.ndarray:
        """Returns float32 (n, D): the features of frames by number; reads only those."""
        found = np.empty((len(frames), self.features.embed_dim), np.float32)
        chunks = np.searchsorted(self._first_row, self._row(frames), side="right") - 1
        for chunk in np.unique(chunks):
            own = chunks == chunk
            start = self._first_frame[self._first_row[chunk]]
            found[own] = self._matrix(int(chunk))[np.asarray(frames)[own] - start]
        return found

    def times(self, frames: np.ndarray) -> np.ndarray:
        """Returns float64 (n,): when frames are, in seconds of their source; NaN where unknown."""
        asked = np.asarray(frames, np.int64)
        rows = self._row(asked)
        chunks = np.searchsorted(self._first_row, rows, side="right") - 1
        found = np.full(len(asked), np.nan)
        for chunk in np.unique(chunks).tolist():
            own = chunks == chunk
            known = self._times(chunk)
            found[own] = known[asked[own] - self._first_frame[self._first_row[chunk]]]
        return found

    def _times(self, chunk: int) -> np.ndarray:
        """float64 (n,): the times of all frames of a record batch."""
        column = self.features.table["frame_times_sec"].chunks[chunk]
        counts = _lengths(self._chunks[chunk])
        if column.null_count == 0 and np.array_equal(_lengths(column), counts):
            flat: np.ndarray = column.flatten().to_numpy(zero_copy_only=False)
            return flat
        parts = [np.full(count, np.nan) for count in counts]
        for part, cell in zip(parts, column, strict=True):
            if cell.is_valid and len(cell.values) == len(part):
                part[:] = cell.values.to_numpy(zero_copy_only=False)
        return np.concatenate(parts) if parts else np.zeros(0)

    def frames_of(self, video: int) -> np.ndarray:
        """Returns int64 (L,): the numbers of the frames of a video, in order of time where it is known."""
        rows = self._rows[self._rows_of_video[video] : self._rows_of_video[video + 1]]
        spans = [np.arange(self._first_frame[r], self._first_frame[r + 1]) for r in rows]
        frames = np.concatenate(spans)
        times = self.times(frames)
        return frames[np.argsort(times, kind="stable")] if np.isfinite(times).all() else frames

    def _row(self, frames: np.ndarray) -> np.ndarray:
        return np.searchsorted(self._first_frame, np.asarray(frames), side="right") - 1

    def _matrix(self, chunk: int) -> np.ndarray:
        flat = self._chunks[chunk].flatten().flatten()
        values: np.ndarray = flat.to_numpy(zero_copy_only=False)
        return values.reshape(-1, self.features.embed_dim)


@dataclass(frozen=True, kw_only=True, eq=False)
class Found:
    """What a pass over an archive found for Q queries.

    Attributes:
        similar: float32 (Q, k), highest first; -inf where there are fewer than k frames.
        frames: int64 (Q, k), their numbers; equally similar ones in order of number.
        videos: float32 (V,), for each video the mean over the queries of the similarity of its most
            similar frame; -inf for videos that are left out.
    """

    similar: np.ndarray
    frames: np.ndarray
    videos: np.ndarray


def nearest_frames(
    queries: np.ndarray,
    archive: Archive,
    k: int,
    *,
    without: int | None = None,
    size: int | None = None,
) -> Found:
    """Returns the `k` most similar frames of each query (Q, D), exactly, in one pass over the archive.

    Args:
        without: a video (place in `archive.ids`) that is left out.
        size: frames of a block.

    Raises:
        FeatureError: another width than the archive's, or a query that is not finite.
    """
    asked = unit_rows(queries)
    if queries.ndim != 2 or queries.shape[1] != archive.features.embed_dim:
        raise FeatureError(
            f"queries of shape {queries.shape} do not fit an archive of width "
            f"{archive.features.embed_dim}: embed both with one encoder."
        )
    if not np.isfinite(queries).all():
        raise FeatureError("a query has features that are not finite: embed it again.")
    k = min(k, archive.num_frames)
    nearest = Nearest(len(asked), k)
    videos = np.full(len(archive.ids), -np.inf, np.float32)
    run = _Run(videos, len(asked))
    for block in archive.blocks(size):
        similar = asked @ unit_rows(block.vectors).T
        similar[:, ~_usable(block.vectors)] = -np.inf
        if without is not None:
            similar[:, block.videos == without] = -np.inf
        run.add(similar, block.videos)
        nearest.add(similar, block.first)
    run.finish()
    return Found(similar=nearest.similar, frames=nearest.rows, videos=videos)


class _Run:
    """The score of one video after the other, while its frames pass by, block after block."""

    def __init__(self, scores: np.ndarray, num_queries: int) -> None:
        self.scores = scores
        self.video = -1
        self.highest = np.full(num_queries, -np.inf, np.float32)

    def add(self, similar: np.ndarray, videos: np.ndarray) -> None:
        starts = np.flatnonzero(np.diff(videos, prepend=-1))
        highest = np.maximum.reduceat(similar, starts, axis=1)
        for column, video in zip(highest.T, videos[starts].tolist(), strict=True):
            if video != self.video:
                self.finish()
                self.video, self.highest = video, column
            else:
                self.highest = np.maximum(self.highest, column)

    def finish(self) -> None:
        # Rows of a video that do not stand together are judged apart; the best of them counts.
        if self.video >= 0:
            score = self.highest.mean()
            self.scores[self.video] = max(self.scores[self.video], score)


def _usable(vectors: np.ndarray) -> np.ndarray:
    length = np.linalg.norm(vectors, axis=1)
    return np.isfinite(length) & (length > 0)


def _lengths(chunk: object) -> np.ndarray:
    found = chunk.value_lengths().fill_null(0)  # type: ignore[attr-defined]
    return np.asarray(found.to_numpy(zero_copy_only=False), np.int64)
