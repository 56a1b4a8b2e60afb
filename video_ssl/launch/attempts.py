"""RUN/attempts.jsonl: when a task was started and how it ended; and the decision whether it is tried again.

    {"event": "start", "task": "pretrain", "attempt": 2, "job": "17", "nodes": "n[1-2]", "step": 40, "time": ..}
    {"event": "end", "task": "pretrain", "attempt": 2, "job": "17", "outcome": "preempted", "again": true, ..}

Outcomes: finished; preempted (asked to stop by preemption or time limit; saved); stopped (SIGTERM or Ctrl-C; saved);
cancelled (scancel); failed (an error that a second attempt would meet again); lost (a process was killed, or a node
gone).  Every process leaves a note about its own end in RUN/launch/ends; the one that finds a note missing knows
that a process was killed.  Where the disk or the quota is full, room that was kept from the start is given up for these
words.  Free of torch: it runs in the batch script, after everything else has died.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from video_ssl.files import FULL, write_json
from video_ssl.limits import parse_json

ATTEMPTS = "attempts.jsonl"
_ROOM, _ROOM_BYTES = ".room", 2**18
_PATIENCE_SEC = (0.0, 0.5, 1.0, 2.0)


def read_attempts(run: str | Path, task: str | None = None) -> list[dict[str, Any]]:
    """Returns the lines of RUN/attempts.jsonl, of one task or of all; damaged lines are left out."""
    path = Path(run) / ATTEMPTS
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
        try:
            row = parse_json(line)
        except ValueError:
            continue
        if isinstance(row, dict) and (task is None or row.get("task") == task):
            rows.append(row)
    return rows


def note_start(run: str | Path, task: str, *, job: str, nodes: str) -> int:
    """Adds the start of an attempt and returns its number, from 1; keeps room for the note about its end."""
    _keep_room(Path(run))
    number = 1 + sum(row["event"] == "start" for row in read_attempts(run, task))
    _append(
        run,
        {
            "event": "start",
            "task": task,
            "attempt": number,
            "job": job,
            "nodes": nodes,
            "host": socket.gethostname(),
            "step": progress_of(run, task),
        },
    )
    return number


def note_end(
    run: str | Path, task: str, *, job: str, outcome: str, reason: str, again: bool
) -> None:
    """Adds the end of the latest attempt."""
    number = sum(row["event"] == "start" for row in read_attempts(run, task))
    _append(
        run,
        {
            "event": "end",
            "task": task,
            "attempt": number,
            "job": job,
            "outcome": outcome,
            "reason": reason,
            "again": again,
            "step": progress_of(run, task),
        },
    )


def _append(run: str | Path, row: Mapping[str, Any]) -> None:
    Path(run).mkdir(parents=True, exist_ok=True)
    line = json.dumps({**row, "time": time.time()}) + "\n"

    def write(text: bytes) -> None:
        with open(Path(run) / ATTEMPTS, "ab", buffering=0) as file:
            if file.write(text) < len(text):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), ATTEMPTS)

    _with_room(Path(run), lambda: write(line.encode()), lambda: write(b"\n" + line.encode()))


def _keep_room(run: Path) -> None:
    place = run / "launch" / "ends" / _ROOM
    if not place.is_file():
        with contextlib.suppress(OSError):
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(os.urandom(_ROOM_BYTES))  # zeros may take no room


def _with_room(
    run: Path, write: Callable[[], None], again: Callable[[], None] | None = None
) -> None:
    """Writes; where the disk is full, gives up the room that was kept and writes again."""
    try:
        write()
    except OSError as err:
        if err.errno not in FULL:
            raise
        (run / "launch" / "ends" / _ROOM).unlink(missing_ok=True)
        for patience_sec in (*_PATIENCE_SEC, None):
            try:
                (again or write)()
                return
            except OSError as once_more:
                if once_more.errno not in FULL or patience_sec is None:
                    raise
                os.sync()  # some file systems count what was removed as used until then
                time.sleep(patience_sec)


def progress_of(run: str | Path, task: str) -> int:
    """Returns what grows whenever something was saved: the newest step, or the bytes of features and their journals."""
    folder = Path(run)
    if task == "evaluate" or task.startswith("evaluate-"):
        kept = [*folder.rglob("features/**/journal.jsonl"), *folder.rglob("features/**/*.arrow")]
        return sum(file.stat().st_size for file in kept if file.is_file())
    if task.startswith("embed"):
        place = task.partition(" ")[2].replace("/", "-of-")
        journals = folder.glob(f"{place}.arrow*/journal.jsonl")
        done = folder / f"{place}.arrow"
        return sum(j.stat().st_size for j in journals) + (2**40 if done.is_file() else 0)
    steps = [
        int(path.parent.name.removeprefix("step_"))
        for path in folder.glob("checkpoints/step_*/meta.json")
        if path.parent.name.removeprefix("step_").isdigit()
    ]
    return max(steps, default=0)


def end_note(run: str | Path, job: str, task: str, attempt: str, rank: int) -> Path:
    """Returns where process `rank` leaves the note about its end."""
    name = f"{job}.{attempt}.{task.replace(' ', '_').replace('/', '-of-')}.{rank}.json"
    return Path(run) / "launch" / "ends" / name


def leave_note(path: Path, outcome: str, reason: str) -> None:
    """Writes the note about the end of a process."""

    def write() -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, {"outcome": outcome, "reason": reason}, indent=None)

    _with_room(path.parents[2], write)


def read_notes(paths: Sequence[Path]) -> list[dict[str, str]]:
    """Returns the notes of all processes; a missing one says `killed`."""
    notes = []
    for rank, path in enumerate(paths):
        try:
            notes.append({**parse_json(path.read_text(encoding="utf-8")), "rank": str(rank)})
        except (OSError, ValueError):
            notes.append({"outcome": "killed", "reason": "it left no word", "rank": str(rank)})
    return notes


def conclude(
    notes: Sequence[Mapping[str, str]], *, exit_code: int, job_state: str = ""
) -> tuple[str, str]:
    """Returns outcome and reason of an attempt.

    Args:
        notes: of every process.
        exit_code: of all together.
        job_state: what SLURM says of the job, if it is asked.
    """
    if exit_code == 0:
        return "finished", ""
    if job_state.startswith("CANCELLED"):
        return "cancelled", "scancel"
    for outcome in ("preempted", "failed"):
        for note in notes:
            if note["outcome"] == outcome:
                return outcome, f"process {note['rank']}: {note['reason']}"
    if job_state.startswith("TIMEOUT"):
        return "preempted", "time limit"
    if job_state == "REQUEUED":
        return "preempted", "SLURM has queued it again"
    for note in notes:
        if note["outcome"] == "stopped":
            return "stopped", f"process {note['rank']}: {note['reason']}"
    gone = [note["rank"] for note in notes if note["outcome"] == "killed"]
    alone = [note for note in notes if note["outcome"] == "alone"]
    who = f"process {', '.join(gone)} killed" if gone else "a process was lost"
    return "lost", f"{who} (exit code {exit_code})" + (f"; {alone[0]['reason']}" if alone else "")


def tried_again(
    rows: Sequence[Mapping[str, Any]],
    outcome: str,
    *,
    job: str,
    step: int,
    max_requeues: int,
    max_failures: int,
) -> tuple[bool, str]:
    """Returns whether a task is tried again, and if not, why.

    Args:
        rows: its attempts so far, this one's start among them.
        outcome: of this one.
        job: of this one; what other jobs have met does not count, nor what came before a user started this one again.
        step: progress now.
        max_requeues, max_failures: see `LaunchProfile`.
    """
    earlier, begun = _earlier([row for row in rows if row.get("job") == job])
    if outcome == "preempted":
        wanted = sum(how == "preempted" for _, how in earlier) < max_requeues
        return wanted, "" if wanted else f"max_requeues={max_requeues} is reached"
    if outcome != "lost":
        return False, ""
    in_vain = 1  # losses in a row since the last progress, this one included
    for start, how in reversed(earlier if begun is None or begun >= step else []):
        if how != "lost" or start < step:
            break
        in_vain += 1
    wanted = in_vain <= max_failures
    return (
        wanted,
        "" if wanted else f"max_failures={max_failures} is reached without a new checkpoint",
    )


def _earlier(rows: Sequence[Mapping[str, Any]]) -> tuple[list[tuple[int, str]], int | None]:
    """(step at the start, outcome) of the attempts of a job since one of them was its last, and the step at which the
    latest begun one stands; None where no process has come so far as to note it.  An end that nobody noted is a loss.
    """
    found: list[tuple[int, str]] = []
    begun: int | None = None
    for row in rows:
        if row["event"] == "start":
            found += [] if begun is None else [(begun, "lost")]
            begun = row.get("step", 0)
            continue
        found.append((row.get("step", 0) if begun is None else begun, row["outcome"]))
        begun = None
        if not row.get("again"):
            found.clear()
    return found, begun
