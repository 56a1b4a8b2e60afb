"""Checkpoints: complete or absent, whatever happens while they are written."""

from __future__ import annotations

import errno
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from video_ssl.pretrain import checkpoint_folders
from video_ssl.pretrain.checkpoint_folders import (
    Checkpoint,
    list_checkpoints,
    newest_checkpoint,
    sound_checkpoint,
    sweep,
    sweep_unfinished,
)
from video_ssl.pretrain.dry_run import describe_start
from video_ssl.pretrain.errors import CheckpointError
from video_ssl.pretrain.torch_loop import checkpoints
from video_ssl.pretrain.torch_loop.checkpoints import load_objective, load_state, save_checkpoint
from video_ssl.pretrain.torch_loop.run import run_torch


def state(value: float) -> dict[str, Any]:
    return {"objective": {"w": torch.full((3,), value)}, "optimizer": {"w": {"m": torch.ones(2)}}}


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def test_what_is_saved_comes_back(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, 5, state(1.5), {"seed": 3})
    save_checkpoint(tmp_path, 12, state(2.5), {"seed": 3})
    newest = newest_checkpoint(tmp_path)
    assert newest == Checkpoint(12, tmp_path / "step_12")
    assert torch.equal(load_state(newest)["objective"]["w"], torch.full((3,), 2.5))
    assert checkpoint_folders.read_meta(newest)["seed"] == 3
    assert names(tmp_path) == ["step_12", "step_5"]


def test_a_checkpoint_as_it_was_written_is_sound(tmp_path: Path) -> None:
    """Was seen by the tests of kills alone: the checksum is taken on the way to the disk, piece by piece."""
    saved = save_checkpoint(tmp_path, 1, state(1.5), {})
    assert sound_checkpoint(tmp_path) == saved


def test_an_empty_or_missing_folder_has_none(tmp_path: Path) -> None:
    assert newest_checkpoint(tmp_path) is None
    assert newest_checkpoint(tmp_path / "absent") is None


@pytest.mark.parametrize(
    "harm", ["no meta", "cut state", "no state", "empty meta", "temporary name"]
)
def test_incomplete_ones_are_passed_over(tmp_path: Path, harm: str) -> None:
    save_checkpoint(tmp_path, 5, state(1.0), {})
    broken = save_checkpoint(tmp_path, 6, state(2.0), {}).folder
    if harm == "no meta":
        (broken / "meta.json").unlink()
    elif harm == "cut state":
        (broken / "state.pt").write_bytes((broken / "state.pt").read_bytes()[:-7])
    elif harm == "no state":
        (broken / "state.pt").unlink()
    elif harm == "empty meta":
        (broken / "meta.json").write_text("")
    else:
        broken.rename(tmp_path / ".step_6.123.tmp")
    newest = newest_checkpoint(tmp_path)
    assert newest is not None
    assert newest.step == 5


def test_leftovers_of_crashes_are_swept(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, 5, state(1.0), {}).folder.rename(tmp_path / ".step_5.1.old")
    (tmp_path / ".step_7.9.tmp").mkdir()
    sweep_unfinished(tmp_path)
    assert names(tmp_path) == ["step_5"]  # moved aside by a crash between two renames: put back
    save_checkpoint(tmp_path, 5, state(2.0), {})
    assert names(tmp_path) == ["step_5"]
    assert load_state(Checkpoint(5, tmp_path / "step_5"))["objective"]["w"][0] == 2.0


def test_old_ones_go_and_chosen_ones_stay(tmp_path: Path) -> None:
    for step in range(2, 22, 2):
        save_checkpoint(tmp_path, step, state(0.0), {})
        sweep(tmp_path, keep=2, checkpoint_every=2, keep_every=6)
    assert [c.step for c in list_checkpoints(tmp_path)] == [6, 12, 18, 20]


def test_a_kill_while_an_old_one_goes_leaves_no_half(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Was wrong: it was emptied under its own name; what a kill left of it was complained about at every save and
    removed by nobody."""
    for step in (2, 4):
        save_checkpoint(tmp_path, step, state(0.0), {})

    def killed(path: Path, **_: Any) -> None:
        next(file for file in Path(path).rglob("*") if file.is_file()).unlink()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", killed)
        with pytest.raises(KeyboardInterrupt):
            sweep(tmp_path, keep=1)
    sweep_unfinished(tmp_path)
    assert names(tmp_path) == ["step_4"]


def test_of_every_multiple_the_first_checkpoint_at_or_after_it_stays(tmp_path: Path) -> None:
    """Was wrong: only steps that are multiples of both stayed, and none where an epoch is no whole number of steps.

    The checkpoint of step 6 is of a run that was stopped there, that of step 13 too.
    """
    for step in (4, 6, 8, 12, 13, 16, 20, 24, 28):
        save_checkpoint(tmp_path, step, state(0.0), {})
        sweep(tmp_path, keep=1, checkpoint_every=4, keep_every=6)
    assert [c.step for c in list_checkpoints(tmp_path)] == [6, 8, 12, 20, 24, 28]


def test_checkpoints_stay_where_an_epoch_is_no_whole_number_of_steps(
    tmp_path: Path, videos: Path, helpers: Any
) -> None:
    """Was wrong: 1 epoch of 10 records is 3 steps of 4, 3 epochs are 8, and 24 was the first multiple of both."""
    for file in sorted(videos.iterdir())[:10]:
        (tmp_path / file.name).symlink_to(file)
    every = {"training__checkpoint_every": "1 epoch", "training__keep_every": "3 epochs"}
    run = tmp_path / "run"
    recipe = helpers.recipe(tmp_path, run, training__duration="8 epochs", training__keep=1, **every)
    assert "a checkpoint every 3 (one every 8 stays)" in "\n".join(describe_start(recipe))
    assert run_torch(recipe).steps == 20
    assert [c.step for c in list_checkpoints(run / "checkpoints")] == [9, 18, 20]


@pytest.mark.parametrize("target", ["_write_state", "to_disk", "_sync_folder"])
def test_a_full_disk_is_fatal_and_harms_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str
) -> None:
    save_checkpoint(tmp_path, 5, state(1.0), {})

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    for module in (checkpoints, checkpoint_folders):
        if hasattr(module, target):
            monkeypatch.setattr(module, target, full)
    with pytest.raises(
        CheckpointError, match=r"step 9 could not.*No space left.*step 5 is untouched"
    ):
        save_checkpoint(tmp_path, 9, state(2.0), {})
    monkeypatch.undo()
    assert names(tmp_path) == ["step_5"]
    assert load_state(Checkpoint(5, tmp_path / "step_5"))["objective"]["w"][0] == 1.0


def test_a_limit_of_the_system_is_met_in_the_middle_of_a_file(tmp_path: Path) -> None:
    code = f"""
import resource, torch
from pathlib import Path
from video_ssl.pretrain.torch_loop.checkpoints import save_checkpoint
folder = Path({str(tmp_path)!r})
save_checkpoint(folder, 1, {{"objective": {{"w": torch.zeros(10)}}}}, {{}})
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
save_checkpoint(folder, 2, {{"objective": {{"w": torch.zeros(100_000)}}}}, {{}})
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode != 0
    assert "CheckpointError: the checkpoint of step 2 could not be written" in done.stderr
    assert "step 1 is untouched" in done.stderr
    assert names(tmp_path) == ["step_1"]


def test_another_architecture_is_explained(tmp_path: Path) -> None:
    module = nn.ModuleDict({"a": nn.Linear(2, 3), "b": nn.Linear(2, 2)})
    other = nn.ModuleDict({"a": nn.Linear(2, 4), "c": nn.Linear(2, 2)})
    with pytest.raises(CheckpointError) as caught:
        load_objective(module, other.state_dict(), "RUN/checkpoints/step_4")
    text = str(caught.value)
    assert "missing (2): b.weight, b.bias" in text
    assert "unexpected (2): c.weight, c.bias" in text
    assert "a.weight (4, 2) in the file, (3, 2) in the model" in text


def test_code_in_a_file_is_not_run(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "ran",))

    folder = tmp_path / "step_3"
    folder.mkdir()
    torch.save({"objective": Evil()}, folder / "state.pt")
    size = (folder / "state.pt").stat().st_size
    (folder / "meta.json").write_text(json.dumps({"step": 3, "bytes": {"state.pt": size}}))
    checkpoint = newest_checkpoint(tmp_path)
    assert checkpoint is not None
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_state(checkpoint)
    assert not (tmp_path / "ran").exists()
