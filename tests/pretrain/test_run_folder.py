"""RUN/: one process at a time, one recipe, and a record of every start."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from video_ssl.files import OutputError, temporary_name
from video_ssl.pretrain.errors import RunError
from video_ssl.pretrain.processes import Processes
from video_ssl.pretrain.recipe import load_pretrain_recipe, recipe_to_dict
from video_ssl.pretrain.reporting import keep_metrics, read_metrics
from video_ssl.pretrain.run_folder import (
    hold,
    is_harmless,
    note_start,
    settle_recipe,
    take_recipe,
)
from video_ssl.recipes import load_yaml, recipe_changes, to_yaml

HOLDER = """
import sys, time
from pathlib import Path
from video_ssl.pretrain.recipe import load_pretrain_recipe, recipe_to_dict
from video_ssl.recipes import to_yaml
from video_ssl.pretrain.run_folder import hold
with hold(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_second_process_is_refused_and_a_crash_frees_the_folder(tmp_path: Path) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        expected = rf"in use by process {holder.pid} on {os.uname().nodename}\. .*run=\.\.\."
        with pytest.raises(RunError, match=expected), hold(tmp_path):
            pass
    finally:
        holder.kill()
        holder.wait()
    with hold(tmp_path):
        pass


def test_a_file_is_no_run_folder(tmp_path: Path) -> None:
    (tmp_path / "x").touch()
    with pytest.raises(RunError, match="not a folder"), hold(tmp_path / "x"):
        pass


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_told_with_what_to_do(tmp_path: Path, number: int) -> None:
    with (
        pytest.raises(RunError, match=rf"x could not be written \({os.strerror(number)}\)\. Make"),
        hold(tmp_path),
    ):
        raise OSError(number, os.strerror(number), str(tmp_path / "x"))
    with pytest.raises(IsADirectoryError), hold(tmp_path):
        (tmp_path / ".").read_text()


RECIPE = {
    "seed": 0,
    "loader": {"num_workers": 2, "backend": "pyav"},
    "training": {"log_every": 10, "duration": "4 epochs"},
    "optimizer": {"betas": (0.9, 0.95), "eps": 1e-8},
}


def test_the_same_recipe_goes_through_yaml_unchanged(tmp_path: Path) -> None:
    assert not settle_recipe(tmp_path, RECIPE, allow_changes=False)
    assert not settle_recipe(tmp_path, RECIPE, allow_changes=False)
    assert load_yaml(tmp_path / "recipe.yaml")["optimizer"]["eps"] == 1e-8


def test_a_changed_recipe_is_refused_with_the_difference(tmp_path: Path) -> None:
    settle_recipe(tmp_path, RECIPE, allow_changes=False)
    changed = {**RECIPE, "seed": 1, "optimizer": {"betas": (0.9, 0.99), "eps": 1e-8}}
    with pytest.raises(RunError) as caught:
        settle_recipe(tmp_path, changed, allow_changes=False)
    text = str(caught.value)
    assert "\n  seed: 1 <- 0\n" in text
    assert "\n  optimizer.betas.1: 0.99 <- 0.95\n" in text
    assert "--allow-changes" in text
    assert load_yaml(tmp_path / "recipe.yaml")["seed"] == 0
    assert settle_recipe(tmp_path, changed, allow_changes=True)
    assert load_yaml(tmp_path / "recipe.yaml")["seed"] == 0  # it may be refused later
    take_recipe(tmp_path, changed)
    assert load_yaml(tmp_path / "recipe.yaml")["seed"] == 1


def test_keys_that_have_come_since_a_run_began_are_at_their_defaults(tmp_path: Path) -> None:
    now = recipe_to_dict(load_pretrain_recipe("videomae/demo"))
    before = {**now, "optimizer": {k: v for k, v in now["optimizer"].items() if k != "groups"}}
    settle_recipe(tmp_path, before, allow_changes=False)
    changed = {**now, "optimizer": {**now["optimizer"], "groups": [{"match": "*", "lr_factor": 2}]}}
    with pytest.raises(RunError, match=r"optimizer.groups.0.match: '\*' <- \(absent\)"):
        settle_recipe(tmp_path, changed, allow_changes=False)
    assert not settle_recipe(tmp_path, now, allow_changes=False)


def test_harmless_settings_may_change(tmp_path: Path) -> None:
    settle_recipe(tmp_path, RECIPE, allow_changes=False)
    changed = {
        **RECIPE,
        "loader": {"num_workers": 8, "backend": "pyav"},
        "training": {"log_every": 1, "duration": "4 epochs"},
    }
    assert not settle_recipe(tmp_path, changed, allow_changes=False)
    assert not is_harmless("loader.backend")
    assert not is_harmless("names")
    assert not is_harmless("training.keeper")


def test_settings_that_came_or_went_are_shown() -> None:
    lines = recipe_changes({"a": {"x": 1}, "b": []}, {"a": {}, "b": [2]})
    assert set(lines.values()) == {
        "a: {} <- (absent)",
        "a.x: (absent) <- 1",
        "b.0: 2 <- (absent)",
        "b: (absent) <- []",
    }


def test_every_start_is_recorded(tmp_path: Path) -> None:
    for step in (0, 7):
        note_start(tmp_path, Processes(0, 1, torch.device("cpu")), step=step)
    starts = json.loads((tmp_path / "environment.json").read_text())["starts"]
    assert [s["step"] for s in starts] == [0, 7]
    assert starts[0]["versions"]["torch"] == torch.__version__
    assert starts[0]["command"] == sys.argv


def test_what_a_killed_run_has_left_goes_at_the_next_start(tmp_path: Path) -> None:
    """Was wrong: RUN/.encoder.PID.tmp, of the size of the encoder, stayed for ever."""
    for name in (".encoder.123.tmp", ".encoder.deadbeef-7-9.tmp"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").write_bytes(b"half")
    (tmp_path / ".recipe.yaml.deadbeef-7-9.tmp").write_text("na")
    report = temporary_name(tmp_path / "report.html")  # being written, beside the run
    report.write_text("<html>")
    with hold(tmp_path):
        assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", report.name]


def test_a_folder_of_somebody_else_becomes_no_run(tmp_path: Path) -> None:
    """Was wrong: somebody's recipe.yaml was replaced by the resolved one."""
    (tmp_path / "recipe.yaml").write_text("base: videomae/demo  # mine\n")
    with pytest.raises(OutputError, match=r"has recipe\.yaml already"), hold(tmp_path):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["recipe.yaml"]
    note_start(tmp_path, Processes(0, 1, torch.device("cpu")), step=0)  # a run that was copied
    with hold(tmp_path):
        assert (tmp_path / "recipe.yaml").read_text() == "base: videomae/demo  # mine\n"


@pytest.mark.parametrize("folder", ["/", "..", "~", "link"])
def test_the_root_the_home_and_the_folder_above_become_no_run(
    folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Was wrong: `run=/` trained, and left checkpoints and logs in the root of the file system."""
    home, here = tmp_path / "home", tmp_path / "here"
    for place in (home, here):
        place.mkdir()
    (here / "link").symlink_to(tmp_path)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(here)
    with (
        pytest.raises(OutputError, match="holds more than a run"),
        hold(Path(folder).expanduser()),
    ):
        pass
    assert [*home.iterdir(), *Path(here).iterdir()] == [here / "link"]


def test_metrics_of_steps_that_are_repeated_are_removed(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(f'{{"step": {s}, "t": {time.time()}}}\n' for s in (4, 8, 12)) + '{"st')
    assert [r["step"] for r in read_metrics(path)] == [4, 8, 12]
    keep_metrics(path, 8)
    assert [r["step"] for r in read_metrics(path)] == [4, 8]
    assert path.read_text().endswith("}\n")


def test_a_run_goes_on_although_the_library_has_a_new_setting(tmp_path: Path) -> None:
    recipe = recipe_to_dict(load_pretrain_recipe("mae/demo"))
    old = {**recipe, "data": {k: v for k, v in recipe["data"].items() if k != "streams"}}
    (tmp_path / "recipe.yaml").write_text(to_yaml(old))
    assert not settle_recipe(tmp_path, recipe, allow_changes=False)
    other = {**recipe, "data": {**recipe["data"], "mix": {"b": 1.0}}}
    with pytest.raises(RunError, match=r"data\.mix\.b"):
        settle_recipe(tmp_path, other, allow_changes=False)
