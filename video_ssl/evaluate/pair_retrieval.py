"""Zero-shot retrieval between video and text, or video and sound: does the nearest of one sense belong to the other?

Nothing is trained.  An encoder of video has outputs in spaces that it shares with sound and text; those of the same run
for sound and text have theirs.  A query is right where the nearest item is of its own record; other videos with the
same caption are wrong.  All items of the other sense are the gallery, also those that no query asks for.

Source: papers/vatt.md section 6 (MSR-VTT, YouCook2), with both of its orders of averaging windows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from video_ssl.embed.features import FeatureError, FeatureFile
from video_ssl.evaluate import metrics
from video_ssl.evaluate.contract import Figure, Given, Needs, Result
from video_ssl.evaluate.pair_metrics import (
    Average,
    chance_median,
    first_ranks,
    ranked_shares,
    unit_vectors,
    window_vectors,
)
from video_ssl.models.contract import COMMON_WITH
from video_ssl.models.preprocess_config import Modality


@dataclass(frozen=True, kw_only=True)
class PairRetrievalConfig:
    """Settings of the retrieval between two senses.

    Attributes:
        ks: R@k is the share of queries whose own item is among the nearest k.
        average: how the windows of a video or a sound become one: embd (the mean vector) or cosine (the mean of their
            cosines).
        captions: of each video the first so many are taken, each of them as a query or an item; null: all.
        chunk: queries that are compared at once.
    """

    ks: tuple[int, ...] = (1, 5, 10)
    average: Average = "embd"
    captions: int | None = None
    chunk: int = 1024

    def __post_init__(self) -> None:
        if not self.ks or min(self.ks) < 1:
            raise ValueError(f"ks={self.ks} must be numbers of at least 1.")
        if self.chunk < 1 or (self.captions is not None and self.captions < 1):
            raise ValueError(f"chunk={self.chunk} and captions={self.captions} must be at least 1.")


@dataclass(frozen=True, kw_only=True, eq=False)
class Items:
    """What is looked for, or in: `ids` object (V,) of records, `vectors` float (V, D), `labels` int64 (V,)."""

    ids: np.ndarray
    vectors: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, rows: np.ndarray) -> Items:
        """Returns some of the items."""
        return Items(ids=self.ids[rows], vectors=self.vectors[rows], labels=self.labels[rows])


class PairRetrieval:
    """What the evaluators of this file have in common: `asks` are the queries, `finds` the gallery; one is video."""

    Config = PairRetrievalConfig
    title: ClassVar[str]
    asks: ClassVar[Modality]
    finds: ClassVar[Modality]
    figures: ClassVar[Mapping[str, Figure]] = {
        "MedR": Figure(unit=""),
        "class": Figure(title="class of the first"),
    }

    def __init__(self, config: PairRetrievalConfig) -> None:
        self.config = config

    @property
    def sense(self) -> Modality:
        """The other one than video."""
        return self.asks if self.finds == "video" else self.finds

    @property
    def needs(self) -> Needs:
        output = COMMON_WITH[self.sense]
        return Needs(outputs=("clip", output), labels=False, train=False, senses=(self.sense,))

    def evaluate(self, given: Given) -> Result:
        """Returns R@k and the median rank of the queries among all items of the other sense; nothing is random.

        Raises:
            FeatureError: vectors of two widths, or no record that has both senses.
        """
        files = {"video": given.test, self.sense: given.senses[self.sense]}
        asked, gallery = (self._items(files[s], s) for s in (self.asks, self.finds))
        if asked.vectors.shape[1] != gallery.vectors.shape[1]:
            raise FeatureError(
                f"{COMMON_WITH[self.sense]} of {self.asks} has {asked.vectors.shape[1]} numbers, that of {self.finds} "
                f"{gallery.vectors.shape[1]}: both must be of one run."
            )
        paired = np.isin(asked.ids.astype(str), gallery.ids.astype(str))
        if not paired.any():
            raise FeatureError(
                f"no record has both {self.asks} and {self.finds}: ids are {asked.ids[0]!r}, ... and "
                f"{gallery.ids[0]!r}, ... Both files must be of one table."
            )
        return self._result(asked.take(np.flatnonzero(paired)), gallery, int((~paired).sum()))

    def _items(self, file: FeatureFile, sense: Modality) -> Items:
        vectors = file.vectors(COMMON_WITH[self.sense])
        if sense == "text":
            most = self.config.captions
            rows = np.flatnonzero(_occurrences(file) < (len(file) if most is None else most))
            return Items(
                ids=file.ids[rows], vectors=unit_vectors(vectors[rows]), labels=file.labels[rows]
            )
        first, index = file.records
        return Items(
            ids=file.ids[first],
            vectors=window_vectors(vectors, index, average=self.config.average),
            labels=file.labels[first],
        )

    def _result(self, asked: Items, gallery: Items, alone: int) -> Result:
        config = self.config
        ranks, nearest = _ranks(asked, gallery, self.finds, config.chunk)
        shares, median = ranked_shares(ranks, config.ks)
        right = _counts(asked, gallery)
        chance = metrics.chance_recall_at(right, len(gallery) - right, config.ks)
        found = {f"R@{k}": share for k, share in shares.items()} | {"MedR": median}
        guessed = {f"R@{k}": share for k, share in chance.items()}
        guessed["MedR"] = float(chance_median(right, len(gallery)))
        if (asked.labels >= 0).all() and (gallery.labels >= 0).all():
            found["class"] = float((gallery.labels[nearest] == asked.labels).mean())
            same = gallery.labels[None] == asked.labels[:, None]
            guessed["class"] = float(same.mean())
        lead = max(config.ks)
        hits = int((ranks < lead).sum())
        name = f"R@{lead}"
        told = f"{100 * found[name]:.1f} %"
        return Result(
            metrics=found,
            correct=int((ranks == 0).sum()),
            total=len(asked),
            chance=metrics.chance_recall_at(right, len(gallery) - right, [1])[1],
            chosen={"average": config.average},
            details={
                "chance": guessed,
                f"{name}_interval_95": list(metrics.wilson_interval(hits, len(asked))),
                "queries": len(asked),
                "gallery": len(gallery),
                "headline": {
                    "metric": name,
                    "found": told,
                    "guessing": f"{100 * guessed[name]:.1f} %",
                },
            },
            notes=self._notes(alone),
            statement=(
                f"has the {self.finds} of {told} of {len(asked)} {_many(self.asks)} among the nearest {lead} of "
                f"{len(gallery)}"
            ),
        )

    def _notes(self, alone: int) -> list[str]:
        if not alone:
            return []
        return [f"{alone} {_many(self.asks)} have no {self.finds} of their own and are not asked"]


class TextToVideo(PairRetrieval):
    """The evaluator `text_to_video`."""

    title, asks, finds = "text to video", "text", "video"


class VideoToText(PairRetrieval):
    """The evaluator `video_to_text`."""

    title, asks, finds = "video to text", "video", "text"


class SoundToVideo(PairRetrieval):
    """The evaluator `sound_to_video`."""

    title, asks, finds = "sound to video", "sound", "video"


class VideoToSound(PairRetrieval):
    """The evaluator `video_to_sound`."""

    title, asks, finds = "video to sound", "video", "sound"


def _many(sense: Modality) -> str:
    return f"{sense}s"


def _occurrences(file: FeatureFile) -> np.ndarray:
    """int64 (N,): 0 for the first row of a record, 1 for its second, ..."""
    _, index = file.records
    order = np.argsort(index, kind="stable")
    counts = np.bincount(index)
    within = np.empty(len(index), np.int64)
    within[order] = np.arange(len(index)) - np.repeat(np.cumsum(counts) - counts, counts)
    return within


def _ranks(asked: Items, gallery: Items, what: str, chunk: int) -> tuple[np.ndarray, np.ndarray]:
    """The rank of each query, and the item that is nearest to it."""
    for items in (asked, gallery):
        if not np.isfinite(items.vectors).all():
            raise FeatureError(f"vectors of {what} are not finite: embed the videos again.")
    ranks, nearest = [], []
    for begin in range(0, len(asked), chunk):
        part = slice(begin, begin + chunk)
        similarity = asked.vectors[part] @ gallery.vectors.T
        ranks.append(first_ranks(similarity, gallery.ids[None] == asked.ids[part, None]))
        nearest.append(similarity.argmax(axis=1))
    return np.concatenate(ranks), np.concatenate(nearest)


def _counts(asked: Items, gallery: Items) -> np.ndarray:
    """int64 (Q,): how many items are of the record of each query."""
    many: dict[Any, int] = {}
    for key in gallery.ids.tolist():
        many[key] = many.get(key, 0) + 1
    return np.array([many[key] for key in asked.ids.tolist()], np.int64)
