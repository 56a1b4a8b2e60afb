"""DTW against a slow one, over batches and lengths; the golden paths are in tests/golden/test_carl.py."""

import itertools

import numpy as np
import pytest

from video_ssl.objectives.shared.dtw import dtw, first_match, warped_times


def slow_dtw(cost):
    """The recursion cell by cell, and the path back with ties diagonal, i - 1, j - 1."""
    n, m = cost.shape
    acc = np.full((n + 1, m + 1), np.inf)
    acc[0, 0] = 0
    for i, j in itertools.product(range(n), range(m)):
        acc[i + 1, j + 1] = cost[i, j] + min(acc[i, j], acc[i, j + 1], acc[i + 1, j])
    i, j, path = n - 1, m - 1, [(n - 1, m - 1)]
    while (i, j) != (0, 0):
        moves = [(i - 1, j - 1), (i - 1, j), (i, j - 1)]
        i, j = min(moves, key=lambda move: acc[move[0] + 1, move[1] + 1])
        path.append((i, j))
    return acc[1:, 1:], path[::-1]


def path_of(result, k=()):
    i, j = result.path_i[k], result.path_j[k]
    return list(zip(i[i >= 0].tolist(), j[j >= 0].tolist(), strict=True))


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1), (5, 8), (8, 5), (12, 12)])
def test_a_pair_equals_the_slow_one_with_and_without_ties(shape):
    rng = np.random.default_rng(sum(shape))
    for cost in (rng.random(shape), rng.integers(0, 3, shape).astype(float), np.zeros(shape)):
        acc, path = slow_dtw(cost)
        result = dtw(cost)
        np.testing.assert_array_equal(result.acc_cost, acc)
        assert path_of(result) == path
        assert result.distance == acc[-1, -1]


def test_two_ways_around_an_obstacle_that_cost_the_same():
    """Was seen by no test: back along j before i.  Random costs seldom have such a tie."""
    cost = np.zeros((3, 3))
    cost[1, 1] = 9
    assert path_of(dtw(cost)) == slow_dtw(cost)[1] == [(0, 0), (0, 1), (1, 2), (2, 2)]


def test_a_batch_of_padded_pairs_equals_its_pairs():
    rng = np.random.default_rng(0)
    cost = rng.random((2, 3, 9, 7))
    rows, columns = rng.integers(1, 10, (2, 3)), rng.integers(1, 8, (2, 3))
    padded = cost.copy()
    for k in np.ndindex(2, 3):
        padded[k][rows[k] :] = np.nan
        padded[k][:, columns[k] :] = np.inf
    result = dtw(padded, rows=rows, columns=columns)
    for k in np.ndindex(2, 3):
        acc, path = slow_dtw(cost[k][: rows[k], : columns[k]])
        assert path_of(result, k) == path
        assert result.distance[k] == acc[-1, -1]
        np.testing.assert_array_equal(result.acc_cost[k][: rows[k], : columns[k]], acc)


def test_a_video_aligned_with_itself_is_the_diagonal():
    x = np.random.default_rng(0).random((20, 4))
    result = dtw(((x[:, None] - x) ** 2).sum(-1))
    assert path_of(result) == [(i, i) for i in range(20)]
    assert result.distance == 0


def test_matches_and_warped_times_of_a_path():
    path_i, path_j = [0, 0, 1, 2, 2, 2], [0, 1, 1, 2, 3, 4]
    assert first_match(path_i, path_j, 3).tolist() == [0, 1, 2]
    times = [0.0, 2.0, 5.0, 6.0, 10.0]
    assert warped_times(path_i, path_j, times, 3).tolist() == [1.0, 2.0, 7.0]
    batch = warped_times(
        [path_i, [0, 1, -1, -1, -1, -1]], [path_j, [4, 4, -1, -1, -1, -1]], [times, times], 3
    )
    assert batch[0].tolist() == [1.0, 2.0, 7.0]
    assert batch[1, :2].tolist() == [10.0, 10.0]
    assert np.isnan(batch[1, 2])


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: dtw(np.zeros((0, 3))), "n and m at least 1"),
        (lambda: dtw([1.0, 2.0]), r"must be \(..., n, m\)"),
        (lambda: dtw([[0.0, np.nan]]), "not finite: remove frames whose features are NaN"),
        (lambda: dtw(np.zeros((2, 3, 3)), rows=[0, 3]), r"rows must lie in 1..3, got 0..3"),
        (lambda: first_match([0, 1], [0, 1], 3), "visits 2 rows, but num_rows=3"),
    ],
)
def test_refused_input_says_why(call, text):
    with pytest.raises(ValueError, match=text):
        call()
