"""`bench all`: every bench that needs no recipe of the user, each in a process of its own, and one Markdown table.

A row is something of ours beside its floor or a peer that was measured in the same process, in the same turns: only
their ratio means something on another machine.  A bench that fails is told; the others go on.
"""

from __future__ import annotations

import contextlib
import logging
import os
import platform
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from video_ssl.bench.config import AllBench
from video_ssl.code_state import code_folder, git_state
from video_ssl.files import claim_file, page_mark, temporary_folder, write_atomically
from video_ssl.limits import read_json
from video_ssl.pretrain.recipe import load_pretrain_recipe

logger = logging.getLogger(__name__)

#: Of which the loader is measured, on generated footage.
_LOADER_RECIPE = "videomae/demo"
_HEAD = ("what", "ours", "floor or peer", "ratio", "command")
_LOOK_SEC = 0.1
#: What a bench that is ended has for its temporary files.
_GRACE_SEC = 5.0
_MAX_BYTES = 2**24
_STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@dataclass(frozen=True, kw_only=True)
class Row:
    """A row of the table.

    Attributes:
        what: of ours.
        ours, theirs: in `unit`.
        peer: the floor or the peer.
    """

    what: str
    ours: float
    peer: str
    theirs: float
    unit: str = "ms"

    @property
    def ratio(self) -> float:
        return self.ours / self.theirs


@dataclass(frozen=True, kw_only=True)
class Bench:
    """A bench to run.

    Attributes:
        words: behind `video-ssl bench`.
        read: from its JSON to rows.
    """

    words: tuple[str, ...]
    read: Callable[[Any], list[Row]]

    @property
    def command(self) -> str:
        return shlex.join(["video-ssl", "bench", *self.words])

    def leaving(self, figures: Path) -> list[str]:
        """Returns the command that leaves its figures in a JSON file."""
        flag = "--json" if self.words[0] == "loader" else "--out"
        return [sys.executable, "-m", "video_ssl", "bench", *self.words, flag, str(figures)]


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What came of all benches.

    Attributes:
        text: the table, and what failed, as Markdown.
        failed: command -> its last words.
    """

    text: str
    failed: Mapping[str, str]


def benches_of(config: AllBench, steps: Sequence[str] = ()) -> list[Bench]:
    """Returns the benches that `bench all` runs, with sizes that take a few minutes together.

    Args:
        config: turns, and where the footage is.
        steps: recipes of trainings whose step is timed.
    """
    turns = ("--repeats", str(config.repeats))
    footage = ("--folder", str(config.folder)) if config.folder != AllBench.folder else ()
    easy = ("--footage", "easy", *turns, *footage)
    loader = ("loader", _LOADER_RECIPE, *easy, "--batches", "0", "--records", "4")
    step = ("--batch-size", "2", "--steps", str(config.repeats))
    return [
        Bench(words=("start", *turns), read=_start_rows),
        Bench(words=loader, read=_loader_rows),
        Bench(words=("embed", *easy), read=_embed_rows),
        Bench(words=("evaluate", *turns, *footage), read=_evaluate_rows),
        Bench(
            words=("retrieve", "--queries", "200", "--gallery", "20000", *turns),
            read=_retrieve_rows,
        ),
        *(Bench(words=("step", recipe, *step), read=_step_rows) for recipe in steps),
    ]


def bench_all(
    config: AllBench, *, steps: Sequence[str] = (), markdown_path: Path | None = None
) -> Outcome:
    """Runs all benches one after the other, prints the table and returns it.

    Ctrl-C and SIGTERM end the bench that runs, with all that it has started, and then this process.

    Args:
        config, steps: see `benches_of`.
        markdown_path: where the table goes, too.

    Raises:
        ConfigError: a recipe that there is not.
        OutputError: `markdown_path` is another's file or cannot be written.
    """
    place = None if markdown_path is None else claim_file(markdown_path, "bench all")
    for recipe in steps:
        load_pretrain_recipe(recipe)  # mistakes are told now, not after minutes of benches
    benches, rows, failed = benches_of(config, steps), [], {}
    with temporary_folder("bench") as folder, _listening() as stopped:
        for number, bench in enumerate(benches, 1):
            logger.info("%d of %d: %s", number, len(benches), bench.command)
            try:
                found = bench.read(_figures_of(bench, folder / str(number), stopped))
            except _Failed as err:
                logger.warning("%s failed: %s", bench.command, err)
                failed[bench.command] = str(err)
            else:
                rows += [(row, bench.command) for row in found]
    text = as_markdown(rows, failed, config)
    print(text)
    if place is not None:
        place.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(place, f"<!-- {page_mark('bench all')} -->\n{text}\n")
    return Outcome(text=text, failed=failed)


def as_markdown(
    rows: Sequence[tuple[Row, str]], failed: Mapping[str, str], config: AllBench
) -> str:
    """Returns the machine, the table, and what failed."""
    turns = "1 turn" if config.repeats == 1 else f"medians of {config.repeats} turns"
    lines = [
        f"{machine()}. Ratio: ours to the floor or peer in the same run; processor time (of a step: by the clock), "
        f"{turns}.",
        "",
        _line(_HEAD),
        _line(["---"] * len(_HEAD)),
    ]
    for row, command in rows:
        ours, theirs = (f"{_number(value)} {row.unit}" for value in (row.ours, row.theirs))
        cells = (row.what, ours, f"{row.peer}: {theirs}", f"{row.ratio:.2f}", f"`{command}`")
        lines.append(_line(cells))
    for command, said in failed.items():
        lines += ["", f"FAILED: `{command}`: {said}"]
    return "\n".join(lines)


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def machine() -> str:
    """Returns what the figures were measured on and with, in words, and when."""
    state = git_state(code_folder())
    code = ""
    if state is not None:
        changed = " with changes" if state["changed_files"] else ""
        code = f", commit {state['commit'][:7]}{changed}"
    threads = os.environ.get("OMP_NUM_THREADS", "not set")
    return (
        f"{_processor()}, {os.cpu_count()} cores, torch {metadata.version('torch')}, OMP_NUM_THREADS {threads}, "
        f"{time.strftime('%Y-%m-%d')}{code}"
    )


def _processor() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(errors="replace").splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine()


# What the JSON of a bench says


def _start_rows(content: Any) -> list[Row]:
    """A training is more than loading torch: its floor is a process that trains for one step."""
    imported, trained, version, *trainings = content["processes"]
    return [
        Row(
            what=own["name"],
            ours=own["cpu_sec"],
            peer=floor["name"] if floor is imported else "a process that takes one AdamW step",
            theirs=floor["cpu_sec"],
            unit="s",
        )
        for floor, own in ((imported, version), *((trained, own) for own in trainings))
    ]


def _retrieve_rows(content: Any) -> list[Row]:
    peer, own = content["processes"]
    pair = {"ours": own["cpu_sec"], "theirs": peer["cpu_sec"]}
    return [Row(what=own["name"], peer=peer["name"], unit="s", **pair)]


def _loader_rows(content: Any) -> list[Row]:
    rows = []
    for own in content["footage"]:
        cpu, peers = own["cpu_ms"], {"floor": "decoding what must be decoded"}
        peers["plain"] = f"plain loop: {own['plain_decoder']}, PIL, float32"
        what = f"a clip of the loader of {_LOADER_RECIPE}, {own['footage']}"
        rows += [
            Row(what=what, ours=cpu["loader"], peer=words, theirs=cpu[peer])
            for peer, words in peers.items()
        ]
    return rows


def _embed_rows(content: Any) -> list[Row]:
    rows = []
    for own in content["footage"]:
        cpu, where = own["cpu_ms"], own["footage"]
        plain = f"plain loop: {own['plain_decoder']}, PIL, float32"
        both = cpu["read"] + cpu["normalise"]
        rows += [
            Row(
                what=f"a frame read for embed, {where}",
                ours=cpu["read"],
                peer="decoding alone",
                theirs=cpu["floor"],
            ),
            Row(
                what=f"a frame read and normalised, {where}",
                ours=both,
                peer=plain,
                theirs=cpu["plain"],
            ),
        ]
    return rows


def _evaluate_rows(content: Any) -> list[Row]:
    return [
        Row(what=own["what"], ours=own["cpu_ms"], peer=own["peer"], theirs=own["peer_ms"])
        for own in content["comparisons"]
    ]


def _step_rows(content: Any) -> list[Row]:
    """The floor of a step is its operations at the rate of one large product."""
    return [
        Row(
            what=f"a step of {content['recipe']}, {own['variant']}",
            ours=1e3 * own["step_sec"],
            peer="its products at the rate of a large one",
            theirs=1e3 * own["flops"] / own["chip_flops"],
        )
        for own in content["steps"]
    ]


# A bench in a process of its own


class _Failed(Exception):
    """A bench gave no figures; its last words."""


def _figures_of(bench: Bench, folder: Path, stopped: Sequence[int]) -> Any:
    """The JSON that a bench has written.

    Raises:
        _Failed: it has not.
        KeyboardInterrupt, SystemExit: a signal has come.
    """
    folder.mkdir()
    figures, log = folder / "figures.json", folder / "said.txt"
    code = _run(bench.leaving(figures), log, stopped)
    if stopped:
        if stopped[0] == signal.SIGINT:
            raise KeyboardInterrupt
        raise SystemExit(128 + stopped[0])
    said = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    last = said[-1][:300] if said else "it said nothing"
    if code:
        raise _Failed(f"code {code}: {last}")
    try:
        return read_json(figures, max_bytes=_MAX_BYTES)
    except (OSError, ValueError) as err:
        raise _Failed(f"it left no figures ({err}): {last}") from err


def _run(command: Sequence[str], log: Path, stopped: Sequence[int]) -> int:
    """Returns the exit code of a command that has ended, by itself or because a signal has come."""
    with open(log, "wb") as file:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            process_group=0,  # so that all that it starts can be ended with it
        )
    try:
        while not stopped and not _has_ended(process):
            time.sleep(_LOOK_SEC)
        if stopped:
            process.send_signal(signal.SIGINT)
            until = time.monotonic() + _GRACE_SEC
            while not _has_ended(process) and time.monotonic() < until:
                time.sleep(_LOOK_SEC)
    finally:
        # Before anybody has waited for it, its number can be nobody else's.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        code = process.wait()
    return code


def _has_ended(process: subprocess.Popen[bytes]) -> bool:
    """Whether a process has ended, without waiting for it: its number stays its own."""
    how = os.WEXITED | os.WNOHANG | os.WNOWAIT
    return os.waitid(os.P_PID, process.pid, how) is not None


@contextlib.contextmanager
def _listening() -> Iterator[list[int]]:
    """Yields the signals that have come meanwhile and would have ended this process; in the main thread."""
    came: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield came
        return
    before = {number: signal.getsignal(number) for number in _STOPS}
    for number in (n for n in _STOPS if before[n] != signal.SIG_IGN):
        signal.signal(number, lambda got, _: came.append(got))
    try:
        yield came
    finally:
        for number, answer in before.items():
            signal.signal(number, answer)
