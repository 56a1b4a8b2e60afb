"""What a process took that was started here: its own, whoever started it and however it ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from video_ssl.child_usage import spent, watched


def test_the_size_is_that_of_the_process_and_not_of_who_started_it(tmp_path):
    """Linux counts from the size of the parent: every training of a comparison "took" half a GiB, that of `compare`."""
    ballast = bytearray(400 * 2**20)
    subprocess.run(watched([sys.executable, "-S", "-c", "pass"], tmp_path / "t"), check=True)
    assert len(ballast)
    code, took = spent(tmp_path / "t")
    assert code == 0
    assert took.peak_gib < 0.1
    work = "x = bytearray(300 * 2**20)\nimport time\nwhile time.process_time() < 0.3: pass\nraise SystemExit(3)"
    subprocess.run(watched([sys.executable, "-S", "-c", work], tmp_path / "t"), check=True)
    code, took = spent(tmp_path / "t")
    assert code == 3
    assert took.peak_gib > 0.29
    assert 0.3 <= took.processor_sec <= took.wall_sec + 0.1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_process_that_is_stopped_ends_by_itself_and_is_counted(tmp_path, number):
    """SIGTERM is passed on; SIGINT comes to all of a terminal, and whoever watches stays to the end."""
    work = (
        "import pathlib, signal, sys, time\n"
        f"signal.signal({int(number)}, lambda *_: (time.sleep(0.3), sys.exit(7)))\n"
        f"pathlib.Path({str(tmp_path / 'up')!r}).touch()\ntime.sleep(60)"
    )
    process = subprocess.Popen(
        watched([sys.executable, "-S", "-c", work], tmp_path / "t"), start_new_session=True
    )
    while not (tmp_path / "up").exists():
        time.sleep(0.02)
    if number == signal.SIGTERM:
        process.terminate()
    else:
        os.killpg(process.pid, number)
    assert process.wait(timeout=600) == 0
    code, took = spent(tmp_path / "t")
    assert code == 7
    assert 0.3 <= took.wall_sec < 30


def test_a_watch_that_was_killed_has_left_nothing(tmp_path):
    with pytest.raises(FileNotFoundError):
        spent(tmp_path / "t")
