"""What a process has taken that was started here, its own children included."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Spent:
    """What a command took: seconds on the clock, seconds of processors, the largest resident size in GiB."""

    wall_sec: float
    processor_sec: float
    peak_gib: float


#: Starts a process, waits for it and writes what it took.  Its own size is small: the largest size of a process, as
#: Linux counts it, begins with that of the process which has started it.  Ctrl-C of a terminal reaches the process
#: without its help; SIGTERM is passed on.
_WATCH = """
import json, os, signal, subprocess, sys, time
process, asked = None, []
def pass_on(number, _):
    asked.append(number)
    if process is not None:
        process.send_signal(number)
signal.signal(signal.SIGTERM, pass_on)
begin = time.monotonic()
process = subprocess.Popen(sys.argv[2:])
signal.signal(signal.SIGINT, lambda *_: None)
for number in asked:
    process.send_signal(number)
_, status, usage = os.wait4(process.pid, 0)
took = time.monotonic() - begin, usage.ru_utime + usage.ru_stime, usage.ru_maxrss
with open(sys.argv[1], "w") as file:
    json.dump([os.waitstatus_to_exitcode(status), *took], file)
"""


def watched(command: Sequence[str], took: Path) -> list[str]:
    """Returns a command that runs another one and writes into a file what that has taken, see `spent`."""
    return [sys.executable, "-S", "-c", _WATCH, str(took), *command]


def spent(took: Path) -> tuple[int, Spent]:
    """Returns the exit code of a `watched` command that has ended, and what it took.

    Raises:
        FileNotFoundError: whoever watched was killed.
    """
    code, wall, processor, peak = json.loads(took.read_text(encoding="utf-8"))
    unit = 2**30 if sys.platform == "darwin" else 2**20
    return code, Spent(round(wall, 3), round(processor, 3), round(peak / unit, 4))
