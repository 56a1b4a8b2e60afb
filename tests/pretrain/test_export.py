"""Encoders of checkpoints: `video-ssl export`, and RUN@STEP wherever an encoder is named."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

import video_ssl
from video_ssl.cli import app
from video_ssl.evaluate.recipe import load_evaluate_recipe
from video_ssl.models.encoder_folder import EncoderError
from video_ssl.models.encoders import save_encoder
from video_ssl.objectives.videomae.objective import Objective
from video_ssl.pretrain.checkpoint_folders import list_checkpoints
from video_ssl.pretrain.errors import CheckpointError, RunError
from video_ssl.pretrain.export import export_encoders
from video_ssl.pretrain.run_folder import exported_folders
from video_ssl.pretrain.torch_loop.checkpoints import load_state
from video_ssl.pretrain.torch_loop.run import run_torch
from video_ssl.recipes import load_yaml


class Killed(BaseException):
    """Stands for the end of the process."""


def killed_at(step: int, recipe: Any) -> Path:
    """The folder of a run of 12 steps that ended without a word in one of them."""

    def after_step(_: Any, progress: float) -> None:
        if round(progress * 12) == step:
            raise Killed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Objective, "after_step", after_step)
        with pytest.raises(Killed):
            run_torch(recipe)
    return recipe.folder


@pytest.fixture(scope="module")
def unfinished(videos: Path, tmp_path_factory: pytest.TempPathFactory, helpers: Any) -> Path:
    """A run with an average that was killed in step 11: it has the checkpoints of steps 4 and 8."""
    folder = tmp_path_factory.mktemp("unfinished") / "run"
    return killed_at(11, helpers.recipe(videos, folder, training__ema={"decay": 0.5}))


def encoder_weights(path: str | Path) -> dict[str, Any]:
    return dict(video_ssl.load_encoder(path).state_dict())


def test_the_encoder_of_a_run_that_has_not_ended_is_that_of_a_checkpoint(unfinished: Path) -> None:
    with pytest.raises(EncoderError, match=rf"has not ended.* {unfinished}@8 .*: there are 4, 8\."):
        video_ssl.load_encoder(unfinished)
    encoder = video_ssl.load_encoder(f"{unfinished}@4")
    told = {"steps": 4, "of steps": 12, "weights": "moving average", "objective": "videomae"}
    assert told.items() <= encoder.source.items()
    first, _ = list_checkpoints(unfinished / "checkpoints")
    state = load_state(first)
    for name, value in encoder.state_dict().items():
        assert torch.equal(value, state["average"].get(f"encoder.{name}", value))
        if name.endswith("weight") and value.ndim > 1:
            assert not torch.equal(value, state["objective"][f"encoder.{name}"])
    with pytest.raises(EncoderError, match=r"no checkpoint of step 5: there are 4, 8 \(8 is"):
        video_ssl.load_encoder(f"{unfinished}@5")


def test_the_last_checkpoint_exports_what_the_run_exports(
    videos: Path, tmp_path: Path, helpers: Any
) -> None:
    run = run_torch(helpers.recipe(videos, tmp_path / "run", training__ema={"decay": 0.5})).folder
    moved = run.rename(tmp_path / "moved")
    (made,) = export_encoders(moved).values()
    assert made == moved / "exports" / "step_12"
    at_the_end = encoder_weights(moved)
    assert all(torch.equal(v, at_the_end[k]) for k, v in encoder_weights(made).items())
    other = encoder_weights(f"{moved}@8")
    assert not all(torch.equal(v, at_the_end[k]) for k, v in other.items())


def test_an_export_stays_and_is_made_anew_for_another_checkpoint(
    unfinished: Path, videos: Path, tmp_path: Path, helpers: Any
) -> None:
    run = shutil.copytree(unfinished, tmp_path / "run")
    before = encoder_weights(f"{run}@8")
    written = (run / "exports/step_8/model.safetensors").stat().st_mtime_ns
    shutil.rmtree(run / "checkpoints/step_8")
    assert all(torch.equal(v, before[k]) for k, v in encoder_weights(f"{run}@8").items())
    assert (run / "exports/step_8/model.safetensors").stat().st_mtime_ns == written
    shutil.rmtree(run / "checkpoints")
    killed_at(9, helpers.recipe(videos, run, training__ema={"decay": 0.5}, seed=9))
    after = encoder_weights(f"{run}@8")
    assert not all(torch.equal(v, before[k]) for k, v in after.items())


def test_the_command_writes_it_and_other_commands_take_it(
    unfinished: Path, videos: Path, tmp_path: Path
) -> None:
    def command(*words: object) -> str:
        done = CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return done.output

    said = command("export", unfinished, "--step", 4, "--out", tmp_path / "mine")
    assert said == f"encoder: {tmp_path / 'mine'}\n"
    features = tmp_path / "features.arrow"
    command("embed", f"{unfinished}@4", videos, features)
    command("embed", tmp_path / "mine", videos, tmp_path / "same.arrow")
    found, same = (
        video_ssl.open_features(features),
        video_ssl.open_features(tmp_path / "same.arrow"),
    )
    assert len(found) == 24
    assert (found.features == same.features).all()


def test_an_export_replaces_exports_of_the_same_run_only(unfinished: Path, tmp_path: Path) -> None:
    """Was wrong: `export RUN --out FOLDER` replaced whatever encoder lay there, of another run or another verb."""
    mine = tmp_path / "mine"
    export_encoders(unfinished, step=4, out=mine)
    export_encoders(unfinished, step=8, out=mine)
    encoder = video_ssl.load_encoder(mine)
    assert encoder.source["steps"] == 8
    others = {
        "of another verb": {"objective": "videomae", "converted from": "a.pth"},
        "of another run": {**encoder.source, "run": "00000000", "checkpoint": "00000000"},
    }
    about = {"architecture": encoder.architecture, "preprocess": encoder.preprocess}
    for name, source in others.items():
        save_encoder(tmp_path / name, encoder, source=source, **about)
        before = (tmp_path / name / "config.json").read_bytes()
        with pytest.raises(EncoderError, match=f"{name} holds an encoder that is no export of"):
            export_encoders(unfinished, step=8, out=tmp_path / name)
        assert (tmp_path / name / "config.json").read_bytes() == before
    told = {"run": encoder.source["run"], "checkpoint": ""}
    # Further encoders go beside the first, with their names behind.
    shutil.move(tmp_path / "of another verb", tmp_path / "new_more")
    with pytest.raises(EncoderError, match="new_more holds an encoder that is no export of"):
        exported_folders(unfinished, tmp_path / "new", ["encoder", "more"], told)


def test_a_run_stays_the_same_when_harmless_settings_change_and_when_its_folder_is_moved(
    unfinished: Path, videos: Path, tmp_path: Path, helpers: Any
) -> None:
    """Was wrong: with another training.keep, or in a folder of another name, the run's own export was another run's."""
    mine, run = tmp_path / "mine", shutil.copytree(unfinished, tmp_path / "run")

    def export(step: int, folder: Path) -> None:
        words = ["export", str(folder), "--step", str(step), "--out", str(mine)]
        done = CliRunner().invoke(app, words, catch_exceptions=False)
        assert done.exit_code == 0, done.output
        assert video_ssl.load_encoder(mine).source["steps"] == step

    export(4, run)
    harmless = {"training__keep": 3, "loader__prefetch_batches": 1}
    run_torch(helpers.recipe(videos, run, training__ema={"decay": 0.5}, **harmless))
    assert load_yaml(run / "recipe.yaml")["training"]["keep"] == 3
    export(12, run)
    moved = run.rename(tmp_path / "moved")
    export(8, moved)
    other = killed_at(5, helpers.recipe(videos, tmp_path / "other", training__ema={"decay": 0.5}))
    with pytest.raises(EncoderError, match="mine holds an encoder that is no export of"):
        export_encoders(other, out=mine)


def test_exports_and_runs_of_an_earlier_version_are_known(unfinished: Path, tmp_path: Path) -> None:
    """An export named its run by the recipe's bytes and the folder's name; a run may have noted no start at all."""
    mine, run = tmp_path / "mine", shutil.copytree(unfinished, tmp_path / "run")
    (run / "environment.json").unlink()
    for step in (4, 8):
        export_encoders(run, step=step, out=mine)
        assert video_ssl.load_encoder(mine).source["steps"] == step
    shutil.copy(unfinished / "environment.json", run)
    export_encoders(run, step=4, out=mine)
    assert video_ssl.load_encoder(mine).source["steps"] == 4


def test_an_evaluation_takes_it_with_all_its_baselines(unfinished: Path) -> None:
    """Behind `untrained:` and `pixels:` a number behind the last @ is a seed or a size."""
    recipe = load_evaluate_recipe("demo", [f"encoder={unfinished}@8"])
    place = unfinished / "exports" / "step_8"
    assert recipe.folder() == unfinished / "evaluate" / "demo_step_8"
    specs = recipe.encoder_specs()
    assert specs["encoder"] == str(place)
    assert (specs["untrained"], specs["pixels"]) == (f"untrained:{place}", f"pixels:{place}@12")
    of_flax = load_evaluate_recipe("demo", [f"encoder=flax:{unfinished}@8"])
    assert of_flax.encoder_specs()["encoder"] == f"flax:{place}"


def test_what_is_no_run_or_has_no_checkpoint_is_told(
    videos: Path, tmp_path: Path, helpers: Any
) -> None:
    with pytest.raises(RunError, match=r"is no run: it has no recipe\.yaml"):
        export_encoders(tmp_path)
    with pytest.raises(EncoderError, match=r"is no run: it has no recipe\.yaml"):
        video_ssl.load_encoder(f"{tmp_path}@3")
    assert list(tmp_path.iterdir()) == []
    run = killed_at(2, helpers.recipe(videos, tmp_path / "run"))
    with pytest.raises(CheckpointError, match="has no checkpoint yet"):
        export_encoders(run)
