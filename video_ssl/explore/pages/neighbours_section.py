"""The part of the report that shows what a frozen encoder takes for alike."""

from __future__ import annotations

import html
from typing import Any

import numpy as np

from video_ssl.datasets.table import Table
from video_ssl.embed.features import FeatureFile
from video_ssl.evaluate.identity import record_keys
from video_ssl.evaluate.metrics import recall_at
from video_ssl.evaluate.neighbours import nearest_neighbours, unit_rows
from video_ssl.evaluate.retrieval import video_vectors
from video_ssl.evaluate.videos import Videos, train_and_test
from video_ssl.explore.pages.pictures import sprite
from video_ssl.explore.run_data import RunData, class_name

_NEAREST = 5


def neighbours_section(data: RunData, max_queries: int) -> str:
    """Returns HTML: test videos, each with the nearest training videos by the run's own features."""
    for results in data.evaluations:
        encoder = next(iter(results["encoders"]))
        queries = data.features(results, encoder, "test")
        gallery = data.features(results, encoder, "train")
        if queries is not None and gallery is not None:
            return _section(data, results, queries, gallery, max_queries)
    return (
        '<div class="card"><p class="missing">No feature files: they come with an evaluation '
        "(<code>video-ssl evaluate</code>) and lie in its folder.</p></div>"
    )


def _section(
    data: RunData, results: Any, queries: FeatureFile, gallery: FeatureFile, max_queries: int
) -> str:
    bank, asked, _ = train_and_test(gallery, queries, labelled=False)
    own, others = record_keys(asked.origins, bank.origins)
    similar, rows = nearest_neighbours(
        unit_rows(video_vectors(queries, asked, "clip")),
        unit_rows(video_vectors(gallery, bank, "clip")),
        query_keys=own,
        bank_keys=others,
        k=20,
    )
    tables = (
        data.videos(queries, results["recipe"]["test"]),
        data.videos(gallery, results["recipe"]["train"]),
    )
    thumbs = _Thumbs(tables), data.class_names(results)
    cards = []
    for q in _chosen(asked, max_queries):
        near = [
            (int(rows[q, n]), float(similar[q, n]))
            for n in range(min(_NEAREST, rows.shape[1]))
            if np.isfinite(similar[q, n])
        ]
        cards.append(_row(asked, bank, int(q), near, *thumbs))
    lead = (
        "Left a test video, then the training videos whose features are nearest by cosine (mean over clips). "
        "Green: the same class. One query per class, in the order of the table: not a choice of good ones. "
        "Rest the pointer on a picture to see it move."
    )
    if (asked.labels >= 0).any():
        known = asked.labels >= 0
        hits = (bank.labels[rows] == asked.labels[:, None]) & np.isfinite(similar)
        shares = recall_at(hits[known], [1, 5, 20])
        told = ", ".join(f"R@{k} {100 * share:.1f} %" for k, share in shares.items())
        lead += f" Over all {int(known.sum())} test videos: {told}."
    if tables[0] is None or tables[1] is None:
        lead += " Some videos are not here any more, so pictures are missing."
    return f'<p class="lead">{lead}</p><div class="card">{"".join(cards)}</div>'


def _row(
    asked: Videos,
    bank: Videos,
    query: int,
    near: list[tuple[int, float]],
    thumbs: _Thumbs,
    names: Any,
) -> str:
    label = int(asked.labels[query])
    parts = [
        _picture("", thumbs.get(0, asked.ids[query]), class_name(names, label), asked.ids[query])
    ]
    parts.append('<div class="to">→</div>')
    for row, value in near:
        other = int(bank.labels[row])
        kind = "" if label < 0 or other < 0 else "hit" if other == label else "miss"
        note = f"{bank.ids[row]} · {value:.3f}"
        parts.append(_picture(kind, thumbs.get(1, bank.ids[row]), class_name(names, other), note))
    return f'<div class="row">{"".join(parts)}</div>'


def _picture(kind: str, uri: str | None, name: str, note: str) -> str:
    style = f' style="background-image:url({uri})"' if uri else ""
    title = f"<b>{html.escape(name)}</b>" if name else ""
    return (
        f'<div class="{kind}"><div class="thumb"{style}></div><div class="name">{title}'
        f"<small>{html.escape(str(note))}</small></div></div>"
    )


class _Thumbs:
    """Thumbnails of the videos of two tables, each made once."""

    def __init__(self, tables: tuple[Table | None, Table | None]) -> None:
        self._tables = tables
        self._rows = [
            {} if t is None else {str(key): row for row, key in enumerate(t.column("id").tolist())}
            for t in tables
        ]
        self._made: dict[tuple[int, str], str | None] = {}

    def get(self, which: int, key: Any) -> str | None:
        place, table = (which, str(key)), self._tables[which]
        if place not in self._made:
            row = self._rows[which].get(str(key))
            made = None if table is None or row is None else sprite(table.record(row))
            self._made[place] = made
        return self._made[place]


def _chosen(videos: Videos, count: int) -> list[int]:
    """The first video of every class, then (few classes, or no labels) the next ones at equal distances."""
    _, first = np.unique(videos.labels, return_index=True)
    chosen = sorted(first.tolist())[:count]
    rest = np.linspace(0, len(videos) - 1, min(count, len(videos))).round().astype(int).tolist()
    return (chosen + [row for row in rest if row not in chosen])[:count]
