"""The table of evaluators.  An evaluator is one file that works on feature files, and one line here.

It is a class with a frozen dataclass `Config` as class attribute, made by `Class(config)`, and
`evaluate(train, test, seed=...)`.  It never sees videos or encoders.  Under several processes it runs in process 0; one
that says `shares_work = True` runs in all of them and is told `processes=...`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, ClassVar, Protocol

import numpy as np

from video_ssl.embed.features import FeatureFile
from video_ssl.evaluate import metrics
from video_ssl.recipes import ConfigError, nearest

EVALUATORS: dict[str, str] = {
    "probe": "video_ssl.evaluate.probe:LinearProbe",
    "knn": "video_ssl.evaluate.knn:NearestNeighbours",
    "retrieval": "video_ssl.evaluate.retrieval:Retrieval",
    "phases": "video_ssl.evaluate.frames.phase_classification:PhaseClassification",
    "progression": "video_ssl.evaluate.frames.phase_progression:PhaseProgression",
    "kendalls_tau": "video_ssl.evaluate.frames.kendalls_tau:KendallsTau",
    "frame_retrieval": "video_ssl.evaluate.frames.frame_retrieval:FrameRetrieval",
    "frame_probe": "video_ssl.evaluate.frames.frame_probe:FrameProbe",
    "few_shot_phases": "video_ssl.evaluate.frames.few_shot:FewShotPhases",
}


@dataclass(frozen=True, kw_only=True)
class Result:
    """What an evaluator found.

    Attributes:
        metrics: name -> share in 0..1 (or another number); the columns of the report.
        correct, total: right and all test videos, for the sentence in plain words.
        chance: what guessing gives.
        chosen: the settings that were chosen, and on what grounds.
        details: whatever else belongs in results.json (grids, intervals, confusions).
        notes: warnings a reader of the numbers must see.
        statement: the result as the rest of a sentence whose subject is the encoder, where it is not
            `correct` of `total` videos; `details` then has headline and num_classes.
    """

    metrics: dict[str, float]
    correct: int
    total: int
    chance: float
    chosen: dict[str, Any] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    statement: str | None = None


class Evaluator(Protocol):
    """The interface of an evaluator."""

    Config: ClassVar[type]

    def __init__(self, config: Any) -> None: ...

    def evaluate(self, train: FeatureFile, test: FeatureFile, *, seed: int) -> Result:
        """Returns what features of `test` are worth to something fitted on `train` only."""


def evaluator_class(name: str) -> type[Evaluator]:
    """Returns the class of an evaluator by its name.

    Raises:
        ConfigError: no such evaluator; the nearest is named.
    """
    if name not in EVALUATORS:
        raise ConfigError(
            f"unknown evaluator {name!r}: there are {sorted(EVALUATORS)}.{nearest(name, EVALUATORS)}"
        )
    module, attribute = EVALUATORS[name].split(":")
    found: type[Evaluator] = getattr(import_module(module), attribute)
    return found


def recognition_result(
    scores: np.ndarray,
    train_labels: np.ndarray,
    test_labels: np.ndarray,
    classes: np.ndarray,
    notes: list[str],
) -> Result:
    """Returns the result of recognising test videos by `scores` (V, K).

    Args:
        scores: larger is better.
        train_labels, test_labels: 0..K-1; in test, -1 for a class that train does not have.
        classes: (K,) the labels in the tables.
        notes: warnings so far; a warning about unknown classes is added.
    """
    correct = int((np.argsort(-scores, axis=1, kind="stable")[:, 0] == test_labels).sum())
    total = len(test_labels)
    confusion = metrics.confusion_matrix(scores.argmax(axis=1), test_labels, len(classes))
    found = {"top1": metrics.top_k_accuracy(scores, test_labels)}
    if len(classes) > 5:  # with five classes, top-5 is always 1
        found["top5"] = metrics.top_k_accuracy(scores, test_labels, 5)
    found["mean_class"] = metrics.mean_class_accuracy(confusion)
    unknown = int((test_labels < 0).sum())
    if unknown:
        notes = [*notes, f"{unknown} test videos are of classes that train does not have: wrong"]
    return Result(
        metrics=found,
        correct=correct,
        total=total,
        chance=1 / len(classes),
        details={
            "top1_interval_95": list(metrics.wilson_interval(correct, total)),
            "majority": metrics.majority_share(train_labels, test_labels),
            "classes": classes.tolist(),
            "confusion": confusion.tolist(),
        },
        notes=list(notes),
    )
