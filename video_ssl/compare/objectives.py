"""`video-ssl compare RECIPE`: every cell trained and evaluated, what failed told, the page written again after each.

OUT/cells/...                             see `cells.py`
OUT/{comparison.yaml,trainings,costs}     see `kept.py`
OUT/comparison.{json,csv,md,html}         see `page.py`
"""

from __future__ import annotations

import logging
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from video_ssl.code_state import code_folder, git_state
from video_ssl.compare.cells import CELL, Cell, amount_text, cells_of, write_evaluations
from video_ssl.compare.costs import Cost, cost_of
from video_ssl.compare.forecast import describe_cells, job_of
from video_ssl.compare.kept import RECIPE, Kept
from video_ssl.compare.page import NAMES, write_outcome
from video_ssl.compare.recipe import ComparisonRecipe
from video_ssl.compare.running import run_side_by_side
from video_ssl.compare.shares import shares_of_machine
from video_ssl.evaluate.recipe import load_evaluate_recipe
from video_ssl.files import claim_folder
from video_ssl.launch.errors import LaunchError
from video_ssl.launch.launching import launch
from video_ssl.locks import alone
from video_ssl.recipes import ConfigError

logger = logging.getLogger(__name__)

#: Budgets for which nothing has to be run or counted.
_KNOWN_AT_ONCE = ("clips", "lengths")


def compare_objectives(
    recipe: ComparisonRecipe,
    *,
    profile: str | None = None,
    dry_run: bool = False,
    page: bool = False,
    at_once: int = 1,
) -> str:
    """Returns the page, or with `dry_run` what would be done.

    What is finished is not done again; a cell that failed is told, tried again by the next call, and stops no other.

    Args:
        profile: of `video-ssl launch`: cells are jobs of it, the page is written by a later call; null = here, one
            after the other, but those that were handed to a profile.
        page: write the page of what is there, also while another call is at work; train and measure nothing.
        at_once: cells that are run side by side here, each on its share of the cores, see `shares.py`.

    Raises:
        ConfigError: the folder holds a comparison with other words, a recipe cannot be read, a page of nothing, or
            more `at_once` than there are cores.
        OutputError: the folder is somebody else's.
        LaunchError: another call is at work in it.
    """
    folder, shares = recipe.folder, shares_of_machine(at_once)
    kept = Kept(recipe)  # a wrong name ends here, before anything is written or trained
    for name in recipe.evaluations:
        load_evaluate_recipe(name)
    claim_folder(folder, "compare", [RECIPE, *NAMES, "cells"], ours=(folder / ".lock").is_file())
    if dry_run:
        return "\n".join(_described(kept, profile))
    if page:
        return str(_page_of_what_is_there(kept))
    folder.mkdir(parents=True, exist_ok=True)
    with alone(folder / ".lock", lambda: _busy(folder)):
        kept.keep()
        write_evaluations(recipe)
        with shares[0].taken():  # as the cells, so that they cost the same
            costs, failed = _costs(kept)
        scales = _scales(recipe, costs, failed)
        cells = list(cells_of(recipe, scales))
        if profile is not None:
            return _launched(cells, profile)
        todo = [cell for cell in cells if cell.missing() and cell.profile is None]
        run_side_by_side(todo, shares, done=lambda: write_outcome(recipe, cells, failed))
        _tell_missing(cells, failed)
        return str(write_outcome(recipe, cells, failed))


def _page_of_what_is_there(kept: Kept) -> Path:
    recipe = kept.recipe
    if not kept.has_begun:
        raise ConfigError(
            f"{recipe.folder} holds no comparison yet, of which a page could be: call it without --page."
        )
    kept.refuse_changed()
    costs, failed = _costs(kept, keep=False, measure=False)
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


def _costs(
    kept: Kept, *, keep: bool = True, measure: bool = True
) -> tuple[dict[str, Cost], dict[str, str]]:
    """What each objective costs, and the objectives for which that could not be found, with the reason.

    Args:
        keep: write what was found.
        measure: what is not known, where that takes steps of a training.
    """
    kind, costs, failed = kept.recipe.budget.kind, {}, {}
    for name in kept.recipe.objectives:
        cost = kept.cost(name)
        if cost is None and not measure and kind not in _KNOWN_AT_ONCE:
            failed[name] = f"{name}: its cost was not found yet"
            continue
        if cost is None:
            logger.info("what %s costs in %s", name, kind)
            try:
                cost = cost_of(kept.recipe, name)
            except (subprocess.CalledProcessError, OSError, ValueError, RuntimeError) as err:
                failed[name] = f"{name}: its cost could not be found ({err})"
                logger.warning("%s", failed[name])
                continue
            if keep:
                kept.keep_cost(name, cost)
        costs[name] = cost
    return costs, failed


def _scales(
    recipe: ComparisonRecipe, costs: Mapping[str, Cost], failed: dict[str, str]
) -> dict[tuple[str, float], float]:
    scales = {}
    for name, cost in costs.items():
        for amount in recipe.budget.amounts:
            try:
                scales[name, amount] = cost.scale_for(amount)
            except ValueError as err:
                failed[f"{name} {amount_text(amount)}"] = f"{name}: {err}"
    return scales


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


def _described(kept: Kept, profile: str | None) -> Iterator[str]:
    """Lines of what a call would do."""
    recipe = kept.recipe
    budget, folder = recipe.budget, recipe.folder
    amounts = ", ".join(amount_text(amount) for amount in sorted(budget.amounts))
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
    lacking = [name for name in recipe.objectives if kept.cost(name) is None]
    if lacking and budget.kind not in _KNOWN_AT_ONCE:
        yield (
            f"jobs, hours and disk: not known before the {budget.kind} of {', '.join(lacking)} are measured, which a "
            "call begins with"
        )
        return
    costs, failed = _costs(kept, keep=False)
    yield from failed.values()
    yield from describe_cells(list(cells_of(recipe, _scales(recipe, costs, failed))), profile)
