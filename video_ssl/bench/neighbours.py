"""Processes that keep CPU cores busy, as other people's jobs do, while something is timed."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator

from video_ssl.child_signals import deaf_children

# It ends by itself where the one that started it was killed.
_SPIN = "import os\nparent = os.getppid()\nwhile os.getppid() == parent:\n    sum(range(1000))"


@contextlib.contextmanager
def busy_processes(count: int) -> Iterator[None]:
    """Keeps `count` processes at work within the block."""
    started: list[subprocess.Popen[bytes]] = []
    try:
        with deaf_children():
            for _ in range(count):
                started.append(subprocess.Popen([sys.executable, "-S", "-c", _SPIN]))
        yield
    finally:
        for process in started:
            process.kill()
            process.wait()
