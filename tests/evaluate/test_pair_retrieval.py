"""Zero-shot retrieval between video, text and sound: from videos with captions and tones to what is found."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import toy_common

from video_ssl.embed.embed_videos import embed_table
from video_ssl.embed.features import FeatureError, open_features
from video_ssl.evaluate.evaluators import evaluator_class
from video_ssl.evaluate.pair_metrics import chance_median, first_ranks
from video_ssl.evaluate.recipe import EvaluateRecipe
from video_ssl.evaluate.run import evaluate
from video_ssl.models.encoders import EncoderError
from video_ssl.recipes import ConfigError, build_config

WAYS = ("text_to_video", "video_to_text", "sound_to_video", "video_to_sound")


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    toy_common.register(monkeypatch.setitem)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return toy_common.write_run(tmp_path / "run")


@pytest.fixture(scope="module")
def squares(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toy_common.squares_table(tmp_path_factory.mktemp("squares"))


def recipe(encoder: Path | str, test: Path, out: Path, **changes) -> EvaluateRecipe:
    settings = {
        "encoders": {"trained": "{encoder}", "untrained": "untrained:{encoder}@3"},
        "train": None,
        "embed": {"num_workers": 0},
        "evaluators": dict.fromkeys(WAYS),
    }
    more = {"encoder": str(encoder), "test": str(test), "out": str(out), "device": "cpu"}
    return build_config(EvaluateRecipe, settings | more | changes)


def test_a_run_of_three_encoders_is_asked_in_all_ways(run, squares, tmp_path, capsys):
    found = evaluate(recipe(run, squares, tmp_path / "out"))
    results = found["encoders"]["trained"]["results"]
    first = results["text_to_video"]
    # Ten captions of five videos; two videos of a color: the first one is right for half of red and green.
    assert (first["total"], first["details"]["gallery"]) == (10, 6)
    assert first["metrics"]["R@5"] == first["metrics"]["class"] == 1.0
    assert first["metrics"]["R@1"] == pytest.approx(0.6)
    assert first["chance"] == pytest.approx(1 / 6)
    assert first["details"]["chance"]["R@5"] == pytest.approx(5 / 6)
    assert first["details"]["chance"]["MedR"] == 3
    assert results["sound_to_video"]["metrics"]["class"] == 1.0
    assert results["sound_to_video"]["total"] == 5
    assert results["video_to_sound"]["metrics"]["R@5"] == 1.0
    assert results["video_to_sound"]["notes"] == [
        "1 videos have no sound of their own and are not asked"
    ]
    skipped = found["encoders"]["trained"]["skipped"]
    assert [entry["reason"] for entry in skipped["text"]] == ["it has no caption"]
    assert [entry["reason"] for entry in skipped["sound"]] == ["it has no sound"]
    assert found["encoders"]["untrained"]["results"]["text_to_video"]["metrics"]["class"] < 1.0
    printed = capsys.readouterr().out
    assert "guessing" in printed
    assert "the video of 100.0 % of 10 texts among the nearest 10 of 6" in printed
    again = json.loads((tmp_path / "out" / "results.json").read_text())
    assert again["encoders"]["trained"]["features"]["text"].startswith("features/trained_text-test")


def test_of_each_video_so_many_captions(run, squares, tmp_path):
    asked = {"text_to_video": {"captions": 1}, "video_to_text": {"captions": 1, "ks": [2]}}
    found = evaluate(recipe(run, squares, tmp_path, evaluators=asked), quiet=True)
    results = found["encoders"]["trained"]["results"]
    assert results["text_to_video"]["total"] == 5
    assert results["video_to_text"]["details"]["gallery"] == 5
    assert list(results["video_to_text"]["metrics"]) == ["R@2", "MedR", "class"]


def arrays(path: Path, name: str, vectors: np.ndarray, ids: list[str], **more) -> Path:
    np.savez(path, features=vectors, ids=np.array(ids), **{name: vectors}, **more)
    return path


def slow_ranks(asked, windows, owners, own, average):
    """One query, one video, one window after the other."""
    ranks = []
    for vector, right in zip(asked, own, strict=True):
        scores = {}
        for video in dict.fromkeys(owners):
            mine = [w for w, owner in zip(windows, owners, strict=True) if owner == video]
            if average == "embd":
                mine = [np.mean(mine, axis=0)]
            cosines = [vector @ w / np.linalg.norm(vector) / np.linalg.norm(w) for w in mine]
            scores[video] = np.mean(cosines)
        ranks.append(sum(score > scores[right] for score in scores.values()))
    return np.array(ranks)


@pytest.mark.parametrize("average", ["embd", "cosine"])
def test_feature_files_of_others_against_a_slow_version(tmp_path, average):
    rng = np.random.default_rng(0)
    owners = [f"v{v}" for v in range(30) for _ in range(1 + v % 3)]
    windows = rng.normal(size=(len(owners), 8)) * rng.uniform(0.5, 3, (len(owners), 1))
    own = [f"v{v}" for v in rng.permutation(30)[:20]]
    base = {owner: windows[i] for i, owner in enumerate(owners)}
    texts = np.stack([base[video] for video in own]) + rng.normal(size=(20, 8))
    test = arrays(tmp_path / "video.npz", "common_text", windows, owners)
    told = arrays(tmp_path / "text.npz", "common_text", texts, own)
    asked = {"text_to_video": {"average": average, "ks": [1, 3], "chunk": 7}}
    settings = recipe("", test, tmp_path / "out", evaluators=asked,
                      encoders={"theirs": f"features:,{test},text={told}"})  # fmt: skip
    found = evaluate(settings, quiet=True)["encoders"]["theirs"]["results"]["text_to_video"]
    ranks = slow_ranks(texts, windows, owners, own, average)
    assert found["metrics"] == {
        "R@1": pytest.approx((ranks < 1).mean()),
        "R@3": pytest.approx((ranks < 3).mean()),
        "MedR": np.median(ranks) + 1,
    }
    assert 0 < found["metrics"]["R@1"] < 1


def test_equal_similarities_are_no_advantage():
    ranks = first_ranks(np.zeros((5, 5)), np.eye(5, dtype=bool))
    assert ranks.tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(("right", "items"), [([1], 7), ([1, 3, 3], 20), ([2, 5], 12), ([1], 1)])
def test_the_median_of_guessing_against_many_draws(right, items):
    rng = np.random.default_rng(0)
    draws = [
        min(rng.permutation(items)[:many]) + 1 for many in right for _ in range(20000 // len(right))
    ]
    expected = chance_median(np.array(right), items)
    assert np.mean(np.array(draws) <= expected) > 0.485
    assert np.mean(np.array(draws) < expected) < 0.515


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ("features:{a}", "must name two files"),
        ("features:,{a},smell={a}", "must be sound=FILE or text=FILE"),
        ("features:,{a}", r"needs features of text: write features:TRAIN,TEST,text=FILE"),
        ("features:,{a},text={plain}", "needs the output 'common_text', but"),
        ("features:,{plain},text={a}", "needs the output 'common_text', but"),
        ("features:,{a},text={wide}", "has 5 numbers, that of video 4: both must be of one run"),
        ("features:,{a},text={other}", "no record has both text and video"),
    ],
)
def test_files_that_do_not_go_together(tmp_path, given, text):
    vectors = np.eye(4)
    places = {
        "a": arrays(tmp_path / "a.npz", "common_text", vectors, list("abcd")),
        "wide": arrays(tmp_path / "wide.npz", "common_text", np.eye(5), list("abcde")),
        "other": arrays(tmp_path / "other.npz", "common_text", vectors, list("efgh")),
        "plain": tmp_path / "plain.npz",
    }
    np.savez(places["plain"], features=vectors)
    spec = {"theirs": given.format(**places)}
    settings = recipe("", places["a"], tmp_path / "out", encoders=spec,
                      evaluators={"text_to_video": None})  # fmt: skip
    with pytest.raises(FeatureError, match=text):
        evaluate(settings, quiet=True)


def test_what_cannot_be_asked_is_said_first(run, squares, tmp_path):
    with pytest.raises(ConfigError, match="train is null, but evaluators"):
        recipe(run, squares, tmp_path, evaluators={"knn": None})
    pixels = {"pixels": f"pixels:{run}"}
    settings = recipe(run, squares, tmp_path, encoders=pixels)
    with pytest.raises(FeatureError, match="needs the output 'common_text', but the encoder 'pix"):
        evaluate(settings, quiet=True)


def test_a_run_without_an_encoder_of_text(run, squares, tmp_path):
    for file in (run / "encoders" / "text").iterdir():
        file.unlink()
    with pytest.raises(EncoderError, match=r"no encoder of text that shares .*encoders/sound"):
        evaluate(recipe(run, squares, tmp_path), quiet=True)


def test_a_table_without_captions(run, squares, tmp_path):
    from video_ssl.datasets import open_table

    table = open_table(squares)
    rows = [{"id": table.record(0).id, "source": table.record(0).source}]
    plain = type(table).from_rows(rows).save(tmp_path / "plain.arrow").path
    with pytest.raises(FeatureError, match="needs captions, but no video of test has one"):
        evaluate(recipe(run, plain, tmp_path / "out"), quiet=True)


def test_vectors_of_common_spaces_are_in_the_feature_file(run, squares, tmp_path):
    for place, names in (
        ("", ("common_sound", "common_text")),
        ("/encoders/text", ("common_text",)),
    ):
        out = tmp_path / "f.arrow"
        found = embed_table(f"{run}{place}", str(squares), out, num_workers=0, restart=True)
        again = open_features(out)
        assert set(again.outputs) == {"clip", *names}
        for name in names:
            vectors = again.vectors(name)
            assert vectors.shape == (len(found), 3)
            np.testing.assert_array_equal(again.read(name, [1, 0]), vectors[[1, 0]])
            if name == "common_text":
                assert vectors.argmax(1).tolist() == again.labels.tolist()
        out.unlink()


@pytest.mark.parametrize("way", WAYS)
def test_settings(way):
    cls = evaluator_class(way)
    with pytest.raises(ConfigError, match=r"ks=\(0,\) must be numbers of at least 1"):
        build_config(cls.Config, {"ks": [0]}, f"evaluators.{way}")
    with pytest.raises(ConfigError, match=r"should be .embd. or .cosine."):
        build_config(cls.Config, {"average": "mean"}, f"evaluators.{way}")
