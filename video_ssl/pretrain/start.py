"""Where a run begins: the objective says which framework trains it.  Free of torch and jax."""

from __future__ import annotations

from importlib import import_module

from video_ssl.objectives import OBJECTIVES
from video_ssl.pretrain.errors import missing_jax
from video_ssl.pretrain.packages import refuse_missing_packages
from video_ssl.pretrain.recipe import PretrainRecipe
from video_ssl.pretrain.run import RunResult

#: framework -> module with `run_FRAMEWORK(recipe, ...)` and `export_checkpoint(recipe, ...)`
LOOPS = {"torch": "video_ssl.pretrain.torch_loop.run", "flax": "video_ssl.pretrain.flax_loop.run"}


def run_recipe(recipe: PretrainRecipe, *, allow_changes: bool = False) -> RunResult:
    """Returns the result of a run, trained to its end: from the start, from its newest checkpoint, or at once if done.

    Under several processes every process calls it.  Encoders that the objective needs and that a recipe is given for
    are trained first, in RUN/stages/NAME, by the same processes.

    Args:
        recipe: see `load_pretrain_recipe`.
        allow_changes: resume a folder although its recipe differs in more than harmless settings.

    Raises:
        RunError: the folder is in use, holds another recipe, or the batch does not fit the processes; or the framework
            or a package that the recipe needs is not installed.
        CheckpointError: a checkpoint cannot be written or is of another architecture.
        NonFiniteLoss: the loss or gradient is NaN or infinite.
        Interrupted: SIGINT or SIGTERM; a `SystemExit` with code 128 + signal.
    """
    refuse_missing_packages(recipe)
    framework = OBJECTIVES[recipe.objective_name].framework
    with missing_jax(f"objective.name={recipe.objective_name}"):
        loop = import_module(LOOPS[framework])
    run = getattr(loop, f"run_{framework}")
    result: RunResult = run(recipe, allow_changes=allow_changes)
    return result
