"""What a comparison still has to do: its jobs, their hours at the pace of timed steps, and the disk they fill."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from video_ssl.compare.cells import Cell
from video_ssl.launch.estimates import pace_of, steps_left
from video_ssl.launch.profile import LaunchProfile, load_profile
from video_ssl.launch.steps import plan_launch
from video_ssl.pretrain.recipe import PretrainRecipe, load_pretrain_recipe, with_stages


def describe_cells(cells: Sequence[Cell], profile_name: str | None) -> Iterator[str]:
    """Yields the lines of a dry run about cells whose share of a length is known.

    Args:
        cells: all of the comparison.
        profile_name: of `video-ssl launch`; null = here, one after the other.

    Raises:
        ConfigError, LaunchError: of the profile.
    """
    profile = None if profile_name is None else load_profile(profile_name)
    todo = [cell for cell in cells if cell.missing()]
    if not cells:
        return
    yield f"finished: {len(cells) - len(todo)} of {len(cells)}"
    if profile is not None:
        yield from _jobs(todo, profile)
    yield _hours(cells, todo, profile)
    yield _disk(cells, todo)


def job_of(cell: Cell) -> tuple[str, list[str]]:
    """Returns the verb and the arguments with which `launch --chain` runs a cell: stages, training, evaluations."""
    verb, recipe, *words = cell.train
    files = json.dumps([own[1] for own in cell.evaluations.values()])
    return verb, [recipe, *words, f"evaluate={files}"]


def _jobs(todo: Sequence[Cell], profile: LaunchProfile) -> Iterator[str]:
    """A line for each objective: which jobs a cell of it is, in which order."""
    of: dict[str, list[Cell]] = {}
    for cell in todo:
        of.setdefault(cell.objective, []).append(cell)
    total = 0
    for objective, own in of.items():
        verb, *arguments = own[0].train  # the files of its evaluations are not written by a dry run
        plan = plan_launch(verb, [*arguments, "evaluate=[]"], profile, chain=True)
        steps = [
            step.name + (f" (after {', '.join(step.after)})" if step.after else "")
            for step in plan.steps
        ]
        steps += [f"evaluate-{name} (after pretrain)" for name in own[0].evaluations]
        total += len(own) * len(steps)
        yield f"{objective}: {len(own)} x {' -> '.join(steps)}"
    yield f"jobs: {total}, trainings of {profile.world_size} processes each"


def _hours(cells: Sequence[Cell], todo: Sequence[Cell], profile: LaunchProfile | None) -> str:
    """Hours of the trainings, evaluations not counted."""
    paces: dict[tuple[str, int], float] = {}
    for cell in cells:
        for place, part in enumerate(_parts(cell)):
            pace = pace_of(Path(part.run)) if part.run else None
            if pace is not None:
                paces.setdefault((cell.objective, place), pace)
    seconds, unknown = 0.0, []
    for cell in todo:
        own = _seconds(cell, paces)
        if own is None:
            unknown.append(cell.objective)
        else:
            seconds += own
    if unknown:
        lacking = ", ".join(dict.fromkeys(unknown))
        return (
            f"hours: not known, since no step of {lacking} was timed in this comparison; a first call with the "
            "smallest amount and one seed (budget.amounts=[...] seeds=[0]) times them, and its cells are kept."
        )
    hours = seconds / 3600
    text = f"hours: {hours:.2g} of trainings at the pace of the steps so far"
    if profile is not None and profile.executor == "slurm":
        gpus = profile.nodes * (profile.gpus_per_node or 0)
        text += f", {hours * gpus:.2g} GPU-hours"
    return f"{text}; evaluations come on top"


def _parts(cell: Cell) -> list[PretrainRecipe]:
    """The recipes of a cell's stages and its own."""
    return list(with_stages(load_pretrain_recipe(cell.train[1], cell.train[2:])))


def _seconds(cell: Cell, paces: Mapping[tuple[str, int], float]) -> float | None:
    """What the trainings of a cell still take; None where that is not known."""
    if cell.is_trained():
        return 0.0
    total = 0.0
    for place, part in enumerate(_parts(cell)):
        left, pace = steps_left(part), paces.get((cell.objective, place))
        if left is None or (left and pace is None):
            return None
        total += left * (pace or 0.0)
    return total


def _disk(cells: Sequence[Cell], todo: Sequence[Cell]) -> str:
    """Gigabytes that are to come: a cell is as large as the largest finished one of its objective."""
    sizes: dict[str, int] = {}
    for cell in cells:
        if not cell.missing():
            size = sum(file.stat().st_size for file in cell.folder.rglob("*") if file.is_file())
            sizes[cell.objective] = max(size, sizes.get(cell.objective, 0))
    lacking = [name for name in dict.fromkeys(cell.objective for cell in todo) if name not in sizes]
    if lacking:
        return f"disk: not known, since no cell of {', '.join(lacking)} is finished"
    total = sum(sizes[cell.objective] for cell in todo)
    return f"disk: {total / 2**30:.2g} GiB more, as large as the cells so far"
