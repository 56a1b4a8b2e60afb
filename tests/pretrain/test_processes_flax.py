"""Processes of flax that do not end together."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

import pytest

pytest.importorskip("jax")

ALONE = """
import sys, time
from video_ssl.pretrain.devices_flax import join_flax_processes
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
    outs = [process.communicate(timeout=60)[0] for process in started]
    assert "told: only here" in outs[1]
    assert all(process.returncode != 0 for process in started)
