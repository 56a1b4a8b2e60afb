"""After a kill the same command ends in the same bits, and leaves nothing behind.

VIDEO_SSL_KILLS=100 does so many; otherwise it is ten, without flax and `evaluate`.  VIDEO_SSL_KILLS_SEED chooses
others; a kill can be done again by its number (see kills.py).
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

KILLS = Path(__file__).parent / "kills.py"


FEW = ["--kills", "10", "--only", "torch,embed,scan,transcode,merge,build"]
MANY = os.environ.get("VIDEO_SSL_KILLS")


@pytest.mark.slow
@pytest.mark.timeout(7200 if MANY else 600)
def test_after_kills_the_same_command_ends_in_the_same_bits():
    seed = os.environ.get("VIDEO_SSL_KILLS_SEED", "0")
    bound = ["--kills", MANY] if MANY else FEW
    given = [sys.executable, str(KILLS), "--seed", seed, *bound]
    done = subprocess.run(given, capture_output=True, text=True, check=False)
    print(done.stdout)
    again = f"one again: {' '.join(given)} --kill NUMBER"
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}\n{again}"
