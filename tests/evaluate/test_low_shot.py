"""Low-shot: which labels are used, what stands at 100 %, single videos of a class, and what cannot be asked."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats
from untrained_run import untrained_run

from video_ssl.embed.features import FeatureError, FeatureFile, features_from_arrays
from video_ssl.evaluate.contract import Given
from video_ssl.evaluate.knn import KNNConfig, NearestNeighbours
from video_ssl.evaluate.label_curve import (
    Budget,
    budgets,
    curve_point,
    curve_result,
    drawn_parts,
    shuffled_by_class,
)
from video_ssl.evaluate.low_shot import LowShot, LowShotConfig
from video_ssl.evaluate.metrics import t_half_width, wilson_interval
from video_ssl.evaluate.probe import LinearProbe, ProbeConfig
from video_ssl.evaluate.recipe import load_evaluate_recipe
from video_ssl.evaluate.run import evaluate
from video_ssl.recipes import ConfigError

QUICK = LowShotConfig(
    shares=(0.02, 0.1, 1.0),
    draws=3,
    probe=ProbeConfig(
        poolings=("mean", "clip"), learning_rates=(1e-2, 1e-3), weight_decays=(0.01,), epochs=20
    ),
    knn=KNNConfig(poolings=("mean",), ks=(1, 5)),
)


def made(seed, labels, *, noise=2.0, clips=2, spoil=()) -> FeatureFile:
    """Features of classes around their centres; those of the videos `spoil` mean nothing."""
    rng = np.random.default_rng(seed)
    labels = np.asarray(labels)
    centres = np.random.default_rng(99).normal(size=(8, 12))
    frames = noise * rng.normal(size=(len(labels), clips, 3, 12)) + centres[labels][:, None, None]
    frames[list(spoil)] = 1e6 * rng.normal(size=(len(spoil), clips, 3, 12))
    flat = frames.reshape(-1, 3, 12)
    ids = np.repeat([f"{seed}-{v}" for v in range(len(labels))], clips)
    return features_from_arrays(
        {
            "features": flat.mean(axis=1),
            "frame_features": flat,
            "labels": np.repeat(labels, clips),
            "ids": ids,
        }
    )


def run(train, test, config=QUICK, seed=0):
    return LowShot(config).evaluate(Given(train, test, seed=seed))


def point(result, head, budget):
    (found,) = [p for p in result.details["curve"] if (p["head"], p["budget"]) == (head, budget)]
    return found


TRAIN, TEST = np.arange(200) % 4, np.arange(120) % 4


def test_more_labels_give_more_and_all_of_them_what_probe_and_knn_give():
    """Catches other parts than asked for, and heads that are not those of the other evaluators."""
    train, test = made(1, TRAIN), made(2, TEST)
    result = run(train, test, seed=5)
    for head in ("probe", "knn"):
        means = [result.metrics[f"{head} {b}"] for b in ("2 %", "10 %", "100 %")]
        assert means[0] < means[1] < means[2]
        assert means[0] > 1 / 4
        assert means[0] < result.metrics[f"{head} area"] < means[2]
    probe = LinearProbe(QUICK.probe).evaluate(Given(train, test, seed=5))
    knn = NearestNeighbours(QUICK.knn).evaluate(Given(train, test, seed=5))
    assert result.metrics["probe 100 %"] == probe.metrics["top1"]
    assert result.metrics["knn 100 %"] == knn.metrics["top1"]
    assert point(result, "probe", "100 %")["draws"][0]["chosen"] == probe.chosen
    assert [d["labels"] for d in point(result, "probe", "2 %")["draws"]] == [4, 4, 4]
    assert [d["labels"] for d in point(result, "knn", "10 %")["draws"]] == [20, 20, 20]
    assert len(point(result, "knn", "100 %")["draws"]) == 1
    assert result.details["chance"]["probe 2 %"] == 1 / 4


def test_mean_and_intervals_are_those_of_the_draws():
    result = run(made(1, TRAIN), made(2, TEST))
    low = point(result, "probe", "10 %")
    values = np.array([draw["top1"] for draw in low["draws"]])
    assert len(set(values)) > 1  # the draws are different videos
    assert [draw["seed"] for draw in low["draws"]] == [0, 1, 2]
    assert result.metrics["probe 10 %"] == pytest.approx(values.mean())
    assert low["std"] == pytest.approx(values.std(ddof=1))
    ends = stats.t.interval(0.95, 2, loc=values.mean(), scale=stats.sem(values))
    expected = np.clip(ends, 0, 1)
    assert result.details["probe 10 %_interval_95"] == pytest.approx(list(expected))
    whole = point(result, "probe", "100 %")
    assert math.isnan(whole["std"])
    assert whole["interval"] == list(wilson_interval(whole["draws"][0]["correct"], 120))


def test_area_is_the_mean_over_the_logarithm_of_the_number_of_labels():
    result = run(made(1, TRAIN), made(2, TEST))
    a, b, c = (result.metrics[f"knn {name}"] for name in ("2 %", "10 %", "100 %"))
    # 4, 20 and 200 labels: log 5 and log 10 wide
    wide = math.log(5) * (a + b) / 2 + math.log(10) * (b + c) / 2
    assert result.metrics["knn area"] == pytest.approx(wide / math.log(50))


@pytest.mark.parametrize("head", ["probe", "knn"])
def test_no_video_beyond_the_drawn_ones_is_looked_at(head):
    """Catches a choice, a mean or a standard deviation that is taken of all training videos."""
    config = replace(QUICK, shares=(), per_class=(3,), draws=1, heads=(head,))
    drawn = [part[:3] for part in shuffled_by_class(TRAIN, np.random.RandomState(7))]
    others = np.setdiff1d(np.arange(200), np.concatenate(drawn))
    test = made(2, TEST)
    expected = run(made(1, TRAIN), test, config, seed=7)
    assert run(made(1, TRAIN, spoil=others), test, config, seed=7) == expected
    spoilt = run(made(1, TRAIN, spoil=drawn[0]), test, config, seed=7)
    assert spoilt.metrics != expected.metrics


def test_parts_of_one_draw_lie_within_each_other_and_every_class_is_there():
    labels = np.array([0] * 50 + [3] * 30 + [7])  # one video of a class
    asked = budgets(QUICK.shares, (2, 40))
    taken = {b.name: next(drawn_parts(b, labels, seed=3, draws=1)) for b in asked}
    sizes = {
        name: np.bincount(labels[rows], minlength=8)[[0, 3, 7]].tolist()
        for name, (_, rows, _, _) in taken.items()
    }
    assert sizes == {
        "2 %": [1, 1, 1],
        "10 %": [5, 3, 1],
        "100 %": [50, 30, 1],
        "2 a class": [2, 2, 1],
        "40 a class": [40, 30, 1],
    }
    assert set(taken["2 %"][1]) < set(taken["2 a class"][1]) < set(taken["10 %"][1])


def test_with_one_video_of_each_class_the_first_of_every_list_is_taken_and_told():
    result = run(made(1, TRAIN), made(2, TEST))
    for head, first in (("probe", {"pooling": "mean", "learning_rate": 1e-2}), ("knn", {"k": 1})):
        for draw in point(result, head, "2 %")["draws"]:
            assert first.items() <= draw["chosen"].items()
    told = [note for note in result.notes if "one labelled video of each class" in note]
    assert len(told) == 1
    assert told[0].startswith("at 2 %")


def test_classes_of_one_video_and_classes_that_train_lacks():
    """Was an error of the linear probe alone: nothing can be held out of single videos."""
    train = made(1, [0] * 20 + [1] * 20 + [2])
    test = made(2, [0, 1, 2] * 10 + [5] * 6)
    result = run(train, test)
    assert point(result, "probe", "10 %")["labels"] == 5
    assert point(result, "probe", "10 %")["draws"][0]["smallest_class"] == 1
    unknown = [note for note in result.notes if "classes that train does not have" in note]
    assert unknown == ["6 test videos are of classes that train does not have: wrong"]
    assert result.metrics["probe 100 %"] <= 30 / 36
    single = run(made(1, [0, 1, 2]), test)  # at every share one of each
    assert {p["labels"] for p in single.details["curve"]} == {3}
    assert single.metrics["probe area"] == single.metrics["probe 100 %"]
    with pytest.raises(FeatureError, match="one class only"):
        run(made(1, [0] * 9), test)


def test_the_same_seed_gives_the_same_numbers():
    train, test = made(1, TRAIN), made(2, TEST)
    first = run(train, test, seed=2)
    again = run(train, test, seed=2)
    assert again.metrics == first.metrics
    assert run(train, test, seed=3).metrics["probe 2 %"] != first.metrics["probe 2 %"]


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"shares": ()}, "shares and per_class are both empty"),
        ({"shares": (0.0,)}, r"shares=\(0.0,\) must lie above 0 and up to 1"),
        ({"shares": (0.1, 1.5)}, "up to 1"),
        ({"shares": (-0.1,)}, "above 0"),
        ({"shares": (math.nan,)}, "above 0"),
        ({"per_class": (0,)}, r"per_class=\(0,\) must be numbers of at least 1"),
        ({"draws": 0}, "draws=0 must be at least 1"),
        ({"heads": ()}, "heads is empty"),
    ],
)
def test_settings_that_cannot_be_used(settings, text):
    with pytest.raises(ValueError, match=text):
        LowShotConfig(**settings)


def test_a_probe_that_chooses_nothing_trains_the_first_of_every_list():
    train, test = made(1, TRAIN), made(2, TEST)
    plain = replace(QUICK.probe, held_out_share=0.0)
    alone = replace(QUICK.probe, poolings=("mean",), learning_rates=(1e-2,))
    found, expected = (LinearProbe(c).evaluate(Given(train, test)) for c in (plain, alone))
    assert found.metrics == expected.metrics
    assert found.details["confusion"] == expected.details["confusion"]
    assert found.details["held_out_videos"] == 0
    with pytest.raises(ValueError, match="refit=false needs a held_out_share"):
        replace(plain, refit=False)


@pytest.mark.parametrize("count", [2, 3, 4, 5, 6, 11, 40, 101])
def test_t_intervals_are_those_of_scipy(count):
    values = np.random.default_rng(count).normal(size=count)
    low, high = stats.t.interval(0.95, count - 1, loc=values.mean(), scale=stats.sem(values))
    assert t_half_width(values) == pytest.approx((high - low) / 2, rel=1e-9)
    assert math.isnan(t_half_width(values[:1]))


def test_some_clips_of_a_file():
    """Catches rows in another order, lost frame features, and a file that is another one than before."""
    features = made(1, TRAIN)
    rows = np.array([7, 3, 200])
    part = features.select(rows)
    np.testing.assert_array_equal(part.features, features.features[rows])
    for place, row in enumerate(rows):
        np.testing.assert_array_equal(part.frames(place)[0], features.frames(row)[0])
    assert part.ids.tolist() == features.ids[rows].tolist()
    assert part.metadata == features.metadata
    assert part.path == features.path


def test_the_demo_recipe_from_videos_to_the_table(videos, tmp_path, capsys):
    """The classes are colors: raw pixels tell them from one video each."""
    encoder = untrained_run(tmp_path / "my 'toy' run")
    words = [
        f"encoder={encoder}",
        f"train={videos / 'train.arrow'}",
        f"test={videos / 'test.arrow'}",
        "embed.num_workers=0",
        "device=cpu",
        "evaluators.low_shot.probe.epochs=20",
        "evaluators.low_shot.shares=[0.01,1.0]",
        "evaluators.low_shot.draws=2",
    ]
    evaluate(load_evaluate_recipe("demo_low_shot", words))
    text = (encoder / "evaluate" / "demo_low_shot" / "results.json").read_text()
    found = json.loads(text)["encoders"]
    assert list(found) == ["encoder", "untrained", "pixels", "hog_order"]
    metrics = found["pixels"]["results"]["low_shot"]["metrics"]
    assert metrics["probe 1 %"] == metrics["probe 100 %"] == metrics["knn 1 %"] == 1.0
    printed = capsys.readouterr().out
    assert "low_shot probe 1 %" in printed
    assert "names, from 3 and from 12 labels, the class of" in printed
    assert "raw pixels 100.0 and 100.0 %" in printed
    assert "guessing gives 33.3 %" in printed


def test_one_share_is_said_once():
    """Was wrong: "from 88 and from 88 labels, the class of 11.3 and 11.3 %"."""
    draws = [{"top1": 0.25, "correct": 1, "labels": 88}]
    point = curve_point("probe", Budget(0.1, each=False), draws, 4)
    found = curve_result([point], num_classes=14, total=4, notes=(), details={})
    assert found.statement == "names, from 88 labels, the class of 25.0 % of the test videos"
    assert found.details["headline"]["found"] == "25.0 %"


def test_a_share_that_cannot_be_is_told_with_its_place():
    words = ["encoder=x", "evaluators.low_shot.shares=[10]"]
    with pytest.raises(ConfigError, match=r"evaluators.low_shot: shares=\(10.0,\).*\(1 is 100 %\)"):
        load_evaluate_recipe("demo_low_shot", words)
