"""Nearest neighbours: how well the geometry of frozen features separates classes, without training.

A test video is given the classes of its k most similar training videos (cosine).  `weighted` votes
count exp(similarity / temperature), `plain` votes count one (Source: Wu et al. 2018, and the usual
temperature 0.07).  Pooling, k and the kind of vote are chosen on train by leaving out: every
training video asks all training videos of other groups.  A video never finds itself, in test
neither.  Several clips of a video are one vector: the mean of its normalised clips.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from video_ssl.embed.features import FeatureFile
from video_ssl.evaluate import metrics
from video_ssl.evaluate.contract import RECOGNITION, Given, Needs, Result, recognition_result
from video_ssl.evaluate.identity import record_keys
from video_ssl.evaluate.neighbours import nearest_neighbours, unit_rows
from video_ssl.evaluate.pooling import check_poolings, outputs_of, pooled_features
from video_ssl.evaluate.videos import Videos, classes_of, shared_notes, train_and_test


@dataclass(frozen=True, kw_only=True)
class KNNConfig:
    """Settings of the nearest neighbours; lists are grids to choose from.

    Attributes:
        poolings: see `pooling.py`.
        ks: numbers of neighbours.
        votes: "weighted" by similarity, "plain".
        temperature: of the weighted vote.
        center: subtract the mean training feature before normalising; false for the usual protocol.
        chunk: rows of similarities held at a time, and columns; memory is about 8 chunk^2 bytes.
    """

    poolings: tuple[str, ...] = ("clip", "concat_4")
    ks: tuple[int, ...] = (1, 5, 10, 20)
    votes: tuple[Literal["weighted", "plain"], ...] = ("weighted", "plain")
    temperature: float = 0.07
    center: bool = True
    chunk: int = 2048

    def __post_init__(self) -> None:
        check_poolings(self.poolings)
        if not self.ks or min(self.ks) < 1:
            raise ValueError(f"ks={self.ks} must be numbers of at least 1.")
        if not self.votes:
            raise ValueError("votes is empty: name weighted, plain or both.")
        if self.temperature <= 0 or self.chunk < 1:
            raise ValueError(
                f"temperature={self.temperature} must be positive and chunk={self.chunk} at least 1."
            )


class NearestNeighbours:
    """The evaluator `knn`."""

    Config = KNNConfig
    title = "nearest neighbours"
    figures = RECOGNITION

    def __init__(self, config: KNNConfig) -> None:
        self.config = config

    @property
    def needs(self) -> Needs:
        return Needs(outputs=outputs_of(self.config.poolings), several_classes=True)

    def evaluate(self, given: Given) -> Result:
        """Returns accuracy on `test` of the votes of `train`; nothing here is random.

        Raises:
            FeatureError: labels or frame features are missing, or train has one class only.
        """
        config, train, test = self.config, given.train, given.test
        train_videos, test_videos, notes = train_and_test(train, test)
        classes, train_labels, test_labels = classes_of(train_videos, test_videos)
        notes += shared_notes(train_videos, test_videos)
        apart = train_videos.groups.astype(str)
        if len(set(apart)) == 1:
            apart = train_videos.ids.astype(str)
            notes.append("train is one group; its choice leaves out single videos")
        grid: list[dict[str, Any]] = []
        for pooling in config.poolings:
            bank, _ = self._vectors(pooling, train, train_videos)
            found = self._neighbours(bank, bank, apart, apart)
            for k, vote, scores in self._all_votes(*found, train_labels, len(classes)):
                top1 = metrics.top_k_accuracy(scores, train_labels)
                grid.append({"pooling": pooling, "k": k, "vote": vote, "left_out_top1": top1})
        chosen = max(grid, key=lambda entry: entry["left_out_top1"])
        bank, mean = self._vectors(chosen["pooling"], train, train_videos)
        queries, _ = self._vectors(chosen["pooling"], test, test_videos, mean)
        own, others = record_keys(test_videos.origins, train_videos.origins)
        found = self._neighbours(queries, bank, own, others, chosen["k"])
        scores = self.vote(*found, train_labels, len(classes), chosen["vote"])
        result = recognition_result(
            scores,
            train_labels,
            test_labels,
            classes,
            notes,
            ids=test_videos.ids if given.keep_predictions else None,
        )
        result.chosen.update(chosen)
        result.details.update(grid=grid, train_videos=len(train_videos))
        return result

    def _vectors(
        self, pooling: str, features: FeatureFile, videos: Videos, mean: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """One unit vector for every video, float32 (V, D); and what was subtracted."""
        x = np.asarray(pooled_features(features, pooling), np.float32)
        if mean is None:
            mean = x.mean(axis=0, dtype=np.float64).astype(np.float32)
            mean = mean if self.config.center else np.zeros_like(mean)
        return unit_rows(videos.mean(unit_rows(x - mean))), mean

    def _neighbours(
        self,
        queries: np.ndarray,
        bank: np.ndarray,
        query_keys: np.ndarray,
        bank_keys: np.ndarray,
        k: int | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Similarities and rows (Q, k) of the nearest of the bank, those with an equal key left out."""
        return nearest_neighbours(
            queries,
            bank,
            query_keys=query_keys,
            bank_keys=bank_keys,
            k=k or max(self.config.ks),
            chunk=self.config.chunk,
        )

    def _all_votes(
        self, similar: np.ndarray, rows: np.ndarray, labels: np.ndarray, num_classes: int
    ) -> Iterator[tuple[int, str, np.ndarray]]:
        for k in self.config.ks:
            for vote in self.config.votes:
                yield k, vote, self.vote(similar[:, :k], rows[:, :k], labels, num_classes, vote)

    def vote(
        self,
        similar: np.ndarray,
        rows: np.ndarray,
        labels: np.ndarray,
        num_classes: int,
        vote: str,
    ) -> np.ndarray:
        """Returns float64 (Q, K): the votes for each class of the neighbours in `rows` (Q, k)."""
        counts = np.isfinite(similar).astype(np.float64)
        if vote == "weighted":
            # Similarities are at most 1; the shift changes no ratio and cannot overflow.
            counts = np.exp((similar.astype(np.float64) - 1) / self.config.temperature)
        scores = np.zeros((len(rows), num_classes))
        np.add.at(scores, (np.arange(len(rows))[:, None], labels[rows]), counts)
        return scores
