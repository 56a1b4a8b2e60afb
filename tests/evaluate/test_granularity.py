"""Accuracy over coarse classes and within the right one: by hand, from files to the table, and what cannot be asked."""

from __future__ import annotations

import numpy as np
import pytest

from video_ssl.datasets.demo.actions import TWINS
from video_ssl.datasets.opening import resolve_recipe
from video_ssl.embed.features import FeatureError, features_from_arrays
from video_ssl.evaluate import metrics
from video_ssl.evaluate.contract import Given
from video_ssl.evaluate.granularity import parents_of
from video_ssl.evaluate.probe import LinearProbe, ProbeConfig
from video_ssl.evaluate.recipe import load_evaluate_recipe
from video_ssl.recipes import ConfigError, read_recipe

NAMES = ("sit", "stand", "eat", "jump")
COARSE = {"posture": ("sit", "stand")}


def made(seed, count, *, order, names=NAMES, classes=4):
    """Sit and stand differ by `order` only; eat and jump are far from everything."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % classes
    x = 0.3 * rng.normal(size=(count, 6))
    x[np.arange(count), np.maximum(labels, 1)] += 6
    x[:, 5] += order * np.where(labels == 0, 1, -1) * (labels < 2)
    return features_from_arrays(
        {
            "features": x.astype(np.float32),
            "labels": np.array(names)[labels] if names else labels,
            "ids": [f"{seed}-{i}" for i in range(count)],
        }
    )


def probed(train, test, coarse=COARSE):
    config = ProbeConfig(poolings=("clip",), learning_rates=(1e-2,), epochs=30, coarse=coarse)
    return LinearProbe(config).evaluate(Given(train, test, seed=0))


def test_both_measures_by_hand():
    scores = np.array(
        [
            [0.4, 0.3, 0.2, 0.1],  # sit, right
            [0.4, 0.3, 0.2, 0.1],  # stand: the group is right, the order is not
            [0.0, 0.2, 0.7, 0.1],  # stand, taken for eat, but more like standing than sitting
            [0.3, 0.3, 0.2, 0.2],  # eat, taken for sit
            [0.1, 0.1, 0.7, 0.1],  # of an unknown class
        ]
    )
    labels, parents = np.array([0, 1, 1, 2, -1]), np.array([0, 0, 1, 2])
    assert metrics.coarse_accuracy(scores, labels, parents) == 2 / 5
    assert metrics.within_accuracy(scores, labels, parents) == 2 / 3
    assert np.isnan(metrics.within_accuracy(scores[3:], labels[3:], parents))
    # of equal scores within a group the first class counts, as everywhere
    assert metrics.within_accuracy(scores[3:4], np.array([1]), parents) == 0.0


@pytest.mark.parametrize(("order", "low", "high"), [(0, 0.3, 0.7), (3, 0.99, 1.0)])
def test_poses_and_their_order_are_told_apart(order, low, high):
    """Catches `within` that is the accuracy, and `coarse` that asks for the class."""
    result = probed(made(1, 400, order=order), made(2, 200, order=order))
    assert result.metrics["coarse"] > 0.99
    assert low <= result.metrics["within"] <= high
    assert result.metrics["top1"] == pytest.approx((1 + result.metrics["within"]) / 2, abs=0.02)
    assert result.details["chance"] == {"coarse": 3 / 8, "within": 0.5}
    plain = probed(made(1, 400, order=order), made(2, 200, order=order), {})
    assert set(result.metrics) - set(plain.metrics) == {"coarse", "within"}
    assert plain.metrics["top1"] == result.metrics["top1"]


def test_files_that_number_their_classes_differently():
    """Catches groups that go by the numbers of the other file."""
    train = made(1, 400, order=3)
    test = made(2, 200, order=3, names=NAMES)
    fewer = made(3, 200, order=3, classes=2)
    assert train.metadata["class_names"] != fewer.metadata["class_names"]
    assert probed(train, fewer).metrics["within"] > 0.99
    assert probed(train, test).details["parents"] == [0, 1, 2, 2]  # eat, jump, sit, stand


def test_groups_that_cannot_be():
    train, test = made(1, 60, order=1), made(2, 40, order=1)
    with pytest.raises(FeatureError, match=r"coarse\.posture: no class 'stnd' among 4.*'stand'"):
        probed(train, test, {"posture": ("sit", "stnd")})
    numbered = made(1, 60, order=1, names=None), made(2, 40, order=1, names=None)
    with pytest.raises(FeatureError, match="have no names of classes"):
        probed(*numbered)
    for coarse, text in (
        ("{a: [sit], b: [sit]}", "class 'sit' is in a and in b: name it once"),
        ("{a: []}", r"coarse\.a is empty"),
    ):
        words = ["encoder=x", f"evaluators.probe.coarse={coarse}"]
        with pytest.raises(ConfigError, match=text):
            load_evaluate_recipe("probe", words)
    assert parents_of({"a": ["sit"]}, NAMES, np.array([1, 2])).tolist() == [0, 1]


def test_the_demo_recipe_names_the_twins_of_the_generated_videos():
    """Catches a pair that is renamed in the generator, and another domain that is not another one."""
    recipe = load_evaluate_recipe("demo_shift", ["encoder=x"])
    coarse = recipe.evaluators["probe"]["coarse"]
    assert sorted(map(tuple, coarse.values())) == sorted(TWINS)
    assert recipe.train == "demo:train"
    around, plain = (read_recipe(name, room="datasets") for name in ("demo_around", "demo"))
    assert around["nuisances"] == {"view": 2.6}
    different = {key for key in {*around, *plain} if around.get(key) != plain.get(key)}
    assert different == {"nuisances", "root"}
    assert len({resolve_recipe(name)[1] for name in ("demo_around", "demo")}) == 2
