"""The network of a run with the weights of its newest checkpoint, for what the report shows of it."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from video_ssl.objectives import OBJECTIVES
from video_ssl.pretrain.checkpoint_folders import checkpoint_at
from video_ssl.pretrain.errors import CheckpointError
from video_ssl.pretrain.recipe import PretrainRecipe
from video_ssl.pretrain.run_folder import CHECKPOINTS

if TYPE_CHECKING:
    from video_ssl.objectives.shared.torch_objective import TorchObjective

logger = logging.getLogger(__name__)


def trained_network(recipe: PretrainRecipe, ability: str) -> TorchObjective | None:
    """Returns the objective in evaluation mode; None where it lacks an ability, or no checkpoint can be read.

    Args:
        recipe: of the run.
        ability: a method of `TorchObjective` that objectives may have: without one of its own, nothing is loaded.
    """
    entry = OBJECTIVES[recipe.objective_name]
    if entry.framework != "torch":
        return None
    from video_ssl.objectives.shared.torch_objective import TorchObjective
    from video_ssl.pretrain.torch_loop.run import trained_objective

    if getattr(entry.objective(), ability) is getattr(TorchObjective, ability):
        return None
    try:
        objective, _ = trained_objective(recipe, checkpoint_at(recipe.folder / CHECKPOINTS))
    except (CheckpointError, ValueError, OSError) as err:
        logger.info("the report shows nothing that the network of %s makes: %s", recipe.run, err)
        return None
    objective.eval()
    return objective
