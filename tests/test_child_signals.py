"""Ctrl-C of a terminal reaches all processes of a command: one of them answers, in one line."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from tiny_runs import videos  # noqa: F401

from video_ssl.child_signals import deaf_children

ANSWERS = "print('ready', flush=True); input(); print('alive', flush=True)"


def child(code: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def after_ctrl_c(process: subprocess.Popen[str]) -> tuple[str, str, int]:
    """(what it says afterwards, what it complains about, exit code)."""
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    said, complaint = process.communicate("\n", timeout=600)
    return said, complaint, process.returncode


def test_a_child_does_not_hear_ctrl_c_and_its_parent_hears_again() -> None:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    with deaf_children():
        process = child(ANSWERS)
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == before
    assert after_ctrl_c(process) == ("alive\n", "", 0)
    assert "Traceback" in after_ctrl_c(child(ANSWERS))[1]


def test_ctrl_c_that_another_thread_takes_is_heard_when_the_children_are_started() -> None:
    """Was wrong: one start in twenty was broken off, and the child printed an EOFError."""
    started = []

    def start() -> None:
        with deaf_children():
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.2)
            started.append(True)

    stay = threading.Event()
    thread = threading.Thread(target=stay.wait)
    thread.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            start()
    finally:
        stay.set()
        thread.join()
    assert started
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


SPAWNS = """
import multiprocessing, signal
from video_ssl.child_signals import deaf_children

if __name__ == "__main__":
    with deaf_children():
        child = multiprocessing.get_context("spawn").Process(target=print)
        child.start()
        print(signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, ()))
        child.join()
"""


def test_the_first_child_of_multiprocessing_is_deaf_too(tmp_path: Path) -> None:
    """Was wrong: what multiprocessing starts before it let Ctrl-C through again, so the child printed a traceback."""
    file = tmp_path / "spawns.py"
    file.write_text(SPAWNS)
    done = subprocess.run([sys.executable, str(file)], capture_output=True, text=True, timeout=600)
    assert done.stdout.split() == ["True"], done.stderr


def test_a_deaf_child_may_end_in_silence() -> None:
    with deaf_children():
        process = child(f"from video_ssl.child_signals import *; end_in_silence(); {ANSWERS}")
    assert after_ctrl_c(process) == ("", "", -signal.SIGINT)


@pytest.mark.slow
@pytest.mark.parametrize("verb", ["transcode", "embed"])
def test_ctrl_c_in_a_command_with_workers_is_one_line(
    verb: str,
    videos: Path,  # noqa: F811
    tmp_path: Path,
    capfd: Any,
) -> None:
    """In the moment in which a worker is loading Python, which is when it used to print a traceback."""
    words = {
        "transcode": ["transcode", str(videos), str(tmp_path / "fast")],
        "embed": ["embed", "pixels", str(videos), str(tmp_path / "f.arrow")],
    }[verb]
    process = subprocess.Popen(
        [sys.executable, "-m", "video_ssl", *words],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    while not psutil.Process(process.pid).children():
        assert process.poll() is None
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGINT)
    _, told = process.communicate(timeout=600)
    assert process.returncode == 130
    assert told == "stopped by Ctrl-C: the same command goes on from what is finished.\n"
