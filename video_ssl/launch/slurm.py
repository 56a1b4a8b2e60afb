"""Talking to SLURM: scripts and submission through submitit, states through squeue.

submitit's own `Job.state` needs accounting (sacct), without which a killed job never ends for it; squeue is asked here.
"""

from __future__ import annotations

import logging
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from video_ssl.launch.errors import LaunchError
from video_ssl.launch.profile import LaunchProfile
from video_ssl.recipes import nearest, unprintable

logger = logging.getLogger(__name__)

ALIVE = (
    *("PENDING", "CONFIGURING", "RUNNING", "SUSPENDED", "STOPPED", "SIGNALING", "RESIZING"),
    *("COMPLETING", "STAGE_OUT", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SPECIAL_EXIT"),
)

REASONS = {
    "Resources": "it waits for free nodes",
    "Priority": "other jobs are before it",
    "BeginTime": "it was queued again a moment ago and may soon start",
    "Dependency": "it waits for another job",
    "DependencyNeverSatisfied": "the job it waits for has failed: cancel it",
    "PartitionTimeLimit": "time_min is more than the partition allows: launch again with less",
    "PartitionNodeLimit": "the partition does not have so many nodes: launch again with fewer",
    "PartitionConfig": "the partition cannot run such a job: too many nodes, or CPUs, memory or GPUs no node has",
    "BadConstraints": "no node has what constraint asks for",
    "ReqNodeNotAvail": "the nodes are down, drained or reserved",
    "AssocGrpCpuLimit": "your account has reached its limit of CPUs",
    "AssocMaxJobsLimit": "your account has reached its limit of jobs",
    "QOSMaxJobsPerUserLimit": "you have reached the limit of jobs of this qos",
    "JobHeldUser": "it is held: scontrol release JOB",
    "JobHeldAdmin": "an administrator holds it",
    "launch_failed_requeued_held": "it could not be started and is held: scontrol release JOB",
}


@dataclass(frozen=True)
class JobInfo:
    """What SLURM says of a job or an element of an array; `reason` is why it waits or has ended."""

    job: str
    state: str
    reason: str
    nodes: str
    elapsed: str

    @property
    def alive(self) -> bool:
        return self.state in ALIVE

    def summary(self) -> str:
        """The state in a line, with what the reason means."""
        line = f"{self.job} {self.state}"
        if self.state == "PENDING" and self.reason not in ("None", ""):
            plain = self.reason.strip("()")
            known = REASONS.get(plain.split(",")[0], "see `man squeue`, job reason codes")
            known = REASONS["ReqNodeNotAvail"] if "DOWN" in plain else known
            line += f" ({plain}: {known})"
        elif self.state == "RUNNING":
            line += f" on {self.nodes} for {self.elapsed}"
        elif self.reason not in ("None", ""):
            line += f" ({self.reason})"
        return line


def ask(command: Sequence[str], *, timeout_sec: float = 60) -> str:
    """Returns what a command of SLURM prints.

    Raises:
        LaunchError: it is not installed, fails, or does not answer.
    """
    require(command[0])
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout_sec)
    except subprocess.TimeoutExpired as err:
        raise LaunchError(
            f"{command[0]} has not answered for {timeout_sec:.0f} s: is SLURM up?"
        ) from err
    if done.returncode:
        text = done.stderr.strip() or done.stdout.strip()
        raise LaunchError(f"`{shlex.join(command)}`: {text}")
    return done.stdout


def require(program: str) -> None:
    """Raises LaunchError if a program of SLURM is not installed."""
    if shutil.which(program) is None:
        raise LaunchError(
            f"{program} is not on the PATH: this machine cannot talk to SLURM. Log in to one that can, or use the "
            "profile `local`; --dry-run prints the script without it."
        )


def job_infos(jobs: Sequence[str]) -> list[JobInfo]:
    """Returns what SLURM says of jobs, elements of arrays one by one; a job it has forgotten is UNKNOWN."""
    infos = []
    for job in jobs:
        try:
            text = ask(["squeue", "-h", "-a", "-r", "-t", "all", "-j", job, "-o", "%i|%T|%r|%N|%M"])
        except LaunchError as err:
            if "Invalid job id" not in str(err):
                raise
            text = ""
        rows = [line.split("|") for line in text.splitlines() if line.count("|") == 4]
        infos += [JobInfo(*row) for row in rows]
        if not rows:
            infos.append(_from_accounting(job))
    return infos


def _from_accounting(job: str) -> JobInfo:
    try:
        text = ask(["sacct", "-X", "-n", "-P", "-j", job, "-o", "State,NodeList,Elapsed"])
        state, nodes, elapsed = text.splitlines()[0].split("|")
    except (LaunchError, IndexError, ValueError):
        return JobInfo(job, "UNKNOWN", "SLURM has forgotten it", "", "")
    return JobInfo(job, state.split()[0], "", nodes, elapsed)


def parameters(
    profile: LaunchProfile, *, name: str, setup: Sequence[str], dependency: str | None
) -> dict[str, Any]:
    """Returns a profile as submitit's parameters for sbatch."""
    srun = [
        "--kill-on-bad-exit=1",
        *profile.srun,
    ]  # what one process leaves undone, the others cannot finish
    if profile.cpus_per_task is not None:
        srun.append(f"--cpus-per-task={profile.cpus_per_task}")  # no longer inherited since 22.05
    found: dict[str, Any] = {
        "job_name": name,
        "time": profile.time_min,
        "nodes": profile.nodes,
        "ntasks_per_node": profile.tasks_per_node,
        "gpus_per_node": profile.gpus_per_node,
        "cpus_per_task": profile.cpus_per_task,
        "mem": None if profile.memory_gib is None else f"{round(profile.memory_gib * 1024)}M",
        "partition": profile.partition,
        "account": profile.account,
        "qos": profile.qos,
        "constraint": profile.constraint,
        "exclude": profile.exclude,
        "nodelist": profile.nodelist,
        "exclusive": profile.exclusive or None,
        "dependency": dependency,
        "signal_delay_s": profile.signal_before_sec,
        "array_parallelism": profile.array_parallelism,
        "stderr_to_stdout": True,
        "setup": list(setup),
        "srun_args": srun,
        "additional_parameters": {"requeue": True, "kill-on-invalid-dep": "yes", **profile.sbatch},
    }
    # A line of the script each: what follows a line break would be a command.
    for key, value in [*found.items(), *found["additional_parameters"].items()]:
        if isinstance(value, str) and unprintable(value):
            raise LaunchError(f"{key}={value!r} holds {unprintable(value)}: use plain text.")
    return {key: value for key, value in found.items() if value is not None} | {"wckey": None}


def job_name(text: str) -> str:
    """Returns a text as the name of a job: `scontrol show job` prints it bare among its own words.

    >>> job_name("pretrain:my run; x")
    'pretrain:my_run_x'
    """
    return re.sub(r"[^A-Za-z0-9:._+-]+", "_", text)


#: What a path may not hold on SLURM, and why.
UNUSABLE = {
    "%": "SLURM reads it as the beginning of a placeholder (%j) in the path of a log",
    "\\": "SLURM drops it from the path of a log",
    ":": "Python would read it as the border between two folders and run other code",
}


def refuse_unusable(folder: Path) -> None:
    """Raises LaunchError for a run folder whose path SLURM or Python would read as another one."""
    for sign, reason in UNUSABLE.items():
        if sign in str(folder):
            raise LaunchError(
                f"{folder}: a run folder of a job on SLURM must not have {sign!r} in its path: {reason}. "
                "Give another folder: run=..."
            )


def script_text(folder: Path, settings: dict[str, Any], *, elements: int) -> str:
    """Returns the sbatch script that `submit` would hand in, to the letter; needs no SLURM."""
    _submitit()
    from submitit.slurm.slurm import _make_sbatch_string

    command = (
        f"{shlex.quote(sys.executable)} -u -m submitit.core._submit {shlex.quote(str(folder))}"
    )
    count = {"map_count": elements} if elements > 1 else {}
    text: str = _make_sbatch_string(command=command, folder=folder, **settings, **count)
    return text


def submit(folder: Path, settings: dict[str, Any], batch: Path, *, elements: int) -> str:
    """Returns the number of the job, or of the array, that does the tasks of a batch.

    Raises:
        LaunchError: sbatch is not there or refuses; its reason is in the text.
    """
    require("sbatch")
    submitit = _submitit()
    from video_ssl.launch.task import run_in_slurm

    executor = submitit.SlurmExecutor(folder=folder)
    executor.update_parameters(**settings)
    try:
        if elements == 1:
            return str(executor.submit(run_in_slurm, str(batch), 0).job_id)
        jobs = executor.map_array(run_in_slurm, [str(batch)] * elements, list(range(elements)))
    except submitit.core.utils.FailedJobError as err:
        raise LaunchError(_refusal(str(err), settings)) from err
    return str(jobs[0].job_id).partition("_")[0]


def _refusal(text: str, settings: dict[str, Any]) -> str:
    errors = [line for line in text.splitlines() if "error" in line.lower()] or text.splitlines()
    reason = " ".join(line.replace("sbatch: error: ", "").strip() for line in errors[:3])
    if "artition" in reason:
        known = [name.rstrip("*") for name in ask(["sinfo", "-h", "-o", "%R"]).split()]
        given = str(settings.get("partition"))
        reason += f" partition={given!r}: there are {known}.{nearest(given, known)}"
    return f"SLURM refuses the job: {reason} Change the profile, or override it: --set KEY=VALUE."


def _submitit() -> Any:
    try:
        import submitit
    except ImportError as err:
        raise LaunchError("jobs on SLURM need submitit: pip install 'video_ssl[slurm]'") from err
    return submitit
