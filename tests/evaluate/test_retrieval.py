"""Clip retrieval against a naive loop, what is left out of it, and the text of every error."""

from __future__ import annotations

import json
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from video_ssl.embed.feature_writer import FeatureWriter
from video_ssl.embed.features import FeatureError, features_from_arrays
from video_ssl.evaluate import metrics
from video_ssl.evaluate.contract import Given
from video_ssl.evaluate.neighbours import nearest_neighbours, unit_rows
from video_ssl.evaluate.recipe import load_evaluate_recipe
from video_ssl.evaluate.retrieval import Retrieval, retrieve_files
from video_ssl.evaluate.retrieval_config import RetrievalConfig, RetrieveConfig


def made(rng, *, videos, clips, width=6, classes=4, prefix="v", labels=None):
    ids = np.repeat([f"{prefix}{v}" for v in range(videos)], clips)
    labels = rng.integers(0, classes, videos) if labels is None else np.asarray(labels)
    return features_from_arrays(
        {
            "features": rng.normal(size=(videos * clips, width)).astype(np.float32),
            "labels": np.repeat(labels, clips),
            "ids": ids,
            "groups": np.repeat([f"g{v // 2}" for v in range(videos)], clips),
        }
    )


def by_hand(gallery, queries, ks, *, exclude="ids"):
    """R@k and mean average precision, one query and one gallery video at a time."""

    def videos(file):
        found = {}
        for row, key in enumerate(file.ids):
            found.setdefault(key, []).append(row)
        for key, rows in found.items():
            vector = file.features[rows].astype(np.float64).mean(0)
            apart = key if exclude == "ids" else file.groups[rows[0]]
            yield apart, file.labels[rows[0]], vector / np.linalg.norm(vector)

    hits, precisions = dict.fromkeys(ks, 0), []
    bank, asked = list(videos(gallery)), list(videos(queries))
    for key, label, vector in asked:
        others = [(-float(vector @ v), n) for n, (k, _, v) in enumerate(bank) if k != key]
        ranked = [bank[n][1] == label for _, n in sorted(others)]
        for k in ks:
            hits[k] += any(ranked[:k])
        ranks = [rank for rank, right in enumerate(ranked, 1) if right]
        if ranks:
            precisions.append(np.mean([(n + 1) / rank for n, rank in enumerate(ranks)]))
    return {k: hits[k] / len(asked) for k in ks}, float(np.mean(precisions)) if precisions else None


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 12), st.integers(2, 25), st.integers(1, 3))
def test_recall_and_precision_are_those_of_a_naive_loop(seed, asked, videos, clips):
    rng = np.random.default_rng(seed)
    queries = made(rng, videos=asked, clips=clips, prefix="q")
    gallery = made(rng, videos=videos, clips=clips)
    config = RetrievalConfig(ks=(1, 2, 5, 40), mean_ap=True, chunk=4)
    result = Retrieval(config).evaluate(Given(gallery, queries))
    recall, precision = by_hand(gallery, queries, config.ks)
    assert {k: result.metrics[f"R@{k}"] for k in config.ks} == pytest.approx(recall)
    if precision is None:
        assert np.isnan(result.metrics["mAP"])
    else:
        assert result.metrics["mAP"] == pytest.approx(precision)
    assert result.correct == round(recall[1] * asked)


@pytest.mark.parametrize("exclude", ["video", "group"])
def test_a_video_never_finds_itself(exclude):
    """The queries are the gallery: without leaving out, every one would find itself first."""
    rng = np.random.default_rng(3)
    gallery = made(rng, videos=20, clips=2, classes=3)
    config = RetrievalConfig(ks=(1, 5), keep=3, exclude=exclude, mean_ap=True, chunk=7)
    result = Retrieval(config).evaluate(Given(gallery, gallery))
    recall, precision = by_hand(
        gallery, gallery, (1, 5), exclude="ids" if exclude == "video" else "groups"
    )
    assert result.metrics["R@1"] == recall[1] < 0.8
    assert result.metrics["mAP"] == pytest.approx(precision)
    assert "20 queries are in the gallery too; none finds itself" in result.notes
    for entry in result.details["nearest"]:
        assert entry["id"] not in [near["id"] for near in entry["nearest"]]
        values = [near["similarity"] for near in entry["nearest"]]
        assert values == sorted(values, reverse=True)


def test_a_class_without_a_second_video_is_missed_and_told():
    rng = np.random.default_rng(0)
    gallery = made(rng, videos=6, clips=1, labels=[0, 0, 1, 1, 1, 2])
    result = Retrieval(RetrievalConfig(ks=(5,))).evaluate(Given(gallery, gallery))
    assert result.metrics["R@5"] == pytest.approx(5 / 6)
    assert any("1 queries have no other video of their class" in note for note in result.notes)


def test_equal_clips_are_one_video_however_many_there_are():
    """The mean of the clips, not of the similarities: a second equal clip changes nothing."""
    rng = np.random.default_rng(1)
    queries, gallery = made(rng, videos=5, clips=1, prefix="q"), made(rng, videos=9, clips=1)
    twice = features_from_arrays(
        {
            "features": np.repeat(gallery.features, 2, axis=0),
            "labels": np.repeat(gallery.labels, 2),
            "ids": np.repeat(gallery.ids.astype(str), 2),
        }
    )
    evaluator = Retrieval(RetrievalConfig(mean_ap=True))
    assert (
        evaluator.evaluate(Given(twice, queries)).metrics
        == evaluator.evaluate(Given(gallery, queries)).metrics
    )


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 6), st.integers(0, 8), st.integers(1, 10), st.integers(0, 2**31))
def test_chance_is_that_of_random_orders(relevant, others, k, seed):
    rng = np.random.default_rng(seed)
    if relevant + others == 0:
        return
    flags = np.arange(relevant + others) < relevant
    drawn = np.mean([rng.permutation(flags)[:k].any() for _ in range(3000)])
    found = metrics.chance_recall_at(np.array([relevant]), np.array([others]), [k])[k]
    assert found == pytest.approx(drawn, abs=0.05)


def test_neighbours_do_not_depend_on_the_blocks():
    rng = np.random.default_rng(2)
    bank, asked = unit_rows(rng.normal(size=(50, 5))), unit_rows(rng.normal(size=(23, 5)))
    bank[7] = bank[31]
    keys = {"query_keys": np.arange(23), "bank_keys": np.arange(100, 150)}
    whole = nearest_neighbours(asked, bank, **keys, k=9, chunk=1000)
    for chunk in (1, 3, 10):
        parts = nearest_neighbours(asked, bank, **keys, k=9, chunk=chunk)
        np.testing.assert_array_equal(parts[1], whole[1])
        np.testing.assert_allclose(parts[0], whole[0], atol=1e-6)


def test_memory_is_that_of_a_block_and_not_of_all_pairs(tmp_path):
    rng = np.random.default_rng(0)
    bank = unit_rows(rng.normal(size=(6000, 8)).astype(np.float32))
    keys = np.arange(6000)
    tracemalloc.start()
    nearest_neighbours(bank, bank, query_keys=keys, bank_keys=keys, k=20, chunk=256)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 12e6  # all pairs would be 144 MB


def write(path, features):
    with FeatureWriter(path, embed_dim=features.embed_dim) as writer:
        for row in range(len(features)):
            writer.write(
                [
                    {
                        "id": features.ids[row],
                        "clip": row,
                        "label": int(features.labels[row]),
                        "feature": features.features[row],
                    }
                ]
            )
    return path


def test_files_are_compared_and_the_nearest_are_written(tmp_path, capsys):
    rng = np.random.default_rng(5)
    queries, gallery = made(rng, videos=7, clips=2, prefix="q"), made(rng, videos=11, clips=2)
    a, b = write(tmp_path / "q.arrow", queries), write(tmp_path / "g.arrow", gallery)
    asked = RetrieveConfig(ks=(1, 5), mean_ap=True)
    result = retrieve_files(a, b, out=tmp_path / "out" / "r.json", config=asked)
    recall, precision = by_hand(gallery, queries, (1, 5))
    content = json.loads((tmp_path / "out" / "r.json").read_text())
    assert content["metrics"] == pytest.approx(
        {"R@1": recall[1], "R@5": recall[5], "mAP": precision}
    )
    assert [entry["id"] for entry in content["nearest"]] == [f"q{v}" for v in range(7)]
    assert all(len(entry["nearest"]) == 5 for entry in content["nearest"])
    assert result.details["query_videos"] == 7
    printed = capsys.readouterr().out
    assert "7 queries in 11 videos" in printed
    assert f"{100 * recall[5]:.1f}" in printed


def test_it_is_an_evaluator_of_recipes():
    recipe = load_evaluate_recipe("probe", ["evaluators={retrieval: {ks: [1, 10]}}"])
    assert recipe.make_evaluators()["retrieval"].config.ks == (1, 10)


def test_what_cannot_be_compared_is_told(tmp_path):
    rng = np.random.default_rng(0)
    gallery = made(rng, videos=5, clips=1)
    with pytest.raises(FeatureError, match="queries have 3 numbers, the gallery 6: embed both"):
        Retrieval(RetrievalConfig()).evaluate(Given(gallery, made(rng, videos=2, clips=1, width=3)))
    bare = features_from_arrays({"features": np.ones((3, 6), np.float32)})
    with pytest.raises(FeatureError, match="3 of 3 clips without a label"):
        Retrieval(RetrievalConfig()).evaluate(Given(gallery, bare))
    with pytest.raises(ValueError, match="keep=0 must be at least 1: so many neighbours"):
        RetrieveConfig(keep=0)
    with pytest.raises(ValueError, match="exclude='clip' must be"):
        RetrievalConfig(exclude="clip")
    with pytest.raises(ValueError, match=r"relevant must be bool"):
        metrics.recall_at(np.zeros((2, 3)), [1])
