"""Recipes: names, overrides, errors, and the way to YAML and back."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from video_ssl.objectives.shared.sources import EncoderSource
from video_ssl.pretrain.recipe import (
    DataConfig,
    load_pretrain_recipe,
    recipe_from_dict,
    recipe_to_dict,
    stage_recipe,
)
from video_ssl.recipes import ConfigError, list_recipes, to_yaml

VIDEOS, RUN = Path("videos"), Path("runs/x")


@pytest.mark.parametrize("name", list_recipes("pretrain"))
def test_every_recipe_of_the_house_survives_yaml(name: str, tmp_path: Path) -> None:
    recipe = load_pretrain_recipe(name)
    assert recipe.name == name
    file = tmp_path / "recipe.yaml"
    file.write_text(to_yaml(recipe_to_dict(recipe)), encoding="utf-8")
    assert load_pretrain_recipe(file) == recipe


def test_overrides_reach_every_section(helpers: Any, tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    content = helpers.tiny(VIDEOS, RUN)
    del content["name"], content["run"]
    file.write_text(to_yaml(content), encoding="utf-8")
    recipe = load_pretrain_recipe(
        file,
        ["data.table=demo:train", "objective.mask.ratio=0.5", "training.ema.decay=0.9", "seed=7"],
    )
    assert (recipe.data.table, recipe.objective.mask.ratio, recipe.seed) == ("demo:train", 0.5, 7)
    assert recipe.training.ema is not None
    assert recipe.training.ema.decay == 0.9
    assert (recipe.name, recipe.run) == ("mine", "runs/mine")


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"objective__name": "videomea"}, "Did you mean 'videomae'"),
        ({"training__duraton": 3}, "Did you mean 'duration'"),
        ({"objective__mask__ration": 0.5}, r"objective\.mask\.ration.*Did you mean 'ratio'"),
        ({"training__duration": "3 parsecs"}, "not a duration"),
        ({"training__duration": 0}, "longer than nothing"),
        ({"training__accumulation": 3}, "not divisible by accumulation=3"),
        ({"training__precision": "fp16"}, r"training\.precision"),
        ({"optimizer__name": "lamb"}, "optimizer: name='lamb': allowed are"),
        ({"optimizer__min_lr": 1.0}, "above base_lr"),
        ({"optimizer__layer_decay": 1.5}, "layer_decay=1.5"),
        ({"data__mix": {"b": -1.0}}, "must be positive"),
        ({"seed": -1}, "seed=-1"),
    ],
)
def test_mistakes_are_named(helpers: Any, changes: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        helpers.recipe(VIDEOS, RUN, **changes)


@pytest.mark.parametrize(
    ("name", "key", "least", "text"),
    [
        ("hico/s3dg_k400", "crop.size", 17, "S3D-G was given clips of 16 frames of 16x16 pixels"),
        ("hico/s3dg_k400", "clip.num_frames", 5, "S3D-G was given clips of 4 frames of 112x112"),
        ("hicopp/s3dg_k400", "crop.size", 17, "S3D-G was given clips of 16 frames of 16x16 pixels"),
        ("supervised/hico_ft_ucf101", "crop.size", 17, "S3D-G was given clips of .* 16x16 pixels"),
        ("tcc/pouring", "crop.size", 65, r"frames of 64x64 pixels are too small .*crop\.size"),
        ("tcn/pouring", "crop.size", 65, r"frames of 64x64 pixels are too small .*crop\.size"),
    ],
)
def test_a_clip_of_which_the_network_leaves_nothing_is_told_when_the_recipe_is_read(
    name: str, key: str, least: int, text: str
) -> None:
    """Was wrong: the network found it in the first step, after the data were opened and the workers had started."""
    encoder = [] if name.startswith("tc") else ["objective.encoder={architecture: s3dg}"]
    load_pretrain_recipe(name, [*encoder, f"objective.{key}={least}"])
    with pytest.raises(ConfigError, match=text):
        load_pretrain_recipe(name, [*encoder, f"objective.{key}={least - 1}"])


def test_no_objective_at_all(helpers: Any) -> None:
    content = helpers.tiny(VIDEOS, RUN)
    del content["objective"]["name"]
    with pytest.raises(ConfigError, match=r"objective\.name is not set.*videomae"):
        recipe_from_dict(content)


def test_a_stage_follows_the_outer_run_to_its_data_seed_and_device(
    helpers: Any, tmp_path: Path
) -> None:
    file = tmp_path / "inner.yaml"
    inner = helpers.tiny(VIDEOS, RUN, training__device="auto", training__duration=5, seed=1)
    file.write_text(to_yaml(inner), encoding="utf-8")
    outer = helpers.recipe(Path("others"), Path("runs/outer"), seed=9, training__trackers=None)
    stage = stage_recipe(outer, "image", EncoderSource(recipe=str(file)))
    assert stage.data == DataConfig(table="others")
    assert (stage.seed, stage.training.device, stage.training.duration) == (9, "cpu", 5)
    assert outer.training.trackers != recipe_from_dict(inner).training.trackers
    assert (
        stage.training.trackers == outer.training.trackers
    )  # nothing is sent that was switched off
    assert stage.run == "runs/outer/stages/image"


def test_recipes_are_read_without_torch() -> None:
    code = "import sys, video_ssl.pretrain.recipe; assert not {'torch', 'jax'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_home_is_home_in_the_folder_of_a_run(tmp_path, monkeypatch):
    """Was wrong: `run=~/x`, which no shell expands behind a sign, made a folder named `~`."""
    monkeypatch.setenv("HOME", str(tmp_path / "me"))
    monkeypatch.chdir(tmp_path)
    recipe = load_pretrain_recipe("videomae/demo", ["run=~/my run"])
    assert recipe.folder == tmp_path / "me" / "my run"
    assert load_pretrain_recipe("videomae/demo", ["run=a~b"]).folder == Path("a~b")
    (tmp_path / "~").mkdir()
    (tmp_path / "~" / "my run").mkdir()
    assert load_pretrain_recipe("videomae/demo", ["run=~/my run"]).folder == Path("~/my run")
