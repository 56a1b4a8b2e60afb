"""Checkpoints are written beside the training: of the right step, one after the other, and no error is lost."""

from __future__ import annotations

import logging
import re
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from video_ssl.pretrain import session
from video_ssl.pretrain.background import BackgroundWriter
from video_ssl.pretrain.checkpoint_folders import Checkpoint, list_checkpoints
from video_ssl.pretrain.errors import CheckpointError, Interrupted
from video_ssl.pretrain.reporting import read_metrics
from video_ssl.pretrain.stop import StopSignals
from video_ssl.pretrain.torch_loop import checkpoints
from video_ssl.pretrain.torch_loop.checkpoints import HostCopy, load_state
from video_ssl.pretrain.torch_loop.run import run_torch


def test_short_work_is_waited_for_and_long_work_is_not() -> None:
    writer, gate = BackgroundWriter(patience_sec=0.05), threading.Event()
    writer.start(gate.wait)
    assert writer.look() is None
    gate.set()
    seconds = writer.settle()
    assert seconds is not None
    assert seconds >= 0.05
    assert writer.settle() is None  # told once
    patient = BackgroundWriter(patience_sec=60)
    patient.start(lambda: time.sleep(0.01))
    assert patient.look() is not None
    writer.close()
    patient.close()


def test_an_error_is_raised_once_by_whoever_looks_or_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail() -> None:
        raise CheckpointError("no room")

    writer = BackgroundWriter(patience_sec=60)
    writer.start(fail)
    with pytest.raises(CheckpointError, match="no room"):
        writer.look()
    assert writer.look() is None
    writer.start(fail)
    with caplog.at_level(logging.ERROR):
        writer.close()
    assert "no room" in caplog.text


def test_a_copy_stays_what_it_was() -> None:
    state = {"objective": {"w": torch.zeros(2)}, "optimizer": {"w": {"step": torch.tensor(3.0)}}}
    copy = HostCopy().take(state)
    state["objective"]["w"] += 1  # type: ignore[operator]
    state["optimizer"]["w"]["step"] += 1  # type: ignore[index]
    assert copy["objective"]["w"].tolist() == [0, 0]
    assert copy["optimizer"]["w"]["step"] == 3


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_copies_from_a_device_use_the_same_memory() -> None:
    copier = HostCopy()
    first = copier.take({"w": torch.full((3,), 1.0, device="cuda")})["w"]
    assert first.is_pinned()
    second = copier.take({"w": torch.full((3,), 2.0, device="cuda")})["w"]
    assert second.tolist() == [2, 2, 2]
    assert second.data_ptr() == first.data_ptr()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """No write is waited for."""
    monkeypatch.setattr(session, "BackgroundWriter", lambda: BackgroundWriter(patience_sec=0))


def slow_writes(monkeypatch: pytest.MonkeyPatch, wait: Any, fail_at: int | None = None) -> None:
    """Before a checkpoint's tensors are written `wait(step)` is called; the one of step `fail_at` is refused."""
    write = checkpoints._write_state

    def slow(path: Path, state: Any) -> str:
        step = int(re.findall(r"step_(\d+)", str(path))[-1])
        wait(step)
        if step == fail_at:
            raise OSError(28, "No space left on device")
        return write(path, state)

    monkeypatch.setattr(checkpoints, "_write_state", slow)


def wait_for_step(run: Path, step: int, limit_sec: float = 600) -> None:
    end = time.monotonic() + limit_sec
    while not any(row["step"] >= step for row in read_metrics(run / "metrics.jsonl")):
        assert time.monotonic() < end, f"step {step} did not come"
        time.sleep(0.01)


@pytest.mark.slow
@pytest.mark.usefixtures("impatient")
def test_steps_go_on_while_a_checkpoint_of_before_is_written(
    videos: Path, tmp_path: Path, helpers: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing of a checkpoint is written before two more steps are over; it has the bits of its own step."""
    calm, run = tmp_path / "calm", tmp_path / "run"
    settings = {"training__log_every": 1, "training__ema": {"decay": 0.9}, "training__keep": 9}
    run_torch(helpers.recipe(videos, calm, **settings))
    slow_writes(monkeypatch, lambda step: wait_for_step(run, min(step + 2, 12)))
    run_torch(helpers.recipe(videos, run, **settings))
    assert [c.step for c in list_checkpoints(run / "checkpoints")] == [4, 8, 12]
    for step in (4, 8, 12):
        one, two = (
            load_state(Checkpoint(step, r / f"checkpoints/step_{step}")) for r in (calm, run)
        )
        for part in ("objective", "average"):
            assert [k for k in one[part] if not torch.equal(one[part][k], two[part][k])] == []
        for name, moments in one["optimizer"].items():
            assert all(torch.equal(moments[k], two["optimizer"][name][k]) for k in moments)
    told = (run / "logs" / "rank_0.log").read_text()
    assert len(re.findall(r"checkpoint of step \d+: [\d.]+ s, written in [\d.]+ s", told)) == 3


@pytest.mark.slow
@pytest.mark.usefixtures("impatient")
def test_a_late_failure_ends_the_run_at_the_next_step(
    videos: Path, tmp_path: Path, helpers: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    settings = {"training__duration": "40 steps", "training__checkpoint_every": "8 steps"}
    recipe = helpers.recipe(videos, run, training__log_every=1, **settings)
    slow_writes(monkeypatch, lambda step: wait_for_step(run, step + 2), fail_at=16)
    with pytest.raises(CheckpointError, match=r"step 16 could not be written.*step 8 is untouched"):
        run_torch(recipe)
    assert [c.step for c in list_checkpoints(run / "checkpoints")] == [8]
    assert 18 <= read_metrics(run / "metrics.jsonl")[-1]["step"] < 24  # long before the next save
    monkeypatch.undo()
    assert run_torch(recipe).steps == 40


@pytest.mark.slow
@pytest.mark.usefixtures("impatient")
def test_a_failure_of_the_last_checkpoint_is_no_success(
    videos: Path, tmp_path: Path, helpers: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    slow_writes(monkeypatch, lambda step: time.sleep(0.3), fail_at=12)
    with pytest.raises(CheckpointError, match="step 12 could not be written"):
        run_torch(helpers.recipe(videos, run))
    assert not (run / "finished.json").exists()


@pytest.mark.slow
@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("fails", [False, True])
def test_who_is_told_to_stop_writes_to_the_end(
    videos: Path, tmp_path: Path, helpers: Any, monkeypatch: pytest.MonkeyPatch, fails: bool
) -> None:
    """Told after step 5, while the checkpoint of step 4 is being written: both are complete when the run ends, or it
    says that the last one is not."""
    run = tmp_path / "run"
    recipe = helpers.recipe(videos, run, training__log_every=1)

    def wait(step: int) -> None:
        wait_for_step(run, 5)
        time.sleep(0.3 if step == 5 else 0)

    slow_writes(monkeypatch, wait, fail_at=5 if fails else None)
    agreed = StopSignals.agreed

    def told(self: StopSignals) -> int:
        done = [row["step"] for row in read_metrics(run / "metrics.jsonl")]
        return 15 if done and done[-1] == 4 else agreed(self)

    monkeypatch.setattr(StopSignals, "agreed", told)
    kind, text = (CheckpointError, "step 5 could not") if fails else (Interrupted, "after step 5")
    with pytest.raises(kind, match=text):
        run_torch(recipe)
    saved = [c.step for c in list_checkpoints(run / "checkpoints")]
    assert saved == ([4] if fails else [4, 5])


SHARDS = """
import sys, threading, torch, torch.distributed as dist
import torch.distributed.checkpoint as dcp
from pathlib import Path
from torch import nn
from video_ssl.pretrain.checkpoint_folders import newest_checkpoint
from video_ssl.pretrain.processes import Processes
from video_ssl.pretrain.torch_loop.sharded_checkpoints import ShardWriter, load_for
from video_ssl.pretrain.torch_loop.sharding import shard, whole
rank, folder = int(sys.argv[1]), Path(sys.argv[3])
dist.init_process_group("gloo", init_method="file://" + sys.argv[2], rank=rank, world_size=2)
processes, gate, write = Processes(rank, 2, torch.device("cpu")), threading.Event(), dcp.FileSystemWriter.write_data

def held(self, *args, **more):
    assert gate.wait(60)
    return write(self, *args, **more)

dcp.FileSystemWriter.write_data = held
torch.manual_seed(0)
net = nn.Sequential(nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8)), nn.Linear(8, 3))
wanted = {n: p.detach().clone() for n, p in net.named_parameters()}
shard(net, processes, precision="fp32")
wait = ShardWriter(processes).save(folder, 7, {"objective": net.state_dict(), "optimizer": {}}, {})
for _ in range(2):  # steps with collectives of their own
    net(torch.randn(4, 8)).square().sum().backward()
    with torch.no_grad():
        for p in net.parameters():
            p -= p.grad
assert newest_checkpoint(folder) is None
gate.set()
wait()
processes.wait()
state = load_for(newest_checkpoint(folder), net)["objective"]
for name, tensor in wanted.items():
    assert torch.equal(whole(state[name]), tensor), name
    assert not torch.equal(whole(dict(net.named_parameters())[name]), tensor)
dist.destroy_process_group()
print("equal")
"""


@pytest.mark.slow
def test_divided_checkpoints_are_written_beside_steps_too(tmp_path: Path) -> None:
    """Nothing is written before two steps with their own collectives have changed all weights."""
    words = [sys.executable, "-W", "ignore", "-c", SHARDS]
    started = [
        subprocess.Popen(
            [*words, str(rank), str(tmp_path / "meet"), str(tmp_path / "checkpoints")],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    outs = [process.communicate(timeout=600)[0] for process in started]
    assert all("equal" in out for out in outs), outs
