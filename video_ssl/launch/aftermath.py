"""The last line of a batch script: says how the attempt ended and queues the job again where that helps.

`python -m video_ssl.launch.aftermath BATCH EXIT_CODE NUM_PROCESSES`, in the trap EXIT of the script: it runs also when
processes were killed or have hit the time limit.  The job is queued again under its own number, so dependent jobs wait.
"""

from __future__ import annotations

import os
import subprocess
import sys

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
    path: str, index: int, *, job: str, attempt: str, code: int, processes: int, state: str
) -> bool:
    """Returns whether the task is to be tried again, and writes the end of this attempt into its history."""
    batch = read_batch(path)
    spec = batch.tasks[index]
    notes = read_notes([end_note(spec.run, job, spec.name, attempt, r) for r in range(processes)])
    outcome, reason = conclude(notes, exit_code=code, job_state=state)
    again, refusal = tried_again(
        read_attempts(spec.run, spec.name),
        outcome,
        step=progress_of(spec.run, spec.name),
        max_requeues=batch.max_requeues,
        max_failures=batch.max_failures,
    )
    reason = "; ".join(filter(None, (reason, refusal)))
    note_end(spec.run, spec.name, job=job, outcome=outcome, reason=reason, again=again)
    print(f"{spec.name}: {outcome} {reason}{', once more' if again else ''}", flush=True)
    return again


def job_state(job: str) -> str:
    """Returns what SLURM says of a job: RUNNING, CANCELLED, TIMEOUT, ...; empty if it does not answer."""
    try:
        told = subprocess.run(
            ["scontrol", "-o", "show", "job", job], capture_output=True, text=True, timeout=30
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return ""
    words = [word for word in told.split() if word.startswith("JobState=")]
    return words[0].partition("=")[2] if words else ""


def main(arguments: list[str]) -> None:
    path, code, processes = arguments[0], int(arguments[1]), int(arguments[2])
    job = slurm_job()
    again = settle(
        path,
        int(os.environ.get("SLURM_ARRAY_TASK_ID", "0")),
        job=job,
        attempt=os.environ.get("SLURM_RESTART_COUNT", "0"),
        code=code,
        processes=processes,
        state=job_state(job) if code else "",
    )
    if again:
        done = subprocess.run(["scontrol", "requeue", job], capture_output=True, text=True)
        if done.returncode:
            print(f"SLURM does not queue job {job} again: {done.stderr.strip()}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
