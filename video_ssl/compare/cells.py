"""The cells of a comparison: one objective, one budget, one seed; its commands, its folder, and how far it is.

OUT/cells/OBJECTIVE/AMOUNT/seed_S/run/         the run, with its encoders and evaluations
OUT/cells/OBJECTIVE/AMOUNT/seed_S/log.txt      what its commands said
OUT/cells/OBJECTIVE/AMOUNT/seed_S/cell.json    its commands, what they cost, and how they ended
OUT/evaluations/seed_S/NAME.yaml               the evaluations as the cells of a seed run them
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from video_ssl.child_usage import Spent
from video_ssl.compare.recipe import ComparisonRecipe, evaluation_key
from video_ssl.files import MADE_BY, made, write_atomically, write_json
from video_ssl.limits import parse_json
from video_ssl.models.baselines import BASELINES
from video_ssl.recipe_text import load_yaml
from video_ssl.recipes import ConfigError, read_recipe, to_yaml

CELL = "cell.json"
LOG = "log.txt"


@dataclass(frozen=True)
class Cell:
    """One training with its evaluations.

    Attributes:
        objective, amount, seed: which.
        folder: its folder.
        train: words of `video-ssl` that train it.
        evaluations: name of an evaluation -> words of `video-ssl`.
    """

    objective: str
    amount: float
    seed: int
    folder: Path
    train: tuple[str, ...]
    evaluations: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def run(self) -> Path:
        return self.folder / "run"

    @property
    def name(self) -> str:
        return f"{self.objective}, {amount_text(self.amount)}, seed {self.seed}"

    def results_of(self, evaluation: str) -> Path:
        """Returns the file in which the results of an evaluation are, once it has ended."""
        return self.run / "evaluate" / evaluation / "results.json"

    def commands(self) -> list[str]:
        """Returns the lines that a person would type for the same."""
        return [
            shlex.join(["video-ssl", *words]) for words in (self.train, *self.evaluations.values())
        ]

    def state(self) -> dict[str, Any]:
        """Returns what cell.json says; empty where nothing was begun."""
        return _read(self.folder / CELL) or {}

    @property
    def profile(self) -> str | None:
        """The profile whose job it is; None where it was handed to none."""
        found: str | None = self.state().get("profile")
        return found

    def is_trained(self) -> bool:
        return (self.run / "encoder" / "config.json").is_file()

    def missing(self) -> list[tuple[str, tuple[str, ...]]]:
        """Returns what is still to be run, in order: "training" or the evaluation, and its words."""
        todo = [] if self.is_trained() else [("training", self.train)]
        return todo + [
            (name, words)
            for name, words in self.evaluations.items()
            if not self.results_of(name).is_file()
        ]

    def keep(self, **said: Any) -> None:
        """Writes into cell.json, beside what it says already."""
        self.folder.mkdir(parents=True, exist_ok=True)
        content = {MADE_BY: made("compare"), "commands": self.commands(), **self.state(), **said}
        write_json(self.folder / CELL, content)


def amount_text(amount: float) -> str:
    """Returns an amount in six digits, or in as many as tell it from every other: folders are called so.

    >>> amount_text(720.0), amount_text(1e13), amount_text(1234567.0)
    ('720', '1e+13', '1234567.0')
    """
    short = f"{amount:g}"
    return short if float(short) == amount else repr(float(amount))


def cells_of(recipe: ComparisonRecipe, scales: Mapping[tuple[str, float], float]) -> Iterator[Cell]:
    """Yields every cell whose scale is known: small budgets first, then seed by seed, so that a comparison that is
    stopped has all objectives.

    Args:
        scales: (objective, amount) -> `training.scale`.
    """
    for amount in sorted(recipe.budget.amounts):
        for seed in recipe.seeds:
            for name, entry in recipe.objectives.items():
                if (name, amount) not in scales:
                    continue
                folder = recipe.folder / "cells" / name / amount_text(amount) / f"seed_{seed}"
                words = (
                    *recipe.words_of(name),
                    f"seed={seed}",
                    f"training.scale={scales[name, amount]}",
                    f"run={folder / 'run'}",
                )
                yield Cell(
                    name,
                    amount,
                    seed,
                    folder,
                    ("pretrain", entry.recipe, *words),
                    {
                        evaluation_key(each): _evaluation(recipe, each, seed, folder / "run")
                        for each in recipe.evaluations_of(name)
                    },
                )


def _evaluation(recipe: ComparisonRecipe, name: str, seed: int, run: Path) -> tuple[str, ...]:
    return ("evaluate", str(evaluation_file(recipe, name, seed)), f"encoder={run}")


def evaluation_file(recipe: ComparisonRecipe, name: str, seed: int) -> Path:
    """Returns the file of an evaluation as the cells of a seed run it."""
    return recipe.folder / "evaluations" / f"seed_{seed}" / f"{evaluation_key(name)}.yaml"


def write_evaluations(recipe: ComparisonRecipe) -> None:
    """Writes the evaluations: whole for the first seed, without what no training changes for the others.

    Everything stands in the file, so that a job that knows only its name does the same.

    Raises:
        ConfigError: a file of an earlier call says something else of an evaluation.
    """
    for name in recipe.evaluations:
        content = read_recipe(name, room="evaluate")
        for seed in recipe.seeds:
            encoders = {"encoder": "{encoder}", **content.get("encoders", {})}
            if seed != recipe.seeds[0]:
                encoders = {
                    row: spec
                    for row, spec in encoders.items()
                    if spec.partition(":")[0] not in BASELINES
                }
            encoders["untrained"] = f"untrained:{{encoder}}@{seed}"
            own = {
                "name": evaluation_key(name),
                "seed": seed,
                "encoders": encoders,
                "keep_predictions": True,
            }
            file = evaluation_file(recipe, name, seed)
            whole = {**content, "out": None, "encoder": None, **own}
            if file.is_file() and _judged_by(load_yaml(file)) != _judged_by(whole):
                raise ConfigError(
                    f"{file} was made when the evaluation {name} was another: the numbers would not be comparable. "
                    "Name another folder, out=FOLDER, or give the evaluation another name."
                )
            file.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(file, to_yaml(whole))


def _judged_by(content: Mapping[str, Any]) -> Any:
    """What the numbers of an evaluation depend on: all but what stands beside the encoder, as a file gives it back."""
    kept = {key: value for key, value in content.items() if key not in ("base", "encoders")}
    return json.loads(json.dumps(kept))


def last_words(log: Path, count: int = 400) -> str:
    """Returns the last line that says something in a log, at most so many letters of it."""
    if not log.is_file():
        return ""
    with open(log, "rb") as file:
        file.seek(0, 2)
        file.seek(max(0, file.tell() - 20_000))
        lines = file.read().decode("utf-8", "replace").replace("\r", "\n").splitlines()
    said = [line.strip() for line in lines if line.strip() and not line.startswith("$ ")]
    return said[-1][-count:] if said else ""


def read_results(cell: Cell, evaluation: str) -> dict[str, Any] | None:
    """Returns the results of an evaluation of a cell; None where they are not there."""
    return _read(cell.results_of(evaluation))


def _read(path: Path) -> dict[str, Any] | None:
    """What a file of ours says; None where it is not there, or damaged."""
    try:
        found = parse_json(path.read_bytes())
    except (FileNotFoundError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def costs_of(cells: Sequence[Cell]) -> dict[str, list[Spent]]:
    """Returns what the trainings of cells took, by objective; one that has not ended has no cost yet."""
    found: dict[str, list[Spent]] = {}
    for cell in cells:
        spent = cell.state().get("training")
        if spent and cell.is_trained():
            found.setdefault(cell.objective, []).append(Spent(**spent))
    return found
