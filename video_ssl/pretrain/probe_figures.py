"""Figures of features (N, D) that cost nearly nothing: classes named by neighbours and by ridge regression, ranks.

Numpy only, in float64, without random numbers.
Source of the ranks: RankMe (arXiv:2210.02885) and papers/frozen_protocols.md section 5; the accuracies are ours.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "effective_rank",
    "effective_rank_of_covariance",
    "leave_one_out_accuracy",
    "participation_ratio",
    "rankme",
    "ridge_accuracy",
]

#: Of the mean eigenvalue: how much ridge regression shrinks.
_RIDGE = 0.1


def leave_one_out_accuracy(features: np.ndarray, labels: np.ndarray, *, k: int = 5) -> float:
    """Returns the share of rows whose class most of their k nearest others have, by cosine; of equal classes the one
    whose rows are nearer wins.  0..1.

    Args:
        features: (N, D), N at least 2; k is at most N - 1.
        labels: int (N,).
    """
    x = np.asarray(features, np.float64)
    x = x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
    similar = x @ x.T
    np.fill_diagonal(similar, -np.inf)
    k = min(k, len(x) - 1)
    nearest = np.argsort(-similar, axis=1, kind="stable")[:, :k]
    classes, numbers = np.unique(labels, return_inverse=True)
    votes = np.zeros((len(x), len(classes)))
    for rank in range(k):
        # The nearer, the more: but never as much as a whole vote.
        votes[np.arange(len(x)), numbers[nearest[:, rank]]] += 1 + (k - rank) / (10 * k * k)
    return float((votes.argmax(axis=1) == numbers).mean())


def ridge_accuracy(features: np.ndarray, labels: np.ndarray) -> float:
    """Returns the share of rows whose class is named by ridge regression on the other half, 0..1.

    The rows of each class go to both halves in turn; each half is named by what was fitted on the other.

    Args:
        features: (N, D); each column is brought to mean 0 and variance 1 of the half that is fitted.
        labels: int (N,).
    """
    x = np.asarray(features, np.float64)
    classes, numbers = np.unique(labels, return_inverse=True)
    half = np.zeros(len(x), np.int64)
    for number in range(len(classes)):
        rows = np.flatnonzero(numbers == number)
        half[rows] = (np.arange(len(rows)) + number) % 2
    right = 0
    for fitted in (0, 1):
        train, test = half == fitted, half != fitted
        if not train.any() or not test.any():
            continue
        mean, spread = x[train].mean(axis=0), x[train].std(axis=0)
        a, b = ((x[rows] - mean) / np.where(spread > 1e-12, spread, 1.0) for rows in (train, test))
        targets = np.eye(len(classes))[numbers[train]]
        level = targets.mean(axis=0)
        inner = a @ a.T  # N x N: of few videos smaller than D x D
        shrink = max(_RIDGE * float(np.trace(inner)) / len(a), 1e-9)
        weights = np.linalg.solve(inner + shrink * np.eye(len(a)), targets - level)
        right += int(((b @ a.T @ weights + level).argmax(axis=1) == numbers[test]).sum())
    return right / len(x)


def _entropy(shares: np.ndarray) -> float:
    known = shares[shares > 0]
    return float(-(known * np.log(known)).sum())


def _values(features: np.ndarray) -> NDArray[np.float64]:
    found: NDArray[np.float64] = np.linalg.svd(np.asarray(features, np.float64), compute_uv=False)
    return found


def rankme(features: np.ndarray, *, eps: float = 1e-7) -> float:
    """Returns exp(entropy of the singular values' shares, each plus eps); features are not centred.

    As the shares no longer add up to 1 it can exceed min(N, D) a little; without any variation it is near 1.
    """
    values = _values(features)
    total = float(values.sum())
    return float(np.exp(_entropy((values / total if total > 0 else values) + eps)))


def effective_rank(features: np.ndarray) -> float:
    """Returns exp(entropy of the singular values' shares); 1 where all features are 0."""
    values = _values(features)
    total = float(values.sum())
    return float(np.exp(_entropy(values / total))) if total > 0 else 1.0


def effective_rank_of_covariance(features: np.ndarray) -> float:
    """Returns exp(entropy of the shares of the eigenvalues of the covariance)."""
    x = np.asarray(features, np.float64)
    powers = np.square(_values(x - x.mean(axis=0)))
    total = float(powers.sum())
    return float(np.exp(_entropy(powers / total))) if total > 0 else 1.0


def participation_ratio(features: np.ndarray) -> float:
    """Returns (sum l)^2 / sum l^2 of the eigenvalues l of the covariance; 1 where there is no variation."""
    x = np.asarray(features, np.float64)
    powers = np.square(_values(x - x.mean(axis=0)))
    squares = float(np.square(powers).sum())
    return float(powers.sum() ** 2 / squares) if squares > 0 else 1.0
