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
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch

from video_ssl.evaluate.features import open_features
from video_ssl.launch.jobs import status
from video_ssl.launch.launching import read_jobs
from video_ssl.pretrain.reporting import read_metrics

pytestmark = [pytest.mark.slurm, pytest.mark.slow]

# The signal comes up to a minute before it is due, so limits are long where they are not the subject.
SHORT = ("--set", "time_min=10", "--set", "signal_before_sec=30", "--set", "lost_after_sec=20")
TWO = ("--set", "nodes=2", *SHORT)
CLUSTER = Path(__file__).with_name("slurm_cluster.py")


def slurm(*words: str) -> str:
    return subprocess.run(words, capture_output=True, text=True, timeout=30, check=True).stdout


def submit(script: str, *options: str) -> str:
    """A job on all of both nodes."""
    common = ("sbatch", "--parsable", "-N2", "--exclusive", "-o", "/dev/null", "--wrap", script)
    return slurm(*common, *options).strip()


def state(job: str) -> str:
    return slurm("squeue", "-h", "-t", "all", "-j", job, "-o", "%T").split("\n")[0]


@pytest.fixture(autouse=True)
def nothing_stays() -> Iterator[None]:
    yield
    jobs = slurm("squeue", "-h", "-o", "%A").split()
    if jobs:
        subprocess.run(["scancel", *set(jobs)], timeout=30)


def processes(run: Path, rank: int) -> list[psutil.Process]:
    """The process of a rank of the jobs of a run, as on a node of its own."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        if words[1:4] == ["-u", "-m", "submitit.core._submit"] and words[-1] == str(run / "launch"):
            try:
                place = process.environ().get("SLURM_PROCID")
            except psutil.Error:
                continue
            if place == str(rank):
                found.append(process)
    return found


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


def launch(kit: Any, *words: Any) -> str:
    """The number of the first job."""
    return kit.command("launch", *words).split(":")[0].removeprefix("job ")


def test_preempted_twice_equals_undisturbed(videos: Path, tmp_path: Path, kit: Any) -> None:
    """FSDP2 on 2 nodes x 1 process, stopped by `jobs requeue` and by a job of higher priority.  The encoder has the
    same bits as that of two undisturbed processes, and the losses are those of a single one to 1e-4."""
    run, calm = tmp_path / "run", tmp_path / "calm"
    file = kit.recipe(videos, run, training__sharding="fsdp")
    job = launch(kit, "slurm", "pretrain", file, *TWO)
    kit.wait(lambda: kit.steps(run) >= 10, run)
    kit.command("jobs", "requeue", run)
    kit.wait(lambda: kit.outcomes(run) == ["preempted"], run)
    again = kit.attempts(run)[-1]["step"]
    assert again >= 10
    kit.wait(lambda: kit.steps(run) > again + 5, run)
    high = submit("true", "-p", "high")
    kit.wait(lambda: state(high) == "COMPLETED", run)
    kit.wait(lambda: kit.outcomes(run) == ["preempted", "preempted", "finished"], run)
    starts = [row["step"] for row in kit.attempts(run) if row["event"] == "start"]
    assert starts == sorted(set(starts))
    assert state(job) in ("COMPLETED", "COMPLETING")
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


def test_a_killed_process_and_a_cap(videos: Path, tmp_path: Path, kit: Any) -> None:
    """kill -9 of process 1: the other notices, the job starts again from the newest checkpoint; once is the cap here,
    so a second loss without a new checkpoint ends it."""
    run = tmp_path / "run"
    file = kit.recipe(videos, run, training__duration=100000, training__checkpoint_every=10)
    job = launch(kit, "slurm", "pretrain", file, *TWO, "--set", "max_failures=1")
    kit.wait(lambda: kit.steps(run) >= 12, run)
    processes(run, 1)[0].kill()
    kit.wait(lambda: kit.outcomes(run) == ["lost"], run, limit_sec=30)
    first = kit.attempts(run)[-1]
    assert first["again"]
    assert "process 1" in first["reason"]
    assert "killed" in first["reason"]
    kit.wait(lambda: len(kit.attempts(run)) == 3, run)
    assert kit.attempts(run)[-1]["step"] == first["step"] >= 10
    shutil.rmtree(run / "checkpoints")  # so that nothing is gained in between
    kit.wait(lambda: processes(run, 0), run)
    processes(run, 0)[0].kill()
    kit.wait(lambda: kit.outcomes(run) == ["lost", "lost"], run, limit_sec=30)
    assert "max_failures=1 is reached" in kit.attempts(run)[-1]["reason"]
    kit.wait(lambda: state(job) == "FAILED", run)
    assert "max_failures=1" in kit.command("jobs", "status", run)


def test_cancel_second_launch_and_snapshot_gone(videos: Path, tmp_path: Path, kit: Any) -> None:
    run = tmp_path / "run"
    file = kit.recipe(videos, run, training__duration=100000)
    job = launch(kit, "slurm", "pretrain", file, *SHORT)
    kit.wait(lambda: kit.steps(run) >= 4, run)
    told = kit.command("launch", "slurm", "pretrain", file, *SHORT, code=2)
    assert f"{job} RUNNING" in told
    assert f"jobs cancel {run}" in told
    assert kit.command("jobs", "cancel", run).strip() == f"cancelled: {job}"
    kit.wait(lambda: kit.outcomes(run) == ["cancelled"], run)
    kit.wait(lambda: state(job) == "CANCELLED", run)
    assert "ended already" in kit.command("jobs", "cancel", run)
    (row,) = read_jobs(run)
    shutil.rmtree(row["code"])
    kit.command("jobs", "requeue", run)
    kit.wait(lambda: state(job) == "FAILED", run)
    assert "is gone: launch again" in kit.command("jobs", "status", run)
    assert "is gone: launch again" in kit.command("jobs", "logs", run)
    assert kit.outcomes(run) == ["cancelled", "failed"]


def test_an_error_of_the_run_is_not_repeated(videos: Path, tmp_path: Path, kit: Any) -> None:
    run = tmp_path / "run"
    job = launch(
        kit, "slurm", "pretrain", kit.recipe(videos, run, training__global_batch_size=3), *TWO
    )
    kit.wait(lambda: kit.outcomes(run), run)
    assert kit.outcomes(run) == ["failed"]
    assert "global_batch_size=3 cannot be divided among 2" in kit.attempts(run)[-1]["reason"]
    kit.wait(lambda: state(job) == "FAILED", run)


def test_refusals_are_explained_and_the_dry_run_is_exact(
    videos: Path, tmp_path: Path, kit: Any
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
    dry = kit.command("launch", "slurm", "pretrain", file, *TWO, *hold, "--dry-run")
    job = launch(kit, "slurm", "pretrain", file, *TWO, *hold)
    (row,) = read_jobs(run)
    script = (run / "launch" / f"{job}_submission.sh").read_text()
    assert dry.strip() == script.replace(row["code"], str(run / "launch" / "code-KEY")).strip()
    told = status(run)
    assert f"{job} PENDING (JobHeldUser: it is held" in told
    told = kit.command("jobs", "logs", run, code=2)
    assert "no log of process 0 yet" in told
    assert "JobHeldUser" in told


def test_status_says_what_a_job_waits_for(videos: Path, tmp_path: Path, kit: Any) -> None:
    run = tmp_path / "run"
    busy = submit("sleep 600")
    kit.wait(lambda: state(busy) == "RUNNING", tmp_path)
    launch(kit, "slurm", "pretrain", kit.recipe(videos, run), *TWO)
    kit.wait(lambda: "(Resources: it waits for free nodes)" in status(run), run)


def test_a_node_that_dies(videos: Path, tmp_path: Path, kit: Any) -> None:
    """The daemon of a node and what ran on it are gone: the job starts again on the other one and goes on."""
    run = tmp_path / "run"
    file = kit.recipe(videos, run, training__duration=10**6, training__checkpoint_every=10)
    job = launch(kit, "slurm", "pretrain", file, *SHORT)
    kit.wait(lambda: kit.steps(run) >= 12, run)
    node = slurm("squeue", "-h", "-j", job, "-o", "%N").strip()
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
        kit.wait(lambda: "down" not in slurm("sinfo", "-h", "-N", "-o", "%t"), run)


def test_shards_of_an_embedding_one_killed(videos: Path, tmp_path: Path, kit: Any) -> None:
    """4 shards as an array, one of them killed on its way: merged, they are the file of one process."""
    run = tmp_path / "run"
    kit.command("pretrain", kit.recipe(videos, run, training__duration=2))
    out, options = tmp_path / "features.arrow", ("--hop", 1, "--num-workers", 0, "--batch-size", 1)
    job = launch(
        *(kit, "slurm_array", "embed", run, videos, out, *options),
        *("--set", "shards=4", "--set", "array_parallelism=2", *SHORT),
    )
    home = tmp_path / "features.arrow.shards"
    victim = kit.wait(lambda: processes(home, 0), home)[0]
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


def test_a_grid_with_one_table(videos: Path, tmp_path: Path, kit: Any) -> None:
    run = tmp_path / "grid"
    file = kit.recipe(videos, run, training__duration=4)
    told = kit.command(
        "launch", "slurm_array", "pretrain", file, "optimizer.base_lr=0.1,0.5", *SHORT
    )
    assert "pretrain x 2" in told
    kit.wait((run / "results.md").is_file, run)
    lines = (run / "results.md").read_text().splitlines()
    assert lines[0].startswith("| optimizer.base_lr | state | steps | loss |")
    assert [line.split(" | ")[0] for line in lines[2:]] == ["| 0.1", "| 0.5"]
    assert all("| finished | 4 |" in line for line in lines[2:])


def test_a_time_limit_in_the_middle_of_a_step(videos: Path, tmp_path: Path, kit: Any) -> None:
    """The process stands still in a step (SIGSTOP) when the warning comes, so nothing is saved in time.  At its limit
    of a minute SLURM wakes and ends it; whatever it then manages to save, it goes on from the newest checkpoint."""
    run = tmp_path / "run"
    file = kit.recipe(videos, run, training__duration=10**6, training__checkpoint_every=5)
    launch(kit, "slurm", "pretrain", file, "--set", "time_min=1", "--set", "signal_before_sec=1")
    kit.wait(lambda: kit.steps(run) >= 12, run)
    os.kill(processes(run, 0)[0].pid, signal.SIGSTOP)
    kit.wait(lambda: len(kit.attempts(run)) == 3, run, limit_sec=180)
    assert kit.outcomes(run) == ["preempted"]
    assert any(word in kit.attempts(run)[1]["reason"] for word in ("time limit", "Interrupted"))
    assert kit.attempts(run)[-1]["step"] == kit.attempts(run)[1]["step"] >= 10
