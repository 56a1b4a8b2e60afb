"""Faults on a real SLURM that need more than a signal: a run folder that is full."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from video_ssl.pretrain.checkpoint_folders import list_checkpoints

pytestmark = [pytest.mark.slow, pytest.mark.slurm, pytest.mark.usefixtures("nothing_stays")]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 48 MiB; what a quota leaves looks the same to a run."""
    folder = tmp_path / "disk"
    folder.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=48m", "tmpfs", folder], capture_output=True, text=True
    )
    if made.returncode:
        pytest.skip(f"no small file system can be mounted here: {made.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


@pytest.mark.parametrize(
    ("setting", "reason"),
    [
        ("time_min=600", "PartitionTimeLimit: time_min is more than the partition allows"),
        ("nodes=3", "PartitionNodeLimit: the partition does not have so many nodes"),
    ],
)
def test_what_waits_for_ever_says_why(
    videos: Path, tmp_path: Path, kit: Any, cluster: Any, setting: str, reason: str
) -> None:
    """SLURM takes such jobs and lets them wait; some clusters refuse them at once."""
    run = tmp_path / "run"
    job = cluster.launch(
        "slurm", "pretrain", kit.recipe(videos, run), *cluster.SHORT, "--set", setting
    )
    kit.wait(lambda: reason in kit.command("jobs", "status", run), run, limit_sec=30)
    assert f"cancelled: {job}" in kit.command("jobs", "cancel", run)  # also what never began
    kit.wait(lambda: cluster.state(job) == "CANCELLED", run)


def fill(folder: Path) -> Path:
    """Takes all room that is left, to the last byte."""
    path = folder / "of_somebody_else"
    with open(path, "wb", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(bytes(4096)):
            pass
    return path


def test_a_full_disk_ends_the_run_and_it_goes_on_when_there_is_room(
    videos: Path, tmp_path: Path, small_disk: Path, kit: Any, cluster: Any
) -> None:
    """Two nodes.  The reason is in the history and the status, nothing is repeated in vain, the newest checkpoint is
    whole, and with room again the run ends in the bits of an undisturbed one."""
    run, calm = small_disk / "run", tmp_path / "calm"
    changes = {"training__duration": 600, "training__checkpoint_every": 10}
    job = cluster.launch("slurm", "pretrain", kit.recipe(videos, run, **changes), *cluster.TWO)
    kit.wait(lambda: kit.steps(run) >= 12, run)
    filler = fill(small_disk)
    kit.wait(lambda: kit.outcomes(run), run)
    kit.wait(lambda: cluster.state(job) == "FAILED", run)
    end = kit.attempts(run)[-1]
    assert (end["outcome"], end["again"]) == ("failed", False)
    assert "could not be written" in end["reason"], kit.story(run)
    told = kit.command("jobs", "status", run)
    assert "pretrain failed: process 0: " in told
    newest = list_checkpoints(run / "checkpoints")[-1].step
    assert f"newest checkpoint: step {newest}" in told
    assert 10 <= newest < 600
    filler.unlink()
    kit.command("jobs", "requeue", run)
    kit.wait(lambda: kit.outcomes(run) == ["failed", "finished"], run)
    assert [row["step"] for row in kit.attempts(run) if row["event"] == "start"] == [0, newest]
    file = kit.recipe(videos, calm, **changes)
    kit.command("launch", "local", "pretrain", file, "--set", "tasks_per_node=2")
    one, two = (kit.weights(r) for r in (run, calm))
    assert [name for name in one if not (one[name] == two[name]).all()] == []
