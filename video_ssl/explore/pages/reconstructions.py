"""What the network of a run makes of what a mask hides, for the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from video_ssl.explore.pages.pictures import Predict
from video_ssl.explore.pages.trained_network import trained_network
from video_ssl.pretrain.recipe import PretrainRecipe


def reconstructions(recipe: PretrainRecipe) -> Predict | None:
    """Returns the function that predicts the clips of a sample; None where the objective predicts no pictures, or no
    checkpoint is there to be read: the report then shows the clips alone."""
    objective = trained_network(recipe, "reconstructed")
    if objective is None:
        return None
    import torch

    from video_ssl.pretrain.torch_loop.device_feed import to_tensors

    def predict(sample: Mapping[str, np.ndarray]) -> Sequence[NDArray[np.uint8]] | None:
        batch = to_tensors({name: np.asarray(value)[None] for name, value in sample.items()})
        with torch.inference_mode():
            found = objective.reconstructed(batch)
        if found is None:
            return None
        return list((255 * found).round().to(torch.uint8).numpy())

    return predict
