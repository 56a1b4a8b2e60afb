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
    from video_ssl.clips.processes import segments

    word = segments.new_word()
    os.environ[segments.WORD_VARIABLE] = word
    segments.name_segments()
    kept = shared_memory.SharedMemory(create=True, size=64)
    print(kept.name, flush=True)
    if {free}:
        segments.free_segments(word)
"""


def run(*, free):
    code = textwrap.dedent(SCRIPT).format(free=free)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
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

    from video_ssl.clips.processes import segments

    mine = shared_memory.SharedMemory(create=True, size=64)
    try:
        segments.free_segments(segments.new_word())
        assert (FOLDER / mine.name).exists()
    finally:
        mine.close()
        mine.unlink()
