"""TeG as the loop of flax takes it; see `FlaxObjective`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
from jax import Array

from video_ssl.models.color_changes_flax import augmented_input
from video_ssl.models.encoders_flax import init_variables
from video_ssl.models.networks.r3d_flax import R3D
from video_ssl.objectives.shared.contrastive_flax import kernel_penalty
from video_ssl.objectives.shared.flax_objective import (
    FlaxObjective,
    StepOutput,
    TrainedEncoder,
    part_of,
)
from video_ssl.objectives.teg.config import Config
from video_ssl.objectives.teg.loss_flax import teg_loss
from video_ssl.objectives.teg.model_flax import TegModel


class Objective(FlaxObjective):
    """TeG's loss of a short clip and the long one around it, and the penalty on kernels.

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
        self.model = TegModel(config.encoder, config.heads, dtype=dtype, remat=remat)

    def init(self, seed: int) -> dict[str, Any]:
        return init_variables(self.model, seed, self.encoder.smallest_input())

    def forward(
        self, variables: Mapping[str, Any], batch: Mapping[str, Array], key: Array
    ) -> tuple[StepOutput, Mapping[str, Any]]:
        config = self.config
        short, long = self._views(batch)
        (small, large), changed = self.model.apply(
            variables,
            short,
            long,
            train=True,
            method="both",
            mutable=["batch_stats"],
            rngs={"dropout": key},
        )
        loss, figures = teg_loss(small.z, large.z, batch["position"], small.g, large.g, config.loss)
        penalty = kernel_penalty(variables["params"], config.penalty)
        figures = {**figures, "penalty": penalty}
        return StepOutput(loss + penalty, figures, large.features.mean(1)), changed

    def _views(self, batch: Mapping[str, Array]) -> list[Array]:
        """The clips, short and long, with their colors changed and normalised."""
        config, colors = self.config, batch.get("color")
        views = []
        for i, name in enumerate(("short", "long")):
            own = None if colors is None else colors[:, i : i + 1]
            video = batch[name][:, None]
            views.append(augmented_input(video, own, config.normalization, config.applied_color))
        return [view[:, 0] for view in views]

    def encoders(self) -> dict[str, TrainedEncoder]:
        """The encoder expects the long clip."""
        config = self.config
        preprocess = config.preprocess(config.long_frames, config.long_stride)
        return {"encoder": TrainedEncoder(self.encoder, part_of("encoder"), preprocess)}
