"""Every test, in processes side by side: one folder after the other on each core, and SLURM's beside them.

What the tests of a folder say comes when they have ended, so that the words of two do not mix; what has failed comes
once more at the end.  Arguments go to every process.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

TESTS = Path(__file__).parent
#: These mostly wait for SLURM, so they take no core from the others, which leave them theirs (they are `NICE`).
WAITING = "launch"
NICE = 5
#: What takes longest begins first, so that no core is without work at the end.
LONGEST = ("pretrain", "test_strangers_day.py", "bench", "models", "objectives", "clips", "trust")
#: One more would end no earlier: the longest folder takes a third of the time of all.  Each needs 1 to 2 GB of memory.
MOST_LANES = 4
NOTHING_FOUND = 5  # what pytest ends with where the arguments leave no test in a part
LOOK_EVERY_SEC = 0.1
GIVE_UP_SEC = 5


def parts(tests: Path) -> dict[str, list[Path]]:
    """Name -> files and folders of one process: every folder, the long files beside the folders, the rest of those."""
    folders = {file.relative_to(tests).parts[0] for file in tests.glob("*/**/test_*.py")}
    found = {name: [tests / name] for name in sorted(folders)}
    files = sorted(tests.glob("test_*.py"))
    found |= {file.name: [file] for file in files if file.name in LONGEST}
    rest = [file for file in files if file.name not in found]
    if rest:
        found["test_*.py"] = rest
    order = {name: place for place, name in enumerate((WAITING, *LONGEST))}
    return dict(sorted(found.items(), key=lambda item: order.get(item[0], len(order))))


@dataclass
class Part:
    """A process of pytest, and the file with what it says."""

    name: str
    command: list[str]
    words: Path
    began: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        with self.words.open("w") as words:
            self.process: subprocess.Popen[Any] = subprocess.Popen(
                self.command,
                stdout=words,
                stderr=subprocess.STDOUT,
                preexec_fn=None if self.name == WAITING else lambda: os.nice(NICE),
            )

    def end(self) -> None:
        """Waits for its end; a test of training takes the signal for its own, and pytest would go on."""
        try:
            self.process.wait(GIVE_UP_SEC)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def tell(self, how: str) -> list[str]:
        """Prints what the process has said; returns the lines that name what failed."""
        text = self.words.read_text(errors="replace")
        print(f"\n== tests/{self.name}: {how} after {clock(self.began)}\n{text}", flush=True)
        return [line for line in text.splitlines() if line.startswith(("FAILED ", "ERROR "))]


def clock(began: float) -> str:
    minutes, seconds = divmod(int(time.monotonic() - began), 60)
    return f"{minutes}:{seconds:02}"


def run(
    waiting: dict[str, list[Path]], command: list[str], *, lanes: int, folder: Path
) -> tuple[list[str], set[int]]:
    """Runs every part, `lanes` of them at a time beside the one that waits; returns what failed, and all exit codes."""
    running: list[Part] = []
    failed: list[str] = []
    codes: set[int] = set()
    try:
        while waiting or running:
            for name in list(waiting):
                if name == WAITING or sum(part.name != WAITING for part in running) < lanes:
                    paths = map(str, waiting.pop(name))
                    running.append(Part(name, [*command, *paths], folder / f"{name}.txt"))
            for part in [part for part in running if part.process.poll() is not None]:
                running.remove(part)
                code = part.process.returncode
                codes.add(code)
                if code in (0, NOTHING_FOUND):
                    part.tell("passed")
                else:
                    lines = part.tell(f"FAILED with exit code {code}")
                    failed += lines or [f"FAILED tests/{part.name} with exit code {code}"]
            time.sleep(LOOK_EVERY_SEC)
    finally:  # where this is stopped, so is all that runs
        for part in running:
            part.process.terminate()
        for part in running:
            part.end()
            part.tell("stopped")
    return failed, codes


def main(arguments: list[str]) -> int:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    # One thread each: those of one process would only wait for the cores that the other processes have.
    for name, value in (("OMP_NUM_THREADS", "1"), ("OMP_WAIT_POLICY", "PASSIVE")):
        os.environ.setdefault(name, value)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments]
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="video_ssl-tests-") as folder:
        lanes = min(max(2, os.cpu_count() or 1), MOST_LANES)
        failed, codes = run(parts(TESTS), command, lanes=lanes, folder=Path(folder))
    print(f"\n== all tests: {'FAILED' if failed else 'passed'} after {clock(began)}")
    print("\n".join(failed))
    if codes == {NOTHING_FOUND}:
        return NOTHING_FOUND
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
