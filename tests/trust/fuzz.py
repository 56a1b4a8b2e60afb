"""Numbered damage to everything that is read: what crashes, hangs, shows a traceback or is read as if it were whole?

    python tests/trust/fuzz.py --cases 5000              a share of them for every kind of file
    python tests/trust/fuzz.py --seconds 60              as many as fit
    python tests/trust/fuzz.py --case 17 --keep DIR      one of them again, its files kept

A case is its number and the seed: they choose the kind, the file, the mutation and its places.
"""

from __future__ import annotations

import argparse
import collections
import functools
import json
import logging
import os
import random
import shutil
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")
sys.path.insert(0, str(Path(__file__).parent))

import forks
import mutations
from subjects import SUBJECTS, Subject

GIB = 2**30
FINDINGS = ("crash", "hang", "traceback", "memory", "accepted")


@dataclass(frozen=True, kw_only=True)
class Result:
    case: int
    subject: str
    what: str
    kind: str
    text: str


class Fuzzer:
    """Makes the files of a subject on first use, and does cases with them."""

    def __init__(self, base: Path, seed: int, only: str = "") -> None:
        self._base, self._seed = base, seed
        self._subjects = [s for s in SUBJECTS if any(word in s.name for word in only.split(","))]
        self._made: dict[str, tuple[Path, object]] = {}

    def do(self, number: int) -> Result:
        rng = random.Random(f"{self._seed}/{number}")
        weights = [s.weight for s in self._subjects]
        subject = rng.choices(self._subjects, weights)[0]
        folder, original = self._original(subject)
        place = self._base / "case"
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(folder, place, symlinks=True)
        file = rng.choice(subject.files(place))
        state = file.stat()
        changed, what = _changed(subject, file.read_bytes(), rng)
        file.write_bytes(changed)
        if rng.random() < 0.5:  # a disk that loses bits does not change the time
            os.utime(file, ns=(state.st_atime_ns, state.st_mtime_ns))
        what = f"{file.relative_to(place)}: {what}"
        if changed == (folder / file.relative_to(place)).read_bytes():
            return Result(
                case=number, subject=subject.name, what=what, kind="read", text="unchanged"
            )
        outcome = self._fork(subject, place)
        kind, text = outcome.kind, outcome.text
        if (place / "PWNED").exists() or Path("PWNED").exists():
            kind, text = "crash", "code of the file has run"
        if kind == "read":
            wrong = subject.judge(place, original, outcome.value)
            kind, text = ("read", "") if wrong is None else ("accepted", wrong)
        return Result(case=number, subject=subject.name, what=what, kind=kind, text=text)

    def _original(self, subject: Subject) -> tuple[Path, object]:
        if subject.name not in self._made:
            folder = self._base / "case"  # made where it is read: paths in it stay true
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            made = forks.run(
                functools.partial(subject.make, folder),
                limit_sec=300,
                memory_bytes=32 * GIB,
                log=self._base / "log",
            )
            if made.kind != "read":
                raise SystemExit(f"{subject.name} cannot be made: {made.kind} {made.text}")
            config = folder / "encoder/config.json"
            if config.is_file():
                shutil.copy(config, folder / "encoder/original.json")
            kept = self._base / "originals" / subject.name
            shutil.copytree(folder, kept, symlinks=True)
            outcome = self._fork(subject, folder)
            if outcome.kind != "read":
                raise SystemExit(f"{subject.name} cannot be read: {outcome.kind} {outcome.text}")
            self._made[subject.name] = (kept, outcome.value)
        return self._made[subject.name]

    def _fork(self, subject: Subject, folder: Path) -> forks.Outcome:
        return forks.run(
            functools.partial(subject.read, folder),
            limit_sec=subject.limit_sec,
            memory_bytes=int(subject.memory_gib * GIB),
            log=self._base / "log",
        )


def _changed(subject: Subject, content: bytes, rng: random.Random) -> tuple[bytes, str]:
    structural = subject.structural and rng.random() < 0.5
    mutation = rng.choice(list(subject.structural if structural else mutations.BYTES))
    try:
        return mutation(content, rng)
    except (ValueError, KeyError, IndexError):  # a form that this file does not have
        return rng.choice(mutations.BYTES)(content, rng)


def warm_up() -> None:
    """Imports what readings need, so that a fork has it.  No threads may start here."""
    import jax  # noqa: F401
    import torch  # noqa: F401

    import video_ssl.cli
    import video_ssl.evaluate.run
    import video_ssl.launch.launching
    import video_ssl.models.encoders_flax
    import video_ssl.pretrain.flax_loop.run  # noqa: F401

    logging.disable(logging.INFO)


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=10**9)
    parser.add_argument("--seconds", type=float, default=float("inf"))
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--case", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--only", default="", help="kinds of files whose name holds one of these: tar,list"
    )
    parser.add_argument("--keep", type=Path)
    parser.add_argument("--json", type=Path, help="findings, one a line")
    given = parser.parse_args(arguments)
    numbers = range(given.first, given.first + given.cases) if given.case is None else [given.case]
    base = given.keep or Path(tempfile.mkdtemp(prefix="video_ssl-fuzz-"))
    base.mkdir(parents=True, exist_ok=True)
    os.environ["VIDEO_SSL_CACHE"] = str(base / "cache")
    os.environ["JAX_COMPILATION_CACHE_DIR"] = str(base / "compiled")
    print(f"seed {given.seed}", flush=True)
    warm_up()
    begin = time.monotonic()
    fuzzer = Fuzzer(base, given.seed, given.only)
    results = []
    try:
        for number in numbers:
            if time.monotonic() - begin > given.seconds:
                break
            result = fuzzer.do(number)
            results.append(result)
            _tell(result, given)
    finally:
        if given.keep is None:
            shutil.rmtree(base, ignore_errors=True)
    return _summary(results, given.seed, time.monotonic() - begin)


def _tell(result: Result, given: argparse.Namespace) -> None:
    if result.kind in FINDINGS or given.case is not None:
        text = result.text.strip().splitlines()
        shown = result.text if given.case is not None else "\n  ".join(text[-3:])
        print(
            f"case {result.case} {result.subject}: {result.kind}: {result.what}\n  {shown}",
            flush=True,
        )
    if given.json is not None:
        with open(given.json, "a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(result)) + "\n")


def _summary(results: list[Result], seed: int, seconds: float) -> int:
    table: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    for result in results:
        table[result.subject][result.kind] += 1
    for name in sorted(table):
        print(
            f"{name:18} {sum(table[name].values()):5} "
            + " ".join(f"{k} {n}" for k, n in sorted(table[name].items()))
        )
    total = collections.Counter(result.kind for result in results)
    bad = sum(total[kind] for kind in FINDINGS)
    told = ", ".join(f"{total[kind]} {kind}" for kind in ("refused", "read", *FINDINGS))
    print(f"seed {seed}: {len(results)} mutations in {seconds:.0f} s: {told}")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
