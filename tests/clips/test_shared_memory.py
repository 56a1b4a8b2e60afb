"""What data workers leave in shared memory is gone when a pipeline has ended, and nothing is said about it."""

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

FOLDER = Path("/dev/shm")

SCRIPT = """
    import os
    from multiprocessing import shared_memory
    from video_ssl.clips.processes import shared_memory as ours

    prefix = ours.new_prefix()
    os.environ[ours.PREFIX_VARIABLE] = prefix
    ours.name_shared_memory()
    kept = shared_memory.SharedMemory(create=True, size=64)
    print(kept.name, flush=True)
    if {free}:
        ours.free_shared_memory(prefix)
"""


def run(*, free):
    code = textwrap.dedent(SCRIPT).format(free=free)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip(), done.stderr


@pytest.mark.skipif(not FOLDER.is_dir(), reason="no /dev/shm on this system")
def test_a_segment_that_somebody_still_holds_is_freed_without_a_word():
    name, said = run(free=True)
    assert name.startswith("video_ssl_")
    assert not (FOLDER / name).exists()
    assert said == ""


@pytest.mark.skipif(not FOLDER.is_dir(), reason="no /dev/shm on this system")
def test_without_it_python_complains():
    _, said = run(free=False)
    assert "leaked shared_memory" in said


@pytest.mark.skipif(not FOLDER.is_dir(), reason="no /dev/shm on this system")
def test_segments_of_others_stay():
    from multiprocessing import shared_memory

    from video_ssl.clips.processes import shared_memory as ours

    mine = shared_memory.SharedMemory(create=True, size=64)
    try:
        ours.free_shared_memory(ours.new_prefix())
        assert (FOLDER / mine.name).exists()
    finally:
        mine.close()
        mine.unlink()
