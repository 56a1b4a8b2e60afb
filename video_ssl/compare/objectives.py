"""`video-ssl compare RECIPE`: every cell trained and evaluated, what failed told, the page written again after each.

OUT/comparison.yaml      the recipe; a second call may add seeds, objectives and budgets, and change nothing else
OUT/trainings.json       what every objective trains, whole, of all calls: a recipe that was edited is noticed
OUT/costs.json           what the recipes cost, measured or counted once
OUT/cells/...            see `cells.py`
OUT/comparison.{json,csv,md,html}
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import resource
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

from video_ssl.code_state import code_folder, git_state
from video_ssl.compare.cells import CELL, LOG, Cell, Spent, cells_of, last_words, write_evaluations
from video_ssl.compare.costs import Cost, clips_of, operations_of, planned, steps_of
from video_ssl.compare.forecast import describe_cells, job_of
from video_ssl.compare.page import NAMES, write_outcome
from video_ssl.compare.recipe import ComparisonRecipe, EntryConfig
from video_ssl.errors import AlreadyReported
from video_ssl.evaluate.recipe import load_evaluate_recipe
from video_ssl.files import (
    MADE_BY,
    claim_folder,
    made,
    temporary_folder,
    write_atomically,
    write_json,
)
from video_ssl.launch.errors import LaunchError
from video_ssl.launch.launching import launch
from video_ssl.limits import parse_json
from video_ssl.locks import alone
from video_ssl.pretrain.recipe import (
    PretrainRecipe,
    recipe_from_dict,
    recipe_to_dict,
    with_stages,
)
from video_ssl.recipe_text import load_yaml
from video_ssl.recipes import ConfigError, to_plain, to_yaml

logger = logging.getLogger(__name__)

RECIPE, TRAININGS, COSTS = "comparison.yaml", "trainings.json", "costs.json"
#: Settings of a training recipe that change nothing of the encoder.
_BESIDE = ("name", "run", "evaluate")
#: Steps of the two trials from which the processor time of a step and that of the start are told apart.
_TRIALS = (20, 80)
#: Budgets for which nothing has to be run or counted.
_KNOWN_AT_ONCE = ("clips", "lengths")


def compare_objectives(
    recipe: ComparisonRecipe,
    *,
    profile: str | None = None,
    dry_run: bool = False,
    page: bool = False,
) -> str:
    """Returns the page, or with `dry_run` what would be done.

    What is finished is not done again; a cell that failed is told, tried again by the next call, and stops no other.

    Args:
        profile: of `video-ssl launch`: cells are jobs of it, the page is written by a later call; null = here, one
            after the other, but those that were handed to a profile.
        page: write the page of what is there, also while another call is at work; train and measure nothing.

    Raises:
        ConfigError: the folder holds a comparison with other words, a recipe cannot be read, or a page of nothing.
        OutputError: the folder is somebody else's.
        LaunchError: another call is at work in it.
    """
    folder = recipe.folder
    for entry in (
        recipe.objectives.values()
    ):  # a wrong name ends here, before anything is written or trained
        planned(entry.recipe, _words(recipe, entry))
    for name in recipe.evaluations:
        load_evaluate_recipe(name)
    claim_folder(folder, "compare", [RECIPE, *NAMES, "cells"], ours=(folder / ".lock").is_file())
    if dry_run:
        return "\n".join(_described(recipe, profile))
    if page:
        return str(_page_of_what_is_there(recipe))
    folder.mkdir(parents=True, exist_ok=True)
    with alone(folder / ".lock", lambda: _busy(folder)):
        _keep_recipe(recipe)
        write_evaluations(recipe)
        costs, failed = _costs(recipe)
        scales = _scales(recipe, costs, failed)
        cells = list(cells_of(recipe, scales))
        if profile is not None:
            return _launched(cells, profile)
        for number, cell in enumerate(cells, 1):
            if cell.missing() and cell.profile is None:
                logger.info("%d of %d: %s", number, len(cells), cell.name)
                _run(cell)
                write_outcome(recipe, cells, failed)
        _tell_missing(cells, failed)
        return str(write_outcome(recipe, cells, failed))


def _page_of_what_is_there(recipe: ComparisonRecipe) -> Path:
    if not (recipe.folder / RECIPE).is_file():
        raise ConfigError(
            f"{recipe.folder} holds no comparison yet, of which a page could be: call it without --page."
        )
    _refuse_changed(recipe, _trainings(recipe))
    costs, failed = _costs(recipe, keep=False, measure=False)
    cells = list(cells_of(recipe, _scales(recipe, costs, failed)))
    return write_outcome(recipe, cells, failed)


def _tell_missing(cells: Sequence[Cell], failed: Mapping[str, str]) -> None:
    missing = [cell for cell in cells if cell.missing()]
    lost = [cell.name for cell in missing if cell.profile is None]
    if lost or failed:
        logger.warning(
            "not measured: %s. The logs say why; the same command tries them again.",
            "; ".join([*lost, *failed]),
        )
    for cell in missing:
        if cell.profile is not None:
            logger.warning(
                "%s is left to its job of the profile %s. If that has failed: --profile hands it over again; without "
                "%s it is trained here.",
                cell.name,
                cell.profile,
                cell.folder / CELL,
            )


def _busy(folder: Path) -> LaunchError:
    return LaunchError(
        f"another `video-ssl compare` is at work in {folder}: wait for it, or name another out=."
    )


def _words(recipe: ComparisonRecipe, entry: EntryConfig) -> list[str]:
    return [*entry.words, f"data.table={entry.table or recipe.table}"]


def _keep_recipe(recipe: ComparisonRecipe) -> None:
    """Refuses a folder whose cells were made with other words; keeps the recipe, and what its objectives train.

    Raises:
        ConfigError: see above.
    """
    trainings = _trainings(recipe)
    _refuse_changed(recipe, trainings)
    if (recipe.folder / COSTS).is_file():  # those of an earlier version under their new keys
        _write_costs(recipe, _known(recipe))
    content = {MADE_BY: made("compare"), "objectives": {**_kept_trainings(recipe), **trainings}}
    write_json(recipe.folder / TRAININGS, content)
    write_atomically(recipe.folder / RECIPE, to_yaml(to_plain(recipe)))


def _refuse_changed(recipe: ComparisonRecipe, trainings: Mapping[str, Any]) -> None:
    """Raises ConfigError where the folder has cells that were made with something else."""
    before, now = _kept_recipe(recipe), _as_read(to_plain(recipe))
    kept = _kept_trainings(recipe)
    changed = [
        f"objectives.{name}"
        for name, entry in now["objectives"].items()
        if _has_cells(recipe, name)
        and (
            _trained_by(before.get("objectives", {}).get(name, entry)) != _trained_by(entry)
            or kept.get(name, trainings[name]) != trainings[name]
        )
    ]
    if before and before.get("table") != now["table"]:
        changed.insert(0, "table")
    if before and before.get("budget", {}).get("kind") != recipe.budget.kind:
        changed.append("budget.kind")
    if changed:
        raise ConfigError(
            f"{recipe.folder} holds a comparison with another {', '.join(changed)} (words, or a recipe that was "
            "edited): its cells would not be comparable. Name another folder, out=FOLDER, or remove it, of an "
            "objective cells/NAME in it. Seeds, amounts, objectives and evaluations may be added."
        )


def _has_cells(recipe: ComparisonRecipe, name: str) -> bool:
    return any((recipe.folder / "cells" / name).glob("*/seed_*"))


def _kept_recipe(recipe: ComparisonRecipe) -> dict[str, Any]:
    """The recipe of the last call; empty where there was none."""
    path = recipe.folder / RECIPE
    return dict(load_yaml(path)) if path.is_file() else {}


def _kept_trainings(recipe: ComparisonRecipe) -> dict[str, Any]:
    """What the objectives of all calls train; empty where that is not known."""
    path = recipe.folder / TRAININGS
    return dict(parse_json(path.read_bytes())["objectives"]) if path.is_file() else {}


def _trainings(recipe: ComparisonRecipe) -> dict[str, Any]:
    """Name of an objective -> its training recipe and those of its stages, whole, and their digest: as they were kept,
    where they are the same still."""
    kept, found = _kept_trainings(recipe), {}
    for name, entry in recipe.objectives.items():
        parts = [_whole(part) for part in with_stages(planned(entry.recipe, _words(recipe, entry)))]
        text = json.dumps(parts, sort_keys=True)
        found[name] = {"digest": hashlib.sha256(text.encode()).hexdigest()[:12], "recipes": parts}
        if name in kept and _read_again(kept[name]["recipes"]) == parts:
            found[name] = kept[name]
    return found


def _whole(part: PretrainRecipe) -> dict[str, Any]:
    content = recipe_to_dict(part)
    return _as_read({key: value for key, value in content.items() if key not in _BESIDE})


def _read_again(parts: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]] | None:
    """Recipes as this version writes them: a setting that came later has its default.  None if it cannot read them."""
    try:
        return [_whole(recipe_from_dict(part)) for part in parts]
    except ConfigError:
        return None


def _trained_by(entry: Mapping[str, Any]) -> dict[str, Any]:
    """What of an objective's entry its trainings depend on."""
    return {key: value for key, value in entry.items() if key != "evaluations"}


def _as_read(content: dict[str, Any]) -> dict[str, Any]:
    """Settings as a YAML file gives them back: tuples are lists."""
    found: dict[str, Any] = json.loads(json.dumps(content))
    return found


def _known(recipe: ComparisonRecipe) -> dict[str, Any]:
    """What earlier calls have found of costs.

    An earlier version knew them by the words of an objective: they count where these are still the same.
    """
    path = recipe.folder / COSTS
    known = dict(parse_json(path.read_bytes())["costs"]) if path.is_file() else {}
    before, kept = _kept_recipe(recipe).get("objectives", {}), _kept_trainings(recipe)
    now = _as_read(to_plain(recipe))["objectives"]
    for name, training in _trainings(recipe).items():
        key, old = _cost_key(recipe, name, training), _cost_words(recipe, name)
        is_same = name in before and _trained_by(before[name]) == _trained_by(now[name])
        if key not in known and old in known and is_same and name not in kept:
            known[key] = known[old]
    return known


def _write_costs(recipe: ComparisonRecipe, known: Mapping[str, Any]) -> None:
    write_json(recipe.folder / COSTS, {MADE_BY: made("compare"), "costs": known})


def _cost_words(recipe: ComparisonRecipe, name: str) -> str:
    entry = recipe.objectives[name]
    return f"{recipe.budget.kind} {entry.recipe} {' '.join(_words(recipe, entry))}"


def _cost_key(recipe: ComparisonRecipe, name: str, training: Mapping[str, Any]) -> str:
    return f"{_cost_words(recipe, name)} {training['digest']}"


def _costs(
    recipe: ComparisonRecipe, *, keep: bool = True, measure: bool = True
) -> tuple[dict[str, Cost], dict[str, str]]:
    """What each objective costs, and the objectives for which that could not be found, with the reason.

    Args:
        keep: write what was found.
        measure: what is not known, where that takes steps of a training.
    """
    known, trainings = _known(recipe), _trainings(recipe)
    costs, failed = {}, {}
    for name, entry in recipe.objectives.items():
        key = _cost_key(recipe, name, trainings[name])
        if key not in known and not measure and recipe.budget.kind not in _KNOWN_AT_ONCE:
            failed[name] = f"{name}: its cost was not found yet"
            continue
        if key not in known:
            logger.info("what %s costs in %s", name, recipe.budget.kind)
            try:
                cost = _cost(recipe, name, entry)
            except (subprocess.CalledProcessError, OSError, ValueError, RuntimeError) as err:
                failed[name] = f"{name}: its cost could not be found ({err})"
                logger.warning("%s", failed[name])
                continue
            known[key] = [cost.fixed, cost.whole]
            if keep:
                _write_costs(recipe, known)
        costs[name] = Cost(*known[key])
    return costs, failed


def _cost(recipe: ComparisonRecipe, name: str, entry: EntryConfig) -> Cost:
    whole = planned(entry.recipe, _words(recipe, entry))
    if recipe.budget.kind == "lengths":
        return Cost(0.0, 1.0)
    if recipe.budget.kind == "clips":
        return Cost(0.0, clips_of(whole))
    if recipe.budget.kind == "operations":
        return Cost(0.0, operations_of(whole))
    total, trials = steps_of(whole), []
    with temporary_folder("compare") as folder:
        for number, wanted in enumerate(_TRIALS):
            scale = round(min(1.0, wanted / total), 9)
            words = (
                *_words(recipe, entry),
                f"training.scale={scale}",
                f"run={folder / str(number)}",
            )
            log = recipe.folder / "trials" / f"{name}_{number}.txt"
            code, took = _timed(("pretrain", entry.recipe, *words), log)
            if code:
                raise ValueError(f"a trial ended with code {code}: {last_words(log)}")
            steps = steps_of(planned(entry.recipe, _words(recipe, entry), scale=scale))
            trials.append((steps, took.processor_sec))
    (few, short), (many, long) = trials
    if many == few or long <= short:
        raise ValueError(
            f"trials of {few} and {many} steps took {short:.1f} s and {long:.1f} s: nothing to reckon with"
        )
    step_sec = (long - short) / (many - few)
    return Cost(max(0.0, short - few * step_sec), total * step_sec)


def _scales(
    recipe: ComparisonRecipe, costs: Mapping[str, Cost], failed: dict[str, str]
) -> dict[tuple[str, float], float]:
    scales = {}
    for name, cost in costs.items():
        for amount in recipe.budget.amounts:
            try:
                scales[name, amount] = cost.scale_for(amount)
            except ValueError as err:
                failed[f"{name} {amount:g}"] = f"{name}: {err}"
    return scales


def _run(cell: Cell) -> None:
    """Runs what is missing of a cell; after a command that fails the rest of the cell is left."""
    cell.keep(error=None, code=git_state(code_folder()))
    for what, words in cell.missing():
        log = cell.folder / LOG
        begin = time.strftime("%Y-%m-%d %H:%M")
        keep = partial(_keep_training, cell, begin) if what == "training" else None
        code, spent = _timed(words, log, keep=keep)
        if code:
            said = f"{what} ended with code {code}: {last_words(log)}"
            logger.warning("%s: %s (%s)", cell.name, said, log)
            cell.keep(error=said)
            return
        if what != "training":
            cell.keep(**{f"evaluation {what}": vars(spent)})


def _keep_training(cell: Cell, begin: str, spent: Spent) -> None:
    before = cell.state().get("training") or {}
    cell.keep(training=_added(before, spent), date=begin)


def _added(before: Mapping[str, float], spent: Spent) -> dict[str, float]:
    """What a training took in all its attempts, those that failed or were stopped too."""
    if not before:
        return vars(spent)
    return {
        "wall_sec": before["wall_sec"] + spent.wall_sec,
        "processor_sec": before["processor_sec"] + spent.processor_sec,
        "peak_gib": max(before["peak_gib"], spent.peak_gib),
    }


def _timed(
    words: Sequence[str], log: Path, *, keep: Callable[[Spent], None] | None = None
) -> tuple[int, Spent]:
    """Runs `video-ssl` with these words, what it says in a file; returns its exit code and what it took.

    Ctrl-C and SIGTERM reach the command too, which saves and ends; then this one ends.

    Args:
        keep: is given what it took, however it ended.

    Raises:
        AlreadyReported: it was stopped so.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    begin = time.monotonic()
    stopped: list[int] = []
    with open(log, "a", encoding="utf-8") as file:
        print("$", shlex.join(["video-ssl", *words]), file=file, flush=True)
        process = subprocess.Popen(
            [sys.executable, "-m", "video_ssl", *words],
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
        )

        def pass_on(number: int, _: FrameType | None) -> None:
            stopped.append(number)
            process.send_signal(number)

        before = signal.signal(signal.SIGTERM, pass_on)
        try:
            status, usage = _ended(process.pid, stopped)
        finally:
            signal.signal(signal.SIGTERM, before)
    process.returncode = os.waitstatus_to_exitcode(status)
    unit = 2**30 if sys.platform == "darwin" else 2**20
    spent = Spent(
        wall_sec=round(time.monotonic() - begin, 1),
        processor_sec=round(usage.ru_utime + usage.ru_stime, 1),
        peak_gib=round(usage.ru_maxrss / unit, 3),
    )
    if keep is not None:
        keep(spent)
    if stopped:
        text = "the comparison was stopped; the same command goes on where it was"
        logger.warning("%s", text)
        raise AlreadyReported(text, 128 + stopped[0])
    return process.returncode, spent


def _ended(pid: int, stopped: list[int]) -> tuple[int, resource.struct_rusage]:
    """The status and the usage of a process that has ended, its own processes included."""
    while True:
        try:
            _, status, usage = os.wait4(pid, 0)
            return status, usage
        except KeyboardInterrupt:  # that of the terminal has reached the process too
            stopped.append(signal.SIGINT)


def _launched(cells: Sequence[Cell], profile: str) -> str:
    """Hands the cells that are not finished to `video-ssl launch`; returns what it says, of each that it refuses why.

    Raises:
        LaunchError: it refuses all of them.
    """
    said, refused = [], []
    for cell in cells:
        if not cell.missing():
            continue
        try:
            said.append(launch(profile, *job_of(cell), chain=True))
        except LaunchError as err:
            refused.append(f"{cell.name} was not handed over: {err}")
            continue
        cell.keep(error=None, code=git_state(code_folder()), profile=profile)
    if refused and not said:
        raise LaunchError("\n".join(refused))
    if not said:
        return "every cell is finished: call it with --page for the page"
    return "\n".join([*said, *refused])


def _described(recipe: ComparisonRecipe, profile: str | None) -> Iterator[str]:
    """Lines of what a call would do."""
    budget, folder = recipe.budget, recipe.folder
    amounts = ", ".join(f"{amount:g}" for amount in sorted(budget.amounts))
    count = len(recipe.objectives) * len(recipe.seeds) * len(budget.amounts)
    yield (
        f"{folder}: {len(recipe.objectives)} objectives x {len(recipe.seeds)} seeds x {len(budget.amounts)} budgets "
        f"= {count} trainings"
    )
    yield f"each for {amounts} {budget.kind}, on {recipe.table}, judged by {', '.join(recipe.evaluations)}"
    for name, entry in recipe.objectives.items():
        other = f", on {entry.table}" if entry.table else ""
        yield f"{name}: {entry.recipe} {' '.join(entry.words)}{other}"
    if budget.kind == "seconds":
        hours = sum(budget.amounts) * len(recipe.objectives) * len(recipe.seeds) / 3600
        yield f"processor time of the trainings: {hours:.2g} hours; evaluations come on top"
    known = _known(recipe)
    lacking = [
        name
        for name, training in _trainings(recipe).items()
        if _cost_key(recipe, name, training) not in known
    ]
    if lacking and budget.kind not in _KNOWN_AT_ONCE:
        yield (
            f"jobs, hours and disk: not known before the {budget.kind} of {', '.join(lacking)} are measured, which a "
            "call begins with"
        )
        return
    costs, failed = _costs(recipe, keep=False)
    yield from failed.values()
    yield from describe_cells(list(cells_of(recipe, _scales(recipe, costs, failed))), profile)
