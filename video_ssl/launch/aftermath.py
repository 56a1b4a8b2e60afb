"""The last line of a batch script: says how the attempt ended and queues the job again where that helps.

`python -m video_ssl.launch.aftermath BATCH EXIT_CODE NUM_PROCESSES`, in the trap EXIT of the script: it runs also when
processes were killed or have hit the time limit.  The job is queued again under its own number, so dependent jobs wait.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys

from video_ssl.errors import one_sentence
from video_ssl.launch.attempts import (
    conclude,
    end_note,
    note_end,
    progress_of,
    read_attempts,
    read_notes,
    tried_again,
)
from video_ssl.launch.batch import read_batch
from video_ssl.launch.task import slurm_job


def settle(
    path: str,
    index: int,
    *,
    job: str,
    attempt: str,
    code: int,
    processes: int,
    state: str,
    stopped_by: int = 0,
    already_shown: bool = False,
) -> bool:
    """Returns whether the task is to be tried again, and writes the end of this attempt into its history.

    Args:
        path, index: of the batch, and which task of it.
        job, attempt: as the processes were told.
        code: with which they have ended.
        processes: their number.
        state: what SLURM says of the job, if it is asked.
        stopped_by: a signal to whoever has started them; then a process may have ended without a word.
        already_shown: messages of failed processes have been printed here already and are not repeated.
    """
    batch = read_batch(path)
    spec = batch.tasks[index]
    notes = read_notes([end_note(spec.run, job, spec.name, attempt, r) for r in range(processes)])
    outcome, reason = conclude(notes, exit_code=code, job_state=state)
    if stopped_by and outcome not in ("finished", "stopped"):
        outcome, reason = "stopped", f"{signal.Signals(stopped_by).name}; {reason}"
    again, refusal = tried_again(
        read_attempts(spec.run, spec.name),
        outcome,
        job=job,
        step=progress_of(spec.run, spec.name),
        max_requeues=batch.max_requeues,
        max_failures=batch.max_failures,
    )
    reason = "; ".join(filter(None, (reason, refusal)))
    note_end(spec.run, spec.name, job=job, outcome=outcome, reason=reason, again=again)
    if not (already_shown and outcome == "failed"):
        _tell(f"{spec.name}: {outcome} {reason}{', once more' if again else ''}")
    return again


def _tell(text: str) -> None:
    with contextlib.suppress(OSError):  # the log may be on a full disk
        print(text, flush=True)


def job_state(job: str, attempt: str) -> str:
    """Returns what SLURM has done to a job: RUNNING (nothing), CANCELLED, TIMEOUT, REQUEUED; "" if it does not answer.

    While our script still runs, a job that was ended from outside is only COMPLETING; its other figures show why.
    """
    try:
        output = subprocess.run(
            ["scontrol", "-o", "show", "job", job], capture_output=True, text=True, timeout=30
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return ""
    about: dict[str, str] = {}
    for word in output.split():
        key, _, value = word.partition("=")
        about.setdefault(key, value)  # paths, which may hold anything, come last
    if int(about.get("Restarts", "0")) > int(attempt):
        return "REQUEUED"
    state = about.get("JobState", "")
    if state != "COMPLETING":
        return state
    over = seconds(about.get("RunTime", "")) >= seconds(about.get("TimeLimit", "")) > 0
    return "TIMEOUT" if over or about.get("Reason") == "TimeLimit" else "CANCELLED"


def seconds(text: str) -> int:
    """Returns the seconds of a time as SLURM writes it; 0 for anything else, such as UNLIMITED.

    >>> seconds("1-02:00:03"), seconds("00:01:00"), seconds("UNLIMITED")
    (93603, 60, 0)
    """
    days, _, clock = text.rpartition("-")
    try:
        hours, minutes, rest = (int(part) for part in clock.split(":"))
        return ((int(days or 0) * 24 + hours) * 60 + minutes) * 60 + rest
    except ValueError:
        return 0


def main(arguments: list[str]) -> None:
    path, code, processes = arguments[0], int(arguments[1]), int(arguments[2])
    job, attempt = slurm_job(), os.environ.get("SLURM_RESTART_COUNT", "0")
    state = job_state(job, attempt) if code else ""
    again = settle(
        path,
        int(os.environ.get("SLURM_ARRAY_TASK_ID", "0")),
        job=job,
        attempt=attempt,
        code=code,
        processes=processes,
        state=state,
    )
    if again and state != "REQUEUED":
        done = subprocess.run(["scontrol", "requeue", job], capture_output=True, text=True)
        if done.returncode:
            _tell(f"SLURM does not queue job {job} again: {done.stderr.strip()}")


if __name__ == "__main__":
    with one_sentence():
        main(sys.argv[1:])
