"""`video-ssl pretrain --evaluate`: the evaluations that a recipe names, read before the training and run after it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from video_ssl.evaluate import after_training
from video_ssl.evaluate.after_training import pretrain_and_evaluate
from video_ssl.evaluate.recipe import load_evaluate_recipe
from video_ssl.launch.profile import LaunchProfile
from video_ssl.launch.steps import plan_launch
from video_ssl.pretrain.errors import RunError
from video_ssl.pretrain.recipe import load_pretrain_recipe, recipe_from_dict, recipe_to_dict
from video_ssl.recipes import ConfigError


@pytest.fixture
def done(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What was trained and evaluated, in order."""
    acts: list[Any] = []
    monkeypatch.setattr(after_training, "run_recipe", lambda recipe, **_: acts.append(recipe.run))
    monkeypatch.setattr(
        after_training, "evaluate", lambda recipe: acts.append((recipe.name, recipe.encoder)) or {}
    )
    return acts


def test_the_evaluations_follow_the_training_in_their_order(
    tmp_path: Path, done: list[Any]
) -> None:
    run = str(tmp_path / "my #1 run")
    recipe = load_pretrain_recipe("teg/demo").replace(run=run)
    assert len(pretrain_and_evaluate(recipe)) == 2
    assert done == [run, ("demo", run), ("demo_frames", run)]


def test_an_evaluation_that_does_not_exist_is_told_before_the_training(done: list[Any]) -> None:
    with pytest.raises(ConfigError, match="dmeo"):
        pretrain_and_evaluate(load_pretrain_recipe("mae/demo", ["evaluate=[demo,dmeo]"]))
    assert not done


@pytest.mark.parametrize(
    ("train", "test", "text"),
    [
        (
            "labelled.csv",
            "bare.csv",
            r"'probe' .* 2 of 2 videos of test are without a label.*--eval",
        ),
        ("bare.csv", "labelled.csv", "2 of 2 videos of train are without a label"),
        ("labelled.csv", "lost.csv", "no table .*lost.csv"),
        ("labelled.csv", "others.csv", r"no class of test \(sit, walk\) is in train \(jump, run\)"),
    ],
)
def test_tables_that_an_evaluation_cannot_do_with_are_told_before_the_training(
    tmp_path: Path, done: list[Any], train: str, test: str, text: str
) -> None:
    """Was wrong: told when the training was over, for a week perhaps."""
    for name, labels in {"labelled": ("run", "jump"), "others": ("sit", "walk")}.items():
        rows = [f"{name}{i}.mp4,{label}" for i, label in enumerate(labels)]
        (tmp_path / f"{name}.csv").write_text("\n".join(["path,label", *rows]) + "\n")
    (tmp_path / "bare.csv").write_text("path\nc.mp4\nd.mp4\n")
    (tmp_path / "own.yaml").write_text(
        f"name: probe\ntrain: {tmp_path / train}\ntest: {tmp_path / test}\nevaluators: {{probe: {{}}}}\n"
    )
    recipe = load_pretrain_recipe("mae/demo", [f"evaluate={tmp_path / 'own.yaml'}"])
    with pytest.raises(RunError, match=text):
        pretrain_and_evaluate(recipe.replace(run=str(tmp_path / "run")))
    assert not done


def test_a_recipe_without_an_evaluation_is_trained_and_the_command_for_one_is_told(
    done: list[Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Was wrong: `make pretrain-X RECIPE=a recipe of the paper` ended before it had trained."""
    recipe = load_pretrain_recipe("videomae/vit_s_k400").replace(run=str(tmp_path))
    assert recipe.evaluations == ()
    with caplog.at_level("INFO"):
        assert pretrain_and_evaluate(recipe) == []
    assert done == [str(tmp_path)]
    assert f"video-ssl evaluate evaluate/probe.yaml encoder={tmp_path}" in caplog.text


def test_several_processes_go_by_launch(done: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(RunError, match="--chain"):
        pretrain_and_evaluate(load_pretrain_recipe("mae/demo"))
    assert not done


def test_a_recipe_names_one_evaluation_or_several_or_none() -> None:
    """Runs of before keep `evaluate: demo` or null in their recipe.yaml."""
    content = recipe_to_dict(load_pretrain_recipe("mae/demo"))
    for given, found in (
        ("demo", ("demo",)),
        (["demo", "probe"], ("demo", "probe")),
        (None, ()),
    ):
        recipe = recipe_from_dict({**content, "evaluate": given})
        assert recipe.evaluations == found
        assert recipe_from_dict(recipe_to_dict(recipe)) == recipe


def test_a_chain_has_a_job_for_every_evaluation(tmp_path: Path) -> None:
    words = ["teg/demo", f"run={tmp_path / 'r'}"]
    plan = plan_launch("pretrain", words, LaunchProfile(executor="slurm"), chain=True)
    assert [step.name for step in plan.steps] == [
        "pretrain",
        "evaluate-demo",
        "evaluate-demo_frames",
    ]
    assert all(step.after == ("pretrain",) for step in plan.steps[1:])


def test_results_of_a_further_encoder_lie_beside_those_of_the_first(tmp_path: Path) -> None:
    run = tmp_path / "run"
    for encoder in ("encoder", "encoders/teacher"):
        (run / encoder).mkdir(parents=True)
        (run / encoder / "config.json").write_text("{}")
    places = {
        encoder: load_evaluate_recipe("demo", [f"encoder={run / encoder}"]).folder()
        for encoder in ("", "encoder", "encoders/teacher")
    }
    assert places[""] == places["encoder"] == run / "evaluate" / "demo"
    assert places["encoders/teacher"] == run / "evaluate" / "demo_teacher"


def test_two_evaluations_of_one_name_are_refused_before_the_training(
    done: list[Any], tmp_path: Path
) -> None:
    """The second one replaced the results of the first: recipes on one base inherit its name."""
    for stem in ("near", "far"):
        (tmp_path / f"{stem}.yaml").write_text(
            "name: probe\ntrain: a.csv\ntest: b.csv\nevaluators: {knn: {}}\n"
        )
    listed = f"evaluate=[{tmp_path}/near.yaml,{tmp_path}/far.yaml]"
    with pytest.raises(ConfigError, match=r"near.yaml and .*far.yaml would both write"):
        pretrain_and_evaluate(load_pretrain_recipe("mae/demo", [listed]))
    assert not done
    with pytest.raises(ConfigError, match="would both write"):  # a job each, one after the other
        plan_launch("pretrain", ["mae/demo", listed], LaunchProfile(executor="slurm"), chain=True)
