"""Threads that wait for each other must not keep a core from other processes."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

# The command with a verb of its own: loads torch, whose OpenMP says how it was set up.
COMMAND = """
import sys, types
module = types.ModuleType("video_ssl.cli")
module.main = lambda: __import__("torch")
sys.modules["video_ssl.cli"] = module
from video_ssl.__main__ import main
main()
"""


def spins(**environment: str) -> int:
    """How often a thread of torch's OpenMP looks whether it may go on before it sleeps."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("OMP_", "KMP_", "GOMP_"))}
    done = subprocess.run(
        [sys.executable, "-c", COMMAND],
        env={**clean, "OMP_DISPLAY_ENV": "VERBOSE", **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    lines = [line for line in done.stderr.splitlines() if "GOMP_SPINCOUNT" in line]
    if not lines:
        pytest.skip("the OpenMP of this torch is not GNU's, which says how long it spins")
    return int(lines[0].partition("=")[2].strip().strip("'"))


def test_threads_of_the_command_sleep_while_they_wait() -> None:
    """Was wrong: they were spinning, which took seven times as long beside two busy processes."""
    assert spins() == 0


def test_the_users_own_setting_holds() -> None:
    assert spins(OMP_WAIT_POLICY="ACTIVE") > 10**6
