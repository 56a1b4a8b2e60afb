"""A training and the evaluations that its recipe names, one after the other."""

from __future__ import annotations

import logging
import os
from typing import Any

from video_ssl.evaluate.recipe import read_evaluations
from video_ssl.evaluate.run import evaluate
from video_ssl.pretrain.errors import RunError
from video_ssl.pretrain.recipe import PretrainRecipe
from video_ssl.pretrain.start import run_recipe

logger = logging.getLogger(__name__)


def pretrain_and_evaluate(
    recipe: PretrainRecipe, *, allow_changes: bool = False
) -> list[dict[str, Any]]:
    """Returns the results of the evaluations of `recipe.evaluate` on the encoder of the run, trained to its end first.

    A run that is finished is only evaluated.  The recipes of the evaluations are read before the training starts.
    Where the recipe names none, a line after the training says how to evaluate it.

    Args:
        recipe, allow_changes: as `pretrain` takes them.

    Raises:
        RunError: there are several processes; else as `read_evaluations`, `pretrain` and `evaluate`.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise RunError(
            "--evaluate is for one process: `video-ssl launch` with --chain trains and evaluates with several."
        )
    evaluations = read_evaluations(recipe.evaluations, recipe.run)
    run_recipe(recipe, allow_changes=allow_changes)
    if not evaluations:
        logger.info(
            "%s names no evaluation (evaluate=NAME). To probe it: video-ssl evaluate evaluate/probe.yaml encoder=%s "
            "train=TABLE test=TABLE",
            recipe.name,
            recipe.run,
        )
    return [evaluate(evaluation) for evaluation in evaluations]
