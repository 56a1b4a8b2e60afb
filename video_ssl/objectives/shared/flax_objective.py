"""What a flax objective is to the loop, and what those of two clips share.  Free of torch and jax."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from video_ssl.models.preprocess_config import Preprocess

Tree = Mapping[str, Any]


class FlaxObjective(Protocol):
    """Made by `Objective(config, encoders=..., dtype=..., remat=...)`; it holds no arrays.

    Attributes:
        config: of the objective.
        encoder: the linen module that leaves the training, as in `NETWORKS`.
        encoder_name: under which its variables stand in those of the objective.
    """

    config: Any
    encoder: Any
    encoder_name: str

    def init(self, seed: int) -> dict[str, Any]:
        """Returns fresh variables on one device: {"params": .., "batch_stats": ..}."""

    def loss(
        self, variables: Tree, batch: Tree, key: Any
    ) -> tuple[Any, tuple[dict[str, Any], dict[str, Any]]]:
        """Returns the loss of a training step, float32, and (changed variables other than params, figures).

        Figures are scalars, and `features` float32 (N, D).  `key` is for whatever is random.
        """

    def preprocess(self) -> Preprocess:
        """Returns what the exported encoder expects of a clip."""
