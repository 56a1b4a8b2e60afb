"""Phase classification: the phase of every frame, read from frozen frame features.

Fitted on all frames of the first max(1, int(f n)) training videos in file order; the result is the
share of right frames among all test frames, pooled.  In 0..1.

    linear   multinomial logistic regression, no feature scaling, L2 with C = 1 (CARL)
    svm      RBF support vector machine, C = 1, gamma 1 / (D Var(X)), one against one (TCC)

With exactly two phases C is 2: CARL's numbers are of a scikit-learn that regularised both vectors of
a two-class softmax; today's fits one vector, and gives the same result with C = 2.
Source: arXiv:2203.14957 and 1904.07846 with their code.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np

from video_ssl.evaluate.frames.frame_evaluator import FrameConfig, FrameEvaluator, check_fractions
from video_ssl.evaluate.frames.frame_sequences import (
    Scores,
    Sequences,
    first_share,
    pooled_frames,
    require_sklearn,
)
from video_ssl.evaluate.heads import ChosenHead, names_of

Classifier = Literal["linear", "svm"]


def make_classifier(kind: Classifier, num_phases: int) -> Any:
    """Returns an unfitted scikit-learn classifier for training frames of `num_phases` phases.

    Raises:
        FeatureError: scikit-learn is not installed.
    """
    require_sklearn("phase classification")
    if kind == "svm":
        from sklearn.svm import SVC

        return SVC(decision_function_shape="ovo")
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(C=2.0 if num_phases == 2 else 1.0, max_iter=100_000)


def phase_accuracy(
    train_embs: Sequence[np.ndarray],
    train_labels: Sequence[np.ndarray],
    val_embs: Sequence[np.ndarray],
    val_labels: Sequence[np.ndarray],
    *,
    fraction: float = 1.0,
    classifier: Classifier = "linear",
) -> Scores:
    """Returns the frame accuracy on the training videos used, and on all validation videos.

    Args:
        train_embs, val_embs: frame features (L_i, D); labels (L_i,): phases, -1 where unknown.
        fraction: of the training videos, in the order given.
        classifier: "linear" or "svm", see above.

    Frames without a label or with a number that is not finite are left out.  NaN where the training
    frames show fewer than two phases, or where there are no test frames.
    """
    used = first_share(len(train_embs), fraction)
    x, y = pooled_frames(train_embs[:used], train_labels[:used])
    val_x, val_y = pooled_frames(val_embs, val_labels)
    num_phases = len(np.unique(y))
    if num_phases < 2 or not len(val_y):
        return Scores(float("nan"), float("nan"))
    model = make_classifier(classifier, num_phases).fit(x, y)
    return Scores(float(model.score(x, y)), float(model.score(val_x, val_y)))


@dataclass(frozen=True, kw_only=True)
class PhasesConfig(FrameConfig):
    """Settings of phase classification.

    Attributes:
        classifiers: "linear" (CARL), "svm" (TCC), or both.
        fractions: of the training videos of a class; the last one is the headline.
    """

    classifiers: tuple[Classifier, ...] = ("linear",)
    fractions: tuple[float, ...] = (0.1, 0.5, 1.0)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_fractions(self.fractions)
        known = get_args(Classifier)
        if not self.classifiers or any(c not in known for c in self.classifiers):
            raise ValueError(f"classifiers={self.classifiers} must be names of {list(known)}.")


class PhaseClassification(FrameEvaluator):
    """The evaluator `phases`."""

    Config = PhasesConfig
    title = "phase classification"
    extras = ("phases",)
    config: PhasesConfig

    def measure(self, train: Sequences, test: Sequences, *, seed: int) -> dict[str, float]:
        found = {}
        for classifier in self.config.classifiers:
            for fraction in self.config.fractions:
                scores = phase_accuracy(
                    train.embs,
                    train.labels,
                    test.embs,
                    test.labels,
                    fraction=fraction,
                    classifier=classifier,
                )
                name = f"{classifier}@{100 * fraction:g}%"
                found[name] = scores.val
                found[f"train_{name}"] = scores.train
        return found

    def head(self, train: Sequences, names: Sequence[str]) -> ChosenHead | None:
        """The linear classifier of the largest share of videos; a support vector machine has no weights to keep."""
        config = self.config
        used = first_share(len(train), max(config.fractions))
        x, y = pooled_frames(train.embs[:used], train.labels[:used])
        phases = np.unique(y)
        if "linear" not in config.classifiers or len(phases) < 2:
            return None
        model = make_classifier("linear", len(phases)).fit(x, y)
        weight, bias = model.coef_, model.intercept_
        if len(weight) == 1:  # of two phases: the score of the second, the first has none
            weight = np.concatenate([np.zeros_like(weight), weight])
            bias = np.concatenate([np.zeros_like(bias), bias])
        return ChosenHead(
            kind="frames",
            class_names=names_of(names, phases),
            weights={"weight": weight, "bias": bias},
            settings={"normalize": config.normalize},
        )

    def shown(self) -> list[str]:
        shares = [f"{100 * fraction:g}%" for fraction in self.config.fractions]
        return [f"{name}@{share}" for name in self.config.classifiers for share in shares]

    def say(self, found: dict[str, float]) -> str:
        return f"names the phase of {self.headline(found)} of the test frames"

    def lead(self) -> str:
        return self.shown()[len(self.config.fractions) - 1]
