"""What an evaluator is asked and what it answers; numpy only.

An evaluator says beforehand what it needs (`Needs`), gets the features of training and test clips (`Given`, or more of
it, see `context.py`), and gives a `Result`, whose numbers are written as it declares (`Figure`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from video_ssl.datasets.table import Table
from video_ssl.embed.features import FeatureFile
from video_ssl.evaluate import metrics
from video_ssl.evaluate.heads import ChosenHead
from video_ssl.models.preprocess_config import Modality


@dataclass(frozen=True, kw_only=True)
class Needs:
    """What an evaluator works with; checked before anything is embedded.

    Attributes:
        outputs: of the encoder, by name; "clip" is there in any case.
        train: clips to learn from.
        senses: of the test videos, "sound" or "text": features of them by the encoder of the same run that has this
            sense, with the output in the space that video shares with it (`Given.senses`).
        labels: every clip has a class.
        several_classes: the training videos are of two classes at least.
        extras: of video_ssl, whose packages it imports: "phases".
        frame_labels: frames have labels, at least in some videos.
        maps: the encoder gives tokens on a grid; they are not embedded, the evaluator makes them itself.
        tokens: tokens of the clips: of feature files those that they hold, otherwise they are not embedded, and the
            evaluator makes them itself, with `Context.encoder`, `Context.tables` and `Context.open`.
        boxes: some videos of both tables have boxes.
        truth: looks whether a table has what results are compared with, where that is in no column; raises TableError
            with what it lacks.
        visual_words: the encoder is a tokenizer; it tells every cell of a picture by a word.
        encoder: `Context.encoder`.
        reader: `Context.tables` and `Context.open`.
        processes: under several processes it runs in all of them, otherwise in process 0 only.
        alone: it cannot run under several processes at all.
    """

    outputs: tuple[str, ...] = ("clip",)
    train: bool = True
    senses: tuple[Modality, ...] = ()
    labels: bool = True
    several_classes: bool = False
    extras: tuple[str, ...] = ()
    frame_labels: bool = False
    maps: bool = False
    tokens: bool = False
    boxes: bool = False
    truth: Callable[[Table], object] | None = None
    visual_words: bool = False
    encoder: bool = False
    reader: bool = False
    processes: bool = False
    alone: bool = False


@dataclass(frozen=True)
class Given:
    """What every evaluator gets.

    Attributes:
        train: features of the clips that it may learn from; where no evaluator learns, those of test.
        test: features of the clips that it is judged by.
        senses: sense -> features of the test videos as they are heard or told, of those that can be.
        seed: of whatever it draws.
        keep_predictions: say of every test video which class it was given.
    """

    train: FeatureFile
    test: FeatureFile
    senses: Mapping[str, FeatureFile] = field(default_factory=dict)
    seed: int = 0
    keep_predictions: bool = False


@dataclass(frozen=True, kw_only=True)
class Figure:
    """How a number is written.

    Attributes:
        title: its name; the name of the metric if empty.
        unit: "%" for shares in 0..1, which are written times 100; otherwise what stands behind the number.
        digits: behind the point.
    """

    title: str = ""
    unit: str = "%"
    digits: int = 1

    def written(self, value: float | None) -> str:
        """Returns the number without its unit; "-" where there is none.

        >>> Figure().written(0.125), Figure(unit="px", digits=2).written(0.125), Figure().written(None)
        ('12.5', '0.12', '-')
        """
        if value is None or math.isnan(value):
            return "-"
        return f"{100 * value if self.unit == '%' else value:.{self.digits}f}"

    @property
    def head(self) -> str:
        """The title, and the unit where it is not percent."""
        return self.title if self.unit in ("%", "") else f"{self.title} ({self.unit})"

    def bounds(self, interval: Sequence[float]) -> list[str]:
        """Returns both ends of an interval; of shares without digits behind the point.

        >>> Figure().bounds([0.244, 0.756])
        ['24', '76']
        """
        rough = replace(self, digits=0) if self.unit == "%" else self
        return [rough.written(end) for end in interval]


#: Figures of an evaluator that recognises classes.
RECOGNITION: Mapping[str, Figure] = {
    "top1": Figure(title="top-1"),
    "top5": Figure(title="top-5"),
    "mean_class": Figure(title="class"),
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
        heads: name -> a head that was chosen and fitted, for `video-ssl predict`; in no table and no JSON.
        statement: the result as the rest of a sentence whose subject is the encoder, where it is not
            `correct` of `total` videos; `details` then has headline ("metric", "found" and, where there is one,
            "position_only", as they are written; "total" where the number is a share of so many test videos) and,
            where it is a mean over classes, num_classes.
    """

    metrics: dict[str, float]
    correct: int
    total: int
    chance: float
    chosen: dict[str, Any] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    statement: str | None = None
    heads: dict[str, ChosenHead] = field(default_factory=dict, compare=False)

    def __post_init__(self) -> None:
        # Where it is made, and not when all has been evaluated and the sentences are written.
        if self.statement is not None and "found" not in self.details.get("headline", {}):
            raise ValueError(
                f"the statement {self.statement!r} needs details['headline'] with metric and found."
            )


def recognition_result(
    scores: np.ndarray,
    train_labels: np.ndarray,
    test_labels: np.ndarray,
    classes: np.ndarray,
    notes: list[str],
    *,
    ids: np.ndarray | None = None,
) -> Result:
    """Returns the result of recognising test videos by `scores` (V, K).

    Args:
        scores: larger is better.
        train_labels, test_labels: 0..K-1; in test, -1 for a class that train does not have.
        classes: (K,) the labels in the tables.
        notes: warnings so far; a warning about unknown classes is added.
        ids: (V,) of the test videos, where their predictions are to be kept.
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
    kept: dict[str, Any] = {}
    if ids is not None:
        best = np.argsort(-scores, axis=1, kind="stable")[:, 0]
        columns = {"id": ids, "true": test_labels, "predicted": best}
        kept["predictions"] = {name: values.tolist() for name, values in columns.items()}
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
            **kept,
        },
        notes=list(notes),
    )
