"""The recipe of a comparison: which objectives, on which videos, with which budget, judged by which evaluations."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from video_ssl.datasets.paths import at_home
from video_ssl.recipes import ConfigError, build_config, list_recipes, read_recipe

#: Where recipes of comparisons lie.
ROOM = "launch/comparisons"

_NAME = re.compile(r"[A-Za-z0-9][\w.+-]*")


@dataclass(frozen=True, kw_only=True)
class BudgetConfig:
    """What every objective may spend.

    Attributes:
        kind: "clips", that encoders see in training; "seconds", of all processors in training, its start and its
            loader included; "operations", multiplications and additions of the steps, counted as two; "lengths", of the
            recipes themselves (1 = each as it is): then nothing is equal but the judges.
        amounts: one or several; objectives are compared at the largest, the others give the curve.
    """

    kind: Literal["clips", "seconds", "operations", "lengths"] = "seconds"
    amounts: tuple[float, ...]

    def __post_init__(self) -> None:
        wrong = [amount for amount in self.amounts if not amount > 0]
        if wrong or not self.amounts:
            raise ValueError(f"amounts={list(self.amounts)} must be numbers above 0, at least one.")
        if len(set(self.amounts)) < len(self.amounts):
            raise ValueError(f"amounts={list(self.amounts)} name one amount twice.")


@dataclass(frozen=True, kw_only=True)
class EntryConfig:
    """An objective in a comparison.

    Attributes:
        recipe: of the room `pretrain`, or a file; its stages count as its own cost.
        words: overrides of that recipe.
        table: training videos, where it cannot use those of the comparison; the page says so.
        evaluations: those that fit it; null = all of the comparison.
    """

    recipe: str
    words: tuple[str, ...] = ()
    table: str | None = None
    evaluations: tuple[str, ...] | None = None


@dataclass(frozen=True, kw_only=True)
class ComparisonRecipe:
    """One comparison of objectives.

    Attributes:
        name: of the comparison; names its folder.
        out: folder of its runs and of the page; null = runs/compare-NAME.
        seeds: of the trainings, each with an untrained twin of the same seed.
        table: training videos of all objectives.
        budget: what each may spend.
        objectives: name on the page -> its recipe.
        evaluations: recipes of the room `evaluate`, the same for all; their encoders `untrained`, `pixels` and the
            like stand beside every objective.  What does not depend on the training is measured with the first seed.
    """

    name: str = "comparison"
    out: str | None = None
    seeds: tuple[int, ...] = (0, 1, 2)
    table: str = "demo:train"
    budget: BudgetConfig
    objectives: dict[str, EntryConfig]
    evaluations: tuple[str, ...] = field(default=("demo", "demo_frames"))

    def __post_init__(self) -> None:
        if not self.objectives or not self.evaluations or not self.seeds:
            raise ValueError("objectives, evaluations and seeds must each name at least one.")
        if len(set(self.seeds)) < len(self.seeds) or min(self.seeds) < 0:
            raise ValueError(f"seeds={list(self.seeds)} must be different numbers, none negative.")
        for name, entry in self.objectives.items():
            if not _NAME.fullmatch(name):
                raise ValueError(
                    f"objectives.{name}: the name becomes a folder, so it may have letters, digits and . _ + - only."
                )
            unknown = [each for each in entry.evaluations or () if each not in self.evaluations]
            if unknown:
                raise ValueError(
                    f"objectives.{name}.evaluations={unknown} are none of the comparison's: {list(self.evaluations)}."
                )
        keys = [evaluation_key(each) for each in self.evaluations]
        if len(set(keys)) < len(keys):
            raise ValueError(
                f"evaluations={list(self.evaluations)}: two have the same name {keys}; rename a file."
            )
        alike = {name.lower() for name in self.objectives}
        if len(alike) < len(self.objectives):
            raise ValueError(
                f"objectives {list(self.objectives)} differ by upper and lower case only: their folders would be one."
            )

    @property
    def folder(self) -> Path:
        return Path(at_home(self.out or f"runs/compare-{self.name.replace('/', '-')}"))

    def words_of(self, name: str) -> list[str]:
        """Returns the overrides with which the recipe of an objective is trained, whatever seed and budget."""
        entry = self.objectives[name]
        return [*entry.words, f"data.table={entry.table or self.table}"]

    def evaluations_of(self, name: str) -> tuple[str, ...]:
        """Returns the evaluations of an objective, in the order of the comparison."""
        own = self.objectives[name].evaluations
        return tuple(each for each in self.evaluations if own is None or each in own)


def evaluation_key(name: str) -> str:
    """Returns what an evaluation is called in folders and on the page: its name, or the stem of its file.

    >>> evaluation_key("demo_frames"), evaluation_key("mine/evaluations/of hands.yaml")
    ('demo_frames', 'of hands')
    """
    return Path(name).stem if name.endswith((".yaml", ".yml")) else name.replace("/", "-")


def is_comparison(words: Sequence[str], *, asked: bool = False) -> bool:
    """Returns whether the words of `compare` name the recipe of a comparison, by name or as a YAML file, and then only
    keys of it; several encoders, one of them in a folder of that name, are no such thing.

    Args:
        words: what follows `compare`.
        asked: with an option that only a comparison of objectives has; then one name is that of a recipe.
    """
    first, *others = words
    if any("=" not in word for word in others):
        return False
    if asked and not Path(first).is_dir():
        return True
    plain = first.removeprefix(f"{ROOM}/").removesuffix(".yaml")
    return plain in list_recipes(ROOM) or (
        Path(first).suffix in (".yaml", ".yml") and Path(first).is_file()
    )


def load_comparison(name: str, overrides: Sequence[str] = ()) -> ComparisonRecipe:
    """Returns the recipe of a file, or of a name, with overrides.

    Raises:
        ConfigError: unknown key or value; the nearest is named.
    """
    content = read_recipe(name, overrides, room=ROOM, as_typed=True)
    if not isinstance(content.get("objectives"), dict):
        raise ConfigError(
            f"{name} names no objectives: objectives: {{NAME: {{recipe: mvd/demo}}}}."
        )
    return build_config(ComparisonRecipe, content)
