"""What needs processes of its own: kill -9, signals, and two processes that train together."""

from __future__ import annotations

import os
import random
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from video_ssl.pretrain.checkpoint_folders import list_checkpoints
from video_ssl.pretrain.reporting import read_metrics
from video_ssl.pretrain.torch_loop.run import run_torch
from video_ssl.recipes import to_yaml

pytestmark = pytest.mark.slow


def recipe_file(path: Path, content: dict[str, Any]) -> Path:
    path.write_text(to_yaml(content), encoding="utf-8")
    return path


def wait_for(condition: Any, process: subprocess.Popen[str], limit_sec: float = 600) -> None:
    end = time.monotonic() + limit_sec
    while not condition():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < end
        time.sleep(0.005)


def same_bits(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> bool:
    return one.keys() == two.keys() and all(torch.equal(one[k], two[k]) for k in one)


def test_kill_9_at_random_moments_changes_no_bit(
    videos: Path, tmp_path: Path, helpers: Any
) -> None:
    """Checkpoints are dense, so some kills hit a save.  Data workers are on."""
    extra = {
        "training__duration": 240,  # four kills take some eighty of them
        "training__checkpoint_every": 7,
        "loader__num_workers": 1,
        "training__log_every": 50,
    }
    straight = recipe_file(tmp_path / "a.yaml", helpers.tiny(videos, tmp_path / "a", **extra))
    process = helpers.start(straight)
    out, _ = process.communicate(timeout=600)
    assert process.returncode == 0, out
    resumed = recipe_file(tmp_path / "b.yaml", helpers.tiny(videos, tmp_path / "b", **extra))
    moments = random.Random(0)
    kills = 0
    for _ in range(4):
        before = newest_step(tmp_path / "b")
        process = helpers.start(resumed)
        wait_for(lambda before=before: newest_step(tmp_path / "b") > before, process)
        time.sleep(moments.uniform(0, 0.3))
        kills += process.poll() is None
        process.kill()
        process.communicate()
    assert kills == 4
    process = helpers.start(resumed)
    out, _ = process.communicate(timeout=600)
    assert process.returncode == 0, out
    assert "resuming after step" in out
    assert same_bits(helpers.weights(tmp_path / "a"), helpers.weights(tmp_path / "b"))
    losses = [
        [row["loss"] for row in read_metrics(tmp_path / name / "metrics.jsonl")] for name in "ab"
    ]
    assert losses[0][-1] == losses[1][-1]
    assert len(losses[1]) == len(losses[0])
    assert not list((tmp_path / "b" / "checkpoints").glob(".step*"))


def newest_step(run: Path) -> int:
    folder = run / "checkpoints"
    return max((int(p.name[5:]) for p in folder.glob("step_*")), default=0)


@pytest.mark.parametrize("send", [os.kill, os.killpg], ids=["to-the-run", "to-all-processes"])
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_saves_and_ends_the_workers(
    send: Callable[[int, int], None],
    number: int,
    code: int,
    videos: Path,
    tmp_path: Path,
    helpers: Any,
) -> None:
    import psutil

    run = tmp_path / "run"
    extra = {
        "training__duration": 100000,
        "training__checkpoint_every": 100000,
        "training__log_every": 5,
        "loader__num_workers": 1,
    }
    file = recipe_file(tmp_path / "r.yaml", helpers.tiny(videos, run, **extra))
    process = helpers.start(file)
    wait_for(lambda: read_metrics(run / "metrics.jsonl"), process)
    workers = psutil.Process(process.pid).children(recursive=True)
    assert workers
    send(process.pid, number)  # schedulers and terminals signal the workers as well
    out, _ = process.communicate(timeout=600)
    assert process.returncode == code, out
    assert "leaked" not in out
    (checkpoint,) = list_checkpoints(run / "checkpoints")
    assert f"stopped after step {checkpoint.step} of 100000" in out
    assert "Start the same command again" in out
    assert not psutil.wait_procs(workers, timeout=600)[1]


def test_a_second_signal_does_not_wait(videos: Path, tmp_path: Path, helpers: Any) -> None:
    """The objective sleeps in its step, so the first signal alone would take long."""
    run = tmp_path / "run"
    file = recipe_file(tmp_path / "r.yaml", helpers.tiny(videos, run))
    code = f"""
import logging, time; logging.basicConfig(level="INFO", format="%(message)s")
from video_ssl.objectives.videomae.objective import Objective
from video_ssl.pretrain.recipe import load_pretrain_recipe
from video_ssl.pretrain.torch_loop.run import run_torch
def sleep(self, progress):
    logging.info("asleep")
    for _ in range(6000): time.sleep(0.01)
Objective.after_step = sleep
run_torch(load_pretrain_recipe({str(file)!r}))
"""
    import sys

    process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    while "asleep" not in process.stderr.readline():
        assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    time.sleep(0.8)
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=600)
    assert process.returncode == -signal.SIGTERM


def start_two(helpers: Any, file: Path, *overrides: str) -> list[subprocess.Popen[str]]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    return [
        helpers.start(
            file,
            *overrides,
            RANK=str(rank),
            LOCAL_RANK=str(rank),
            WORLD_SIZE="2",
            MASTER_ADDR="127.0.0.1",
            MASTER_PORT=port,
        )
        for rank in range(2)
    ]


def finish(processes: list[subprocess.Popen[str]]) -> list[str]:
    return [process.communicate(timeout=600)[0] for process in processes]


SGD = {
    "objective__encoder__drop_path": 0.0,
    "objective__decoder__drop_path": 0.0,
    "optimizer__name": "sgd",
    "optimizer__base_lr": 0.3,
    "training__global_batch_size": 8,
}


@pytest.mark.parametrize("accumulation", [1, 2])
def test_two_processes_equal_one_with_the_joint_batch(
    accumulation: int, videos: Path, tmp_path: Path, helpers: Any
) -> None:
    """Tolerance 1e-5 on weights that move by more than 0.05; losses to 1e-6."""
    content = helpers.tiny(videos, tmp_path / "two", **SGD, training__accumulation=accumulation)
    two = start_two(helpers, recipe_file(tmp_path / "r.yaml", content))
    outs = finish(two)
    assert [p.returncode for p in two] == [0, 0], outs
    assert "step 12/12" in outs[0]
    assert outs[1] == ""  # process 0 speaks, the others write to their file
    assert "finished" in (tmp_path / "two" / "logs" / "rank_1.log").read_text()
    run_torch(helpers.recipe(videos, tmp_path / "one", **SGD))
    a, b = helpers.weights(tmp_path / "one"), helpers.weights(tmp_path / "two")
    assert max((a[k] - b[k]).abs().max().item() for k in a) < 1e-5
    rows = [read_metrics(tmp_path / name / "metrics.jsonl") for name in ("one", "two")]
    for one, both in zip(*rows, strict=True):
        assert both["loss"] == pytest.approx(one["loss"], abs=1e-6)
        assert both["feature_std"] == pytest.approx(one["feature_std"], rel=1e-4)
        assert both["effective_rank"] == pytest.approx(one["effective_rank"], rel=1e-4)


def test_two_processes_stop_together_and_one_goes_on(
    videos: Path, tmp_path: Path, helpers: Any
) -> None:
    """A signal to process 1 alone: both stop after the same step; a single process finishes the run."""
    run = tmp_path / "run"
    extra = {**SGD, "training__duration": 200, "training__checkpoint_every": 200}
    file = recipe_file(tmp_path / "r.yaml", helpers.tiny(videos, run, **extra))
    two = start_two(helpers, file)
    wait_for(lambda: read_metrics(run / "metrics.jsonl"), two[0])
    os.kill(two[1].pid, signal.SIGTERM)
    outs = finish(two)
    assert [p.returncode for p in two] == [143, 143], outs
    (checkpoint,) = list_checkpoints(run / "checkpoints")
    assert 0 < checkpoint.step < 200
    run_torch(helpers.recipe(videos, run, **extra))
    run_torch(helpers.recipe(videos, tmp_path / "one", **extra))
    a, b = helpers.weights(tmp_path / "one"), helpers.weights(run)
    assert max((a[k] - b[k]).abs().max().item() for k in a) < 1e-3


def test_an_error_of_process_0_reaches_the_other(
    videos: Path, tmp_path: Path, helpers: Any
) -> None:
    run = tmp_path / "run"
    content = helpers.tiny(videos, run, **SGD)
    run_torch(helpers.recipe(videos, run, **SGD))
    two = start_two(helpers, recipe_file(tmp_path / "r.yaml", content), "seed=5")
    outs = finish(two)
    assert [p.returncode for p in two] == [1, 1]
    assert all("seed: 5 <- 3" in out for out in outs)


def test_a_step_that_is_one_long_call_is_waited_for_in_words_and_ended_by_a_second_signal(
    videos: Path, tmp_path: Path, helpers: Any
) -> None:
    """Python's handlers do not run within a call of C: signals are held off here, so that nothing interrupts it."""
    file = recipe_file(tmp_path / "r.yaml", helpers.tiny(videos, tmp_path / "run"))
    code = f"""
import ctypes, logging, signal; logging.basicConfig(level="INFO", format="%(message)s")
from video_ssl.objectives.videomae.objective import Objective
from video_ssl.pretrain.recipe import load_pretrain_recipe
from video_ssl.pretrain.stop import StopSignals
from video_ssl.pretrain.torch_loop.run import run_torch
def sleep(self, progress):
    if round(progress * 12) == 6:
        logging.info("asleep")
        signal.pthread_sigmask(signal.SIG_BLOCK, StopSignals.SIGNALS)
        ctypes.CDLL(None).sleep(60)
Objective.after_step = sleep
StopSignals.AT_ONCE_SEC = 0.2
run_torch(load_pretrain_recipe({str(file)!r}))
"""
    process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    while "asleep" not in process.stderr.readline():
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    told = process.stderr.readline()
    assert re.match(
        r"SIGINT: stopping after step 6 of 12 \(\d+ s so far.*\) and its checkpoint;", told
    )
    assert told.endswith("once more stops at once, and the same command goes on after step 4\n")
    time.sleep(0.8)
    process.send_signal(signal.SIGINT)
    _, rest = process.communicate(timeout=600)
    assert (process.returncode, rest) == (130, "SIGINT: stopped at once\n")
