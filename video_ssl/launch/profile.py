"""Profiles: where and with what jobs run.  A YAML file of the room `launch`, checked against `LaunchProfile`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Literal

from video_ssl.recipes import build_config, read_recipe

#: Fields that mean something on this machine too, and those that do so for a job alone.
_OF_ALL = (
    *("tasks_per_node", "environment", "shards"),
    *("lost_after_sec", "max_requeues", "max_failures"),
)
_OF_JOBS = (
    *("gpus_per_node", "cpus_per_task", "memory_gib", "time_min", "partition", "account", "qos"),
    *("constraint", "exclude", "nodelist", "exclusive", "setup", "sbatch", "srun"),
    *("array_parallelism", "signal_before_sec"),
)


@dataclass(frozen=True, kw_only=True)
class LaunchProfile:
    """Where and with what jobs run.

    Attributes:
        executor: "local" runs processes on this machine and waits for them, and refuses what only jobs have; "slurm"
            submits jobs.
        nodes, tasks_per_node: machines, and processes on each; with GPUs one process per GPU.
        cpus_per_task: requested; empty = one for each process that reads videos and one for the process itself.
        gpus_per_node: requested; empty = one for each process where the recipe is made for GPUs (`made_for_gpus`), else
            what the cluster gives.
        memory_gib: requested, per node; empty = what the cluster gives.
        time_min: time limit in minutes; a job that reaches it is saved and queued again.
        partition, account, qos, constraint, exclude, nodelist, exclusive: as of sbatch; empty = its default.
        setup: shell lines before the processes start: `module load cuda`.
        environment: variables for the job.
        sbatch: any further options of sbatch, without the dashes.
        srun: any further arguments of srun.
        shards: parts into which `embed` divides a table; more than one makes a job array.
        array_parallelism: elements of an array that may run at once.
        signal_before_sec: how long before the time limit a job is asked to save; SLURM may be up to a minute early.
        lost_after_sec: how long a process waits for another one before it takes it for lost.
        max_requeues: how often a job is queued again after preemptions and time limits.
        max_failures: how often in a row, without a new checkpoint, it is queued again after it has lost a process.
    """

    executor: Literal["local", "slurm"]
    nodes: int = 1
    tasks_per_node: int = 1
    gpus_per_node: int | None = None
    cpus_per_task: int | None = None
    memory_gib: float | None = None
    time_min: int = 1440
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    exclude: str | None = None
    nodelist: str | None = None
    exclusive: bool = False
    setup: tuple[str, ...] = ()
    environment: dict[str, str | int | float] = field(default_factory=dict)
    sbatch: dict[str, str | int | bool] = field(default_factory=dict)
    srun: tuple[str, ...] = ()
    shards: int = 1
    array_parallelism: int = 64
    signal_before_sec: int = 120
    lost_after_sec: float = 600.0
    max_requeues: int = 100
    max_failures: int = 3

    def __post_init__(self) -> None:
        least = {
            "nodes": 1,
            "tasks_per_node": 1,
            "time_min": 1,
            "shards": 1,
            "array_parallelism": 1,
        }
        least |= {"signal_before_sec": 1, "max_requeues": 0, "max_failures": 0}
        for name, minimum in least.items():
            if getattr(self, name) < minimum:
                raise ValueError(f"{name}={getattr(self, name)} must be at least {minimum}.")
        for key in self.environment:
            if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", key):
                raise ValueError(
                    f"environment: {key!r} is no name of a variable: letters, digits and _ only."
                )
        for name in ("lost_after_sec", "memory_gib"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"{name}={value} must be positive.")
        if self.executor == "local" and self.nodes > 1:
            raise ValueError(
                f"nodes={self.nodes} with executor='local', which is this machine: use nodes=1, or a slurm profile."
            )
        if self.executor == "slurm" and self.signal_before_sec >= 60 * self.time_min:
            raise ValueError(
                f"signal_before_sec={self.signal_before_sec} is not less than the time limit, time_min={self.time_min}."
            )

        if self.executor == "local":
            self._refuse_what_only_jobs_have()

    def _refuse_what_only_jobs_have(self) -> None:
        defaults = {each.name: each.default for each in fields(self)} | {"sbatch": {}}
        idle = {n: getattr(self, n) for n in _OF_JOBS if getattr(self, n) != defaults[n]}
        if idle:
            given = ", ".join(f"{name}={value!r}" for name, value in idle.items())
            raise ValueError(
                f"{given} with executor='local', where only {', '.join(_OF_ALL)} count: leave "
                f"{'it' if len(idle) == 1 else 'them'} out, or use a slurm profile."
            )

    @property
    def world_size(self) -> int:
        return self.nodes * self.tasks_per_node

    def asking_for(self, *, readers: int, gpus: bool) -> LaunchProfile:
        """Returns the profile of a job on a cluster with what it leaves empty filled in.

        Args:
            readers: processes that read videos, beside each task.
            gpus: whether each task wants one.
        """
        if self.executor == "local":
            return self
        wanted = self.tasks_per_node if gpus else None
        return replace(
            self,
            cpus_per_task=readers + 1 if self.cpus_per_task is None else self.cpus_per_task,
            gpus_per_node=wanted if self.gpus_per_node is None else self.gpus_per_node,
        )


def load_profile(name: str, overrides: Sequence[str] = ()) -> LaunchProfile:
    """Returns the profile of a file or name (`slurm`) with dotted overrides.

    Raises:
        ConfigError: no such profile, unknown key (the nearest is named), wrong type or value.
    """
    content = read_recipe(name, overrides, room="launch", as_typed=True)
    return build_config(LaunchProfile, content, "profile", several_lines=("setup",))
