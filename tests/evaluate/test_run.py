"""A whole evaluation on small real videos: baselines, cache, results, sentences, errors."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
from untrained_run import untrained_run

from video_ssl.datasets.table import Table
from video_ssl.embed import embedding
from video_ssl.embed.config import EmbedConfig
from video_ssl.embed.features import FeatureError
from video_ssl.embed.partial import partial_folder
from video_ssl.evaluate import run as run_module
from video_ssl.evaluate.recipe import EvaluateRecipe, load_evaluate_recipe
from video_ssl.evaluate.results_table import summary
from video_ssl.evaluate.run import evaluate
from video_ssl.evaluate.verdict import verdict
from video_ssl.models.encoder_folder import find_encoder
from video_ssl.models.encoders import EncoderError
from video_ssl.recipes import ConfigError, list_recipes

QUICK = {"probe": {"poolings": ["clip", "concat_2"], "epochs": 20, "learning_rates": [0.01]}}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return untrained_run(tmp_path_factory.mktemp("runs") / "toy")


def overrides(run: Path, videos: Path, *more: str) -> list[str]:
    return [
        f"encoder={run}",
        f"train={videos / 'train.arrow'}",
        f"test={videos / 'test.arrow'}",
        "embed.num_workers=0",
        "device=cpu",
        "evaluators.probe.epochs=20",
        *more,
    ]


def test_the_demo_evaluation_compares_with_what_has_learned_nothing(
    run, videos, capsys, monkeypatch
):
    """The classes are colors, which even raw pixels tell, and edges do not."""
    decoded = []
    original = embedding.read_windows
    monkeypatch.setattr(
        embedding,
        "read_windows",
        lambda job, workers: decoded.append(len(job.table)) or original(job, workers),
    )
    results = evaluate(load_evaluate_recipe("demo", overrides(run, videos)))
    names = ["encoder", "untrained", "pixels", "hog_frame", "hog_bag", "hog_order", "hog_diff"]
    assert list(results["encoders"]) == names
    assert decoded == [12, 6]  # once for all of them
    out = run / "evaluate" / "demo"
    assert json.loads((out / "results.json").read_text())["summary"] == results["summary"]
    for entry in results["encoders"].values():
        assert set(entry["results"]) == {"probe", "knn"}
        assert entry["clips"] == {"train": 24, "test": 12}
        assert (out / entry["features"]["test"]).is_file()
    assert results["encoders"]["pixels"]["results"]["probe"]["metrics"]["top1"] == 1.0
    printed = capsys.readouterr().out
    assert "raw pixels of 6" in printed
    assert "guessing gives 2" in printed
    assert "Linear probe: the frozen toy encoder is level with the best without learning" in printed
    assert max(len(line) for line in printed.split("names the class")[0].splitlines()) <= 80
    assert "linear probe" in printed


def test_features_are_made_once_until_something_changes(run, videos, tmp_path, monkeypatch):
    made = []
    original = run_module.write_side_by_side

    def counted(embedders, table, outs, **more):
        made.extend(Path(out).name.rsplit("-", 1)[0] for out in outs)
        original(embedders, table, outs, **more)

    monkeypatch.setattr(run_module, "write_side_by_side", counted)
    base = overrides(run, videos, f"out={tmp_path}")
    evaluate(load_evaluate_recipe("probe", base), quiet=True)
    assert made == ["encoder-train", "encoder-test"]
    evaluate(load_evaluate_recipe("probe", [*base, "evaluators.knn.ks=[3]"]), quiet=True)
    assert len(made) == 2
    evaluate(load_evaluate_recipe("probe", [*base, "embed.num_clips=1"]), quiet=True)
    assert len(made) == 4
    damaged = next((tmp_path / "features").glob("encoder-test-*.arrow"))
    damaged.write_bytes(b"half")
    for clips in (1, 2):
        evaluate(load_evaluate_recipe("probe", [*base, f"embed.num_clips={clips}"]), quiet=True)
    assert len(made) == 5


def test_unreadable_test_videos_are_left_out_and_told(run, videos, tmp_path):
    recipe = EvaluateRecipe(
        encoders={"pixels": f"pixels:{run}@4"},
        train=str(videos / "train.arrow"),
        test=str(videos / "broken.arrow"),
        evaluators=QUICK,
        embed=EmbedConfig(num_workers=0),
        out=str(tmp_path),
        device="cpu",
    )
    results = evaluate(recipe, quiet=True)
    entry = results["encoders"]["pixels"]
    assert entry["results"]["probe"]["total"] == 4
    assert [s["id"] for s in entry["skipped"]["test"]] == ["broken1", "broken4"]
    assert "2 test videos could not be read and are left out" in results["summary"]


def entry(spec, correct, source, **more):
    result = {
        "correct": correct,
        "total": 100,
        "chance": 0.1,
        "notes": [],
        "metrics": {"top1": correct / 100},
        "details": {},
        **more,
    }
    return {"spec": spec, "source": source, "skipped": {}, "results": {"probe": result}}


def test_sentence():
    results = {
        "encoders": {
            "a": entry("runs/a", 61, {"objective": "mvd"}),
            "b": entry("untrained:runs/a", 34, {}),
            "c": entry("pixels:runs/a", 22, {}),
            "d": entry("hog_order:runs/a@64", 41, {}),
        }
    }
    assert summary(results) == (
        "The frozen mvd encoder names the class of 61 of 100 test videos (linear probe); the same "
        "network untrained of 34, raw pixels of 22, HOG of frames in order of 41; guessing gives 10.\n"
        "Linear probe: the frozen mvd encoder is 20.0 points above the best without learning (HOG of "
        "frames in order, 41.0)."
    )


def test_what_learns_on_is_not_called_frozen():
    """Was wrong: "the frozen mvd encoder" of fine-tuning, "above the best without learning"."""
    encoders = {
        "a": entry("runs/a", 61, {"objective": "mvd"}),
        "b": entry("untrained:runs/a", 34, {}),
    }
    for one in encoders.values():
        one["results"]["finetune"] = one["results"].pop("probe")
    assert summary({"encoders": encoders}) == (
        "The fine-tuned mvd encoder names the class of 61 of 100 test videos (fine-tuning); the same network from "
        "scratch of 34; guessing gives 10.\n"
        "Fine-tuning: the fine-tuned mvd encoder is 27.0 points above the best without pretraining (the same network "
        "from scratch, 34.0)."
    )


@pytest.mark.parametrize(
    ("correct", "words"),
    [
        (70, "is level with the best without learning (raw pixels, 70.0)."),
        (62, "is 8.0 points below the best without learning (raw pixels, 70.0), no more than"),
        (30, "is 40.0 points below the best without learning (raw pixels, 70.0)."),
    ],
)
def test_the_verdict_is_as_plain_where_nothing_was_gained(correct, words):
    encoders = {
        "a": entry("runs/a", correct, {"objective": "mvd"}),
        "other": entry("runs/b", 99, {"objective": "mae"}),  # has learned too
        "pixels": entry("pixels:runs/a", 70, {}),
        "hog": entry("hog_bag:runs/a", 65, {}),
    }
    assert words in verdict("probe", encoders)


def test_the_verdict_of_a_headline_that_is_a_share_of_videos_knows_chance():
    """Was wrong: whoever named a headline could not say of how many videos it is a share, and any gap seemed real."""

    def of(spec, right):
        details = {"headline": {"metric": "obo", "found": "", "total": 100}}
        found = entry(
            spec, right, {"objective": "carl"}, metrics={"obo": right / 100}, details=details
        )
        return {**found, "results": {"repetitions": found["results"]["probe"]}}

    encoders = {"a": of("runs/a", 73), "p": of("pixels:runs/a", 70)}
    words = "(raw pixels, 70.0), no more than chance may give with 100 test videos."
    assert verdict("repetitions", encoders).endswith(words)


def test_results_of_another_fold_are_not_replaced_without_a_word(run, videos, tmp_path, caplog):
    """Was wrong: a second fold, split or encoder of one recipe replaced the results of the first, unsaid."""
    words = [*overrides(run, videos), f"out={tmp_path}"]
    first = replace(
        load_evaluate_recipe("probe", words), evaluators={"knn": {"poolings": ["clip"]}}
    )
    for same in (first, first):
        evaluate(same, quiet=True)
    assert "will be replaced" not in caplog.text
    evaluate(replace(first, test=str(videos / "broken.arrow")), quiet=True)
    assert (
        f"of test={first.test} (now {videos / 'broken.arrow'}): they will be replaced"
        in caplog.text
    )
    assert "out=FOLDER" in caplog.text


def test_without_a_comparison_there_is_no_verdict():
    a, pixels = entry("runs/a", 61, {}), entry("pixels:runs/a", 22, {})
    assert verdict("probe", {"a": a}) == ""
    assert verdict("probe", {"pixels": pixels, "a": a}) == ""
    assert (
        verdict("probe", {"a": entry("runs/a", 61, {}, metrics={"top1": None}), "p": pixels}) == ""
    )


def test_the_verdict_of_frames_knows_position_alone():
    """Its number is the one that the sentence names."""

    def of(spec, value):
        details = {"headline": {"metric": "linear@100%"}, "position_only": {"linear@100%": 0.61}}
        metrics = {"linear@10%": 0.1, "linear@100%": value}
        found = entry(spec, 0, {"objective": "carl"}, metrics=metrics, details=details, total=None)
        found["results"]["phases"] = found["results"].pop("probe")
        return found

    encoders = {"a": of("runs/a", 0.931), "p": of("pixels:runs/a", 0.402)}
    assert verdict("phases", encoders) == (
        "Phase classification: the frozen carl encoder is 32.1 points above the best without learning "
        "(position alone, 61.0)."
    )
    assert verdict("phases", {"a": of("runs/a", -45.1), "p": of("pixels:runs/a", 0.4)}) == ""


def test_labels_that_are_missing_are_told_before_the_probe_runs(run, videos, tmp_path):
    table = Table.open(videos / "train.arrow")
    Table.from_columns(
        {"id": table.column("id"), "source": [table.record(i).source for i in range(12)]}
    ).save(tmp_path / "bare.arrow")
    recipe = load_evaluate_recipe(
        "probe", [*overrides(run, videos), f"train={tmp_path / 'bare.arrow'}", f"out={tmp_path}"]
    )
    with pytest.raises(FeatureError, match=r"evaluators\.probe needs .* 12 of 12 videos of train"):
        evaluate(recipe, quiet=True)
    assert not list(tmp_path.glob("features/*"))


def test_recipes_of_the_room_are_valid_and_say_what_is_missing():
    assert {"probe", "demo"} <= set(list_recipes("evaluate"))
    for name in list_recipes("evaluate"):
        recipe = load_evaluate_recipe(name)
        with pytest.raises(ValueError, match="add encoder=RUN"):
            recipe.encoder_specs()


@pytest.mark.parametrize(
    ("override", "text"),
    [
        ("evaluators.prob={}", r"unknown evaluator 'prob'.*Did you mean 'probe'"),
        (
            "evaluators.probe.epoch=3",
            r"unknown key 'evaluators.probe.epoch'.*Did you mean 'epochs'",
        ),
        ("evaluators.probe.poolings=[maen]", r"unknown pooling 'maen'.*Did you mean 'mean'"),
        ("embed.num_clip=3", r"unknown key 'embed.num_clip'.*Did you mean 'num_clips'"),
        ("test=demo:train", "train and test are both 'demo:train'"),
        ("embed.num_clips=0", "num_clips=0 must be at least 1"),
    ],
)
def test_recipes_that_cannot_be_used(override, text):
    with pytest.raises(ConfigError, match=text):
        load_evaluate_recipe("probe", [override])


def test_a_wrong_encoder_is_told_before_videos_are_touched(videos, tmp_path):
    recipe = load_evaluate_recipe("demo", overrides(tmp_path / "nothing", videos))
    with pytest.raises(EncoderError, match="has no nothing"):
        evaluate(recipe, quiet=True)


def test_what_a_killed_evaluation_leaves_is_removed_by_the_next(run, videos, tmp_path):
    """Was wrong: the rows of a file that was complete stayed for ever, under a name of a dead process."""
    words = overrides(run, videos, f"out={tmp_path}")
    evaluate(load_evaluate_recipe("probe", words))
    (file, *_) = sorted((tmp_path / "features").glob("*.arrow"))
    left = [file.with_name(f".{file.name}.partial.999999999.tmp"), partial_folder(file)]
    for folder in left:
        folder.mkdir()
        (folder / "rows.arrows").write_bytes(b"rows")
    os.utime(left[0], (0, 0))
    evaluate(load_evaluate_recipe("probe", words))
    assert [folder for folder in left if folder.exists()] == []


def test_home_is_home_in_the_places_of_an_evaluation(tmp_path, monkeypatch):
    """Was wrong: `out=~/x` made a folder named `~`, and `encoder=~/run` was not there."""
    monkeypatch.setenv("HOME", str(tmp_path))
    folder = tmp_path / "run" / "encoder"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"")
    assert find_encoder("~/run") == folder
    recipe = load_evaluate_recipe("probe", ["encoder=~/run"])
    assert recipe.folder() == tmp_path / "run" / "evaluate" / "probe"
    assert load_evaluate_recipe("probe", ["out=~/there"]).folder() == tmp_path / "there"
