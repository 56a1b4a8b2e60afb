"""`video-ssl bench step`: what a step of a recipe costs, beside what the chip could do.  Free of torch and jax.

The batch is random pixels in the recipe's own shapes, so that nothing but the step is measured.  Beside seconds and
memory stands a yardstick taken in the same run: the rate of a large matrix product in the same precision.  How a step
is made is in `step_torch.py` and `step_flax.py`; each measures in a process of its own where both are compared.
"""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, replace
from importlib import import_module
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from video_ssl.bench.config import StepBench
from video_ssl.bench.figures import StepFigures, Timing, print_figures
from video_ssl.bench.neighbours import busy_processes
from video_ssl.child_signals import deaf_children, end_in_silence
from video_ssl.files import MADE_BY, claim_file, made, write_json
from video_ssl.models import architecture_of, with_flax
from video_ssl.objectives import OBJECTIVES
from video_ssl.objectives.shared.objective_config import ObjectiveConfig
from video_ssl.pretrain.errors import missing_jax
from video_ssl.pretrain.recipe import PretrainRecipe, recipe_from_dict, recipe_to_dict
from video_ssl.pretrain.run import settled_recipe
from video_ssl.recipes import ConfigError

#: framework -> module with `measure_step(recipe, ...)` and `measure_encoder(recipe, ...)`
BENCHES = {"flax": "video_ssl.bench.step_flax", "torch": "video_ssl.bench.step_torch"}


def bench_step(
    recipe: PretrainRecipe,
    *,
    batch_size: int = StepBench.batch_size,
    steps: int = StepBench.steps,
    warmup: int = StepBench.warmup,
    compile_too: bool = StepBench.compile_too,
    busy: int = StepBench.busy,
    json_path: Path | None = None,
) -> list[StepFigures]:
    """Times training steps of a recipe and prints a table; returns its rows.

    Args:
        recipe: any recipe; its precision and device are used.
        batch_size: records per step (the recipe's own batch is for many devices).
        steps: timed steps; the median is reported.
        warmup: steps before them.
        compile_too: time the step under torch.compile as well; flax compiles every step.
        busy: all of it once more beside so many busy processes, for what a shared machine makes of it.
        json_path: where the figures go as JSON, too.

    Raises:
        RunError: the batch does not fit the devices; or the framework is not installed.
        OutputError: `json_path` is another's file or cannot be written.
    """
    place = None if json_path is None else claim_file(json_path, "bench step")
    recipe = settled_recipe(recipe, check=False)
    framework = OBJECTIVES[recipe.objective_name].framework
    measure = framework_bench(framework, recipe).measure_step
    timing = Timing(steps=steps, warmup=warmup)
    rows: list[StepFigures] = measure(recipe, batch_size, timing, compile_too=compile_too)
    if busy:
        with busy_processes(busy):
            beside = measure(recipe, batch_size, timing, compile_too=compile_too)
        rows += [replace(row, variant=f"{row.variant} +{busy} busy") for row in beside]
    _tell(f"{recipe.name}: one step", recipe, rows, place)
    return rows


def bench_twins(
    recipe: PretrainRecipe,
    *,
    batch_size: int = StepBench.batch_size,
    steps: int = StepBench.steps,
    warmup: int = StepBench.warmup,
    json_path: Path | None = None,
) -> list[StepFigures]:
    """Times the encoder of a recipe alone, forward and backward, in flax and in torch; prints and returns two rows.

    Both get the same clips and the same kind of loss and measure the yardstick themselves, one after the other, each in
    a process of its own.

    Raises:
        ConfigError: the encoder has no twin.
        RunError: jax is not installed.
        OutputError: `json_path` is another's file or cannot be written.
    """
    place = None if json_path is None else claim_file(json_path, "bench step")
    recipe = settled_recipe(recipe, check=False)
    objective: ObjectiveConfig = recipe.objective
    architecture = None if objective.encoder is None else architecture_of(objective.encoder)
    if architecture not in with_flax():
        raise ConfigError(
            f"objective.encoder.architecture={architecture} has no twin: both frameworks have "
            f"{with_flax()}. Leave out --twins."
        )
    timing, content = Timing(steps=steps, warmup=warmup), recipe_to_dict(recipe)
    rows = []
    for framework in BENCHES:
        with ProcessPoolExecutor(
            1, mp_context=get_context("spawn"), initializer=end_in_silence
        ) as alone:
            with deaf_children():
                measured = alone.submit(_measure_encoder, framework, content, batch_size, timing)
            rows.append(measured.result())
    _tell(f"encoder of {recipe.name}, forward and backward", recipe, rows, place)
    return rows


def _measure_encoder(
    framework: str, content: dict[str, Any], batch_size: int, timing: Timing
) -> StepFigures:
    recipe = recipe_from_dict(content)
    row: StepFigures = framework_bench(framework, recipe).measure_encoder(
        recipe, batch_size, timing
    )
    return row


def framework_bench(framework: str, recipe: PretrainRecipe) -> Any:
    """Returns the module that measures steps in a framework; see `BENCHES`.

    Raises:
        RunError: the framework is not installed.
    """
    with missing_jax(f"objective.name={recipe.objective_name}"):
        return import_module(BENCHES[framework])


def _tell(what: str, recipe: PretrainRecipe, rows: list[StepFigures], place: Path | None) -> None:
    chips = " and ".join(dict.fromkeys(row.chip for row in rows))
    print_figures(f"{what}, {recipe.training.precision}, {chips}", rows)
    if place is not None:
        steps = [
            {**asdict(row), "clips_per_sec": row.clips_per_sec, "chip_share": row.chip_share}
            for row in rows
        ]
        place.parent.mkdir(parents=True, exist_ok=True)
        write_json(place, {MADE_BY: made("bench step"), "recipe": recipe.name, "steps": steps})
