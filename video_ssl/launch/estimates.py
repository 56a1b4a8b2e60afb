"""What a launch would do and cost, for its dry run: recipes, jobs, what they ask for, hours."""

from __future__ import annotations

import itertools
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from video_ssl.datasets.opening import lacks_tables
from video_ssl.launch.steps import LaunchPlan, Step
from video_ssl.pretrain.dry_run import describe_start
from video_ssl.pretrain.lengths import lengths_of
from video_ssl.pretrain.recipe import PretrainRecipe, recipe_from_dict, with_stages
from video_ssl.pretrain.reporting import read_metrics
from video_ssl.pretrain.run import fit_batch, open_streams
from video_ssl.pretrain.run_folder import METRICS

#: What may keep a login node from looking at data that the jobs will find.
_OUT_OF_REACH = (OSError, ValueError)


def describe_plan(plan: LaunchPlan) -> Iterator[str]:
    """Yields the lines of a dry run: the first run in full, the jobs and what each asks for, the hours."""
    trained = next((step for step in plan.steps if step.name == "pretrain"), None)
    recipes = [] if trained is None else _recipes(plan, trained)
    for recipe in recipes[:1]:
        try:
            yield from describe_start(recipe)
        except _OUT_OF_REACH as err:
            yield f"its data cannot be looked at from here: {err}"
    yield from (f"the same with other settings: {recipe.run}" for recipe in recipes[1:])
    for step in plan.steps:
        yield _job(step)
        yield from (
            f"  video-ssl {task.verb} {shlex.join(task.arguments)}" for task in step.tasks[:3]
        )
        if len(step.tasks) > 3:
            yield f"  and {len(step.tasks) - 3} more"
    if trained is not None:
        yield _cost(recipes, trained)


def _recipes(plan: LaunchPlan, trained: Step) -> list[PretrainRecipe]:
    """Those of the runs; their stages are told with them."""
    files = (Path(task.arguments[0]) for task in trained.tasks)
    return [recipe_from_dict(plan.files[file]) for file in files]


def _job(step: Step) -> str:
    profile, many = step.profile, len(step.tasks)
    text = f"job {step.name}{f' x {many}' if many > 1 else ''}: {profile.world_size} processes"
    if profile.executor == "local":
        return f"{text} on this machine"
    cpus, gpus = profile.cpus_per_task, profile.gpus_per_node
    text += f" on {profile.nodes} nodes"
    text += ", CPUs as the cluster gives" if cpus is None else f", {cpus} CPUs each"
    text += ", GPUs as the cluster gives" if gpus is None else f", {gpus} GPUs a node"
    text += f", {profile.time_min} min until it is saved and queued again"
    return text + (f"; after {', '.join(step.after)}" if step.after else "")


def _cost(recipes: Sequence[PretrainRecipe], step: Step) -> str:
    """GPU-hours and CPU-hours of all trainings, where a step of each was timed."""
    seconds = [remaining_sec(part) for recipe in recipes for part in with_stages(recipe)]
    if any(sec is None for sec in seconds):
        return (
            "cost: not known, since no step was timed in these run folders. `video-ssl bench step RECIPE` times one "
            "on the machine where it runs."
        )
    hours = sum(sec for sec in seconds if sec is not None) / 3600
    profile = step.profile
    gpus = profile.nodes * (profile.gpus_per_node or 0)
    cpus = profile.world_size * (profile.cpus_per_task or 1)
    return (
        f"cost: {hours:.2g} hours at the pace of the steps so far: {hours * gpus:.2g} GPU-hours, "
        f"{hours * cpus:.2g} CPU-hours"
    )


def remaining_sec(recipe: PretrainRecipe) -> float | None:
    """Returns the seconds that a run still takes at the pace of the steps in its folder; None if none was timed."""
    pace, left = pace_of(Path(recipe.run)), steps_left(recipe)
    return None if pace is None or left is None else pace * left


def pace_of(run: Path) -> float | None:
    """Returns the median of the seconds of a step in a run folder; None if none was timed."""
    paces = [
        (b["time"] - a["time"]) / (b["step"] - a["step"])
        for a, b in itertools.pairwise(read_metrics(run / METRICS))
        if b["step"] > a["step"] and b["time"] > a["time"]
    ]
    return float(np.median(paces)) if paces else None


def steps_left(recipe: PretrainRecipe) -> int | None:
    """Returns the steps that a run still has before it; None where its data cannot be looked at from here."""
    if lacks_tables(recipe.data.table):
        return None
    try:
        fitted, streams = fit_batch(recipe, open_streams(recipe))
        steps = lengths_of(fitted, streams).num_steps
    except _OUT_OF_REACH:
        return None
    rows = read_metrics(Path(recipe.run) / METRICS)
    return max(0, steps - (rows[-1]["step"] if rows else 0))
