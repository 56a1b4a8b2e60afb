"""Temporal segmentation and counting: from feature files and tables to numbers, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest

from video_ssl.embed.feature_writer import FeatureWriter
from video_ssl.embed.features import FeatureError, open_features
from video_ssl.evaluate.contract import Given
from video_ssl.evaluate.evaluators import evaluator_class
from video_ssl.evaluate.frames.repetitions import (
    count_repetitions,
    even_frames,
    self_similarity,
)
from video_ssl.evaluate.frames.segment_metrics import (
    Segments,
    average_precisions,
    count_errors,
    edit_score,
    f1_of_counts,
    hits_and_misses,
    segments_of,
)
from video_ssl.evaluate.frames.segmentation import segmentation_scores
from video_ssl.evaluate.recipe import EvaluateRecipe
from video_ssl.evaluate.run import evaluate

WIDTH = 8


def written(path, videos, *, times=None, **metadata):
    """Videos are (id, label, features (L, D), frame labels or None); `times` (L,), else 5 frames a second."""
    with FeatureWriter(path, embed_dim=WIDTH, metadata=metadata) as writer:
        for key, label, embs, labels in videos:
            writer.write(
                [
                    {
                        "id": key,
                        "clip": 0,
                        "label": label,
                        "feature": embs.mean(axis=0),
                        "frame_features": embs.astype(np.float32),
                        "frame_times_sec": (
                            np.arange(len(embs)) / 5 if times is None else times
                        ).tolist(),
                        "frame_labels": None if labels is None else labels.tolist(),
                    }
                ]
            )
    return open_features(path)


def sessions(path, seed, *, count=12, noise=0.3):
    """Actions 0..2 in any order, of 15 to 30 frames, idleness (-1) between.

    Actions 1 and 2 have the same frames, forwards and backwards: no single frame tells them apart.
    """
    rng, videos = np.random.default_rng(seed), []
    centres = 2 * np.random.default_rng(99).normal(size=(5, WIDTH))
    for number in range(count):
        embs, labels = [], []
        for action in rng.permutation([0, 1, 2, *rng.integers(0, 3, 2)]):
            idle, length = rng.integers(6, 12), rng.integers(15, 30)
            way = np.linspace(0, 1, length)[:, None]
            way = 1 - way if action == 2 else way
            shown = centres[1] * np.ones((length, 1))
            if action:
                shown = centres[2] * (1 - way) + centres[3] * way
            embs += [np.repeat(centres[4:], idle, axis=0), shown]
            labels += [np.full(idle, -1), np.full(length, action)]
        frames = np.concatenate(embs)
        frames = frames + noise * rng.normal(size=frames.shape)
        videos.append((f"{seed}-{number}", number % 2, frames, np.concatenate(labels)))
    return written(path, videos)


def segmented(train, test, **settings):
    cls = evaluator_class("segmentation")
    quick = {"layers": 5, "width": 24, "epochs": 25, "lr": 3e-3, "dropout": 0.2, **settings}
    return cls(cls.Config(**quick)).evaluate(Given(train, test))


def test_a_head_in_time_tells_what_frames_cannot(tmp_path):
    """Forwards and backwards differ in time only; a head without a view of time cannot tell them, position neither."""
    train, test = sessions(tmp_path / "a.arrow", 0, count=16), sessions(tmp_path / "b.arrow", 1)
    found = segmented(train, test)
    linear = segmented(train, test, layers=0, lr=3e-2)
    assert found.metrics["accuracy"] > 0.85
    assert found.metrics["f1@50"] > 0.8
    assert found.metrics["map@50"] > 0.6
    assert linear.metrics["f1@50"] < found.metrics["f1@50"] - 0.15
    assert found.details["position_only"]["f1@50"] < 0.5
    assert found.metrics["f1@10"] >= found.metrics["f1@25"] >= found.metrics["f1@50"]


def test_same_seed_same_head(tmp_path):
    """The generator of torch is neither read nor moved."""
    import torch

    train, test = sessions(tmp_path / "a.arrow", 0, count=4), sessions(tmp_path / "b.arrow", 1)
    state = torch.get_rng_state()
    first = segmented(train, test, epochs=2).details["all"]
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(7)
    assert segmented(train, test, epochs=2).details["all"] == first


def test_a_whole_evaluation_by_its_files(tmp_path, capsys):
    """As with `encoder=features:TRAIN,TEST`: idle frames are counted, and the table has the numbers."""
    sessions(tmp_path / "train.arrow", 0, count=6)
    sessions(tmp_path / "test.arrow", 1, count=3)
    found = evaluate(
        EvaluateRecipe(
            encoders={"mine": f"features:{tmp_path / 'train.arrow'},{tmp_path / 'test.arrow'}"},
            train="unused:train",
            test="unused:test",
            evaluators={"segmentation": {"layers": 3, "width": 16, "epochs": 3}},
            out=str(tmp_path / "out"),
            device="cpu",
        )
    )
    result = found["encoders"]["mine"]["results"]["segmentation"]
    assert set(result["metrics"]) == {
        *("accuracy", "edit", "f1@10", "f1@25", "f1@50", "map", "map@50")
    }
    told = capsys.readouterr().out
    assert "F1@50" in told
    test = open_features(tmp_path / "test.arrow")
    assert result["details"]["frames"]["test"] == sum(
        len(test.frames(row)[0]) for row in range(len(test))
    )


def with_cells(path, source, cells):
    """The videos of a feature file with other frame labels; a cell of None or [] is no annotation."""
    rows = source.table.select(["id", "clip", "label", "feature", "frame_times_sec"]).to_pylist()
    with FeatureWriter(path, embed_dim=WIDTH) as writer:
        for number, row in enumerate(rows):
            embs = source.frames(number)[0]
            feature = np.asarray(row["feature"], np.float32)
            own = {"feature": feature, "frame_features": embs, "frame_labels": cells[number]}
            writer.write([{**row, **own}])
    return open_features(path)


def test_a_video_without_annotation_is_not_idle(tmp_path):
    """Was wrong: a null or empty cell became -1 throughout, which is idle here: taught and measured, without a note."""
    own = {}
    for name, seed, count in (("train", 0, 6), ("test", 1, 4)):
        whole = sessions(tmp_path / f"{name}-whole.arrow", seed, count=count)
        cells = [cell.as_py() for cell in whole.table["frame_labels"]]
        own[name] = [
            with_cells(tmp_path / f"{name}-holes.arrow", whole, [None, [], *cells[2:]]),
            whole.select(np.arange(2, count)),
        ]
    holes, fewer = (segmented(*pair, epochs=2) for pair in zip(*own.values(), strict=True))
    assert holes.details["all"] == fewer.details["all"]
    assert holes.details["videos"] == {"train": 4, "test": 2}
    assert holes.notes == [
        "2 of 6 videos have no frame labels and are left out (train)",
        "2 of 4 videos have no frame labels and are left out (test)",
    ]


def test_idle_from_beginning_to_end_is_annotated(tmp_path):
    """-1 for every frame is said by somebody, other than nothing at all: the video stays."""
    train, test = (
        sessions(tmp_path / "a.arrow", 0, count=4),
        sessions(tmp_path / "b.arrow", 1, count=2),
    )
    cells = [cell.as_py() for cell in test.table["frame_labels"]]
    idle = with_cells(tmp_path / "c.arrow", test, [[-1] * len(cells[0]), cells[1]])
    result = segmented(train, idle, epochs=2)
    assert result.details["videos"]["test"] == 2
    assert result.notes == []


def test_segments_of_nothing_are_refused(tmp_path):
    """Was wrong: feature files without any frame label had an accuracy of 1.0, those of nothing but idle frames too."""
    train, test = (
        sessions(tmp_path / "a.arrow", 0, count=3),
        sessions(tmp_path / "b.arrow", 1, count=2),
    )
    bare = with_cells(tmp_path / "c.arrow", train, [None] * 3)
    for pair in ((bare, test), (train, bare), (bare, bare)):
        with pytest.raises(
            FeatureError, match=r"no video with frame labels.*-1 where nothing happens"
        ):
            segmented(*pair, epochs=1)
    lengths = [len(train.frames(row)[0]) for row in range(3)]
    idle = with_cells(tmp_path / "d.arrow", train, [[-1] * length for length in lengths])
    with pytest.raises(FeatureError, match="no frame of train has an action"):
        segmented(idle, test, epochs=1)


def test_a_class_without_an_action_in_train_has_no_number(tmp_path):
    """Its head would know idle frames only: not in the mean, and said."""
    train, test = (
        sessions(tmp_path / "a.arrow", 0, count=4),
        sessions(tmp_path / "b.arrow", 1, count=4),
    )
    cells = [cell.as_py() for cell in train.table["frame_labels"]]  # classes 0, 1, 0, 1
    half = [[-1] * len(cell) if k % 2 else cell for k, cell in enumerate(cells)]
    result = segmented(
        with_cells(tmp_path / "c.arrow", train, half), test, epochs=2, classes="each"
    )
    assert np.isnan(result.details["classes"]["1"]["accuracy"])
    assert result.details["all"]["accuracy"] == result.details["classes"]["0"]["accuracy"]
    assert any("not defined for 1" in note for note in result.notes)


def test_scores_of_a_perfect_and_of_a_mute_head():
    """Right everywhere is 1 everywhere; background everywhere is right in the background only."""
    labels = [np.repeat([0, 1, 0, 2], [3, 5, 2, 4]), np.repeat([2, 0], [6, 3])]
    perfect = segmentation_scores([np.eye(3)[p] for p in labels], labels)
    assert set(perfect.values()) == {1.0}
    mute = segmentation_scores([np.eye(3)[np.zeros(len(p), int)] for p in labels], labels)
    assert mute["accuracy"] == pytest.approx(8 / 23)
    assert (mute["edit"], mute["f1@10"], mute["map"]) == (0, 0, 0)


def test_empty_cases_of_the_metrics():
    none, one = segments_of([0, 0], background=[0]), segments_of([0, 1], background=[0])
    assert segments_of([]).labels.shape == (0,)
    assert edit_score(none, none) == 1
    assert edit_score(one, none) == 0
    assert hits_and_misses(one, none, 0.1).tolist() == [0, 1, 0]
    assert hits_and_misses(none, one, 0.1).tolist() == [0, 0, 1]
    assert f1_of_counts([0, 0, 0]) == 0
    # A second prediction of a segment that is taken is false, and touching is no overlap.
    true = Segments(*(np.array(x) for x in ([1], [0], [10])))
    twice = Segments(*(np.array(x) for x in ([1, 1], [0, 2], [9, 8])))
    assert hits_and_misses(twice, true, 0.5).tolist() == [1, 1, 0]
    away = Segments(*(np.array(x) for x in ([1], [10], [20])))
    assert hits_and_misses(away, true, 0.1).tolist() == [0, 1, 1]


def test_an_overlap_of_exactly_the_threshold_is_a_hit():
    """Half of a segment found is F1@50's commonest border case; no golden has it, and `>` for `>=` went unseen."""
    true = segments_of([1, 1, 1, 1])
    half = segments_of([1, 1, 0, 0], background=[0])
    assert hits_and_misses(half, true, 0.5).tolist() == [1, 0, 0]
    assert hits_and_misses(half, true, 0.51).tolist() == [0, 1, 1]


def test_precision_by_hand():
    """Two true segments; the best score hits one, the next is false, the last hits the other: AP = (1 + 2/3) / 2."""
    truth = np.array([[0, 0, 0, 10.0], [1, 0, 5, 15]])
    found = np.array([[1, 0, 5, 15, 0.2], [0, 0, 0, 10, 0.9], [0, 0, 40, 50, 0.5]])
    precision = average_precisions(truth, found, num_classes=2, tious=[0.5])
    assert precision[0, 0] == pytest.approx((1 + 2 / 3) / 2)
    assert np.isnan(precision[0, 1])


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"layers": 13}, "from 0"),
        ({"epochs": 0}, "at least 1"),
        ({"lr": 0.0}, "positive"),
        ({"dropout": 1.0}, "below 1"),
    ],
)
def test_settings_of_the_head_that_are_refused(settings, said):
    with pytest.raises(ValueError, match=said):
        evaluator_class("segmentation").Config(**settings)


# Counting -----------------------------------------------------------------------------------------


def turning(count, length, *, seed, noise=0.2):
    """An action that is repeated `count` times, at a pace that wanders."""
    rng = np.random.default_rng(seed)
    pace = np.interp(np.arange(length), np.linspace(0, length, 6), rng.uniform(0.85, 1.15, 6))
    turn = 2 * np.pi * count * np.cumsum(pace) / pace.sum()
    way = np.stack([np.cos(turn), np.sin(turn), np.cos(2 * turn)], axis=1)
    mix = np.random.default_rng(5).normal(size=(3, WIDTH))
    return way @ mix + noise * rng.normal(size=(length, WIDTH)) + 3


def counted(features, **settings):
    cls = evaluator_class("repetitions")
    return cls(cls.Config(**settings)).evaluate(Given(features, features))


def test_counts_of_repeated_actions(tmp_path):
    """Twice or half the period, the usual mistake, would be off by far more than one."""
    counts = [2, 3, 4, 5, 6, 8, 9, 11, 12]
    videos = [(f"v{c}", c, turning(c, 40 + 12 * c, seed=c), None) for c in counts]
    result = counted(written(tmp_path / "a.arrow", videos))
    assert result.metrics["obo"] == 1
    assert result.metrics["mae"] < 0.1
    assert result.details["constant"]["obo"] < 0.5
    assert result.details["true"] == counts


def test_a_whole_evaluation_of_counts_by_its_files(tmp_path, capsys):
    """Was wrong: all was counted, and the sentence about it ended in KeyError before results.json was written."""
    videos = [(f"v{c}", c, turning(c, 40 + 12 * c, seed=c), None) for c in range(2, 8)]
    still = [(key, c, np.ones((40, WIDTH)), None) for key, c, _, _ in videos]
    for name, own in (("a", videos), ("b", still)):
        written(tmp_path / f"{name}.arrow", own)
    recipe = EvaluateRecipe(
        encoders={name: f"features:,{tmp_path / name}.arrow" for name in "ab"},
        train=None,
        test="unused:test",
        evaluators={"repetitions": {}},
        out=str(tmp_path / "out"),
        device="cpu",
    )
    told = evaluate(recipe)["summary"]
    assert "counts 6 of 6 videos to within one repetition; " in told
    assert (tmp_path / "out" / "results.json").is_file()
    assert "100.0" in capsys.readouterr().out


def test_no_video_to_count_in_is_told(tmp_path):
    videos = [("v", 0, turning(3, 60, seed=0), None)]
    result = counted(written(tmp_path / "a.arrow", videos), rule="severe")
    assert result.details["headline"] == {"metric": "obo", "found": "not defined", "total": 0}
    assert result.statement == "has no result on these videos"


@pytest.mark.parametrize("length", [60, 61, 90])
def test_twice_is_a_count(length):
    """Was wrong: the similarity was read up to half the length without it, where the peak of two repetitions is."""
    turn = 2 * np.pi * 2 * np.arange(length) / length
    assert count_repetitions(np.stack([np.cos(turn), np.sin(turn)], axis=1)) == pytest.approx(
        2, abs=0.05
    )
    found = [round(count_repetitions(turning(2, length, seed=seed))) for seed in range(10)]
    assert np.mean([abs(count - 2) < 0.5 for count in found]) >= 0.9, found


def test_a_few_frames_have_no_period():
    """Far lags of short videos are told by one pair of frames or two: chance, and no repetition."""
    rng = np.random.default_rng(0)
    found = {count_repetitions(rng.normal(size=(n, 2))) for n in range(1, 6) for _ in range(40)}
    assert found == {0, 1}


@pytest.mark.parametrize("pace", ["30 then 10 a second", "a gap", "even", "unknown"])
def test_repetitions_go_by_time_and_not_by_frame(tmp_path, pace):
    """Was wrong: 5 s at 30 and 5 s at 10 frames a second were read as even, 10 repetitions as 6.67."""
    even = np.arange(300) / 30
    times = {
        "30 then 10 a second": np.r_[even[:150], 5 + np.arange(50) / 10],
        "a gap": np.r_[even[:120], even[165:]],
    }.get(pace, even)
    turn = 2 * np.pi * times[:, None] * np.ones(WIDTH) + np.arange(WIDTH)
    told = np.full(len(times), np.nan) if pace == "unknown" else times
    result = counted(written(tmp_path / "a.arrow", [("a", 10, np.sin(turn), None)], times=told))
    assert result.details["counts"][0] == pytest.approx(10, abs=0.2)
    uneven = [
        "the frames of 1 of 1 videos do not follow each other evenly: they are counted by their times"
    ]
    assert result.notes == (uneven if pace in ("30 then 10 a second", "a gap") else [])


def test_times_that_are_rounded_are_even():
    """Milliseconds of 30 frames a second are 33 or 34 apart: as good as even, features stay as they are."""
    embs = np.random.default_rng(0).normal(size=(40, 3))
    times = np.round(np.arange(40) / 30, 3)
    assert even_frames(embs, times) is embs
    assert even_frames(embs, np.zeros(40)) is embs
    late = times.copy()
    late[20:] += 1.0
    drawn = even_frames(embs, late)
    assert len(drawn) == round((late[-1] - late[0]) / np.median(np.diff(late))) + 1
    np.testing.assert_allclose(drawn[[0, -1]], embs[[0, -1]])


def test_what_does_not_repeat_itself():
    ramp = np.linspace(0, 1, 50)[:, None] * np.ones(WIDTH)
    assert count_repetitions(ramp) == 1
    assert count_repetitions(np.ones((30, WIDTH))) == 0
    assert count_repetitions(np.ones((1, WIDTH))) == 0
    assert self_similarity(ramp)[0] == pytest.approx(1)


def test_self_similarity_is_that_of_slow_loops():
    x = np.random.default_rng(0).normal(size=(13, 4))
    y = x - x.mean(axis=0)
    slow = [np.mean([y[i] @ y[i + t] for i in range(13 - t)]) for t in range(13)]
    np.testing.assert_allclose(self_similarity(x), np.array(slow) / slow[0], atol=1e-12)


def test_counts_without_videos_and_of_zero():
    assert np.isnan(count_errors([], [])["mae"])
    assert count_errors([1.0], [0])["mae"] == pytest.approx(10)
    assert np.isnan(count_errors([1.0], [0], rule="severe")["obo"])


def test_an_unknown_count_is_no_count(tmp_path):
    """Was wrong: in feature files the label -1, for unknown, was taken as a count, and the MAE fell below 0."""
    videos = [("a", 3, turning(3, 60, seed=0), None), ("b", None, turning(4, 60, seed=1), None)]
    with pytest.raises(FeatureError, match="1 of 2 clips without a label"):
        counted(written(tmp_path / "a.arrow", videos))
    with pytest.raises(ValueError, match=r"counts must be 0 or more.*-1"):
        count_errors([2.0, 3.0], [2, -1])
    with pytest.raises(ValueError, match="counts must be 0 or more"):
        count_errors([-2.0], [2])


def test_all_numbers_are_of_the_same_videos(tmp_path):
    """Was wrong: of rule=severe the shares left out videos of count 0; the sentence, `correct` and `total` had them."""
    still = np.random.default_rng(3).normal(size=(1, WIDTH)) * np.ones((40, 1))
    videos = [(f"v{c}", c, turning(c, 80, seed=c), None) for c in (3, 4, 5)]
    features = written(tmp_path / "a.arrow", [*videos, ("none", 0, still, None)])
    severe, transrac = (counted(features, rule=rule) for rule in ("severe", "transrac"))
    assert (severe.correct, severe.total) == (3, 3)
    assert severe.metrics["obo"] == severe.correct / severe.total
    assert severe.statement == "counts 3 of 3 videos to within one repetition"
    assert severe.notes == ["1 of 4 videos have the count 0 and are left out (rule=severe)"]
    assert severe.details["constant"]["count"] == 4
    assert severe.details["true"] == [3, 4, 5, 0]
    assert (transrac.correct, transrac.total, transrac.notes) == (4, 4, [])
    only = counted(features.select(np.array([3])), rule="severe")
    assert (only.total, only.statement) == (0, "has no result on these videos")
    assert np.isnan(only.metrics["obo"])


def test_classes_are_no_counts(tmp_path):
    videos = [("a", 1, turning(3, 40, seed=0), None)]
    features = written(tmp_path / "a.arrow", videos, class_names=["walk", "run"])
    with pytest.raises(FeatureError, match="no counts"):
        counted(features)
    with pytest.raises(ValueError, match="transrac or severe"):
        counted(features, rule="other")
    with pytest.raises(ValueError, match="near"):
        counted(features, near=0.0)
