"""Launches of flax objectives: one process per node, on a real SLURM, and several on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from quick_xla import quick_xla
from safetensors.numpy import load_file

from video_ssl.pretrain.reporting import read_metrics
from video_ssl.recipes import to_yaml

pytest.importorskip("jax")
pytestmark = pytest.mark.slow

STEPS = 60


def recipe(videos: Path, run: Path, **training: Any) -> Path:
    """The file of a tiny TeG."""
    content = {
        "name": "tiny",
        "run": str(run),
        "seed": 3,
        "objective": {
            "name": "teg",
            "long_frames": 4,
            "long_stride": 2,
            "short_frames": 4,
            "short_stride": 1,
            "crop": {"kind": "random_resized", "size": 16, "flip_probability": 0.5},
            "color": None,
            "encoder": {
                "architecture": "r3d",
                "preset": None,
                "blocks": [1, 1, 1, 1],
                "filters": [2, 2, 3, 3],
                "stem_width": 4,
            },
            "heads": {"hidden_dims": [5], "out_dim": 4},
        },
        "data": {"table": str(videos)},
        "loader": {"num_workers": 0},
        "training": {
            "duration": STEPS,
            "global_batch_size": 8,
            "log_every": 1,
            "checkpoint_every": 1000,
            "device": "cpu",
            **training,
        },
        "optimizer": {
            "name": "sgd",
            "base_lr": 1e-6,  # gradients are near 700: larger steps multiply rounding, see tests/support/flax_runs.py
            "lr_scaling": "none",
            "warmup": "2 steps",
            "schedule": "cosine_ramped",
            "weight_decay": 0.0,
        },
    }
    file = run.with_suffix(".yaml")
    file.write_text(to_yaml(content), encoding="utf-8")
    return file


@pytest.fixture
def devices(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Sets how many devices a process that is started has; jobs inherit it, and a folder for compiled steps.

    Was wrong: a run that went on with a step out of that folder stood still.
    """
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "compiled"))
    monkeypatch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")

    def choose(count: int) -> None:
        monkeypatch.setenv("XLA_FLAGS", quick_xla(count))

    return choose


def losses(run: Path) -> list[float]:
    return [row["loss"] for row in read_metrics(run / "metrics.jsonl")]


def assert_same_bits(one: Path, two: Path) -> None:
    a, b = (load_file(run / "encoder" / "model.safetensors") for run in (one, two))
    assert a.keys() == b.keys()
    assert [name for name in a if not np.array_equal(a[name], b[name])] == []


@pytest.mark.slurm
@pytest.mark.usefixtures("nothing_stays")
def test_two_nodes_requeued_equal_undisturbed_and_one_process(
    videos: Path, tmp_path: Path, kit: Any, cluster: Any, devices: Any
) -> None:
    """2 nodes x 1 process, saved and queued again on the way: the bits of two undisturbed processes on this machine,
    and the losses of one process with two devices."""
    run, calm, alone = (tmp_path / name for name in ("run", "calm", "alone"))
    devices(1)
    job = cluster.launch("slurm", "pretrain", recipe(videos, run), *cluster.TWO)
    kit.wait(lambda: kit.steps(run) >= 5, run)
    kit.command("jobs", "requeue", run)
    kit.wait(lambda: kit.outcomes(run) == ["preempted"], run)
    saved = kit.attempts(run)[-1]["step"]
    assert 5 <= saved < STEPS
    kit.wait(lambda: kit.outcomes(run) == ["preempted", "finished"], run)
    assert [row["step"] for row in kit.attempts(run) if row["event"] == "start"] == [0, saved]
    kit.wait(lambda: cluster.state(job) == "COMPLETED", run)
    assert {p.name for p in (run / "logs").iterdir()} == {"rank_0.log", "rank_1.log"}
    kit.command("launch", "local", "pretrain", recipe(videos, calm), "--set", "tasks_per_node=2")
    assert_same_bits(run, calm)
    assert losses(run) == losses(calm)
    devices(2)
    kit.command("pretrain", recipe(videos, alone))
    assert len(losses(alone)) == len(losses(run)) == STEPS
    # As many as tests/pretrain/test_processes_flax.py compares: 60 steps would multiply rounding all the same.
    np.testing.assert_allclose(losses(run)[:6], losses(alone)[:6], rtol=2e-4)


@pytest.mark.slurm
@pytest.mark.usefixtures("nothing_stays")
def test_a_killed_process_of_flax(
    videos: Path, tmp_path: Path, kit: Any, cluster: Any, devices: Any
) -> None:
    """The other process only sees its connection break: the attempt counts as lost, not as failed, and is repeated."""
    run = tmp_path / "run"
    devices(1)
    file = recipe(videos, run, duration=100000, checkpoint_every=10)
    cluster.launch("slurm", "pretrain", file, *cluster.TWO)
    kit.wait(lambda: kit.steps(run) >= 12, run)
    cluster.processes(run, 1)[0].kill()
    kit.wait(lambda: kit.outcomes(run) == ["lost"], run)
    first = kit.attempts(run)[-1]
    assert first["again"]
    assert "killed" in first["reason"]
    kit.wait(lambda: len(kit.attempts(run)) == 3, run)
    assert kit.attempts(run)[-1]["step"] == first["step"] >= 10
