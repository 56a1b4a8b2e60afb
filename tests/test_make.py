"""`make pretrain-X DATA=... RUN=... RECIPE=...` hands on what was typed, to the letter."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from video_ssl.evaluate.recipe import load_evaluate_recipe
from video_ssl.objectives import OBJECTIVES
from video_ssl.pretrain.recipe import load_pretrain_recipe

ROOT = Path(__file__).resolve().parents[1]
CODE = "import json, sys; print('WORDS ' + json.dumps(sys.argv[1:]))"


def words(tmp_path: Path, *variables: str) -> list[list[str]]:
    """The arguments of every call of video-ssl."""
    bin_folder = tmp_path / "bin"
    bin_folder.mkdir()
    command = bin_folder / "video-ssl"
    # By a shell: the first line of a script cannot name an interpreter whose path has a space.
    run = shlex.join([sys.executable, "-c", CODE])
    command.write_text(f'#!/bin/sh\nexec {run} "$@"\n')
    command.chmod(0o755)
    call = [
        "make",
        "-s",
        "-C",
        str(ROOT),
        "-o",
        ".venv/.ready",
        "pretrain-mvd",
        f"BIN={bin_folder}",
    ]
    done = subprocess.run([*call, *variables], capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    return [json.loads(line[6:]) for line in lines if line.startswith("WORDS ")]


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_make_hands_on_every_letter(tmp_path: Path) -> None:
    """Was wrong: the shell cut a folder with a space in two, and read `$`, `;` and quotes in it."""
    odd = f"""{tmp_path}/it's my #1 "vids"; touch {tmp_path}/PWNED $(touch {tmp_path}/PWNED) a$b $HOME"""
    ((verb, recipe, *rest),) = words(
        tmp_path, f"DATA={odd}", f"RUN=runs/{odd[-5:]}", "RECIPE=my recipes/a b.yaml", "SET=seed=1"
    )
    assert (verb, recipe) == ("pretrain", "my recipes/a b.yaml")
    assert rest == ["run=runs/$HOME", f"data.table={odd}", "seed=1"]
    assert not (tmp_path / "PWNED").exists()


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_make_without_words_probes_what_it_has_trained(tmp_path: Path) -> None:
    (pretrain,) = words(tmp_path)
    assert pretrain == ["pretrain", "pretrain/mvd/demo.yaml", "run=runs/mvd-demo", "--evaluate"]


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_make_trains_on_own_videos_with_the_small_recipe(tmp_path: Path) -> None:
    """Was wrong: own videos were trained on by the demo, for the seconds that suit the generated ones."""
    (pretrain,) = words(tmp_path, "DATA=my videos")
    assert pretrain == [
        *("pretrain", "pretrain/mvd/small.yaml", "run=runs/mvd-small", "data.table=my videos"),
    ]
    recipe = load_pretrain_recipe(ROOT / pretrain[1], pretrain[2:])
    assert (recipe.name, recipe.data.table) == ("mvd/small", "my videos")


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_every_objective_has_a_recipe_that_make_trains_and_evaluates() -> None:
    """The Makefile names no objective: X is a folder of recipes."""
    told = subprocess.run(
        ["make", "-s", "-C", str(ROOT), "help"], capture_output=True, text=True, check=True
    ).stdout
    (line,) = [line for line in told.splitlines() if line.startswith("X: ")]
    folders = line.removeprefix("X: ").split()
    slow = {"tcc", "supervised_sound"}  # they learn nothing in minutes
    recipes = [load_pretrain_recipe(f"{name}/demo") for name in folders if name not in slow]
    assert {recipe.objective_name for recipe in recipes} == set(OBJECTIVES) - slow
    assert {load_pretrain_recipe(f"{name}/small").objective_name for name in slow} == slow
    for recipe in recipes:
        assert recipe.evaluate
        for evaluation in recipe.evaluations:
            load_evaluate_recipe(evaluation)


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
@pytest.mark.parametrize(
    ("recipe", "run"),
    [
        ("mvd/demo_published", "runs/mvd-demo_published"),
        ("pretrain/mvd/vit_s_k400.yaml", "runs/mvd-vit_s_k400"),
        ("pretrain/mvd/demo.yaml", "runs/mvd-demo"),
    ],
)
def test_a_recipe_that_is_named_trains_in_a_folder_of_its_own(
    tmp_path: Path, recipe: str, run: str
) -> None:
    """Was wrong: it went into runs/mvd-demo, where the demo that everybody runs first has begun, and was refused."""
    (pretrain,) = words(tmp_path, f"RECIPE={recipe}")
    assert pretrain[:3] == ["pretrain", recipe, f"run={run}"]
