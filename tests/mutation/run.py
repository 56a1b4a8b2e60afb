"""Puts errors into a copy of the project, one at a time, and tells which of them the tests see.

    python tests/mutation/run.py                            all of mutations.yaml: some minutes
    python tests/mutation/run.py --only scl --only mask     those with one of these words in name or file
    python tests/mutation/run.py --sample 10 --seed 3       ten of them, drawn
    python tests/mutation/run.py --report docs/measurements.md

The copy (what git knows, as it is on the disk) lies in a temporary folder; the working tree is never touched.  First
the tests run without an error, since a red test that is always red shows nothing.  Then, for each error, the tests
that its entry names: `seen` = one is red or they hang, `SURVIVED` = all are green, `ERROR` = they did not run.  Exit
status 0 = every error is seen, or its entry says why none can be.
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from mutation_list import Mutation, MutationError, mutated, read_mutations

ROOT = Path(__file__).resolve().parents[2]
BEGIN, END = "<!-- mutations: begin -->", "<!-- mutations: end -->"
SEEN, SURVIVED, ERROR = "seen", "SURVIVED", "ERROR"


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What became of an error: by which test it was `seen`, or what went wrong in `told`."""

    mutation: Mutation
    state: str
    told: str
    seconds: float

    @property
    def good(self) -> bool:
        return self.state == SEEN or (self.state == SURVIVED and bool(self.mutation.equivalent))


def copy_tree(source: Path, target: Path) -> None:
    """Copies what git knows of a working tree, and what it does not ignore, as it is on the disk."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=source,
        check=True,
        capture_output=True,
    ).stdout
    for name in filter(None, os.fsdecode(listed).split("\0")):
        if (source / name).is_file():  # a deleted file is still listed
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source / name, target / name)


def write_source(path: Path, text: str) -> None:
    """Writes a module and removes its compiled form, which is told by size and seconds alone."""
    path.write_text(text, encoding="utf-8")
    for compiled in path.parent.glob(f"__pycache__/{path.stem}.*.pyc"):
        compiled.unlink()


def run_tests(root: Path, tests: Sequence[str], *, seconds: float) -> tuple[int | None, str]:
    """Returns pytest's exit status (None = out of time) and what it printed."""
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *tests]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    with tempfile.TemporaryFile() as out:
        process = subprocess.Popen(
            command,
            cwd=root,
            env=environment,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            status: int | None = process.wait(seconds)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            status = None
        out.seek(0)
        return status, out.read().decode(errors="replace")


def judge(mutation: Mutation, root: Path, *, seconds: float) -> Verdict:
    """Makes one error in the copy, runs its tests, and takes the error out again."""
    began = time.monotonic()
    path = root / mutation.file
    try:
        changed = mutated(mutation, root)
    except MutationError as err:
        return Verdict(mutation=mutation, state=ERROR, told=str(err), seconds=0.0)
    own = path.read_text(encoding="utf-8")
    write_source(path, changed)
    try:
        status, printed = run_tests(root, mutation.tests, seconds=seconds)
    finally:
        write_source(path, own)
    state, told = _verdict(status, printed)
    return Verdict(mutation=mutation, state=state, told=told, seconds=time.monotonic() - began)


def _verdict(status: int | None, printed: str) -> tuple[str, str]:
    if status is None:
        return SEEN, "out of time"
    if status == 1:  # pytest: some tests failed; 2 and above: they did not run
        red = re.search(r"^(?:FAILED|ERROR) \S*?([^/\s]+\.py::.+?)(?: - |$)", printed, re.MULTILINE)
        return SEEN, red[1] if red else "a red test"
    if status == 0:
        return SURVIVED, ""
    return ERROR, " ".join(printed.strip().splitlines()[-1:]) or f"pytest ended with {status}"


def check_unchanged(root: Path, tests: Sequence[str]) -> None:
    """Raises MutationError unless the copy is what is imported there, and its tests are green without an error."""
    code = "import video_ssl; print(video_ssl.__file__)"
    place = subprocess.run(
        [sys.executable, "-c", code],
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    if not Path(place).resolve().is_relative_to(root.resolve()):
        raise MutationError(f"the tests would import {place} and not the copy in {root}.")
    status, printed = run_tests(root, tests, seconds=3600)
    if status != 0:
        raise MutationError(f"the tests are not green without an error:\n{printed[-3000:]}")


def chosen_of(
    mutations: Iterable[Mutation], *, only: Sequence[str], sample: int | None, seed: int
) -> list[Mutation]:
    """Returns those with one of the words in name or file, and of them a drawn sample, in the order of the list."""
    found = [m for m in mutations if not only or any(w in f"{m.name} {m.file}" for w in only)]
    if sample is None or sample >= len(found):
        return found
    drawn = random.Random(seed).sample(range(len(found)), sample)
    return [found[i] for i in sorted(drawn)]


# What is told ---------------------------------------------------------------------------------------


def table_of(verdicts: Sequence[Verdict]) -> str:
    """Returns the result as Markdown: the share, the survivors with the reason, then every error."""
    counts = {s: sum(v.state == s for v in verdicts) for s in (SEEN, SURVIVED, ERROR)}
    lines = [
        f"{counts[SEEN]} of {len(verdicts)} errors seen ({100 * counts[SEEN] / max(len(verdicts), 1):.1f} %), "
        f"{counts[SURVIVED]} survived, {counts[ERROR]} could not be made. {_where()}",
        "",
    ]
    for verdict in verdicts:
        if verdict.state != SEEN:
            reason = (
                verdict.told
                or verdict.mutation.equivalent
                or "no reason is given: a test is missing"
            )
            lines.append(
                f"- {verdict.state}: {verdict.mutation.name} ({verdict.mutation.file}): {reason}"
            )
    if counts[SEEN] < len(verdicts):
        lines.append("")
    lines += ["| error | in | seen by |", "|---|---|---|"]
    for verdict in verdicts:
        by = verdict.told.replace("|", "\\|") if verdict.state == SEEN else verdict.state
        place = verdict.mutation.file.removeprefix("video_ssl/")
        lines.append(f"| {verdict.mutation.name} | {place} | {by} |")
    return "\n".join(lines)


def _where() -> str:
    machine = f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}"
    return f"{datetime.date.today()}, {machine}."


def write_report(path: Path, table: str) -> None:
    """Puts the table between its two marks in a Markdown file."""
    text = path.read_text(encoding="utf-8")
    if text.count(BEGIN) != 1 or text.count(END) != 1:
        raise MutationError(f"{path} has no place for the table: write {BEGIN} and {END} there.")
    before, rest = text.split(BEGIN)
    after = rest.split(END)[1]
    path.write_text(f"{before}{BEGIN}\n\n{table}\n\n{END}{after}", encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Which errors do the tests see?")
    parser.add_argument("--only", action="append", default=[], help="a word of the name or file")
    parser.add_argument("--sample", type=int, help="so many, drawn")
    parser.add_argument("--seed", type=int, default=0, help="of the sample")
    parser.add_argument("--seconds", type=float, default=300, help="for the tests of one error")
    parser.add_argument("--report", type=Path, help="Markdown file with a place for the table")
    options = parser.parse_args(arguments)
    chosen = chosen_of(
        read_mutations(), only=options.only, sample=options.sample, seed=options.seed
    )
    if not chosen:
        parser.error(f"no mutation has one of the words {options.only} in its name or file.")
    verdicts = []
    with tempfile.TemporaryDirectory(prefix="mutation-") as folder:
        root = Path(folder)
        copy_tree(ROOT, root)
        try:
            check_unchanged(root, sorted({test for m in chosen for test in m.tests}))
        except MutationError as err:
            print(err, file=sys.stderr)
            return 2
        for number, mutation in enumerate(chosen, 1):
            verdict = judge(mutation, root, seconds=options.seconds)
            verdicts.append(verdict)
            print(
                f"{number}/{len(chosen)} {verdict.state:8} {verdict.seconds:4.0f} s  {mutation.name}: {verdict.told}",
                flush=True,
            )
    table = table_of(verdicts)
    print(f"\n{table}")
    if options.report is not None:
        write_report(options.report, table)
    return 0 if all(verdict.good for verdict in verdicts) else 1


if __name__ == "__main__":
    sys.exit(main())
