"""Nearest neighbours against a slow independent version, and no video ever finds itself."""

from __future__ import annotations

import math

import numpy as np
import pytest

from video_ssl.embed.features import features_from_arrays
from video_ssl.evaluate.contract import Given
from video_ssl.evaluate.knn import KNNConfig, NearestNeighbours


def made(seed, videos, *, clips=1, noise=1.0, groups=None, prefix=""):
    rng = np.random.default_rng(seed)
    labels = np.arange(videos) % 4
    centres = np.random.default_rng(3).normal(size=(4, 6))
    x = centres[np.repeat(labels, clips)] + noise * rng.normal(size=(videos * clips, 6)) + 5.0
    columns = {
        "features": x.astype(np.float32),
        "labels": np.repeat(labels, clips),
        "ids": np.repeat([f"{prefix}{seed}-{v}" for v in range(videos)], clips),
    }
    if groups is not None:
        columns["groups"] = np.repeat(groups, clips)
    return features_from_arrays(columns)


def unit(v):
    return v / math.sqrt(sum(float(e) ** 2 for e in v))


def slow_video_vectors(features, mean):
    out = {}
    for name in dict.fromkeys(features.ids):
        rows = [r for r in range(len(features)) if features.ids[r] == name]
        out[name] = unit(np.mean([unit(features.features[r] - mean) for r in rows], axis=0))
    return out


def slow_scores(queries, bank, labels, excluded, k, vote, temperature):
    scores = []
    for name, q in queries.items():
        order = sorted(
            (float(-(q * b).sum()), i, other)
            for i, (other, b) in enumerate(bank.items())
            if other not in excluded(name)
        )
        votes = [0.0] * 4
        for negative, _, other in order[:k]:
            votes[labels[other]] += 1 if vote == "plain" else math.exp(-negative / temperature)
        scores.append(votes)
    return np.array(scores)


@pytest.mark.parametrize("chunk", [7, 4096])
@pytest.mark.parametrize("center", [True, False])
@pytest.mark.parametrize("clips", [1, 3])
def test_choice_and_accuracy_against_a_slow_version(chunk, center, clips):
    groups = [f"person{v % 9}" for v in range(50)]
    train, test = made(1, 50, clips=clips, groups=groups), made(2, 30, clips=clips)
    config = KNNConfig(poolings=("clip",), ks=(1, 4, 9), chunk=chunk, center=center)
    result = NearestNeighbours(config).evaluate(Given(train, test, seed=0))

    mean = train.features.mean(axis=0) if center else np.zeros(6)
    bank, queries = slow_video_vectors(train, mean), slow_video_vectors(test, mean)
    labels = dict(zip(train.ids, train.labels, strict=True))
    group_of = dict(zip(train.ids, train.groups, strict=True))
    truth = np.array([labels[name] for name in bank])
    for entry in result.details["grid"]:
        scores = slow_scores(
            bank,
            bank,
            labels,
            lambda name: {n for n in bank if group_of[n] == group_of[name]},
            entry["k"],
            entry["vote"],
            0.07,
        )
        assert entry["left_out_top1"] == pytest.approx((scores.argmax(1) == truth).mean())
    chosen = result.chosen
    scores = slow_scores(queries, bank, labels, lambda _: set(), chosen["k"], chosen["vote"], 0.07)
    expected = (scores.argmax(1) == np.arange(30) % 4).sum()
    assert result.correct == expected
    assert chosen["left_out_top1"] == max(e["left_out_top1"] for e in result.details["grid"])


@pytest.mark.parametrize("chunk", [1, 3, 16, 17, 1000])
def test_neighbours_do_not_depend_on_the_chunk(chunk):
    rng = np.random.default_rng(0)
    bank = rng.integers(-2, 3, (40, 5)).astype(np.float32)  # whole numbers: products are exact
    queries, keys = bank[:17], np.arange(40).astype(str)
    small = NearestNeighbours(KNNConfig(ks=(6,), chunk=chunk))
    similar, rows = small._neighbours(queries, bank, keys[:17], keys)
    whole = NearestNeighbours(KNNConfig(ks=(6,), chunk=10_000))
    expected = whole._neighbours(queries, bank, keys[:17], keys)
    np.testing.assert_array_equal(rows, expected[1])
    np.testing.assert_array_equal(similar, expected[0])


def test_no_video_finds_itself():
    """Features that tell videos apart perfectly and classes not at all must give chance."""
    rng = np.random.default_rng(0)
    x = np.repeat(rng.normal(size=(80, 32)), 3, axis=0)  # three equal clips of every video
    columns = {
        "features": x,
        "labels": np.repeat(rng.integers(0, 4, 80), 3),
        "ids": np.repeat([f"v{i}" for i in range(80)], 3),
    }
    same = features_from_arrays(columns)
    config = KNNConfig(poolings=("clip",), ks=(1,))
    result = NearestNeighbours(config).evaluate(Given(same, same, seed=0))
    assert result.chosen["left_out_top1"] < 0.5
    assert result.metrics["top1"] < 0.5
    assert any("in train and in test" in note for note in result.notes)


def test_the_choice_leaves_out_the_whole_group():
    """Twins share a group and a label; only the twin is alike, so leaving it out gives chance."""
    rng = np.random.default_rng(0)
    x = np.repeat(rng.normal(size=(60, 32)), 2, axis=0) + 0.01 * rng.normal(size=(120, 32))
    labels = np.repeat(rng.integers(0, 4, 60), 2)
    columns = {
        "features": x,
        "labels": labels,
        "ids": np.array([f"v{i}" for i in range(120)]),
    }
    config = KNNConfig(poolings=("clip",), ks=(1,), votes=("plain",))
    test = made(9, 8)
    test = features_from_arrays({"features": rng.normal(size=(8, 32)), "labels": test.labels})
    alone = NearestNeighbours(config).evaluate(Given(features_from_arrays(columns), test, seed=0))
    columns["groups"] = np.repeat([f"pair{i}" for i in range(60)], 2)
    grouped = NearestNeighbours(config).evaluate(Given(features_from_arrays(columns), test, seed=0))
    assert alone.chosen["left_out_top1"] > 0.95
    assert grouped.chosen["left_out_top1"] < 0.5


def test_more_neighbours_than_videos_are_no_error():
    result = NearestNeighbours(KNNConfig(poolings=("clip",), ks=(500,))).evaluate(
        Given(made(1, 12, noise=0.1), made(2, 8, noise=0.1), seed=0)
    )
    assert result.total == 8


@pytest.mark.parametrize(
    ("settings", "text"),
    [({"ks": (0,)}, "ks"), ({"temperature": 0.0}, "temperature=0.0"), ({"votes": ()}, "votes")],
)
def test_settings_that_cannot_be_used(settings, text):
    with pytest.raises(ValueError, match=text):
        KNNConfig(**settings)
