"""`video-ssl launch`: a plan becomes jobs on SLURM, or processes on this machine.

RUN/launch/jobs.jsonl          every job that was submitted
RUN/launch/STEP.json           the batch of a step
RUN/launch/code-KEY/           the code they run
RUN/launch/JOB_submission.sh   the script; JOB_0_log.out what process 0 says, JOB_1_log.out process 1
"""

from __future__ import annotations

import contextlib
import json
import logging
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from video_ssl.code_state import NOTE
from video_ssl.embed.partial import claim_features
from video_ssl.files import claim_file, claim_folder
from video_ssl.launch.attempts import ATTEMPTS
from video_ssl.launch.batch import TaskSpec, write_batch
from video_ssl.launch.errors import LaunchError
from video_ssl.launch.estimates import describe_plan
from video_ssl.launch.here import local_command, run_here
from video_ssl.launch.profile import load_profile
from video_ssl.launch.slurm import (
    job_infos,
    job_name,
    parameters,
    refuse_unusable,
    require,
    script_text,
    submit,
)
from video_ssl.launch.snapshot import take_snapshot
from video_ssl.launch.steps import LaunchPlan, Step, batch_of, plan_launch, write_files
from video_ssl.limits import parse_json
from video_ssl.locks import alone
from video_ssl.pretrain.errors import RunError
from video_ssl.pretrain.run_folder import refuse_foreign_run

logger = logging.getLogger(__name__)

JOBS = "jobs.jsonl"


def launch(
    profile_name: str,
    verb: str,
    arguments: Sequence[str],
    *,
    overrides: Sequence[str] = (),
    chain: bool = False,
    dry_run: bool = False,
) -> str:
    """Returns the message to the user: the numbers of jobs, or with `dry_run` the scripts.

    Args:
        profile_name: a profile, or its file.
        verb, arguments: as on the command line.
        overrides: dotted settings of the profile.
        chain: see `plan_launch`.
        dry_run: submit nothing and write nothing; what the jobs are and cost goes to the log, the scripts are returned.

    Raises:
        OutputError: files of somebody else are in the way, or a folder cannot be written.
        LaunchError: SLURM is not there or refuses, or the folder has jobs that have not ended.
    """
    profile = load_profile(profile_name, overrides)
    plan = plan_launch(verb, arguments, profile, chain=chain)
    if profile.executor == "slurm":
        refuse_unusable(plan.home.absolute())
    if dry_run:
        for line in describe_plan(plan):
            logger.info("%s", line)
        return _dry_run(plan)
    if profile.executor == "slurm":
        require("sbatch")
    folder = launch_folder(plan.home)
    _claim(plan, folder)
    folder.mkdir(parents=True, exist_ok=True)
    with _alone(folder):
        refuse_running(plan.home, here=profile.executor == "local")
        write_files(plan)
        if profile.executor == "local":
            return run_here(plan, folder)
        return _submit(plan, folder)


def _claim(plan: LaunchPlan, folder: Path) -> None:
    """Refuses now what the jobs would refuse, and files of somebody else where those of the launch go."""
    names = [JOBS, *(f"{step.name}.json" for step in plan.steps)]
    claim_folder(folder, "launch", names, ours=(folder / ".lock").is_file())
    for path in plan.files:
        claim_file(path, "launch")
    tasks = [task for step in plan.steps for task in step.tasks]
    for task in tasks:
        if task.verb == "pretrain":
            refuse_foreign_run(Path(task.run))
            _refuse_other_recipe(plan.files[Path(task.arguments[0])])
        elif task.verb == "evaluate":
            claim_file(Path(task.run) / "results.json", "evaluate")
    for encoder, source, out, check in {_embedded(t) for t in tasks if t.verb == "embed"}:
        place = claim_features(out)
        if place.is_file():
            from video_ssl.embed.embed_videos import refuse_other_source

            refuse_other_source(encoder, source, place, check=check)


def _refuse_other_recipe(content: dict[str, Any]) -> None:
    """Refuses a training where another recipe has trained something, before files of that run are replaced."""
    from video_ssl.pretrain.recipe import recipe_from_dict
    from video_ssl.pretrain.run import refuse_other_recipe

    try:
        refuse_other_recipe(recipe_from_dict(content))
    except RunError as err:
        raise LaunchError(str(err)) from err


def _embedded(task: TaskSpec) -> tuple[str, str, str, bool]:
    """Encoder, videos and feature file of an embedding, the same for all shards, and whether contents are compared."""
    encoder, source, out, *options = task.arguments
    return encoder, source, out, "--check" in options


def launch_folder(home: Path) -> Path:
    """Returns the folder of scripts, logs and code of a run."""
    return home.absolute() / "launch"


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Two launches at the same moment must not both find the folder free."""
    busy = f"{folder.parent} is being launched by another command."
    with alone(folder / ".lock", lambda: LaunchError(busy)):
        yield


def read_jobs(home: Path) -> list[dict[str, Any]]:
    """Returns the jobs that were submitted for a run, oldest first."""
    path = launch_folder(home) / JOBS
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    jobs = []
    for line in lines:
        try:
            job = parse_json(line)
        except ValueError:
            job = None
        if isinstance(job, dict) and isinstance(job.get("id"), str):
            jobs.append(job)
        else:
            logger.warning("%s has a damaged line, which is passed over: %.80s", path, line)
    return jobs


def refuse_running(home: Path, *, here: bool) -> None:
    """Raises LaunchError if a job of the run has not ended.

    Args:
        home: of the run.
        here: it is to run on this machine, which need not know SLURM: then there is only a warning.
    """
    jobs = [job["id"] for job in read_jobs(home)]
    if not jobs:
        return
    if here and shutil.which("squeue") is None:
        logger.warning(
            "warning: %s was launched on SLURM, which cannot be asked here (no squeue): see that job %s has ended",
            home,
            jobs[-1],
        )
        return
    alive = [info.summary() for info in job_infos(jobs) if info.alive]
    if alive:
        listed = "\n  ".join(alive[:10])
        raise LaunchError(
            f"{home} has jobs that have not ended:\n  {listed}\n"
            f"Wait for them (`video-ssl jobs status {_shown(home)}`), end them "
            f"(`video-ssl jobs cancel {_shown(home)}`), or give this run another folder: run=..."
        )


def _shown(path: Path) -> str:
    """A path as it is typed in a shell."""
    return shlex.quote(str(path))


def _submit(plan: LaunchPlan, folder: Path) -> str:
    code = take_snapshot(folder)
    numbers: dict[str, str] = {}
    lines = []
    for step in plan.steps:
        batch = write_batch(folder / f"{step.name}.json", batch_of(step))
        settings = step_settings(step, plan, code, numbers)
        try:
            number = submit(folder, settings, batch, elements=len(step.tasks))
        except LaunchError as err:
            if numbers:
                subprocess.run(["scancel", *numbers.values()], capture_output=True)
                raise LaunchError(f"{err} The jobs before it were cancelled.") from err
            raise
        numbers[step.name] = number
        row = {
            "id": number,
            "name": step.name,
            "elements": len(step.tasks),
            "processes": step.profile.world_size,
            "after": [numbers[name] for name in step.after],
            "code": str(code),
            "time": time.time(),
        }
        with open(folder / JOBS, "a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        many = f" x {len(step.tasks)}" if len(step.tasks) > 1 else ""
        after = f" after {', '.join(step.after)}" if step.after else ""
        lines.append(f"job {number}: {step.name}{many}{after}")
    lines.append(f"video-ssl jobs status {_shown(plan.home)}    or: logs -f, cancel, requeue")
    return "\n".join(lines)


def step_settings(
    step: Step, plan: LaunchPlan, code: Path, numbers: dict[str, str]
) -> dict[str, Any]:
    """Returns the parameters of sbatch for a step whose predecessors have these numbers."""
    folder = launch_folder(plan.home)
    dependency = (
        ":".join([step.how, *(numbers[name] for name in step.after)]) if step.after else None
    )
    return parameters(
        step.profile,
        name=job_name(f"{step.name}:{plan.home.name}"),
        setup=setup_lines(step, folder, code),
        dependency=dependency,
    )


def setup_lines(step: Step, folder: Path, code: Path) -> list[str]:
    """Returns the shell lines before srun: environment, code, and the trap that ends every attempt."""
    gone = {
        "event": "end",
        "task": step.tasks[0].name,
        "outcome": "failed",
        "reason": f"the code {code} is gone: launch again",
        "again": False,
    }
    # The shell reads a path once, here; from then on there are only variables, which it does not read again.
    variables = {
        "python": sys.executable,
        "code": str(code),
        "batch": str(folder / f"{step.name}.json"),
        "attempts": str(folder.parent / ATTEMPTS),
        "gone": str(gone["reason"]),
        "gone_note": json.dumps(gone),
        "processes": str(step.profile.world_size),
    }
    return [
        *(f"export {k}={shlex.quote(str(v))}" for k, v in step.profile.environment.items()),
        *step.profile.setup,
        *(f"video_ssl_{name}={shlex.quote(value)}" for name, value in variables.items()),
        "# the code as it was at the launch",
        f'if [ ! -f "$video_ssl_code/{NOTE}" ]; then',
        "  printf '%s\\n' \"$video_ssl_gone\"",
        '  printf \'%s\\n\' "$video_ssl_gone_note" >> "$video_ssl_attempts"',
        "  exit 66",
        "fi",
        "export PYTHONSAFEPATH=1  # or a checkout in the working folder would come first",
        'export PYTHONPATH="$video_ssl_code${PYTHONPATH:+:$PYTHONPATH}"',
        "# how it ended, and whether it is queued again",
        "trap 'exit 143' TERM  # after srun; without it bash would report its last exit code",
        "video_ssl_end() {",
        '  "$video_ssl_python" -m video_ssl.launch.aftermath "$video_ssl_batch" "$1" "$video_ssl_processes"',
        "}",
        "trap 'video_ssl_end \"$?\"' EXIT",
    ]


def _dry_run(plan: LaunchPlan) -> str:
    folder = launch_folder(plan.home)
    texts = []
    for step in plan.steps:
        if step.profile.executor == "local":
            texts.append(shlex.join(local_command(step, folder / f"{step.name}.json", 0)))
            continue
        numbers = {name: f"JOB_OF_{name}" for name in step.after}
        settings = step_settings(step, plan, folder / "code-KEY", numbers)
        texts.append(script_text(folder, settings, elements=len(step.tasks)))
    return "\n".join(texts)
