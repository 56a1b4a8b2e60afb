"""What a training costs in each kind of budget, and which share of its length a budget buys."""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from typing import Any

from video_ssl.bench.figures import Timing
from video_ssl.bench.step import framework_bench
from video_ssl.child_signals import deaf_children, end_in_silence
from video_ssl.compare.cells import last_words
from video_ssl.compare.recipe import ComparisonRecipe
from video_ssl.compare.running import run_command
from video_ssl.files import temporary_folder
from video_ssl.objectives import OBJECTIVES
from video_ssl.pretrain.lengths import lengths_of
from video_ssl.pretrain.recipe import (
    PretrainRecipe,
    load_pretrain_recipe,
    recipe_from_dict,
    recipe_to_dict,
    with_stages,
)
from video_ssl.pretrain.run import fit_batch, open_streams, settled_recipe

#: Steps of the two trials from which the processor time of a step and that of the start are told apart.
_TRIALS = (20, 80)
#: Records of the step whose operations are counted; a step of another size has as many for each record.
_COUNTED = 4


@dataclass(frozen=True)
class Cost:
    """What a training costs: `fixed`, whatever its length, and `whole` for its length at `training.scale=1`."""

    fixed: float
    whole: float

    def scale_for(self, amount: float) -> float:
        """Returns the `training.scale` that spends an amount, to four digits, never more than it buys.

        Raises:
            ValueError: the amount is spent before the first step.
        """
        share = (amount - self.fixed) / self.whole
        if not share > 0:
            raise ValueError(
                f"a budget of {amount:g} is spent before the first step, which {self.fixed:g} go to: use more."
            )
        digits = 3 - math.floor(math.log10(share))
        return math.floor(share * 10**digits) / 10**digits


def steps_of(recipe: PretrainRecipe) -> int:
    """Returns the optimizer steps of a training, those of its stages too."""
    return sum(_steps_and_clips(part)[0] for part in with_stages(recipe))


def clips_of(recipe: PretrainRecipe) -> float:
    """Returns the clips that the encoders of a training see, those of its stages too."""
    return float(sum(steps * clips for steps, clips in map(_steps_and_clips, with_stages(recipe))))


def operations_of(recipe: PretrainRecipe) -> float:
    """Returns the operations of all steps of a training, forward and backward, those of its stages too.

    Counted on one step of `_COUNTED` records, in a process of its own: torch and jax are never loaded in one.
    """
    total = 0.0
    for whole in with_stages(recipe, alone=True):
        part, steps = _fitted(whole)
        with ProcessPoolExecutor(
            1, mp_context=get_context("spawn"), initializer=end_in_silence
        ) as alone:
            with deaf_children():
                counted = alone.submit(_operations_of_a_step, recipe_to_dict(part))
            per_record = counted.result() / _COUNTED
        total += steps * per_record * part.training.global_batch_size
    return total


def _operations_of_a_step(content: dict[str, Any]) -> float:
    recipe = settled_recipe(recipe_from_dict(content), check=False)
    framework = OBJECTIVES[recipe.objective_name].framework
    timing = Timing(steps=1, warmup=0)
    rows = framework_bench(framework, recipe).measure_step(
        recipe, _COUNTED, timing, compile_too=False
    )
    return float(rows[0].flops)


def _steps_and_clips(recipe: PretrainRecipe) -> tuple[int, int]:
    """Steps of a recipe on its data, and clips of a step."""
    fitted, steps = _fitted(recipe)
    further = sum(own.records for own in fitted.data.streams.values())
    return steps, (fitted.training.global_batch_size + further) * fitted.objective.clips_per_record


def _fitted(recipe: PretrainRecipe) -> tuple[PretrainRecipe, int]:
    """A recipe with the batch that its data fill, and its steps on them."""
    fitted, streams = fit_batch(recipe, open_streams(recipe))
    return fitted, lengths_of(fitted, streams).num_steps


def planned(recipe: str, words: Sequence[str], *, scale: float = 1.0) -> PretrainRecipe:
    """Returns a recipe of the room `pretrain` with overrides, at a share of its length."""
    return load_pretrain_recipe(recipe, [*words, f"training.scale={scale}"])


def cost_of(recipe: ComparisonRecipe, name: str) -> Cost:
    """Returns what an objective costs in the budget of a comparison; where that is time, by two trials.

    Raises:
        ValueError: a trial that fails, or trials that tell nothing.
    """
    entry, words = recipe.objectives[name], recipe.words_of(name)
    whole = planned(entry.recipe, words)
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
            own = (*words, f"training.scale={scale}", f"run={folder / str(number)}")
            log = recipe.folder / "trials" / f"{name}_{number}.txt"
            code, took = run_command(("pretrain", entry.recipe, *own), log)
            if code:
                raise ValueError(f"a trial ended with code {code}: {last_words(log)}")
            steps = steps_of(planned(entry.recipe, words, scale=scale))
            trials.append((steps, took.processor_sec))
    (few, short), (many, long) = trials
    if many == few or long <= short:
        raise ValueError(
            f"trials of {few} and {many} steps took {short:.1f} s and {long:.1f} s: nothing to reckon with"
        )
    step_sec = (long - short) / (many - few)
    return Cost(max(0.0, short - few * step_sec), total * step_sec)
