"""The measures on frames against slow or independent versions, and what is not defined."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from video_ssl.datasets.frame_labels import resampled_labels
from video_ssl.evaluate import distances
from video_ssl.evaluate.distances import nearest_in_each, squared_distances
from video_ssl.evaluate.frames.few_shot import few_shot_accuracy
from video_ssl.evaluate.frames.frame_probe import ProbeSchedule, frame_accuracy, train_frame_probe
from video_ssl.evaluate.frames.frame_retrieval import frame_precision
from video_ssl.evaluate.frames.frame_sequences import first_share, position_features
from video_ssl.evaluate.frames.kendalls_tau import kendalls_tau, tau_b, tau_matrix
from video_ssl.evaluate.frames.phase_classification import phase_accuracy
from video_ssl.evaluate.frames.phase_progression import phase_progression, progress_targets


def made(seed, lengths=(9, 14, 11, 20), width=4, phases=3, noise=0.3):
    """Videos that run through their phases in order; the features tell the phase."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(5).normal(size=(phases, width))
    embs, labels = [], []
    for length in lengths:
        own = np.sort(rng.integers(0, phases, length))
        embs.append((centres[own] + noise * rng.normal(size=(length, width))).astype(np.float32))
        labels.append(own)
    return embs, labels


def test_distances_in_blocks(monkeypatch):
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(13, 7)), rng.normal(size=(9, 7))
    expected = [[sum((x - y) ** 2 for x, y in zip(p, q, strict=True)) for q in b] for p in a]
    np.testing.assert_allclose(squared_distances(a, b), expected, rtol=1e-12)
    monkeypatch.setattr(distances, "BLOCK", 20)
    np.testing.assert_allclose(squared_distances(a, b), expected, rtol=1e-12)
    np.testing.assert_array_equal(nearest_in_each(a, [b, b[:0]])[0], np.argmin(expected, axis=1))
    assert (nearest_in_each(a, [b, b[:0]])[1] == -1).all()


def test_the_first_of_equal_frames_is_the_nearest():
    """Still pictures give equal features, whose distances must be equal to the last bit."""
    rng = np.random.default_rng(0)
    query = rng.normal(size=(50, 128)).astype(np.float32)
    key = np.repeat(rng.normal(size=(5, 128)).astype(np.float32), 7, axis=0)
    assert set((nearest_in_each(query, [key])[0] % 7).tolist()) == {0}


@pytest.mark.parametrize("high", [2, 5, 100])
def test_tau_b_is_that_of_scipy(high):
    rng = np.random.default_rng(high)
    matches = rng.integers(0, high, (30, 12))
    expected = [stats.kendalltau(np.arange(12), row).statistic for row in matches]
    np.testing.assert_allclose(tau_b(matches), expected, atol=1e-12)


def test_tau_of_ordered_pairs():
    embs, _ = made(0)
    found = tau_matrix(embs, stride=2)
    for i, a in enumerate(e[::2] for e in embs):
        for j, b in enumerate(e[::2] for e in embs):
            nearest = [min(range(len(b)), key=lambda t: float(((q - b[t]) ** 2).sum())) for q in a]
            expected = stats.kendalltau(range(len(a)), nearest).statistic
            assert i == j or found[i, j] == pytest.approx(expected, abs=1e-12)
    assert np.isnan(np.diag(found)).all()
    assert kendalls_tau(embs, stride=2) == pytest.approx(np.nanmean(found))


def test_tau_leaves_out_pairs_that_have_none():
    forward = np.arange(6.0)[:, None]
    still = np.zeros((6, 1))
    found = tau_matrix([forward, still, forward[:1]])
    assert np.isnan(found[0, 1])  # all match the first of equal frames
    assert np.isnan(found[2]).all()  # one frame
    assert np.isnan(kendalls_tau([forward]))
    assert np.isnan(kendalls_tau([]))
    assert kendalls_tau([forward, forward[::-1], still, forward[:1]]) == -1.0


def slow_precision(embs, labels, k):
    means = []
    for i, (query, truth) in enumerate(zip(embs, labels, strict=True)):
        bank = [(j, t) for j in range(len(embs)) if j != i for t in range(len(embs[j]))]
        shares = []
        for q, own in zip(query, truth, strict=True):
            # sorted is stable: earlier videos and frames first
            order = sorted(bank, key=lambda at: float(((q - embs[at[0]][at[1]]) ** 2).sum()))[:k]
            shares.append(sum(labels[j][t] == own for j, t in order) / len(order))
        means.append(sum(shares) / len(shares))
    return sum(means) / len(means)


def test_frame_precision_against_a_slow_version():
    embs, labels = made(1)
    embs = [np.round(e * 2) for e in embs]  # ties
    found = frame_precision(embs, labels, ks=(1, 5, 1000))
    for k, value in found.items():
        assert value == pytest.approx(slow_precision(embs, labels, k), abs=1e-12)


def test_frame_precision_needs_two_videos():
    embs, labels = made(1)
    assert math.isnan(frame_precision(embs[:1], labels[:1])[5])
    empty = [embs[0], embs[1][:0]], [labels[0], labels[1][:0]]
    assert math.isnan(frame_precision(*empty)[5])
    assert frame_precision([embs[0]] * 2, [labels[0]] * 2, ks=(1,))[1] == 1.0


def slow_event(labels, k):
    """The rule for a missing phase, as the sheet words it."""
    for i in range(1, len(labels)):
        if labels[i] > k:
            return i - 1 if labels[i - 1] == k else i
    return len(labels) - 1


@pytest.mark.parametrize("labels", [[0, 0, 2, 2, 3], [1, 1, 2], [3, 3], [0], [0, 0, 0, 1]])
def test_progress_with_missing_phases(labels):
    found = progress_targets(labels, 4)
    for k in range(3):
        own = [t for t, phase in enumerate(labels) if phase == k]
        event = own[-1] if own else slow_event(labels, k)
        expected = [(t - event) / len(labels) for t in range(len(labels))]
        np.testing.assert_allclose(found[:, k], expected, atol=1e-15)


def test_progression_is_that_of_scikit_learn():
    from sklearn.linear_model import LinearRegression

    train, val = made(2, lengths=(15, 20, 18)), made(3)
    found = phase_progression(*train, *val, num_phases=3)
    x, y = np.concatenate(train[0]), np.concatenate([progress_targets(p, 3) for p in train[1]])
    vx, vy = np.concatenate(val[0]), np.concatenate([progress_targets(p, 3) for p in val[1]])
    scores = [LinearRegression().fit(x, y[:, k]).score(vx, vy[:, k]) for k in range(2)]
    assert found.val == pytest.approx(np.mean(scores), abs=1e-5)


def test_progression_is_not_clipped_and_may_be_undefined():
    train, val = made(2), made(3)
    noise = [np.random.default_rng(v).normal(size=e.shape) * 50 for v, e in enumerate(val[0])]
    assert phase_progression(*train, noise, val[1], num_phases=3).val < -1
    assert math.isnan(phase_progression(*train, *val, num_phases=1).val)
    assert math.isnan(phase_progression(*train, [], [], num_phases=3).val)
    still = [e[:1] for e in val[0]], [p[:1] * 0 for p in val[1]]
    assert math.isnan(phase_progression(*train, *still, num_phases=3).val)


@pytest.mark.parametrize("kind", ["linear", "svm"])
def test_one_phase_in_the_training_share_is_not_defined(kind):
    train, val = made(0), made(1)
    train[1][0][:] = 1
    assert math.isnan(phase_accuracy(*train, *val, fraction=0.1, classifier=kind).val)
    assert phase_accuracy(*train, *val, classifier=kind).val > 0.7
    assert math.isnan(phase_accuracy(*train, [], [], classifier=kind).val)


def test_frames_without_label_or_with_nan_are_left_out():
    train, val = made(0), made(1)
    expected = phase_accuracy(*train, *val)
    more = [np.concatenate([e, np.full((2, 4), np.nan), np.ones((2, 4))]) for e in train[0]]
    labels = [np.concatenate([p, [0, 1], [-1, -1]]) for p in train[1]]
    assert phase_accuracy(more, labels, *val) == expected
    assert phase_progression(more, labels, *val, num_phases=3).val == pytest.approx(
        phase_progression(*train, *val, num_phases=3).val
    )


def test_few_shots_are_the_permutations_of_the_old_generator():
    train, val = made(0, noise=1.0), made(1, noise=1.0)
    found = few_shot_accuracy(*train, *val, shots=(1, 3), num_episodes=4)
    rng = np.random.RandomState(42)
    for own, shot in zip(found, (1, 3), strict=True):
        for accuracy in own.accuracies:
            chosen = rng.permutation(4)[:shot]
            expected = phase_accuracy(
                *([part[v] for v in chosen] for part in train), *val, classifier="svm"
            )
            np.testing.assert_equal(accuracy, expected.val)
    values = found[1].accuracies
    low, high = stats.t.interval(0.95, 3, loc=values.mean(), scale=stats.sem(values))
    assert found[1].mean - found[1].half_width == pytest.approx(low)
    assert found[1].mean + found[1].half_width == pytest.approx(high)


def test_few_shot_episodes_with_one_phase_do_not_count():
    train, val = made(0), made(1)
    for labels in train[1][:2]:
        labels[:] = 0
    own = few_shot_accuracy(*train, *val, shots=(1,), num_episodes=30)[0]
    assert 0 < np.isnan(own.accuracies).sum() < 30
    assert own.mean == pytest.approx(np.nanmean(own.accuracies))


def test_frame_probe_against_a_torch_loop():
    import torch

    (embs, labels), val = made(0, lengths=(9, 14, 11, 20, 7)), made(1)
    labels[1][:3] = -1
    rng = np.random.default_rng(0)
    start = rng.normal(size=(3, 4)), rng.normal(size=3)
    schedule = ProbeSchedule(epochs=3, lr=0.5, weight_decay=0.1, videos_per_batch=2, shuffle=False)
    fit = train_frame_probe(embs, labels, start=start, schedule=schedule)
    layer = torch.nn.Linear(4, 3).double()
    with torch.no_grad():
        layer.weight.copy_(torch.tensor(start[0]))
        layer.bias.copy_(torch.tensor(start[1]))
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.5, momentum=0.9, weight_decay=0.1)
    losses = []
    for epoch in range(3):
        optimizer.param_groups[0]["lr"] = 0.5 * (1 + math.cos(math.pi * epoch / 3)) / 2
        for begin in (0, 2):
            x = torch.tensor(np.concatenate(embs[begin : begin + 2])).double()
            y = torch.tensor(np.concatenate(labels[begin : begin + 2]))
            loss = torch.nn.functional.cross_entropy(layer(x), y, ignore_index=-1)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    np.testing.assert_allclose(fit.losses, losses, rtol=1e-6)
    np.testing.assert_allclose(fit.weight, layer.weight.detach(), rtol=1e-6)
    right = layer(torch.tensor(np.concatenate(val[0])).double()).argmax(1).numpy()
    assert frame_accuracy(fit, *val) == (right == np.concatenate(val[1])).mean()


def test_frame_probe_with_fewer_videos_than_a_batch_still_learns():
    train, val = made(0, lengths=(30, 30), noise=0.05), made(1, noise=0.05)
    start = np.zeros((3, 4)), np.zeros(3)
    schedule = ProbeSchedule(epochs=30, lr=1.0)
    fit = train_frame_probe(*train, start=start, schedule=schedule, rng=np.random.default_rng(0))
    assert len(fit.losses) == 30
    assert frame_accuracy(fit, *val) > 0.9
    assert math.isnan(frame_accuracy(fit, [], []))


@pytest.mark.parametrize(
    ("given", "frames"), [(7, 7), (20, 7), (13, 12), (7, 20), (12, 13), (1, 5)]
)
def test_resampled_labels_follow_the_rule_where_it_takes_frames(given, frames):
    labels = np.arange(given)
    found = resampled_labels(labels, frames)
    assert found.shape == (frames,)
    if given >= frames:
        assert found.tolist() == [labels[j * given // frames] for j in range(frames)]
    else:
        taken = [j * frames // given for j in range(given)]
        assert found[taken].tolist() == labels.tolist()
        assert (np.diff(found) >= 0).all()
    assert resampled_labels([], 3).tolist() == [-1, -1, -1]


def test_position_is_carls_encoding():
    found = position_features(np.arange(10) / 10, width=6, span=80)
    for t in range(10):
        waves = [(math.sin, math.cos)[c % 2](8.0 * t / 10000 ** (c / 6)) for c in range(6)]
        np.testing.assert_allclose(found[t], np.array(waves) / np.linalg.norm(waves), atol=1e-6)


def test_the_share_of_training_videos():
    assert [first_share(20, f) for f in (0.01, 0.1, 0.5, 1.0)] == [1, 2, 10, 20]
    # Was seen by no test: rounded instead of cut.
    assert [first_share(19, 0.1), first_share(11, 0.5), first_share(7, 0.99)] == [1, 5, 6]
    assert first_share(0, 1.0) == 0
