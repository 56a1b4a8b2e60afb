"""Clip retrieval: does the nearest video of a gallery show the same action?  Nothing is trained.

The vector of a video is the mean of its clip features, scaled to length 1; similarity is the cosine.
R@k is the share of queries with a video of their class among the nearest k.  A video never finds
itself, when queries and gallery overlap (see `identity.py`).

Source: the usual protocol on UCF101 and HMDB51 (queries: the test videos, gallery: the training
videos), as in papers/hico.md section 6: the reference code holds no retrieval, so that number of
clips, pooling and split behind the published numbers are (unverified).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from video_ssl.embed.features import FeatureError, FeatureFile, open_features
from video_ssl.evaluate import metrics
from video_ssl.evaluate.contract import Figure, Given, Needs, Result
from video_ssl.evaluate.identity import (
    copies_of,
    copy_example,
    group_keys,
    record_keys,
    unknown_note,
)
from video_ssl.evaluate.neighbours import nearest_neighbours, unit_rows
from video_ssl.evaluate.pooling import outputs_of, pooled_features
from video_ssl.evaluate.retrieval_config import RetrievalConfig, RetrieveConfig
from video_ssl.evaluate.videos import Videos, train_and_test
from video_ssl.files import MADE_BY, claim_file, made, write_json
from video_ssl.progress import console_for_tables

#: Queries that are printed with their neighbours; all are in the JSON.
_PRINTED = 30


class Retrieval:
    """The evaluator `retrieval`: `train` is the gallery, `test` are the queries."""

    Config = RetrievalConfig
    title = "retrieval"
    figures: ClassVar[Mapping[str, Figure]] = {}

    def __init__(self, config: RetrievalConfig) -> None:
        self.config = config

    @property
    def needs(self) -> Needs:
        return Needs(outputs=outputs_of([self.config.pooling]))

    def evaluate(self, given: Given) -> Result:
        """Returns R@k of the videos of `test` among those of `train`; nothing here is random.

        Raises:
            FeatureError: labels are missing, widths differ, or a query has nothing to find.
        """
        config = self.config
        gallery, queries, bank, asked, notes = self._vectors(given, labelled=True)
        own, others = self._keys(queries, gallery)
        k = max(*config.ks, config.keep, 1)
        similar, rows = nearest_neighbours(
            asked, bank, query_keys=own, bank_keys=others, k=k, chunk=config.chunk
        )
        relevant = (gallery.labels[rows] == queries.labels[:, None]) & np.isfinite(similar)
        recall = metrics.recall_at(relevant, config.ks)
        m, n = _counts(queries, gallery, own, others)
        chance = metrics.chance_recall_at(m, n, config.ks)
        found = {f"R@{k}": share for k, share in recall.items()}
        if config.mean_ap:
            found["mAP"] = self._mean_ap(asked, bank, own, others, queries, gallery)
        first = int(relevant[:, 0].sum())
        return Result(
            metrics=found,
            correct=first,
            total=len(queries),
            chance=metrics.chance_recall_at(m, n, [1])[1],
            chosen={"pooling": config.pooling},
            details={
                "chance": {f"R@{k}": share for k, share in chance.items()},
                "R@1_interval_95": list(metrics.wilson_interval(first, len(queries))),
                "gallery_videos": len(gallery),
                "query_videos": len(queries),
                "nearest": _nearest(similar, rows, queries, gallery, config.keep),
            },
            notes=notes + _notes(queries, gallery, m),
        )

    def neighbours(self, given: Given) -> Result:
        """Returns the `keep` nearest of every query, without a score: for videos without labels.

        Raises:
            FeatureError: widths differ, or a query has nothing to find.
        """
        config = self.config
        gallery, queries, bank, asked, notes = self._vectors(given, labelled=False)
        own, others = self._keys(queries, gallery)
        similar, rows = nearest_neighbours(
            asked, bank, query_keys=own, bank_keys=others, k=max(config.keep, 1), chunk=config.chunk
        )
        details = {
            "chance": {},
            "gallery_videos": len(gallery),
            "query_videos": len(queries),
            "nearest": _nearest(similar, rows, queries, gallery, config.keep),
        }
        return Result(
            metrics={},
            correct=0,
            chance=float("nan"),
            total=len(queries),
            details=details,
            notes=notes + _same_notes(queries, gallery),
        )

    def _vectors(
        self, given: Given, *, labelled: bool
    ) -> tuple[Videos, Videos, np.ndarray, np.ndarray, list[str]]:
        """The videos of gallery and queries, their vectors of length 1, (V, D) and (Q, D), and notes."""
        config, train, test = self.config, given.train, given.test
        if train.embed_dim != test.embed_dim:
            raise FeatureError(
                f"queries have {test.embed_dim} numbers, the gallery {train.embed_dim}: embed both with one encoder."
            )
        gallery, queries, notes = train_and_test(train, test, labelled=labelled)
        bank = video_vectors(train, gallery, config.pooling)
        asked = video_vectors(test, queries, config.pooling)
        if config.center:
            mean = bank.mean(axis=0, dtype=np.float64).astype(np.float32)
            bank, asked = bank - mean, asked - mean
        return gallery, queries, unit_rows(bank), unit_rows(asked), notes

    def _keys(self, queries: Videos, gallery: Videos) -> tuple[np.ndarray, np.ndarray]:
        keys = group_keys if self.config.exclude == "group" else record_keys
        return keys(queries.origins, gallery.origins)

    def _mean_ap(
        self,
        asked: np.ndarray,
        bank: np.ndarray,
        own: np.ndarray,
        others: np.ndarray,
        queries: Videos,
        gallery: Videos,
    ) -> float:
        """Mean over the queries that have something to find; whole rows, as many as fit into chunk^2."""
        step = max(1, self.config.chunk**2 // len(bank))
        values = []
        for q in range(0, len(asked), step):
            block = asked[q : q + step] @ bank.T
            block[own[q : q + step, None] == others[None]] = -np.inf
            order = np.argsort(-block, axis=1, kind="stable")
            relevant = gallery.labels[order] == queries.labels[q : q + step, None]
            relevant &= np.isfinite(np.take_along_axis(block, order, axis=1))
            values.append(metrics.average_precision(relevant))
        precision = np.concatenate(values)
        known = precision[~np.isnan(precision)]
        return float(known.mean()) if len(known) else float("nan")


def video_vectors(features: FeatureFile, videos: Videos, pooling: str) -> np.ndarray:
    """Returns float32 (V, D'): the mean of the clip vectors of every video.

    With pooling "clip" the file is read batch by batch, so that only the sums are held.
    """
    counts = np.bincount(videos.index, minlength=len(videos)).astype(np.float32)
    if pooling != "clip":
        return videos.mean(np.asarray(pooled_features(features, pooling), np.float32))
    begin = 0
    if len(features) == len(
        videos
    ):  # a clip of each, in order of first appearance: rows as they are
        rows = np.empty((len(videos), features.embed_dim), np.float32)
        for batch in features.feature_batches():
            rows[begin : begin + len(batch)] = batch
            begin += len(batch)
        return rows
    total = np.zeros((len(videos), features.embed_dim), np.float64)
    for batch in features.feature_batches():
        index = videos.index[begin : begin + len(batch)]
        turn = _turns(index)
        for number in range(int(turn.max(initial=-1)) + 1):  # one clip of a video at a time
            own = turn == number
            total[index[own]] += batch[own]
        begin += len(batch)
    return np.asarray(total / counts[:, None], np.float32)


def _turns(index: np.ndarray) -> np.ndarray:
    """Returns int64 (n,): how many equal ones stand before each.

    >>> _turns(np.array([4, 4, 2, 4]))
    array([0, 1, 0, 2])
    """
    order = np.argsort(index, kind="stable")
    ordered = index[order]
    begins = np.searchsorted(ordered, ordered)
    found = np.empty(len(index), np.int64)
    found[order] = np.arange(len(index)) - begins
    return found


def _counts(
    queries: Videos, gallery: Videos, own: np.ndarray, others: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """How many gallery videos of its class, and of others, each query may find: (Q,), (Q,)."""
    classes, of_class = np.unique(gallery.labels, return_counts=True)
    by_class = dict(zip(classes.tolist(), of_class.tolist(), strict=True))
    hidden: dict[Any, list[int]] = {}
    asked = set(own.tolist())
    for key, label in zip(others.tolist(), gallery.labels.tolist(), strict=True):
        if key in asked:
            hidden.setdefault(key, []).append(label)
    m, n = np.zeros(len(queries), np.int64), np.zeros(len(queries), np.int64)
    for q, (key, label) in enumerate(zip(own.tolist(), queries.labels.tolist(), strict=True)):
        left_out = hidden.get(key, [])
        m[q] = by_class.get(label, 0) - left_out.count(label)
        n[q] = len(gallery) - len(left_out) - m[q]
    return m, n


def _notes(queries: Videos, gallery: Videos, relevant: np.ndarray) -> list[str]:
    notes = _same_notes(queries, gallery)
    lost = int((relevant == 0).sum())
    if lost:
        notes.append(f"{lost} queries have no other video of their class in the gallery: missed")
    return notes


def _same_notes(queries: Videos, gallery: Videos) -> list[str]:
    """What is in both, and copies."""
    notes = []
    asked, bank = queries.origins, gallery.origins
    shared = int(np.isin(*record_keys(asked, bank)).sum())
    if shared:
        notes.append(f"{shared} queries are in the gallery too; none finds itself")
    copies = copies_of(bank, asked)
    if copies.any():
        notes.append(
            f"{int(copies.sum())} queries are copies of gallery videos (equal in size, beginning and end), for example "
            f"{copy_example(bank, asked, copies)}: they find these first"
        )
    return notes + unknown_note(asked, bank)


def _nearest(
    similar: np.ndarray, rows: np.ndarray, queries: Videos, gallery: Videos, keep: int
) -> list[dict[str, Any]]:
    """The first `keep` of every query, as JSON."""
    found = []
    for q in range(len(queries)) if keep else ():
        near = [
            {
                "id": str(gallery.ids[row]),
                "label": int(gallery.labels[row]),
                "similarity": round(float(value), 5),
            }
            for value, row in zip(similar[q, :keep], rows[q, :keep], strict=True)
            if np.isfinite(value)
        ]
        found.append({"id": str(queries.ids[q]), "label": int(queries.labels[q]), "nearest": near})
    return found


def retrieve_files(
    queries: Path,
    gallery: Path,
    *,
    out: Path | None = None,
    config: RetrieveConfig | None = None,
) -> Result:
    """Returns the result for two feature files, prints it, and writes it as JSON if `out` is given.

    Where videos have no labels there is no score: the nearest videos of each query are all.

    Raises:
        FeatureError: see `Retrieval.evaluate`.
        OutputError: `out` is one of the feature files, another's file, or cannot be written.
    """
    config = config or RetrieveConfig()
    if out is not None:
        out = claim_file(out, "retrieve", sources=[queries, gallery])
    asked, bank = open_features(queries), open_features(gallery)
    retrieval, given = Retrieval(config), Given(train=bank, test=asked)
    without = [int((f.labels < 0).sum()) for f in (asked, bank)]
    result = retrieval.neighbours(given) if any(without) else retrieval.evaluate(given)
    if any(without):
        result.notes.append(
            f"{without[0]} of {len(asked)} clips of the queries and {without[1]} of {len(bank)} of the gallery have no "
            "label: neighbours are listed, R@k needs labels for all"
        )
    encoders = {str(f.metadata.get("encoder", {}).get("fingerprint")) for f in (asked, bank)}
    if len(encoders) > 1:
        result.notes.append(f"queries and gallery are of different encoders ({sorted(encoders)})")
    console = console_for_tables()
    console.print(_neighbours_table(result) if any(without) else _table(result))
    for note in result.notes:
        console.print(f"Note: {note}.", soft_wrap=True, markup=False)
    if out is not None:
        content = {
            MADE_BY: made("retrieve"),
            "queries": str(queries),
            "gallery": str(gallery),
            "pooling": config.pooling,
            "metrics": result.metrics,
            "chance": result.details["chance"],
            "query_videos": result.details["query_videos"],
            "gallery_videos": result.details["gallery_videos"],
            "notes": result.notes,
            "nearest": result.details["nearest"],
        }
        out.parent.mkdir(parents=True, exist_ok=True)
        write_json(out, content, indent=1)
        console.print(f"Results: {out}", soft_wrap=True)
    return result


def _neighbours_table(result: Result) -> Table:
    """The nearest videos of the first queries."""
    found = result.details["nearest"]
    more = f", the first {_PRINTED} of them" if len(found) > _PRINTED else ""
    title = f"nearest of {len(found)} queries{more} in {result.details['gallery_videos']} videos"
    table = Table(title=title, box=SIMPLE_HEAD)
    table.add_column("query")
    table.add_column("nearest, with cosine")
    for query in found[:_PRINTED]:
        near = ", ".join(f"{n['id']} {n['similarity']:.3f}" for n in query["nearest"]) or "-"
        table.add_row(Text(query["id"]), Text(near))
    return table


def _table(result: Result) -> Table:
    counts = result.details
    table = Table(
        title=f"{counts['query_videos']} queries in {counts['gallery_videos']} videos, in percent",
        box=SIMPLE_HEAD,
    )
    table.add_column("")
    for name in result.metrics:
        table.add_column(name, justify="right")
    table.add_row("features", *(f"{100 * value:.1f}" for value in result.metrics.values()))
    chance = counts["chance"]
    table.add_row(
        "guessing",
        *(f"{100 * chance[name]:.1f}" if name in chance else "" for name in result.metrics),
        style="dim",
    )
    return table
