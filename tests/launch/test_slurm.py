"""Launches on a real SLURM of two nodes: preemption, lost processes and nodes, limits, refusals, arrays.

Bring one up with `python tests/launch/slurm_cluster.py up`.  A test waits for events, never for a number of seconds.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch

from video_ssl.embed.features import open_features
from video_ssl.launch.jobs import status
from video_ssl.launch.launching import read_jobs
from video_ssl.pretrain.reporting import read_metrics

pytestmark = [
    pytest.mark.slurm,
    pytest.mark.slow,
    pytest.mark.usefixtures("nothing_stays"),
]

CLUSTER = Path(__file__).with_name("slurm_cluster.py")


def with_supervisors(job: str) -> list[psutil.Process]:
    """Everything of a job, what supervises it first, so that nothing is reported any more."""
    mine = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get("SLURM_JOB_ID") == job:
                mine.append(process)
    above = {parent for p in mine for parent in p.parents() if parent.name() == "slurmstepd"}
    return [*above, *mine]


def same_bits(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> bool:
    return one.keys() == two.keys() and all(torch.equal(one[k], two[k]) for k in one)


def exported(run: Path) -> dict[str, torch.Tensor]:
    import video_ssl

    return video_ssl.load_encoder(run).state_dict()


def test_preempted_twice_equals_undisturbed(
    videos: Path, tmp_path: Path, kit: Any, cluster: Any
) -> None:
    """FSDP2 on 2 nodes x 1 process, stopped by `jobs requeue` and by a job of higher priority.  The encoder has the
    same bits as that of two undisturbed processes, and the losses are those of a single one to 1e-4."""
    run, calm = tmp_path / "run", tmp_path / "calm"
    file = kit.recipe(videos, run, training__sharding="fsdp")
    job = cluster.launch("slurm", "pretrain", file, *cluster.TWO)
    kit.wait(lambda: kit.steps(run) >= 10, run)
    kit.command("jobs", "requeue", run)
    kit.wait(lambda: kit.outcomes(run) == ["preempted"], run)
    again = kit.attempts(run)[-1]["step"]
    assert again >= 10
    kit.wait(lambda: kit.steps(run) > again + 5, run)
    high = cluster.submit("true", "-p", "high")
    kit.wait(lambda: cluster.state(high) == "COMPLETED", run)
    kit.wait(lambda: kit.outcomes(run) == ["preempted", "preempted", "finished"], run)
    starts = [row["step"] for row in kit.attempts(run) if row["event"] == "start"]
    assert starts == sorted(set(starts))
    kit.wait(lambda: cluster.state(job) in ("COMPLETED", "COMPLETING"), run)
    (row,) = read_jobs(run)
    runs = json.loads((run / "environment.json").read_text())["starts"]
    assert [start["code"] for start in runs] == [row["code"]] * 3  # the copy, not the checkout
    assert all("commit" in start["git"] for start in runs)
    calm_file = kit.recipe(videos, calm, training__sharding="fsdp")
    kit.command("launch", "local", "pretrain", calm_file, "--set", "tasks_per_node=2")
    assert same_bits(exported(run), exported(calm))
    alone = tmp_path / "alone"
    kit.command("pretrain", kit.recipe(videos, alone))
    for one, two in zip(*(read_metrics(r / "metrics.jsonl") for r in (alone, run)), strict=True):
        assert one["step"] == two["step"]
        assert two["loss"] == pytest.approx(one["loss"], abs=1e-4)
    assert (
        read_metrics(run / "metrics.jsonl")[-1]["loss"]
        < 0.9 * read_metrics(run / "metrics.jsonl")[0]["loss"]
    )


def test_a_run_folder_of_any_name_is_queued_again(
    videos: Path, tmp_path: Path, kit: Any, cluster: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Was wrong: the shell read the path a second time at the end of the job, which ran `;`-commands of its name and
    left a run in a folder with a space FAILED instead of queued again."""
    monkeypatch.chdir(tmp_path)
    name = """Jürgen's "best" run; touch PWNED; $(touch PWNED2) `touch PWNED3` & 猫 #1 Restarts=99 JobState=FAILED"""
    run = tmp_path / "a b" / name
    run.parent.mkdir()
    file = kit.recipe(videos, run)
    job = cluster.launch("slurm", "pretrain", file, f"run={run}", *cluster.SHORT)
    kit.wait(lambda: kit.steps(run) >= 5, run)
    high = cluster.submit("true", "-p", "high")
    kit.wait(lambda: cluster.state(high) == "COMPLETED", run)
    kit.wait(lambda: kit.outcomes(run) == ["preempted", "finished"], run)
    kit.wait(lambda: cluster.state(job) in ("COMPLETED", "COMPLETING"), run)
    starts = [row["step"] for row in kit.attempts(run) if row["event"] == "start"]
    assert starts[1] >= 5
    (row,) = read_jobs(run)
    told = json.loads((run / "environment.json").read_text())["starts"]
    assert [start["code"] for start in told] == [row["code"]] * 2  # the copy, not the checkout
    assert not list(tmp_path.rglob("PWNED*"))
    assert "finished" in kit.command("jobs", "status", run)


def test_a_killed_process_and_a_cap(videos: Path, tmp_path: Path, kit: Any, cluster: Any) -> None:
    """kill -9 of process 1: the other notices, the job starts again from the newest checkpoint; once is the cap here,
    so a second loss without a new checkpoint ends it."""
    run = tmp_path / "run"
    file = kit.recipe(videos, run, training__duration=100000, training__checkpoint_every=10)
    job = cluster.launch("slurm", "pretrain", file, *cluster.TWO, "--set", "max_failures=1")
    kit.wait(lambda: kit.steps(run) >= 12, run)
    cluster.processes(run, 1)[0].kill()
    kit.wait(lambda: kit.outcomes(run) == ["lost"], run)
    first = kit.attempts(run)[-1]
    assert first["again"]
    assert "process 1" in first["reason"]
    assert "killed" in first["reason"]
    kit.wait(lambda: len(kit.attempts(run)) == 3, run)
    assert kit.attempts(run)[-1]["step"] == first["step"] >= 10
    shutil.rmtree(run / "checkpoints")  # so that nothing is gained in between
    kit.wait(lambda: cluster.processes(run, 0), run)
    cluster.processes(run, 0)[0].kill()
    kit.wait(lambda: kit.outcomes(run) == ["lost", "lost"], run)
    assert "max_failures=1 is reached" in kit.attempts(run)[-1]["reason"]
    kit.wait(lambda: cluster.state(job) == "FAILED", run)
    assert "max_failures=1" in kit.command("jobs", "status", run)


def test_cancel_second_launch_and_snapshot_gone(
    videos: Path, tmp_path: Path, kit: Any, cluster: Any
) -> None:
    run = tmp_path / "run"
    file = kit.recipe(videos, run, training__duration=100000)
    job = cluster.launch("slurm", "pretrain", file, *cluster.SHORT)
    kit.wait(lambda: kit.steps(run) >= 4, run)
    told = kit.command("launch", "slurm", "pretrain", file, *cluster.SHORT, code=2)
    assert f"{job} RUNNING" in told
    assert f"jobs cancel {run}" in told
    assert kit.command("jobs", "cancel", run).strip() == f"cancelled: {job}"
    kit.wait(lambda: kit.outcomes(run) == ["cancelled"], run)
    kit.wait(lambda: cluster.state(job) == "CANCELLED", run)
    assert "ended already" in kit.command("jobs", "cancel", run)
    (row,) = read_jobs(run)
    shutil.rmtree(row["code"])
    kit.command("jobs", "requeue", run)
    kit.wait(lambda: cluster.state(job) == "FAILED", run)
    assert "is gone: launch again" in kit.command("jobs", "status", run)
    assert "is gone: launch again" in kit.command("jobs", "logs", run)
    assert kit.outcomes(run) == ["cancelled", "failed"]


def test_an_error_of_the_run_is_not_repeated(
    videos: Path, tmp_path: Path, kit: Any, cluster: Any
) -> None:
    run = tmp_path / "run"
    job = cluster.launch(
        "slurm", "pretrain", kit.recipe(videos, run, training__global_batch_size=3), *cluster.TWO
    )
    kit.wait(lambda: kit.outcomes(run), run)
    assert kit.outcomes(run) == ["failed"]
    assert "global_batch_size=3 cannot be divided among 2" in kit.attempts(run)[-1]["reason"]
    kit.wait(lambda: cluster.state(job) == "FAILED", run)


def test_refusals_are_explained_and_the_dry_run_is_exact(
    videos: Path, tmp_path: Path, kit: Any, cluster: Any
) -> None:
    run = tmp_path / "run"
    file = kit.recipe(videos, run, training__duration=1)
    told = kit.command("launch", "slurm", "pretrain", file, "--set", "partition=mian", code=2)
    assert "partition='mian'" in told
    assert "Did you mean 'main'?" in told
    told = kit.command("launch", "slurm", "pretrain", file, "--set", "constraint=h100", code=2)
    assert "SLURM refuses the job" in told
    assert "eature" in told
    assert not read_jobs(run)
    hold = ("--set", "sbatch.hold=true")
    dry = kit.command("launch", "slurm", "pretrain", file, *cluster.TWO, *hold, "--dry-run")
    job = cluster.launch("slurm", "pretrain", file, *cluster.TWO, *hold)
    (row,) = read_jobs(run)
    script = (run / "launch" / f"{job}_submission.sh").read_text()
    assert script.replace(row["code"], str(run / "launch" / "code-KEY")).strip() in dry
    told = status(run)
    assert f"{job} PENDING (JobHeldUser: it is held" in told
    told = kit.command("jobs", "logs", run, code=2)
    assert "no log of process 0 yet" in told
    assert "JobHeldUser" in told


def test_status_says_what_a_job_waits_for(
    videos: Path, tmp_path: Path, kit: Any, cluster: Any
) -> None:
    run = tmp_path / "run"
    busy = cluster.submit("sleep 600")
    kit.wait(lambda: cluster.state(busy) == "RUNNING", tmp_path)
    cluster.launch("slurm", "pretrain", kit.recipe(videos, run), *cluster.TWO)
    kit.wait(lambda: "(Resources: it waits for free nodes)" in status(run), run)


def test_a_node_that_dies(videos: Path, tmp_path: Path, kit: Any, cluster: Any) -> None:
    """The daemon of a node and what ran on it are gone: the job starts again on the other one and goes on."""
    run = tmp_path / "run"
    file = kit.recipe(videos, run, training__duration=10**6, training__checkpoint_every=10)
    job = cluster.launch("slurm", "pretrain", file, *cluster.SHORT)
    kit.wait(lambda: kit.steps(run) >= 12, run)
    node = cluster.run("squeue", "-h", "-j", job, "-o", "%N").strip()
    try:
        subprocess.run([sys.executable, CLUSTER, "kill", node], check=True, timeout=30)
        for process in with_supervisors(job):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        kit.wait(lambda: len(kit.attempts(run)) > 1, run)
        last = [row for row in kit.attempts(run) if row["event"] == "start"][-1]
        assert last["attempt"] == 2
        assert last["step"] >= 10
    finally:
        subprocess.run([sys.executable, CLUSTER, "start", node], check=True, timeout=30)
        kit.wait(lambda: "down" not in cluster.run("sinfo", "-h", "-N", "-o", "%t"), run)


def test_shards_of_an_embedding_one_killed(
    videos: Path, tmp_path: Path, kit: Any, cluster: Any
) -> None:
    """4 shards as an array, one of them killed on its way: merged, they are the file of one process."""
    run = tmp_path / "run"
    kit.command("pretrain", kit.recipe(videos, run, training__duration=2))
    out, options = tmp_path / "features.arrow", ("--hop", 1, "--num-workers", 0, "--batch-size", 1)
    job = cluster.launch(
        *("slurm_array", "embed", run, videos, out, *options),
        *("--set", "shards=4", "--set", "array_parallelism=2", *cluster.SHORT),
    )
    home = tmp_path / "features.arrow.shards"
    victim = kit.wait(lambda: cluster.processes(home, 0), home)[0]
    for process in [*victim.children(recursive=True), victim]:
        process.send_signal(signal.SIGKILL)
    ends = ["finished"] * 5 + ["lost"]  # four shards and the merge
    kit.wait(lambda: sorted(kit.outcomes(home)) == ends, home)
    kit.command("embed", run, videos, tmp_path / "whole.arrow", *options)
    merged, whole = open_features(out), open_features(tmp_path / "whole.arrow")
    assert merged.ids.tolist() == whole.ids.tolist()
    assert merged.table["clip"].to_pylist() == whole.table["clip"].to_pylist()
    np.testing.assert_array_equal(merged.features, whole.features)  # batches of one clip
    lost = [row for row in kit.attempts(home) if row.get("outcome") == "lost"]
    assert len(lost) == 1
    assert str(job) in lost[0]["job"]


def test_a_grid_with_one_table(videos: Path, tmp_path: Path, kit: Any, cluster: Any) -> None:
    run = tmp_path / "grid"
    file = kit.recipe(videos, run, training__duration=4)
    told = kit.command(
        "launch", "slurm_array", "pretrain", file, "optimizer.base_lr=0.1,0.5", *cluster.SHORT
    )
    assert "pretrain x 2" in told
    kit.wait((run / "results.md").is_file, run)
    lines = (run / "results.md").read_text().splitlines()
    assert lines[0].startswith("| optimizer.base_lr | state | steps | loss |")
    assert [line.split(" | ")[0] for line in lines[2:]] == ["| 0.1", "| 0.5"]
    assert all("| finished | 4 |" in line for line in lines[2:])


def test_a_time_limit_in_the_middle_of_a_step(
    videos: Path, tmp_path: Path, kit: Any, cluster: Any
) -> None:
    """The process stands still in a step (SIGSTOP) when the warning comes, so nothing is saved in time.  At its limit
    of a minute SLURM wakes and ends it; whatever it then manages to save, it goes on from the newest checkpoint."""
    run = tmp_path / "run"
    file = kit.recipe(videos, run, training__duration=10**6, training__checkpoint_every=5)
    cluster.launch("slurm", "pretrain", file, "--set", "time_min=1", "--set", "signal_before_sec=1")
    kit.wait(lambda: kit.steps(run) >= 12, run)
    os.kill(cluster.processes(run, 0)[0].pid, signal.SIGSTOP)
    kit.wait(lambda: len(kit.attempts(run)) == 3, run)
    assert kit.outcomes(run) == ["preempted"]
    assert any(word in kit.attempts(run)[1]["reason"] for word in ("time limit", "Interrupted"))
    assert kit.attempts(run)[-1]["step"] == kit.attempts(run)[1]["step"] >= 10
