"""Kills at numbered places: after the same command again, is everything as if nothing had happened?

    python tests/trust/kills.py --kills 100             a share of them for every verb
    python tests/trust/kills.py --kill 17 --keep DIR    one of them again, its files kept

A kill is SIGKILL, either right before the n-th change of a file (a name that is opened for writing, renamed, removed, a
folder made: exactly reproducible), or after a share of the time that the command takes.  It meets the process alone,
or the processes that it has started too.  A command that goes on may be killed again.  Compared are all files that
the commands leave, with those of a run that nothing has disturbed: to the bit, but for the words about time, place and
attempts; and the processes that are left.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import functools
import json
import logging
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")
sys.path.insert(0, str(Path(__file__).parent))

import forks
from fuzz import GIB, warm_up
from scenes import SCENES, Scene, contents

_PR_SET_CHILD_SUBREAPER = 36
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
_CHANGES = (
    "os.rename",
    "os.remove",
    "os.mkdir",
    "os.rmdir",
    "os.truncate",
    "os.link",
    "os.symlink",
)
_LIMIT_SEC = 300.0
_ORPHANS_SEC = 60.0


@dataclass(frozen=True)
class Ending:
    """How a command ended: its exit code (negative: the signal), how many changes of files it made, what it took."""

    code: int
    changes: int
    seconds: float
    text: str


def command(
    words: list[str],
    folder: Path,
    log: Path,
    *,
    change: int | None = None,
    after_sec: float | None = None,
    with_children: bool = False,
) -> Ending:
    """Does `video-ssl WORDS` in a folder, in a process of its own, which is killed where it is told."""  # fmt: skip
    counts, child_end = os.pipe()
    begin = time.monotonic()
    pid = os.fork()
    if pid == 0:
        os.close(counts)
        _child(words, folder, log, change, child_end, with_children)
    os.close(child_end)
    timed_out = not _ends_within(pid, after_sec if after_sec is not None else _LIMIT_SEC)
    if timed_out:
        with contextlib.suppress(ProcessLookupError):
            (os.killpg if with_children else os.kill)(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    seconds = time.monotonic() - begin
    made = os.read(counts, 64)
    os.close(counts)
    _reap_orphans()
    if timed_out and after_sec is None:
        raise AssertionError(
            f"`{' '.join(words)}` has not ended within {_LIMIT_SEC:g} s: {forks._tail(log)}"
        )
    return Ending(os.waitstatus_to_exitcode(status), int(made or b"0"), seconds, forks._tail(log))


def _ends_within(pid: int, limit_sec: float) -> bool:
    deadline = time.monotonic() + limit_sec
    while time.monotonic() < deadline:
        if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
            return True
        time.sleep(0.002)
    return False


def _child(
    words: list[str], folder: Path, log: Path, change: int | None, counts: int, own_group: bool
) -> None:
    """Never returns."""
    code = 1
    counter = [0]
    try:
        if own_group:
            os.setsid()
        place = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(place, 1)
        os.dup2(place, 2)
        os.chdir(folder)
        _count_changes(folder, counter, change)
        logging.disable(logging.NOTSET)
        import torch

        torch.set_num_threads(1)
        from video_ssl import cli

        sys.argv = ["video-ssl", *words]
        cli.main()
        code = 0
    except SystemExit as err:
        code = err.code if isinstance(err.code, int) else int(err.code is not None)
    except BaseException:
        traceback.print_exc()
    with contextlib.suppress(BaseException):
        import atexit

        sys.stdout.flush()
        atexit._run_exitfuncs()
        os.write(counts, str(counter[0]).encode())
    os._exit(code)


def _count_changes(folder: Path, counter: list[int], fatal: int | None) -> None:
    """Counts the changes of files below a folder, and dies right before one of them."""
    begin = str(folder)

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, _, flags = arguments
            if not isinstance(flags, int) or not flags & _WRITES:
                return
        elif event in _CHANGES:
            path = arguments[0]
        else:
            return
        if not isinstance(path, (str, bytes, os.PathLike)):
            return
        if os.path.abspath(os.fsdecode(path)).startswith(begin):
            counter[0] += 1
            if counter[0] == fatal:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


def _reap_orphans() -> None:
    """Waits for the processes that a killed one has left; they must end by themselves."""
    deadline = time.monotonic() + _ORPHANS_SEC
    while time.monotonic() < deadline:
        try:
            pid, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            time.sleep(0.01)
    left = [p for p in os.listdir("/proc") if p.isdigit() and _parent(p) == os.getpid()]
    for pid_text in left:
        os.kill(int(pid_text), signal.SIGKILL)
    raise AssertionError(f"processes {left} were left behind for {_ORPHANS_SEC:g} s")


def _parent(pid: str) -> int:
    with contextlib.suppress(OSError, ValueError, IndexError):
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return 0


class Killer:
    """Does the commands of scenes, with and without kills."""

    def __init__(self, base: Path, seed: int, only: str = "") -> None:
        self._base, self._seed = base, seed
        self._scenes = [s for s in SCENES if any(word in s.name for word in only.split(","))]
        self._undisturbed: dict[str, tuple[Path, dict[str, Any], list[Ending]]] = {}
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)

    def do(self, number: int) -> tuple[str, str, str]:
        """Returns the scene, what was done, and what is different then ("" if nothing is)."""
        rng = random.Random(f"{self._seed}/{number}")
        scene = self._scenes[number % len(self._scenes)]
        prepared, wanted, endings = self._straight(scene)
        folder = self._fresh(prepared)
        done = []
        try:
            for words, ending in zip(scene.commands, endings, strict=True):
                done += self._disturbed(words, ending, folder, rng, scene.complete)
            left = self._left_elsewhere()
            return scene.name, "; ".join(done), left or _difference(wanted, self._contents(folder))
        except AssertionError as err:
            return scene.name, "; ".join(done), str(err)

    def _disturbed(
        self, words: list[str], straight: Ending, folder: Path, rng: random.Random, complete: str
    ) -> list[str]:
        """Does one command with one or two kills, and to its end; returns what was done."""
        log, done = self._base / "log", []
        for _ in range(rng.choice((1, 1, 2))):
            with_children = rng.random() < 0.5
            if rng.random() < 0.6:
                change = rng.randint(1, max(1, straight.changes))
                ending = command(words, folder, log, change=change, with_children=with_children)
                told = f"before change {change} of {straight.changes}"
            else:
                after = straight.seconds * rng.random()
                ending = command(words, folder, log, after_sec=after, with_children=with_children)
                told = f"after {after:.2f} of {straight.seconds:.2f} s"
            done.append(f"{words[0]} {'killed' if ending.code == -9 else 'not killed'} {told}")
            if complete and complete in ending.text:
                break
            if ending.code not in (-9, 0):
                raise AssertionError(f"exit code {ending.code} before the kill: {ending.text}")
        ending = command(words, folder, log)
        if ending.code != 0 and (not complete or complete not in ending.text):
            raise AssertionError(
                f"`{' '.join(words)}` does not go on (exit code {ending.code}): {ending.text}"
            )
        return done

    def _straight(self, scene: Scene) -> tuple[Path, dict[str, Any], list[Ending]]:
        """(what is there before, what there is after the commands, how they ended), undisturbed."""
        if scene.name not in self._undisturbed:
            folder = self._work()
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            log = self._base / "log"
            made = forks.run(
                functools.partial(scene.prepare, folder),
                limit_sec=600,
                memory_bytes=32 * GIB,
                log=log,
            )
            if made.kind != "read":
                raise SystemExit(f"{scene.name} cannot be prepared: {made.kind} {made.text}")
            prepared = self._base / "prepared" / scene.name
            shutil.copytree(folder, prepared, symlinks=True)
            endings = []
            for words in scene.commands:
                command(words, self._fresh(prepared, anew=not endings), log)  # warms caches
                folder = self._fresh(prepared, anew=not endings)
                endings.append(command(words, folder, log))
                if endings[-1].code:
                    raise SystemExit(f"{scene.name}: {' '.join(words)} fails: {endings[-1].text}")
            self._undisturbed[scene.name] = (prepared, self._contents(folder), endings)
        return self._undisturbed[scene.name]

    def _contents(self, folder: Path) -> dict[str, Any]:
        """In a process of its own: the libraries that read checkpoints start threads."""
        read = functools.partial(contents, folder)
        outcome = forks.run(read, limit_sec=300, memory_bytes=32 * GIB, log=self._base / "log")
        if outcome.kind != "read":
            raise AssertionError(f"what is there cannot be read: {outcome.kind} {outcome.text}")
        found: dict[str, Any] = outcome.value
        return found

    def _fresh(self, prepared: Path, *, anew: bool = True) -> Path:
        folder = self._work()
        if anew:
            shutil.rmtree(folder, ignore_errors=True)
            shutil.copytree(prepared, folder, symlinks=True)
        return folder

    def _work(self) -> Path:
        """The same for all, so that paths that are written down are the same; temporary files are beside it."""
        for name in ("tmp", "cache"):
            (self._base / name).mkdir(exist_ok=True)
        return self._base / "work"

    def _left_elsewhere(self) -> str:
        names = (p.name for p in (self._base / "tmp").iterdir())
        left = [name for name in names if not name.startswith("torchinductor_")]  # torch's cache
        for path in (self._base / "tmp").iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        return f"left in the temporary folder: {left}" if left else ""


def _difference(wanted: dict[str, Any], found: dict[str, Any]) -> str:
    told = []
    if more := sorted(found.keys() - wanted.keys()):
        told.append(f"left behind: {more}")
    if less := sorted(wanted.keys() - found.keys()):
        told.append(f"lacking: {less}")
    if other := sorted(k for k in wanted.keys() & found.keys() if wanted[k] != found[k]):
        told.append(f"different: {other}")
        told += [f"{name}: {_where(wanted[name], found[name])}" for name in other[:3]]
    return "; ".join(told)


def _where(one: Any, two: Any, path: str = "") -> str:
    """The first place at which two trees differ."""
    if isinstance(one, dict) and isinstance(two, dict) and one.keys() == two.keys():
        return next(_where(one[k], two[k], f"{path}.{k}") for k in one if one[k] != two[k])
    if isinstance(one, list) and isinstance(two, list) and len(one) == len(two):
        pairs = enumerate(zip(one, two, strict=True))
        return next(_where(a, b, f"{path}[{i}]") for i, (a, b) in pairs if a != b)
    if isinstance(one, list) and isinstance(two, list):
        only = [a for a in one if a not in two], [b for b in two if b not in one]
        return f"{path} {len(one)} and {len(two)} entries, of their own: {only!s:.1500}"
    return f"{path} {one!s:.200} -> {two!s:.200}"


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--kill", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--only", default="", help="scenes whose name holds one of these: torch,merge"
    )
    parser.add_argument("--keep", type=Path)
    parser.add_argument("--json", type=Path, help="what was done and found, one a line")
    given = parser.parse_args(arguments)
    numbers = range(given.first, given.first + given.kills) if given.kill is None else [given.kill]
    base = given.keep or Path(tempfile.mkdtemp(prefix="video_ssl-kills-"))
    base.mkdir(parents=True, exist_ok=True)
    with _environment(base):
        print(f"seed {given.seed}", flush=True)
        warm_up()
        begin, bad, kills = time.monotonic(), 0, 0
        killer = Killer(base, given.seed, given.only)
        for number in numbers:
            scene, done, wrong = killer.do(number)
            bad += bool(wrong)
            kills += done.count(" killed ") - done.count(" not killed ")
            if wrong or given.kill is not None:
                print(f"kill {number} {scene}: {done}\n  {wrong or 'no difference'}", flush=True)
            if given.json is not None:
                with open(given.json, "a", encoding="utf-8") as file:
                    file.write(json.dumps([number, scene, done, wrong]) + "\n")
    if given.keep is None:
        shutil.rmtree(base, ignore_errors=True)
    seconds = time.monotonic() - begin
    print(
        f"seed {given.seed}: {len(numbers)} disturbed runs, {kills} kills in {seconds:.0f} s: {bad} with differences"
    )
    return 1 if bad else 0


@contextlib.contextmanager
def _environment(base: Path) -> Iterator[None]:
    os.environ["VIDEO_SSL_CACHE"] = str(base / "cache")
    os.environ["JAX_COMPILATION_CACHE_DIR"] = str(base / "compiled")
    os.environ["TMPDIR"] = str(base / "tmp")
    (base / "tmp").mkdir(exist_ok=True)
    tempfile.tempdir = None
    yield


Prepare = Callable[[Path], None]

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
