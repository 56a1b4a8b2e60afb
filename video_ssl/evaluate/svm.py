"""A linear support vector machine on frozen features (scikit-learn's `LinearSVC`), one against the rest.

Source: papers/vatt.md section 6: "an SVM as in MMV" (its code notes C = 6e-5); that features are standardised first is
(unverified).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from video_ssl.evaluate.contract import RECOGNITION, Given, Needs, Result, recognition_result
from video_ssl.evaluate.videos import classes_of, shared_notes, train_and_test


@dataclass(frozen=True, kw_only=True)
class SvmConfig:
    """Settings of the support vector machine.

    Attributes:
        cost: C, how much a clip on the wrong side counts against the size of the weights.
        standardise: features get mean 0 and deviation 1 by those of train.
        max_steps: of the solver.
    """

    cost: float = 6e-5
    standardise: bool = True
    max_steps: int = 10_000

    def __post_init__(self) -> None:
        if self.cost <= 0 or self.max_steps < 1:
            raise ValueError(
                f"cost={self.cost} must be above 0 and max_steps={self.max_steps} at least 1."
            )


class Svm:
    """The evaluator `svm`."""

    Config = SvmConfig
    title = "linear SVM"
    figures = RECOGNITION

    def __init__(self, config: SvmConfig) -> None:
        self.config = config

    @property
    def needs(self) -> Needs:
        return Needs(several_classes=True, extras=("phases",))

    def evaluate(self, given: Given) -> Result:
        """Returns accuracy on `test`, the distances to the planes averaged over the clips of a video.

        Raises:
            FeatureError: labels are missing, or train has one class only.
        """
        train, test, notes = train_and_test(given.train, given.test)
        classes, train_labels, test_labels = classes_of(train, test)
        rows, asked = self._scaled(given.train.features, given.test.features)
        distances, converged = self._distances(rows, train_labels[train.index], asked, given.seed)
        if not converged:
            notes = [*notes, f"the solver was stopped after {self.config.max_steps} steps"]
        return recognition_result(
            test.mean(distances),
            train_labels,
            test_labels,
            classes,
            notes + shared_notes(train, test),
            ids=test.ids if given.keep_predictions else None,
        )

    def _scaled(self, train: np.ndarray, test: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        rows, asked = np.asarray(train, np.float64), np.asarray(test, np.float64)
        if not self.config.standardise:
            return rows, asked
        mean, deviation = rows.mean(axis=0), rows.std(axis=0)
        scale = np.where(deviation > 1e-6 * (1e-12 + np.abs(mean)), deviation, np.inf)
        return (rows - mean) / scale, (asked - mean) / scale

    def _distances(
        self, rows: np.ndarray, labels: np.ndarray, asked: np.ndarray, seed: int
    ) -> tuple[np.ndarray, bool]:
        """(N, K) signed distances of `asked`, and whether the solver came to its end."""
        from sklearn.svm import LinearSVC

        model = LinearSVC(C=self.config.cost, random_state=seed, max_iter=self.config.max_steps)
        model.fit(rows, labels)
        found = model.decision_function(asked)
        if found.ndim == 1:
            found = np.stack([-found, found], axis=1)
        return found, int(np.max(model.n_iter_)) < self.config.max_steps
