"""Recipes: inheritance, overrides, and errors that name the nearest key."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from video_ssl.pretrain.recipe import load_pretrain_recipe, recipe_from_dict, recipe_to_dict
from video_ssl.recipes import (
    ROOMS,
    ConfigError,
    build_config,
    find_recipe,
    list_recipes,
    read_recipe,
    to_plain,
)


@dataclass(frozen=True, kw_only=True)
class Inner:
    lr: float = 1e-3
    betas: tuple[float, ...] = (0.9, 0.95)


@dataclass(frozen=True, kw_only=True)
class Outer:
    name: str
    optimizer: Inner = Inner()
    extra: tuple[Inner, ...] = ()
    other: Inner | None = None

    def __post_init__(self) -> None:
        if self.name == "":
            raise ValueError("name must not be empty: give the run a name.")


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_file_wins_over_base_and_override_over_both(tmp_path):
    write(tmp_path / "base.yaml", "name: base\noptimizer: {lr: 0.1, betas: [0.8, 0.9]}\n")
    child = write(tmp_path / "child.yaml", "base: base.yaml\noptimizer: {lr: 0.2}\n")
    assert read_recipe(child) == {"name": "base", "optimizer": {"lr": 0.2, "betas": [0.8, 0.9]}}
    overridden = read_recipe(child, ["optimizer.lr=1e-4", "name=mine"])
    assert overridden == {"name": "mine", "optimizer": {"lr": 1e-4, "betas": [0.8, 0.9]}}


def test_build_and_plain_are_inverse():
    config = build_config(Outer, {"name": "x", "optimizer": {"lr": 2}, "extra": [{"lr": 3}]})
    assert config.optimizer == Inner(lr=2.0)
    assert config.extra == (Inner(lr=3.0),)
    assert build_config(Outer, to_plain(config)) == config


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        ({"name": "x", "optimiser": {}}, "unknown key 'optimiser'.*Did you mean 'optimizer'"),
        ({"name": "x", "optimizer": {"l": 1}}, r"unknown key 'optimizer.l'.*Did you mean 'lr'"),
        ({"name": "x", "extra": [{"beta": 1}]}, r"unknown key 'extra.beta'.*Did you mean 'betas'"),
        ({"name": "x", "other": {"lrr": 1}}, r"unknown key 'other.lrr'"),
        ({}, "name is not set"),
        ({"name": "x", "optimizer": {"lr": "fast"}}, r"optimizer.lr='fast'.*number"),
        ({"name": ""}, "name must not be empty: give the run a name"),
    ],
)
def test_what_cannot_be_built_is_named(mapping, message):
    with pytest.raises(ConfigError, match=message):
        build_config(Outer, mapping)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [1", "not readable as YAML"),
        ("- 1\n", "must hold keys and values"),
        ("", "must hold|^$"),
    ],
)
def test_broken_files(tmp_path, text, message):
    path = write(tmp_path / "r.yaml", text)
    if text == "":
        assert read_recipe(path) == {}
    else:
        with pytest.raises(ConfigError, match=message):
            read_recipe(path)


def test_circular_and_missing_base(tmp_path):
    a = write(tmp_path / "a.yaml", "base: b.yaml\n")
    write(tmp_path / "b.yaml", "base: a.yaml\n")
    with pytest.raises(ConfigError, match="circular base"):
        read_recipe(a)
    with pytest.raises(ConfigError, match=r"no recipe file .*gone.yaml, named as base by"):
        read_recipe(write(tmp_path / "c.yaml", "base: gone.yaml\n"))


def test_override_without_value(tmp_path):
    path = write(tmp_path / "a.yaml", "x: 1\n")
    with pytest.raises(ConfigError, match="'fast' has no key and value"):
        read_recipe(path, ["fast"])


def test_unknown_recipe_names_the_nearest():
    with pytest.raises(ConfigError, match=r"no recipe 'mvd/dmeo'.*Did you mean 'mvd/demo'"):
        find_recipe("mvd/dmeo", "pretrain")
    assert find_recipe("mvd/demo", "pretrain") == list_recipes("pretrain")["mvd/demo"]
    assert find_recipe("pretrain/mvd/demo.yaml", "pretrain").name == "demo.yaml"


def test_recipe_folders_are_not_packages(tmp_path):
    """`datasets` and `evaluate` are also names of other people's packages: ours must never be imported."""
    root = Path(__file__).resolve().parent.parent
    assert not [r for r in ROOMS if (root / r / "__init__.py").exists()]
    code = (
        "import video_ssl, importlib.util as u, sys\n"
        f"specs = [u.find_spec(n) for n in {ROOMS!r}]\n"
        f"sys.exit(any(s and s.origin and {str(root)!r} in s.origin for s in specs))"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=False).returncode == 0


def test_importing_the_package_stays_light():
    code = "import video_ssl, sys; sys.exit(bool({'torch', 'jax', 'numpy'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("name", sorted(list_recipes("pretrain")))
def test_every_pretraining_recipe_builds_and_survives_a_round_trip(name):
    recipe = load_pretrain_recipe(name)
    assert recipe_from_dict(recipe_to_dict(recipe)) == recipe
