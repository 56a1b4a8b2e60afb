"""A package that a recipe needs and that is not installed is one line, before anything is read, made or claimed."""

from __future__ import annotations

import sys

import pytest

from video_ssl.pretrain.errors import RunError
from video_ssl.pretrain.recipe import load_pretrain_recipe
from video_ssl.pretrain.start import run_recipe
from video_ssl.recipes import list_recipes


@pytest.mark.parametrize(
    ("name", "setting", "package", "extra"),
    [
        ("supervised/zoo_x3d_m", "seed=1", "pytorchvideo", "zoo"),
        ("videomae/demo", "training.sharding=oss", "fairscale", "sharded"),
    ],
)
def test_a_missing_package_is_told_before_anything(
    tmp_path, monkeypatch, name, setting, package, extra
):
    monkeypatch.chdir(tmp_path)  # nor are generated videos made
    monkeypatch.setitem(sys.modules, package, None)
    recipe = load_pretrain_recipe(name, ["run=runs/mine", setting])
    with pytest.raises(RunError, match=rf"needs {package}: pip install 'video_ssl\[{extra}\]'\.$"):
        run_recipe(recipe)
    assert list(tmp_path.iterdir()) == []


def test_a_stage_needs_what_its_recipe_needs(tmp_path, monkeypatch):
    (tmp_path / "teacher.yaml").write_text(
        f"base: {list_recipes('pretrain')['mae/demo']}\ntraining: {{sharding: oss}}\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "fairscale", None)
    stage = f"objective.image.source.recipe={tmp_path}/teacher.yaml"
    recipe = load_pretrain_recipe("mvd/demo", ["run=runs/mine", stage])
    with pytest.raises(RunError, match=r"training\.sharding=oss needs fairscale"):
        run_recipe(recipe)
    assert not (tmp_path / "runs").exists()
