"""Metrics against cases worked out by hand and against slow independent versions."""

from __future__ import annotations

import numpy as np
import pytest

from video_ssl.evaluate import metrics


def test_top_k_by_hand():
    scores = np.array([[0.1, 0.5, 0.4], [0.6, 0.3, 0.1], [-3.0, -2.0, -1.0], [0.2, 0.2, 0.2]])
    labels = np.array([2, 0, 0, 1])
    assert metrics.top_k_accuracy(scores, labels) == 1 / 4  # row 1 only; the tie predicts class 0
    assert metrics.top_k_accuracy(scores, labels, 2) == 3 / 4
    assert metrics.top_k_accuracy(scores, labels, 3) == 1.0
    assert metrics.top_k_accuracy(scores, labels, 9) == 1.0
    assert metrics.top_k_accuracy(scores, np.array([-1, 0, -1, 0]), 3) == 0.5
    # Was seen by no test: the last of equal classes instead of the first.
    assert metrics.top_k_hits(scores[3:], np.array([0])).tolist() == [True]
    assert metrics.top_k_hits(scores[3:], np.array([2]), 2).tolist() == [False]


def test_views_are_merged_by_their_probabilities():
    sure, unsure = [9.0, 0.0, -9.0], [0.0, 2.0, -9.0]
    merged = metrics.merge_views(np.array([[sure, unsure, unsure]]))
    slow = np.mean([np.exp(v) / np.sum(np.exp(v)) for v in (sure, unsure, unsure)], axis=0)
    np.testing.assert_allclose(merged[0], slow, rtol=1e-12)
    # The mean of the logits names another class.
    assert (merged.argmax(), np.mean([sure, unsure, unsure], 0).argmax()) == (1, 0)
    huge = metrics.merge_views(np.array([[[1e4, 0.0]]], np.float32))
    assert huge.tolist() == [[1.0, 0.0]]


def test_views_that_do_not_exist_do_not_count():
    logits = np.random.default_rng(0).normal(size=(3, 4, 5))
    valid = np.array([[True] * 4, [True, False, True, False], [False] * 4])
    merged = metrics.merge_views(logits, valid)
    np.testing.assert_allclose(merged[1], metrics.merge_views(logits[1:2, ::2])[0])
    assert np.isnan(merged[2]).all()
    with pytest.raises(ValueError, match=r"valid must be \(videos, views\)"):
        metrics.merge_views(logits, valid[:, :2])
    with pytest.raises(ValueError, match=r"logits must be \(videos, views, classes\)"):
        metrics.merge_views(logits[0])


def test_confusion_and_mean_class_accuracy_by_hand():
    predicted = np.array([0, 0, 0, 1, 2, 0])
    labels = np.array([0, 0, 0, 0, 1, -1])
    confusion = metrics.confusion_matrix(predicted, labels, 3)
    assert confusion.tolist() == [[3, 1, 0], [0, 0, 1], [0, 0, 0]]
    assert metrics.mean_class_accuracy(confusion) == (3 / 4 + 0) / 2
    assert np.isnan(metrics.mean_class_accuracy(np.zeros((2, 2), int)))


def test_average_precision_against_a_slow_version():
    relevant = np.random.default_rng(0).random((20, 9)) < 0.3
    relevant[3] = False
    found = metrics.average_precision(relevant)
    for row, value in zip(relevant, found, strict=True):
        precisions = [row[: i + 1].mean() for i in np.flatnonzero(row)]
        np.testing.assert_allclose(value, np.mean(precisions) if precisions else np.nan)
    assert np.isnan(found[3])


def test_majority_is_that_of_train():
    assert metrics.majority_share(np.array([1, 1, 0]), np.array([0, 0, 1, 0])) == 0.25


@pytest.mark.parametrize(("correct", "total"), [(0, 10), (10, 10), (3, 7), (61, 100)])
def test_wilson_bounds_solve_their_equation(correct, total):
    """The bounds are where (p - x)^2 = z^2 x (1 - x) / n."""
    z, p = 1.959964, correct / total
    for bound in metrics.wilson_interval(correct, total):
        assert (p - bound) ** 2 == pytest.approx(z**2 * bound * (1 - bound) / total, abs=1e-12)


@pytest.mark.parametrize("k", [1, 3, 7, 20, 50])
@pytest.mark.parametrize("levels", [2, 5, 1000])
def test_top_k_similar_against_a_slow_version_with_ties(k, levels):
    rng = np.random.default_rng(levels)
    similarity = rng.integers(0, levels, (30, 20)).astype(float)
    similarity[rng.random(similarity.shape) < 0.1] = -np.inf
    expected = [sorted(range(20), key=lambda j: (-row[j], j))[:k] for row in similarity]
    np.testing.assert_array_equal(metrics.top_k_similar(similarity, k), expected)


@pytest.mark.parametrize(
    ("scores", "labels", "text"),
    [
        (np.zeros((2, 3)), np.zeros(3, int), r"\(2, 3\) and \(3,\)"),
        (np.zeros((0, 3)), np.zeros(0, int), "no videos"),
        (np.full((1, 3), np.nan), np.zeros(1, int), "not finite"),
        (np.zeros((1, 3)), np.array([3]), r"labels lie in 3\.\.3, but there are scores for 3"),
    ],
)
def test_bad_input(scores, labels, text):
    with pytest.raises(ValueError, match=text):
        metrics.top_k_accuracy(scores, labels)


def test_metrics_need_no_torch():
    import subprocess
    import sys

    code = "import sys, video_ssl.evaluate.metrics; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
