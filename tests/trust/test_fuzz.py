"""Damaged and hostile files: none ends the process, hangs, shows a traceback or is read as if it were whole.

VIDEO_SSL_FUZZ_CASES=5000 does so many; otherwise it is some 200, the same every time.  VIDEO_SSL_FUZZ_SEED chooses
others; a case can be done again by its number (see fuzz.py).
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
import mutations

FUZZ = Path(__file__).parent / "fuzz.py"


def test_a_mutation_is_the_same_for_the_same_seed_and_changes_something():
    content = bytes(range(256)) * 4
    for mutate in mutations.BYTES:
        first, again = (mutate(content, random.Random(5)) for _ in range(2))
        assert first == again
        assert any(mutate(content, random.Random(seed))[0] != content for seed in range(5))


def test_damage_is_seen_for_what_it_is(tmp_path):
    """The harness itself: a crash, a hang, a bug, too much memory and damage that is let through have their names."""
    code = """
import os, sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import forks
acts = {
    "read": lambda: 1, "crash": lambda: os.abort(), "hang": lambda: time.sleep(60),
    "traceback": lambda: [][1], "memory": lambda: bytearray(2**33),
    "refused": lambda: open("/no/such/file"),
}
for kind, act in acts.items():
    limit = 1.0 if kind == "hang" else 60.0
    found = forks.run(act, limit_sec=limit, memory_bytes=2**31, log=Path(sys.argv[2]) / "log")
    assert found.kind == kind, (kind, found)
"""
    given = [sys.executable, "-c", code, str(FUZZ.parent), str(tmp_path)]
    done = subprocess.run(given, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


LIGHT = ["--cases", "200", "--seconds", "60", "--only", "table,list,tar,features,recipe,profile"]
HEAVY = ["--cases", "20", "--seconds", "60", "--only", "torch,config,words"]
MANY = os.environ.get("VIDEO_SSL_FUZZ_CASES")


@pytest.mark.slow
@pytest.mark.timeout(14_400 if MANY else 600)
@pytest.mark.parametrize("bound", [["--cases", MANY]] if MANY else [LIGHT, HEAVY])
def test_damaged_files_are_refused_or_read_as_they_were(bound):
    seed = os.environ.get("VIDEO_SSL_FUZZ_SEED", "0")
    given = [sys.executable, str(FUZZ), "--seed", seed, *bound]
    done = subprocess.run(given, capture_output=True, text=True, check=False)
    print(done.stdout)
    again = f"one again: {' '.join(given)} --case NUMBER"
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}\n{again}"
