"""What the network of a run makes of what a mask hides, for the report."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from video_ssl.explore.pages.pictures import Predict
from video_ssl.objectives import OBJECTIVES
from video_ssl.pretrain.checkpoint_folders import checkpoint_at
from video_ssl.pretrain.errors import CheckpointError
from video_ssl.pretrain.recipe import PretrainRecipe
from video_ssl.pretrain.run_folder import CHECKPOINTS

logger = logging.getLogger(__name__)


def reconstructions(recipe: PretrainRecipe) -> Predict | None:
    """Returns the function that predicts the clips of a sample, with the weights of the newest checkpoint of a run.

    None where the objective predicts no pictures, or no checkpoint is there to be read: the report then shows the clips
    alone.
    """
    entry = OBJECTIVES[recipe.objective_name]
    if entry.framework != "torch":
        return None
    import torch

    from video_ssl.objectives.shared.torch_objective import TorchObjective
    from video_ssl.pretrain.torch_loop.device_feed import to_tensors
    from video_ssl.pretrain.torch_loop.run import trained_objective

    if entry.objective().reconstructed is TorchObjective.reconstructed:
        return None
    try:
        checkpoint = checkpoint_at(recipe.folder / CHECKPOINTS)
        objective, _ = trained_objective(recipe, checkpoint)
    except (CheckpointError, ValueError, OSError) as err:
        logger.info("no predictions in the report: %s", err)
        return None
    objective.eval()

    def predict(sample: Mapping[str, np.ndarray]) -> Sequence[NDArray[np.uint8]] | None:
        batch = to_tensors({name: np.asarray(value)[None] for name, value in sample.items()})
        with torch.inference_mode():
            found = objective.reconstructed(batch)
        if found is None:
            return None
        return list((255 * found).round().to(torch.uint8).numpy())

    return predict
