"""Every test, in two processes: those of SLURM mostly wait for it, so they run beside the others.

The words of the second process come when the first has ended, so that the two do not mix.  Arguments go to both.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
import tempfile
from pathlib import Path

TESTS = Path(__file__).parent
WAITING = TESTS / "launch"
NOTHING_FOUND = 5  # what pytest ends with where the arguments leave no test in one of the two


def main(arguments: list[str]) -> int:
    pytest = [sys.executable, "-m", "pytest", "-q", *arguments]
    with contextlib.ExitStack() as stack:
        words = stack.enter_context(tempfile.TemporaryFile("w+"))
        beside = subprocess.Popen(
            [*pytest, "-p", "no:cacheprovider", str(WAITING)],
            stdout=words,
            stderr=subprocess.STDOUT,
        )
        stack.callback(beside.wait)
        stack.callback(beside.terminate)
        first = subprocess.run([*pytest, str(TESTS), f"--ignore={WAITING}"]).returncode
        print(f"\nand {WAITING.relative_to(TESTS.parent)}, which ran beside them:", flush=True)
        second = beside.wait()
        words.seek(0)
        print(words.read())
    return int(not {first, second} <= {0, NOTHING_FOUND})


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
