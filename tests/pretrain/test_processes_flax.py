"""Several processes of a flax run: how they find each other, and that they are one."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from flax_runs import assert_same_losses, content, losses, tiny
from quick_xla import quick_xla

from video_ssl.pretrain.errors import RunError
from video_ssl.pretrain.flax_loop import devices as devices_flax
from video_ssl.pretrain.flax_loop.devices import _distributed_settings
from video_ssl.pretrain.flax_loop.run import run_flax
from video_ssl.pretrain.recipe import recipe_from_dict
from video_ssl.recipes import to_yaml

ALONE = """
import sys, time
from video_ssl.pretrain.flax_loop.devices import join_flax_processes
try:
    with join_flax_processes("cpu") as processes:
        processes.on_main(lambda: None)
        if processes.rank == 1:
            raise ValueError("only here")
        time.sleep(600)
except ValueError as err:
    print("told:", err, flush=True)
    raise
"""


def test_the_environment_names_the_processes() -> None:
    torchrun = {"WORLD_SIZE": "2", "RANK": "1", "MASTER_ADDR": "n1", "MASTER_PORT": "29500"}
    found = _distributed_settings(torchrun)
    assert found == {"coordinator_address": "n1:29500", "num_processes": 2, "process_id": 1}
    again = _distributed_settings({**torchrun, "TORCHELASTIC_RUN_ID": "x"})
    assert again is not None
    assert again["coordinator_address"] == "n1:29501"  # torchrun itself listens on the other
    assert _distributed_settings({"TPU_WORKER_HOSTNAMES": "a,b"}) == {}
    assert _distributed_settings({"TPU_WORKER_HOSTNAMES": "a"}) is None
    with pytest.raises(RunError, match="MASTER_ADDR, MASTER_PORT, RANK not set"):
        _distributed_settings({"WORLD_SIZE": "2"})


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_two_processes_are_one(
    videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two processes with two devices each, that divide the state, are one with four; one goes on where they were."""
    file, run, four = tmp_path / "recipe.yaml", tmp_path / "run", tmp_path / "four"
    made = content(videos, run, training__sharding="fsdp")
    file.write_text(to_yaml(made), encoding="utf-8")
    code = (
        "import sys\n"
        "from video_ssl.pretrain.flax_loop import devices as devices_flax\n"
        "devices_flax.SMALLEST_SHARDED = 8\n"
        "from video_ssl.pretrain.recipe import load_pretrain_recipe\n"
        "from video_ssl.pretrain.start import run_recipe\n"
        "run_recipe(load_pretrain_recipe(sys.argv[1]))\n"
    )
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    place = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "XLA_FLAGS": quick_xla(2),
        "JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{port}",
        "JAX_NUM_PROCESSES": "2",
    }
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(file)],
            env={**place, "JAX_PROCESS_ID": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        for process in processes:
            out, _ = process.communicate(timeout=600)
            assert process.returncode == 0, out
    finally:
        for process in processes:
            process.kill()
    monkeypatch.setattr(devices_flax, "SMALLEST_SHARDED", 8)
    run_flax(tiny(videos, four, training__sharding="fsdp"), devices=jax.devices()[:4])
    assert_same_losses(run, four)
    assert {p.name for p in (run / "logs").iterdir()} == {"rank_0.log", "rank_1.log"}
    before = losses(run)
    for lost in ("checkpoints/step_6", "encoder"):
        shutil.rmtree(run / lost)
    run_flax(recipe_from_dict(made), devices=jax.devices()[:1])
    assert losses(run)[:4] == before[:4]
    np.testing.assert_allclose(losses(run)[4], before[4], rtol=2e-4)


@pytest.mark.slow
def test_an_error_of_one_process_is_told_and_ends_all() -> None:
    """jax aborts a process whose companions do not come to the shutdown: the error must get out before."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    place = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    started = [
        subprocess.Popen(
            [sys.executable, "-c", ALONE],
            env={**os.environ, **place, "RANK": str(rank), "VIDEO_SSL_LOST_AFTER_SEC": "5"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    outs = [process.communicate(timeout=600)[0] for process in started]
    assert "told: only here" in outs[1]
    assert all(process.returncode != 0 for process in started)
