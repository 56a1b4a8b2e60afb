"""What the folder of a comparison keeps of all its calls, so that cells of different settings never stand in one row.

OUT/comparison.yaml      the recipe of the last call
OUT/trainings.json       what every objective trains, whole, of all calls: a recipe that was edited is noticed
OUT/costs.json           what the recipes cost, measured or counted once
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from video_ssl.compare.costs import Cost, planned
from video_ssl.compare.recipe import ComparisonRecipe
from video_ssl.files import MADE_BY, made, write_atomically, write_json
from video_ssl.limits import parse_json
from video_ssl.pretrain.recipe import (
    PretrainRecipe,
    recipe_from_dict,
    recipe_to_dict,
    with_stages,
)
from video_ssl.recipe_text import load_yaml
from video_ssl.recipes import ConfigError, to_plain, to_yaml

RECIPE, TRAININGS, COSTS = "comparison.yaml", "trainings.json", "costs.json"
#: Settings of a training recipe that change nothing of the encoder; of `loader` those by which batches come sooner.
_BESIDE = ("name", "run", "evaluate")
_BESIDE_OF_LOADER = ("num_workers", "prefetch_batches")


class Kept:
    """What the folder of a recipe keeps.

    Raises:
        ConfigError: at once, for an objective whose recipe cannot be read.
    """

    def __init__(self, recipe: ComparisonRecipe) -> None:
        self.recipe = recipe
        self._before: dict[str, Any] = {}
        if self.has_begun:
            self._before = dict(load_yaml(recipe.folder / RECIPE))
        self._of_all_calls = self._json(TRAININGS, "objectives")
        self.trainings = {name: self._training(name) for name in recipe.objectives}

    @property
    def has_begun(self) -> bool:
        return (self.recipe.folder / RECIPE).is_file()

    def keep(self) -> None:
        """Keeps the recipe, and what its objectives train.

        Raises:
            ConfigError: see `refuse_changed`.
        """
        self.refuse_changed()
        everything = {**self._of_all_calls, **self.trainings}
        content = {MADE_BY: made("compare"), "objectives": everything}
        write_json(self.recipe.folder / TRAININGS, content)
        write_atomically(self.recipe.folder / RECIPE, to_yaml(to_plain(self.recipe)))

    def refuse_changed(self) -> None:
        """Raises ConfigError where the folder has cells that were made with something else."""
        now = _as_read(to_plain(self.recipe))
        changed = [f"objectives.{name}" for name in self.trainings if self._is_other(name, now)]
        if self._before and self._before.get("table") != now["table"]:
            changed.insert(0, "table")
        if self._before and self._before.get("budget", {}).get("kind") != self.recipe.budget.kind:
            changed.append("budget.kind")
        if changed:
            raise ConfigError(
                f"{self.recipe.folder} holds a comparison with another {', '.join(changed)} (words, or a recipe that "
                "was edited): its cells would not be comparable. Name another folder, out=FOLDER, or remove it, of an "
                "objective cells/NAME in it. Seeds, amounts, objectives and evaluations may be added."
            )

    def _is_other(self, name: str, now: Mapping[str, Any]) -> bool:
        """Whether an objective that has cells trains something else now."""
        if not any((self.recipe.folder / "cells" / name).glob("*/seed_*")):
            return False
        entry = now["objectives"][name]
        words_before = self._before.get("objectives", {}).get(name, entry)
        training = self.trainings[name]
        return (
            _trained_by(words_before) != _trained_by(entry)
            or self._of_all_calls.get(name, training) != training
        )

    def _training(self, name: str) -> dict[str, Any]:
        """The training recipe of an objective and those of its stages, whole, and their digest: as they were kept,
        where they are the same still."""
        entry = self.recipe.objectives[name]
        parts = [
            _whole(part) for part in with_stages(planned(entry.recipe, self.recipe.words_of(name)))
        ]
        kept: dict[str, Any] | None = self._of_all_calls.get(name)
        if kept is not None and _read_again(kept["recipes"]) == parts:
            return kept
        text = json.dumps(parts, sort_keys=True)
        return {"digest": hashlib.sha256(text.encode()).hexdigest()[:12], "recipes": parts}

    # Costs

    @functools.cached_property
    def _costs(self) -> dict[str, list[float]]:
        return self._json(COSTS, "costs")

    def cost(self, name: str) -> Cost | None:
        """Returns what an objective costs, as an earlier call has found; None where none has."""
        found = self._costs.get(self._cost_key(name))
        return None if found is None else Cost(*found)

    def keep_cost(self, name: str, cost: Cost) -> None:
        """Keeps what an objective costs."""
        self._costs[self._cost_key(name)] = [cost.fixed, cost.whole]
        content = {MADE_BY: made("compare"), "costs": self._costs}
        write_json(self.recipe.folder / COSTS, content)

    def _cost_key(self, name: str) -> str:
        recipe, entry = self.recipe, self.recipe.objectives[name]
        words = (recipe.budget.kind, entry.recipe, *recipe.words_of(name))
        return " ".join((*words, self.trainings[name]["digest"]))

    def _json(self, name: str, key: str) -> dict[str, Any]:
        path: Path = self.recipe.folder / name
        return dict(parse_json(path.read_bytes())[key]) if path.is_file() else {}


def _whole(part: PretrainRecipe) -> dict[str, Any]:
    content = {key: value for key, value in recipe_to_dict(part).items() if key not in _BESIDE}
    loader = {
        key: value for key, value in content["loader"].items() if key not in _BESIDE_OF_LOADER
    }
    return _as_read(content | {"loader": loader})


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
