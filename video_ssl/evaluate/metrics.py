"""Metrics of recognition and retrieval: pure functions on numpy arrays.

Conventions.  N videos, K classes; labels are integers 0..K-1, a label of -1 in `labels` means a
class that cannot be predicted and always counts as wrong.  Scores are (N, K), larger is better, on
any scale, and may be negative.  All results are shares in 0..1, not percent.  Equal scores are
ordered by class number, so a constant score predicts class 0 and results never depend on chance.

Metrics: `merge_views`, `top_k_hits`, `top_k_accuracy`, `mean_class_accuracy`, `confusion_matrix`, `coarse_accuracy`,
`within_accuracy`, `wilson_interval`, `t_half_width` (of the mean of several runs), `paired_difference`, `mcnemar_p`,
`majority_share`; for retrieval `top_k_similar` (nearest neighbours, lower index first when equal), `recall_at`,
`chance_recall_at` and `average_precision`.

Retrieval.  Q queries, each with a list of gallery videos, nearest first; one is relevant if it has
the class of the query.  "Recall at k" is what the field calls it: the share of queries with at
least one relevant video among the nearest k (not the share of the relevant ones that is found).
Source: the usual protocol of clip retrieval on UCF101 and HMDB51; HiCo gives no code for it, so
that the protocol behind its published numbers is (unverified).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np


def validate(scores: np.ndarray, labels: np.ndarray) -> None:
    """Raises ValueError unless scores are finite (N, K) and labels integers (N,) below K, N > 0."""
    if scores.ndim != 2 or labels.shape != scores.shape[:1]:
        raise ValueError(
            f"scores must be (videos, classes) and labels (videos,), but are {scores.shape} and "
            f"{labels.shape}."
        )
    if len(labels) == 0:
        raise ValueError("no videos: a share of nothing is not defined.")
    if not np.isfinite(scores).all():
        raise ValueError("scores are not finite.")
    if labels.max() >= scores.shape[1] or labels.min() < -1:
        raise ValueError(
            f"labels lie in {labels.min()}..{labels.max()}, but there are scores for "
            f"{scores.shape[1]} classes (0..{scores.shape[1] - 1}, or -1)."
        )


def merge_views(logits: np.ndarray, valid: np.ndarray | None = None) -> np.ndarray:
    """Returns float64 (N, K): the mean over the views of a video of their softmax, as VideoMAE and MVD test.

    Not the softmax of the mean logits: a view that is sure counts for more there, and other classes win.

    Args:
        logits: (N, V, K), one row a view.
        valid: bool (N, V), False = no view; a video without any gets NaN.  None = all.

    Source: papers/videomae.md section 6 (test views; its reference merges the views' softmax).

    >>> merge_views(np.log([[[0.9, 0.1], [0.2, 0.8]]])).round(2).tolist()
    [[0.55, 0.45]]
    """
    if logits.ndim != 3:
        raise ValueError(f"logits must be (videos, views, classes), but are {logits.shape}.")
    seen = np.ones(logits.shape[:2], bool) if valid is None else valid
    if seen.shape != logits.shape[:2]:
        raise ValueError(f"valid must be (videos, views) {logits.shape[:2]}, but is {seen.shape}.")
    scores = logits.astype(np.float64)
    share = np.exp(scores - scores.max(axis=2, keepdims=True))
    share /= share.sum(axis=2, keepdims=True)
    total = np.where(seen[..., None], share, 0.0).sum(axis=1)
    with np.errstate(invalid="ignore"):
        return total / seen.sum(axis=1, keepdims=True)


def top_k_hits(scores: np.ndarray, labels: np.ndarray, k: int = 1) -> np.ndarray:
    """Returns bool (N,): which videos have their class among the `k` highest scores (all of them, if K < k)."""
    validate(scores, labels)
    ranked = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return (ranked == labels[:, None]).any(axis=1)


def top_k_accuracy(scores: np.ndarray, labels: np.ndarray, k: int = 1) -> float:
    """Returns the share of videos whose class is among the `k` highest scores (all of them, if K < k).

    >>> top_k_accuracy(np.array([[0.1, 0.9], [0.8, 0.2]]), np.array([1, 1]))
    0.5
    """
    return float(top_k_hits(scores, labels, k).mean())


def confusion_matrix(predicted: np.ndarray, labels: np.ndarray, num_classes: int) -> np.ndarray:
    """Returns int64 (K, K): row = true class, column = predicted; videos labelled -1 are left out.

    >>> confusion_matrix(np.array([0, 1, 1]), np.array([0, 0, 1]), 2).tolist()
    [[1, 1], [0, 1]]
    """
    known = labels >= 0
    cells = labels[known] * num_classes + predicted[known]
    counts = np.bincount(cells, minlength=num_classes**2)
    return counts.reshape(num_classes, num_classes).astype(np.int64)


def mean_class_accuracy(confusion: np.ndarray) -> float:
    """Returns the mean over the classes that occur of the share of their videos that are right.

    NaN when no class occurs.
    """
    totals = confusion.sum(axis=1)
    occurs = totals > 0
    if not occurs.any():
        return float("nan")
    return float((np.diag(confusion)[occurs] / totals[occurs]).mean())


def coarse_accuracy(scores: np.ndarray, labels: np.ndarray, parents: np.ndarray) -> float:
    """Returns the share of videos whose highest score is of a class with the parent of their own class.

    Args:
        scores, labels: as everywhere here.
        parents: int (K,), the coarse class of each class.

    >>> coarse_accuracy(np.eye(3), np.array([1, 1, 1]), np.array([0, 0, 1])).__round__(3)
    0.667
    """
    validate(scores, labels)
    best = np.argsort(-scores, axis=1, kind="stable")[:, 0]
    return float(((parents[best] == parents[labels]) & (labels >= 0)).mean())


def within_accuracy(scores: np.ndarray, labels: np.ndarray, parents: np.ndarray) -> float:
    """Returns the share of videos with the right class among those of their parent, the others left out of the choice.

    Over videos of a known class whose parent has several; NaN where there is none.

    Args:
        scores, labels, parents: as `coarse_accuracy`.

    >>> scores = np.array([[0.1, 0.2, 0.7], [0.1, 0.2, 0.7]])
    >>> within_accuracy(scores, np.array([0, 1]), np.array([0, 0, 1]))
    0.5
    """
    validate(scores, labels)
    asked = (labels >= 0) & (np.bincount(parents)[parents[labels]] > 1)
    if not asked.any():
        return float("nan")
    own = parents[None] == parents[labels[asked]][:, None]
    best = np.argsort(-np.where(own, scores[asked], -np.inf), axis=1, kind="stable")[:, 0]
    return float((best == labels[asked]).mean())


def wilson_interval(correct: int, total: int, z: float = 1.959964) -> tuple[float, float]:
    """Returns the Wilson score interval of a share; z = 1.96 gives 95 %.

    Source: Wilson 1927; p + z^2/2n -+ z sqrt(p(1-p)/n + z^2/4n^2), all over 1 + z^2/n.

    >>> low, high = wilson_interval(8, 10)
    >>> round(low, 4), round(high, 4)
    (0.4902, 0.9433)
    """
    if total <= 0 or not 0 <= correct <= total:
        raise ValueError(f"{correct} right of {total} is not a share.")
    p = correct / total
    centre = p + z * z / (2 * total)
    half = z * math.sqrt(p * (1 - p) / total + z * z / (4 * total * total))
    scale = 1 + z * z / total
    return max(0.0, (centre - half) / scale), min(1.0, (centre + half) / scale)


def t_half_width(values: np.ndarray) -> float:
    """Returns half the width of the 95 % t interval of the mean of `values` (n,); NaN for n < 2.

    >>> round(t_half_width(np.array([1.0, 2.0, 3.0])), 4)
    2.4841
    """
    if len(values) < 2:
        return float("nan")
    error = values.std(ddof=1) / math.sqrt(len(values))
    return float(t_quantile(len(values) - 1) * error)


def t_quantile(freedom: int, share: float = 0.95) -> float:
    """Returns the t that Student's t of `freedom` degrees stays within, on both sides, with probability `share`.

    >>> round(t_quantile(4), 4)
    2.7764
    """
    low, high = 0.0, 1.0
    while _within_t(high, freedom) < share:
        high *= 2
    for _ in range(200):
        middle = (low + high) / 2
        if _within_t(middle, freedom) < share:
            low = middle
        else:
            high = middle
    return high


def _within_t(t: float, freedom: int) -> float:
    """P(-t < T < t).  Source: Abramowitz and Stegun 26.7.3 and 26.7.4, finite sums for whole degrees of freedom."""
    angle = math.atan(t / math.sqrt(freedom))
    sine, square = math.sin(angle), math.cos(angle) ** 2
    odd = freedom % 2 == 1
    term = math.cos(angle) if odd else 1.0
    total = 0.0
    for k in range((freedom - 1) // 2 if odd else freedom // 2):
        total += term
        term *= square * ((2 * k + 2) / (2 * k + 3) if odd else (2 * k + 1) / (2 * k + 2))
    return 2 / math.pi * (angle + sine * total) if odd else sine * total


def paired_difference(
    first: np.ndarray, second: np.ndarray, z: float = 1.959964
) -> tuple[float, float, float]:
    """Returns how much larger the share of `first` is than that of `second`, and its interval; z = 1.96 gives 95 %.

    Both are about the same videos, so that what is easy or hard for both takes no part in the uncertainty.

    Args:
        first, second: bool (N,), which videos one and the other got right.

    Source: Bonett and Price 2012, adjusted Wald interval of a difference of paired shares: with one video more that
    only the first, and one that only the second gets right.

    >>> a, b = np.array([True] * 9 + [False]), np.array([True] * 6 + [False] * 4)
    >>> [round(x, 3) for x in paired_difference(a, b)]
    [0.3, -0.087, 0.587]
    """
    _check_paired(first, second)
    n = len(first)
    only_first, only_second = int((first & ~second).sum()), int((second & ~first).sum())
    p, q = (only_first + 1) / (n + 2), (only_second + 1) / (n + 2)
    half = z * math.sqrt((p + q - (p - q) ** 2) / (n + 2))
    return (only_first - only_second) / n, max(-1.0, p - q - half), min(1.0, p - q + half)


def mcnemar_p(first: np.ndarray, second: np.ndarray) -> float:
    """Returns how probable a difference at least as large as between two equally good ones is: McNemar's exact test.

    Args:
        first, second: bool (N,), which videos one and the other got right.

    >>> mcnemar_p(np.array([True] * 5 + [False]), np.array([False] * 5 + [False]))
    0.0625
    """
    _check_paired(first, second)
    fewer, more = sorted((int((first & ~second).sum()), int((second & ~first).sum())))
    count = fewer + more
    tail = sum(math.comb(count, k) for k in range(fewer + 1))
    return min(1.0, 2 * tail / 2**count)


def _check_paired(first: np.ndarray, second: np.ndarray) -> None:
    if first.shape != second.shape or first.ndim != 1 or len(first) == 0:
        raise ValueError(
            f"two lists about the same videos are compared, but they have shapes {first.shape} and {second.shape}."
        )


def majority_share(train_labels: np.ndarray, test_labels: np.ndarray) -> float:
    """Returns the accuracy on test of always naming the most frequent training class."""
    return float((test_labels == np.bincount(train_labels).argmax()).mean())


def top_k_similar(similarity: np.ndarray, k: int) -> np.ndarray:
    """Returns int64 (Q, min(k, M)): columns of the highest similarities of each row, highest first.

    Equal similarities are ordered by column.  Entries of -inf come last.

    >>> top_k_similar(np.array([[0.0, 2.0, 2.0, 1.0]]), 2).tolist()
    [[1, 2]]
    """
    count = similarity.shape[1]
    if k >= count:
        return np.argsort(-similarity, axis=1, kind="stable")
    chosen = np.sort(np.argpartition(-similarity, k - 1, axis=1)[:, :k], axis=1)
    values = np.take_along_axis(similarity, chosen, axis=1)
    # Where the k-th value occurs again outside, the partition has chosen among equals by chance.
    tied = (similarity >= values.min(axis=1, keepdims=True)).sum(axis=1) > k
    order = np.argsort(-values, axis=1, kind="stable")
    ranked = np.take_along_axis(chosen, order, axis=1)
    for row in np.flatnonzero(tied):
        ranked[row] = np.argsort(-similarity[row], kind="stable")[:k]
    return ranked.astype(np.int64)


def recall_at(relevant: np.ndarray, ks: Sequence[int]) -> dict[int, float]:
    """Returns for every k the share of queries with a relevant video among the nearest k.

    Args:
        relevant: bool (Q, N), column j is about the j-th nearest; False where there is none.
        ks: k may exceed N, then all N count.

    >>> recall_at(np.array([[False, True, False], [False, False, False]]), [1, 2, 20])
    {1: 0.0, 2: 0.5, 20: 0.5}
    """
    _check_relevant(relevant)
    return {k: float(relevant[:, :k].any(axis=1).mean()) for k in ks}


def chance_recall_at(
    relevant: np.ndarray, others: np.ndarray, ks: Sequence[int]
) -> dict[int, float]:
    """Returns for every k the mean recall at k of a gallery in random order.

    One query misses with the chance of k draws without return that are all from the others:
    prod_{i<k} (n - i) / (m + n - i), for m relevant and n other videos.

    Args:
        relevant, others: (Q,), how many there are in the gallery of each query.

    >>> chance_recall_at(np.array([1]), np.array([3]), [1, 2, 4])
    {1: 0.25, 2: 0.5, 4: 1.0}
    """
    m, n = np.asarray(relevant, np.float64), np.asarray(others, np.float64)
    found = {}
    for k in ks:
        miss = np.ones_like(m)
        for i in range(k):
            left = m + n - i
            miss *= np.where(left > 0, np.maximum(n - i, 0) / np.maximum(left, 1), 1.0)
        found[k] = float(np.mean(1 - miss))
    return found


def average_precision(relevant: np.ndarray) -> np.ndarray:
    """Returns float64 (Q,): the mean, over the relevant videos of a query, of the precision at their rank.

    NaN for a query without a relevant video.

    Args:
        relevant: bool (Q, N), of the whole gallery, nearest first.

    >>> average_precision(np.array([[True, False, True]])).round(4).tolist()
    [0.8333]
    """
    _check_relevant(relevant)
    hits = np.cumsum(relevant, axis=1)
    precision = hits / np.arange(1, relevant.shape[1] + 1)
    total = hits[:, -1]
    summed = np.where(relevant, precision, 0.0).sum(axis=1)
    return np.where(total > 0, summed / np.maximum(total, 1), np.nan)


def _check_relevant(relevant: np.ndarray) -> None:
    if relevant.ndim != 2 or relevant.dtype != bool or 0 in relevant.shape:
        raise ValueError(
            f"relevant must be bool (queries, gallery) with at least one of each, but is "
            f"{relevant.dtype} {relevant.shape}."
        )


def perplexity(counts: np.ndarray) -> float:
    """Returns how many things of equal frequency would be as hard to guess as those counted, int (K,), not all 0.

    >>> round(perplexity(np.array([5, 5, 0])), 3)
    2.0
    """
    shares = counts[counts > 0] / counts.sum()
    return float(np.exp(-(shares * np.log(shares)).sum()))
