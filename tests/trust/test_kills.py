"""After a kill the same command ends in the same bits, and leaves nothing behind.

VIDEO_SSL_KILLS=100 does so many; otherwise it is one for every verb but flax's, at places that a seed chooses.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

KILLS = Path(__file__).parent / "kills.py"


@pytest.mark.slow
@pytest.mark.timeout(7200 if "VIDEO_SSL_KILLS" in os.environ else 600)
def test_after_kills_the_same_command_ends_in_the_same_bits():
    number = os.environ.get("VIDEO_SSL_KILLS")
    seed = os.environ.get("VIDEO_SSL_KILLS_SEED", str(random.randrange(10**6)))
    bound = (
        ["--kills", number]
        if number
        else ["--kills", "10", "--only", "torch,embed,scan,transcode,merge,build"]
    )
    given = [sys.executable, str(KILLS), "--seed", seed, *bound]
    done = subprocess.run(given, capture_output=True, text=True, check=False)
    print(done.stdout)
    assert done.returncode == 0, (
        f"{done.stdout}\n{done.stderr}\none again: {' '.join(given)} --kill NUMBER"
    )
