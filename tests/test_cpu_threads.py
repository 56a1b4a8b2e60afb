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


def policy(**environment: str) -> str:
    """What the OpenMP of torch takes as its way to wait."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("OMP_", "KMP_", "GOMP_"))}
    done = subprocess.run(
        [sys.executable, "-c", COMMAND],
        env={**clean, "OMP_DISPLAY_ENV": "TRUE", **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    lines = [line for line in done.stderr.splitlines() if "OMP_WAIT_POLICY" in line]
    if not lines:
        pytest.skip("the OpenMP of this torch does not tell its settings")
    return lines[0].partition("=")[2].strip().strip("'\"")


def test_threads_of_the_command_sleep_while_they_wait() -> None:
    """Was wrong: they were spinning, which took seven times as long beside two busy processes."""
    assert policy() == "PASSIVE"


def test_the_users_own_setting_holds() -> None:
    assert policy(OMP_WAIT_POLICY="ACTIVE") == "ACTIVE"
