"""Decoders that misbehave, by the name of the file; run in the processes of the scan."""

import ctypes
import errno
import os
import sys
import time

from video_ssl.clips.upkeep.isolated_worker import beat
from video_ssl.clips.upkeep.probe import probe


def misbehaving_probe(task):
    name = os.path.basename(task.source)
    print("a library that prints to the standard output")
    sys.stdout.flush()
    if name.startswith("exits"):
        os._exit(3)
    if name.startswith("segfaults"):
        ctypes.string_at(0)
    if name.startswith("sleeps"):
        time.sleep(600)
    if name.startswith("bug"):
        raise TypeError("no such thing")
    return probe(task)


def slow_but_beating(seconds):
    begin = time.monotonic()
    while time.monotonic() - begin < seconds:
        time.sleep(0.05)
        beat()


def slow_probe(task):
    time.sleep(0.15)
    with open(os.environ["SCAN_FAKES_LOG"], "a") as log:
        log.write(os.path.basename(task.source) + "\n")
    return probe(task)


def full_disk(_):
    raise OSError(errno.ENOSPC, "No space left on device")


def proof_by_content(proof):
    return f"{os.path.getsize(proof.probe.source)} bytes"
