"""Metrics of recognition where a clip has any number of classes: pure functions on numpy arrays.

N clips, K classes; truth is bool (N, K), scores are (N, K), larger is better, on any scale.  Numbers are of one class
each, float64 (K,): NaN where a class has no clip, or every clip, so that nothing can be told about it; the mean over
the others is what papers report (mAP, AUC, d-prime).  Equal scores count as one step.

Source: papers/vatt.md section 6 (AudioSet), which takes scikit-learn's `average_precision_score` and `roc_auc_score`.
"""

from __future__ import annotations

from statistics import NormalDist

import numpy as np


def average_precisions(scores: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Returns float64 (K,): the area under precision over recall, by steps: sum of (R_n - R_{n-1}) P_n.

    A class that all clips have gives 1.

    >>> average_precisions(np.array([[0.9], [0.8], [0.7]]), np.array([[True], [False], [True]])).round(4).tolist()
    [0.8333]
    """
    validate(scores, truth)
    found = np.full(scores.shape[1], np.nan)
    for k in range(scores.shape[1]):
        order = np.argsort(-scores[:, k], kind="stable")
        ends = np.flatnonzero(np.append(np.diff(scores[order, k]) != 0, True))
        hits = np.cumsum(truth[order, k])[ends]
        if hits[-1]:
            precision, recall = hits / (ends + 1), hits / hits[-1]
            found[k] = float((np.diff(recall, prepend=0.0) * precision).sum())
    return found


def roc_aucs(scores: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Returns float64 (K,): how probable it is that a clip of the class scores above one of the others; half if equal.

    >>> roc_aucs(np.array([[0.9], [0.5], [0.5], [0.1]]), np.array([[True], [True], [False], [False]])).tolist()
    [0.875]
    """
    validate(scores, truth)
    found = np.full(scores.shape[1], np.nan)
    for k in range(scores.shape[1]):
        positive, negative = int(truth[:, k].sum()), int((~truth[:, k]).sum())
        if positive and negative:
            _, place, counts = np.unique(scores[:, k], return_inverse=True, return_counts=True)
            ranks = (np.cumsum(counts) - (counts - 1) / 2)[place]
            above = ranks[truth[:, k]].sum() - positive * (positive + 1) / 2
            found[k] = float(above / (positive * negative))
    return found


def d_prime(aucs: np.ndarray) -> np.ndarray:
    """Returns float64 (K,): sqrt(2) times the normal quantile of each AUC; infinite at 0 and 1, NaN of NaN.

    Papers report the mean of these over the classes, not that of the mean AUC.

    >>> d_prime(np.array([0.5, 0.975])).round(3).tolist()
    [0.0, 2.772]
    """
    quantile = NormalDist().inv_cdf
    ends = {0.0: -np.inf, 1.0: np.inf}
    found = [
        np.nan if np.isnan(a) else ends[a] if a in ends else quantile(a) for a in aucs.tolist()
    ]
    return np.sqrt(2) * np.asarray(found, np.float64)


def validate(scores: np.ndarray, truth: np.ndarray) -> None:
    """Raises ValueError unless scores are finite (N, K) and truth bool of the same shape, neither empty."""
    if scores.ndim != 2 or scores.shape != truth.shape or truth.dtype != bool or 0 in scores.shape:
        raise ValueError(
            "scores and truth must be (clips, classes), truth of bool, but are "
            f"{scores.shape} and {truth.dtype} {truth.shape}."
        )
    if not np.isfinite(scores).all():
        raise ValueError("scores are not finite.")
