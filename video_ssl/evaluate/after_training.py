"""A training and the evaluations that its recipe names, one after the other."""

from __future__ import annotations

import logging
import os
from typing import Any

from video_ssl.datasets import open_table
from video_ssl.datasets.opening import lacks_tables
from video_ssl.datasets.table import TableError
from video_ssl.embed.features import FeatureError
from video_ssl.evaluate.needs import check_tables, told_about_classes
from video_ssl.evaluate.recipe import EvaluateRecipe, read_evaluations
from video_ssl.evaluate.run import evaluate, is_features
from video_ssl.pretrain.errors import RunError
from video_ssl.pretrain.recipe import PretrainRecipe
from video_ssl.pretrain.start import run_recipe

logger = logging.getLogger(__name__)


def pretrain_and_evaluate(
    recipe: PretrainRecipe, *, allow_changes: bool = False
) -> list[dict[str, Any]]:
    """Returns the results of the evaluations of `recipe.evaluate` on the encoder of the run, trained to its end first.

    A run that is finished is only evaluated.  The recipes of the evaluations are read, and their tables looked at,
    before the training starts.
    Where the recipe names none, a line after the training says how to evaluate it.

    Args:
        recipe, allow_changes: as `pretrain` takes them.

    Raises:
        RunError: there are several processes, or a table that an evaluation cannot do with; else as
            `read_evaluations`, `pretrain` and `evaluate`.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise RunError(
            "--evaluate is for one process: `video-ssl launch` with --chain trains and evaluates with several."
        )
    evaluations = read_evaluations(recipe.evaluations, recipe.run)
    for evaluation in evaluations:
        _refuse_wrong_tables(evaluation)
    run_recipe(recipe, allow_changes=allow_changes)
    if not evaluations:
        logger.info(
            "%s names no evaluation (evaluate=NAME). To probe it: video-ssl evaluate evaluate/probe.yaml encoder=%s "
            "train=TABLE test=TABLE",
            recipe.name,
            recipe.run,
        )
    return [evaluate(evaluation) for evaluation in evaluations]


def _refuse_wrong_tables(recipe: EvaluateRecipe) -> None:
    """Raises RunError for what `evaluate` would say of its tables when the training is over: none there, no labels.

    Generated videos that are not there are made later, and not looked at.
    """
    if all(map(is_features, recipe.encoders.values())):
        return  # opens no table
    evaluators = recipe.make_evaluators()
    named = {"train": recipe.train, "test": recipe.test}
    if not any(evaluator.needs.train for evaluator in evaluators.values()):
        del named["train"]
    try:
        tables = {
            split: open_table(spec)
            for split, spec in named.items()
            if spec is not None and not lacks_tables(spec)
        }
        check_tables(tables, evaluators)
        if len(tables) == 2:
            told_about_classes(tables["train"], tables["test"])
    except (TableError, FeatureError) as err:
        raise RunError(
            f"the evaluation {recipe.name!r} that goes with this run cannot be done: {err} Or train without --evaluate."
        ) from err
