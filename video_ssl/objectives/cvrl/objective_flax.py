"""CVRL as the loop of flax takes it; see `FlaxObjective`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
from jax import Array

from video_ssl.models.color_changes_flax import augmented_input
from video_ssl.models.encoders_flax import init_variables
from video_ssl.models.networks.r3d_flax import R3D
from video_ssl.objectives.cvrl.config import Config
from video_ssl.objectives.cvrl.loss_flax import contrastive_loss
from video_ssl.objectives.cvrl.model_flax import CvrlModel
from video_ssl.objectives.shared.contrastive_flax import kernel_penalty
from video_ssl.objectives.shared.flax_objective import (
    FlaxObjective,
    StepOutput,
    TrainedEncoder,
    part_of,
)


class Objective(FlaxObjective):
    """The contrastive loss of two clips and the penalty on kernels.

    Args:
        config: see there.
        stages: none is needed.
        dtype: of activations.
        remat: recompute the bottlenecks in the backward pass.
    """

    def __init__(
        self,
        config: Config,
        *,
        stages: Mapping[str, Path] | None = None,
        dtype: Any = jnp.float32,
        remat: bool = False,
    ) -> None:
        self.config = config
        self.encoder = R3D(config.encoder)
        self.model = CvrlModel(
            config.encoder, config.hidden_dims, config.out_dim, dtype=dtype, remat=remat
        )

    def init(self, seed: int) -> dict[str, Any]:
        return init_variables(self.model, seed, self.encoder.smallest_input())

    def forward(
        self, variables: Mapping[str, Any], batch: Mapping[str, Array], key: Array
    ) -> tuple[StepOutput, Mapping[str, Any]]:
        config = self.config
        video = augmented_input(
            batch["video"], batch.get("color"), config.normalization, config.applied_color
        )
        both = jnp.concatenate([video[:, 0], video[:, 1]])
        (z, features), changed = self.model.apply(
            variables, both, train=True, mutable=["batch_stats"], rngs={"dropout": key}
        )
        first, second = jnp.split(z, 2)
        loss, figures = contrastive_loss(first, second, temperature=config.temperature)
        penalty = kernel_penalty(variables["params"], config.penalty)
        figures = {"contrastive": loss, "penalty": penalty, **figures}
        return StepOutput(loss + penalty, figures, features[: len(first)]), changed

    def encoders(self) -> dict[str, TrainedEncoder]:
        config = self.config
        preprocess = config.preprocess(config.num_frames, config.frame_stride)
        return {"encoder": TrainedEncoder(self.encoder, part_of("encoder"), preprocess)}
