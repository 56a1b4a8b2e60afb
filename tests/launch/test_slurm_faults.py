"""Faults on a real SLURM that need more than a signal: a run folder that is full."""

from __future__ import annotations

import contextlib
import errno
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from video_ssl.pretrain.checkpoint_folders import list_checkpoints

pytestmark = [pytest.mark.slow, pytest.mark.slurm, pytest.mark.usefixtures("nothing_stays")]


def done(*words: object) -> None:
    """Runs a command of the system; what it needs is not everywhere, so without it the test is skipped."""
    try:
        made = subprocess.run([*map(str, words)], capture_output=True, text=True, timeout=600)
    except FileNotFoundError:
        pytest.skip(f"{words[0]} is not installed")
    if made.returncode:
        pytest.skip(f"{words[0]} does not work here: {made.stderr.strip()}")


@contextlib.contextmanager
def mounted(folder: Path, *options: object) -> Iterator[None]:
    folder.mkdir()
    done("mount", *options, folder)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


@pytest.fixture(params=["full", "quota"])
def small_disk(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[tuple[Path, int]]:
    """48 MiB, as a file system of its own (ENOSPC) or by a quota of btrfs on a folder (EDQUOT); and the error when they
    are full."""
    disk = tmp_path / "disk"
    if request.param == "full":
        with mounted(disk, "-t", "tmpfs", "-o", "size=48m", "tmpfs"):
            yield disk, errno.ENOSPC
        return
    image, folder = tmp_path / "image", disk / "mine"
    with open(image, "wb") as file:
        file.truncate(2**28)
    done("mkfs.btrfs", "--quiet", "--mixed", image)
    with mounted(disk, "-t", "btrfs", "-o", "loop", image):
        done("btrfs", "quota", "enable", disk)
        done("btrfs", "subvolume", "create", folder)
        done("btrfs", "qgroup", "limit", "48M", folder)
        yield folder, errno.EDQUOT


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
    kit.wait(lambda: reason in kit.command("jobs", "status", run), run)
    assert f"cancelled: {job}" in kit.command("jobs", "cancel", run)  # also what never began
    kit.wait(lambda: cluster.state(job) == "CANCELLED", run)


def fill(folder: Path) -> tuple[Path, int | None]:
    """Takes all room that is left, to the last byte; returns the file and the number of the error that says so."""
    path = folder / "of_somebody_else"
    with open(path, "wb", buffering=0) as file:
        try:
            while file.write(bytes(4096)):
                pass
        except OSError as err:
            return path, err.errno
    return path, None


CHANGES = {"training__duration": 400, "training__checkpoint_every": 10}


@pytest.fixture(scope="module")
def undisturbed(videos: Path, tmp_path_factory: pytest.TempPathFactory, kit: Any) -> Path:
    """A run of two processes that nobody disturbs."""
    calm = tmp_path_factory.mktemp("calm") / "run"
    file = kit.recipe(videos, calm, **CHANGES)
    kit.command("launch", "local", "pretrain", file, "--set", "tasks_per_node=2")
    return calm


def test_a_full_disk_ends_the_run_and_it_goes_on_when_there_is_room(
    videos: Path, undisturbed: Path, small_disk: tuple[Path, int], kit: Any, cluster: Any
) -> None:
    """Two nodes, and a disk or a quota that somebody else uses up: the reason is in the history and the status,
    nothing is repeated in vain, the newest checkpoint is whole, and with room again the run ends in the same bits as
    an undisturbed one."""
    disk, full = small_disk
    run = disk / "run"
    job = cluster.launch("slurm", "pretrain", kit.recipe(videos, run, **CHANGES), *cluster.TWO)
    kit.wait(lambda: kit.steps(run) >= 12, run)
    filler, told_by_system = fill(disk)
    assert told_by_system == full
    kit.wait(lambda: kit.outcomes(run), run)
    kit.wait(lambda: cluster.state(job) == "FAILED", run)
    end = kit.attempts(run)[-1]
    assert (end["outcome"], end["again"]) == ("failed", False)
    assert "could not be written" in end["reason"], kit.story(run)
    assert os.strerror(full) in end["reason"], kit.story(run)
    told = kit.command("jobs", "status", run)
    assert "pretrain failed: process 0: " in told
    newest = list_checkpoints(run / "checkpoints")[-1].step
    assert f"newest checkpoint: step {newest}" in told
    assert 10 <= newest < CHANGES["training__duration"]
    kit.command("jobs", "requeue", run)  # in vain; there may be no room left to say so
    kit.wait(lambda: cluster.state(job) != "FAILED", run)
    kit.wait(lambda: cluster.state(job) == "FAILED", run)
    assert set(kit.outcomes(run)) == {"failed"}
    assert list_checkpoints(run / "checkpoints")[-1].step == newest
    filler.unlink()
    kit.command("jobs", "requeue", run)
    kit.wait(lambda: kit.outcomes(run)[-1] == "finished", run)
    starts = [row["step"] for row in kit.attempts(run) if row["event"] == "start"]
    assert starts[0] == 0
    assert set(starts[1:]) == {newest}
    one, two = (kit.weights(r) for r in (run, undisturbed))
    assert [name for name in one if not (one[name] == two[name]).all()] == []
