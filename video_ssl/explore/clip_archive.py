"""The clips of a feature file, each with a vector in a space that video shares with sound or text.

Exact search is one pass over the record batches of the memory-mapped file; what is held is one number a clip.
"""

from __future__ import annotations

import numpy as np

from video_ssl.embed.features import FeatureError, FeatureFile
from video_ssl.evaluate.pair_metrics import unit_vectors
from video_ssl.explore.hits import Place

__all__ = ["ClipArchive"]


class ClipArchive:
    """All clips of a feature file, by an output that is one vector a clip.

    Attributes:
        features, path: the file.
        output: its name, "common_text" or "common_sound"; "clip" in files of others that have no such column.
        ids: object (V,), the videos, in order of first appearance.
        counted: what it holds, in words.
    """

    def __init__(self, features: FeatureFile, output: str) -> None:
        self.features, self.output, self.path = features, output, features.path
        self.width = features.require(output).width
        first, self._video = features.records
        self.ids = features.ids[first]
        self._starts, self._ends = (
            np.array([np.nan if t is None else t for t in features.table[name].to_pylist()])
            for name in ("start_sec", "end_sec")
        )

    def __len__(self) -> int:
        return len(self._video)

    @property
    def counted(self) -> str:
        return f"{len(self)} clips"

    def extent(self, key: str) -> tuple[float, float] | None:
        """Returns when the first clip of a video begins and the last one ends; None where that is unknown."""
        rows = self.features.ids == key
        start, end = self._starts[rows].min(), self._ends[rows].max()
        return (float(start), float(end)) if np.isfinite(start) and np.isfinite(end) else None

    def cosines(self, query: np.ndarray) -> np.ndarray:
        """Returns float64 (N,): the cosine of each clip with a query (D,); -inf of clips that are not finite.

        Raises:
            FeatureError: the query is of another width, or not finite.
        """
        if query.shape != (self.width,):
            raise FeatureError(
                f"the query has {query.size} numbers, but {self.output} of {self.path or 'the archive'} has "
                f"{self.width}: both must be of one run."
            )
        if not np.isfinite(query).all():
            raise FeatureError("the query has numbers that are not finite: check the encoder.")
        asked = unit_vectors(query.astype(np.float64))
        found = [
            unit_vectors(np.asarray(batch, np.float64)) @ asked
            for batch in self.features.vector_batches(self.output)
        ]
        similar = np.concatenate(found)
        return np.where(np.isfinite(similar), similar, -np.inf)

    def nearest(self, query: np.ndarray, *, k: int, per_video: int) -> list[Place]:
        """Returns the `k` nearest clips as moments, best first; of a video at most `per_video` that do not overlap.

        Equal ones are in the order of the file.
        """
        similar = self.cosines(query)
        kept: list[int] = []
        of_video: dict[int, list[int]] = {}
        for row in np.argsort(-similar, kind="stable").tolist():
            others = of_video.setdefault(int(self._video[row]), [])
            if len(kept) == k or not np.isfinite(similar[row]):
                break
            if len(others) < per_video and all(self._apart(row, other) for other in others):
                others.append(row)
                kept.append(row)
        return [self._moment(row, float(similar[row])) for row in kept]

    def _apart(self, row: int, other: int) -> bool:
        """Whether two clips of a video show other times; false where times are unknown."""
        return bool(
            self._starts[row] >= self._ends[other] or self._ends[row] <= self._starts[other]
        )

    def _moment(self, row: int, similar: float) -> Place:
        start, end = self._starts[row], self._ends[row]
        return Place(
            id=str(self.ids[self._video[row]]),
            start_sec=float(start) if np.isfinite(start) else None,
            end_sec=float(end) if np.isfinite(end) else None,
            cost=1 - similar,
        )
