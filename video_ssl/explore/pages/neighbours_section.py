"""The nearest neighbours of the report: which videos a frozen encoder takes for alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from video_ssl.datasets.table import Record, Table
from video_ssl.embed.features import FeatureFile
from video_ssl.evaluate.identity import record_keys
from video_ssl.evaluate.metrics import recall_at
from video_ssl.evaluate.neighbours import nearest_neighbours, unit_rows
from video_ssl.evaluate.retrieval import video_vectors
from video_ssl.evaluate.videos import Videos, train_and_test
from video_ssl.explore.pages.pictures import sprite
from video_ssl.explore.run_data import RunData, class_name
from video_ssl.explore.tracks import record_of

_NEAREST = 5


@dataclass(frozen=True, kw_only=True)
class ShownVideo:
    """A video with its picture.

    Attributes:
        uri: frames of it as a data URI, None where it could not be read.
        note: its id, and how near it is.
        kind: of a neighbour: "hit" for the class of the query, "miss" for another, "" where either is unknown.
    """

    uri: str | None
    class_name: str
    note: str
    kind: str = ""


@dataclass(frozen=True, kw_only=True)
class Query:
    """A test video and the training videos nearest to it, nearest first."""

    video: ShownVideo
    nearest: Sequence[ShownVideo]


@dataclass(frozen=True, kw_only=True)
class NearestVideos:
    """The section: some queries, and the recall over all test videos that have a class."""

    queries: Sequence[Query]
    num_labelled: int
    recall: str
    pictures_missing: bool


def nearest_videos(data: RunData, max_queries: int) -> NearestVideos | None:
    """Returns test videos, each with the nearest training videos by the run's own features; None without features."""
    for results in data.evaluations:
        encoder = next(iter(results["encoders"]))
        queries = data.features(results, encoder, "test")
        gallery = data.features(results, encoder, "train")
        if queries is not None and gallery is not None:
            return _nearest(data, results, queries, gallery, max_queries)
    return None


def _nearest(
    data: RunData, results: Any, queries: FeatureFile, gallery: FeatureFile, max_queries: int
) -> NearestVideos:
    bank, asked, _ = train_and_test(gallery, queries, labelled=False)
    own, others = record_keys(asked.origins, bank.origins)
    similar, rows = nearest_neighbours(
        unit_rows(video_vectors(queries, asked, "clip")),
        unit_rows(video_vectors(gallery, bank, "clip")),
        query_keys=own,
        bank_keys=others,
        k=20,
    )
    sides = tuple(
        (features, data.videos(features, results["recipe"][split]))
        for features, split in ((queries, "test"), (gallery, "train"))
    )
    thumbs, names = _Thumbs(sides), data.class_names(results)
    shown = []
    for q in _chosen(asked, max_queries):
        near = [
            (int(rows[q, n]), float(similar[q, n]))
            for n in range(min(_NEAREST, rows.shape[1]))
            if np.isfinite(similar[q, n])
        ]
        shown.append(_query(asked, bank, int(q), near, thumbs, names))
    known = asked.labels >= 0
    hits = (bank.labels[rows] == asked.labels[:, None]) & np.isfinite(similar)
    shares = recall_at(hits[known], [1, 5, 20]) if known.any() else {}
    return NearestVideos(
        queries=shown,
        num_labelled=int(known.sum()),
        recall=", ".join(f"R@{k} {100 * share:.1f} %" for k, share in shares.items()),
        pictures_missing=thumbs.missing,
    )


def _query(
    asked: Videos,
    bank: Videos,
    query: int,
    near: list[tuple[int, float]],
    thumbs: _Thumbs,
    names: Sequence[str],
) -> Query:
    label = int(asked.labels[query])
    nearest = []
    for row, cosine in near:
        other = int(bank.labels[row])
        nearest.append(
            ShownVideo(
                uri=thumbs.get(1, bank.ids[row]),
                class_name=class_name(names, other),
                note=f"{bank.ids[row]} · {cosine:.3f}",
                kind="" if label < 0 or other < 0 else "hit" if other == label else "miss",
            )
        )
    video = ShownVideo(
        uri=thumbs.get(0, asked.ids[query]),
        class_name=class_name(names, label),
        note=str(asked.ids[query]),
    )
    return Query(video=video, nearest=nearest)


class _Thumbs:
    """Thumbnails of the videos of two feature files, each made once.

    The features note where their videos lie; the table that was embedded is asked where they do not.
    """

    def __init__(self, sides: Sequence[tuple[FeatureFile, Table | None]]) -> None:
        self._sides = sides
        self._made: dict[tuple[int, str], str | None] = {}

    @property
    def missing(self) -> bool:
        """Whether a video was not there, or could not be read."""
        return None in self._made.values()

    def get(self, which: int, key: Any) -> str | None:
        place = which, str(key)
        if place not in self._made:
            record = record_of(self._sides[which][0], key) or self._listed(which, key)
            self._made[place] = None if record is None else sprite(record)
        return self._made[place]

    def _listed(self, which: int, key: Any) -> Record | None:
        table = self._sides[which][1]
        if table is None:
            return None
        rows = np.flatnonzero(table.column("id") == key)
        return table.record(int(rows[0])) if len(rows) else None


def _chosen(videos: Videos, count: int) -> list[int]:
    """The first video of every class, then (few classes, or no labels) the next ones at equal distances."""
    _, first = np.unique(videos.labels, return_index=True)
    chosen = sorted(first.tolist())[:count]
    rest = np.linspace(0, len(videos) - 1, min(count, len(videos))).round().astype(int).tolist()
    return (chosen + [row for row in rest if row not in chosen])[:count]
