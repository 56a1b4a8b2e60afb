"""`video-ssl jobs`: what became of the jobs of a run, by its folder."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from video_ssl.launch.attempts import progress_of, read_attempts
from video_ssl.launch.errors import LaunchError
from video_ssl.launch.launching import launch_folder, read_jobs
from video_ssl.launch.slurm import JobInfo, ask, job_infos


def find_home(run: str | Path) -> Path:
    """Returns the folder whose jobs are meant: a run, a grid, an evaluation, or a feature file.

    Raises:
        LaunchError: nothing was launched there.
    """
    path = Path(run)
    for folder in (path, path.with_name(f"{path.name}.shards")):
        if (folder / "launch").is_dir():
            return folder
    raise LaunchError(
        f"{run}: nothing was launched there. Give the folder that `launch` has named."
    )


def status(run: str | Path) -> str:
    """Returns the jobs of a run with their states, and the attempts of its tasks."""
    home = find_home(run)
    lines = []
    jobs = read_jobs(home)
    names = {job["id"]: job["name"] for job in jobs}
    try:
        infos = job_infos(list(names))
    except LaunchError as err:  # what the run itself has noted is to be seen all the same
        infos = []
        lines.append(f"SLURM cannot be asked here about job {', '.join(names)}: {err}")
    for info in infos:
        lines.append(f"{names[info.job.partition('_')[0]]:12} {info.summary()}")
    for folder in _folders(home):
        rows = read_attempts(folder)
        where = "" if folder == home else f"{folder.name}: "
        lines += [f"{where}{_told(row)}" for row in rows[-20:]]
        step = progress_of(folder, "pretrain")
        if step:
            lines.append(f"{where}newest checkpoint: step {step}")
    return "\n".join(lines) or f"{home}: no jobs and no attempts yet"


def _folders(home: Path) -> list[Path]:
    below = [p for p in home.glob("*=*") if p.is_dir()] + list(home.glob("stages/*"))
    return [home, *sorted(below)]


def _told(row: dict[str, Any]) -> str:
    when = time.strftime("%m-%d %H:%M:%S", time.localtime(row["time"])) if "time" in row else ""
    if row["event"] == "start":
        where = f"on {row.get('nodes', '?')}, job {row['job']}"
        where += f", from step {row['step']}" if row["task"] == "pretrain" else ""
        return f"{when} {row['task']} attempt {row['attempt']} {where}"
    again = ", queued again" if row.get("again") else ""
    return f"{when} {row['task']} {row['outcome']}: {row['reason']}{again}".rstrip(": ")


def log_files(run: str | Path, *, job: str | None = None, rank: int = 0) -> list[Path]:
    """Returns the logs of one process of every element of the newest job that has any, or of `job`.

    What ran on this machine (profile `local`) is no job of SLURM: then it is the log that the run itself keeps.

    Raises:
        LaunchError: there is none yet, and what SLURM says of the jobs.
    """
    home = find_home(run)
    numbers = [job] if job else [row["id"] for row in reversed(read_jobs(home))]
    folder = launch_folder(home)
    for number in numbers:
        found = sorted(
            [*folder.glob(f"{number}_{rank}_log.out"), *folder.glob(f"{number}_*_{rank}_log.out")]
        )
        if found:
            return found
    own = home / "logs" / f"rank_{rank}.log"
    if not numbers and own.is_file():
        return [own]
    states = [info.summary() for info in job_infos(numbers)]
    nothing = "no jobs on SLURM; what runs on this machine says it in its terminal"
    raise LaunchError(f"{home} has no log of process {rank} yet: {'; '.join(states) or nothing}.")


def log_lines(
    run: str | Path, *, job: str | None = None, rank: int = 0, follow: bool = False
) -> Iterator[str]:
    """Yields the lines of the logs; with `follow` those that come, until the jobs have ended."""
    places: dict[Path, int] = {}
    while True:
        ended = not follow or not any(info.alive for info in _infos(run, job))
        try:
            files = log_files(run, job=job, rank=rank)
        except LaunchError:
            if ended:
                raise
            files = []
        for file in files:
            with open(file, encoding="utf-8", errors="replace") as content:
                content.seek(places.get(file, 0))
                prefix = f"{file.name.removesuffix('_log.out')}: " if len(files) > 1 else ""
                for line in content:
                    yield prefix + line.rstrip("\n")
                places[file] = content.tell()
        if ended:
            return
        time.sleep(1)


def _infos(run: str | Path, job: str | None) -> list[JobInfo]:
    numbers = [job] if job else [row["id"] for row in read_jobs(find_home(run))]
    return job_infos(numbers)


def show_logs(run: str | Path, *, job: str | None, rank: int, follow: bool) -> None:
    """Prints the logs."""
    for line in log_lines(run, job=job, rank=rank, follow=follow):
        print(line, flush=True)
    sys.stdout.flush()


def cancel(run: str | Path) -> str:
    """Cancels every job of a run that has not ended and returns their numbers."""
    alive = [info.job for info in _infos(run, None) if info.alive]
    if not alive:
        return f"{run}: every job has ended already"
    ask(["scancel", *alive])
    return f"cancelled: {', '.join(alive)}"


def requeue(run: str | Path) -> str:
    """Queues the jobs of a run again under their own numbers: running ones are saved first, ended ones start again.

    Of every step the newest job is meant: those of earlier launches would do the same work beside it.

    Raises:
        LaunchError: SLURM refuses some of them, or the run has no jobs.
    """
    newest = {row["name"]: row["id"] for row in read_jobs(find_home(run))}
    infos = job_infos(list(newest.values()))
    running = [i.job for i in infos if i.state == "RUNNING"]
    ended = [i.job for i in infos if not i.alive and i.state not in ("COMPLETED", "UNKNOWN")]
    forgotten = [i.job for i in infos if i.state == "UNKNOWN"]
    if not running and not ended:
        told = f" SLURM has forgotten job {', '.join(forgotten)}." if forgotten else ""
        again = "Launch it again" if forgotten else "Launch it"
        raise LaunchError(f"{run}: no job that runs or has failed.{told} {again}.")
    queued, refused = [], []
    for job in [*running, *ended]:
        # running ones save at the next step and queue themselves again
        usr2 = ["scancel", "--signal=USR2", job]
        command = usr2 if job in running else ["scontrol", "requeue", job]
        try:
            ask(command)
        except LaunchError as err:
            refused.append(f"SLURM does not queue job {job} again: {err}")
        else:
            queued.append(job)
    if refused:
        done = f"\nqueued again: {', '.join(queued)}" if queued else ""
        raise LaunchError("\n".join(refused) + done)
    return f"queued again: {', '.join(queued)}"
