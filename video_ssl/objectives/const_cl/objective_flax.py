"""ConST-CL as the loop of flax takes it; see `FlaxObjective`."""

from __future__ import annotations

import functools
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
from jax import Array

from video_ssl.models.color_changes_flax import augmented_input
from video_ssl.models.encoders_flax import init_variables
from video_ssl.models.networks.r3d_flax import R3D
from video_ssl.objectives.const_cl.config import Branch, Config
from video_ssl.objectives.const_cl.loss_flax import local_loss
from video_ssl.objectives.const_cl.model_flax import ConstClModel
from video_ssl.objectives.cvrl.loss_flax import contrastive_loss
from video_ssl.objectives.shared.contrastive_flax import kernel_penalty
from video_ssl.objectives.shared.flax_objective import (
    FlaxObjective,
    StepOutput,
    TrainedEncoder,
    Tree,
    part_of,
)

logger = logging.getLogger(__name__)


class Objective(FlaxObjective):
    """The contrastive loss of two clips, that of their regions, and the penalty on kernels.

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
        self.model = ConstClModel(
            config.trunk,
            config.local,
            config.hidden_dims,
            config.out_dim,
            dtype=dtype,
            remat=remat,
        )

    def init(self, seed: int) -> dict[str, Any]:
        config = self.config
        # The shortest clip whose moments fill the memory: sizes of weights depend neither on it nor on the regions.
        frames = next(
            n
            for n in range(1, config.num_frames + 1)
            if config.encoder.grid(n, 32, 32)[0] >= config.local.context_level
        )
        clips = jnp.zeros((2, frames, 32, 32, 3), jnp.float32)
        return init_variables(
            self.model, seed, (clips, jnp.zeros((2, 1, 4)), jnp.ones((2, 1), bool))
        )

    def forward(
        self, variables: Tree, batch: Mapping[str, Array], key: Array
    ) -> tuple[StepOutput, Tree]:
        config = self.config
        if len(batch["video"]) == 1:
            logger.warning(
                "a batch of one video has no others to be told from: the losses of clips and of regions are 0. Set "
                "training.global_batch_size to 2 or more."
            )
        video = augmented_input(
            batch["video"], batch.get("color"), config.normalization, config.applied_color
        )
        both, boxes, mask = (
            jnp.concatenate([x[:, 0], x[:, 1]]) for x in (video, batch["boxes"], batch["regions"])
        )
        out, changed = self.model.apply(
            variables, both, boxes, mask, train=True, mutable=["batch_stats"], rngs={"dropout": key}
        )
        first, second = jnp.split(out.z, 2)
        clips, figures = contrastive_loss(first, second, temperature=config.temperature)
        own = config.local_loss
        regions, similar = local_loss(
            out.regions,
            temperature=own.temperature,
            pad_as_regions=own.pad_as_regions,
            replicas=own.replicas,
        )
        penalty = kernel_penalty(variables["params"], config.penalty)
        figures = {
            "contrastive": clips,
            "local": regions,
            "penalty": penalty,
            **figures,
            **similar,
            "regions_share": mask.mean(dtype=jnp.float32),
        }
        loss = clips + own.weight * regions + penalty
        return StepOutput(loss, figures, out.features[: len(first)]), changed

    def encoders(self) -> dict[str, TrainedEncoder]:
        """Both branches, the one of `config.branch` first."""
        config = self.config
        preprocess = config.preprocess(config.num_frames, config.frame_stride)
        names: list[Branch] = ["global", "local"]
        names.sort(key=lambda name: name != config.branch)
        return {
            name: TrainedEncoder(self.encoder, functools.partial(branch_of, name), preprocess)
            for name in names
        }


def branch_of(branch: Branch, variables: Tree) -> dict[str, Any]:
    """Returns the variables of one branch, under the names of a network that has no other.

    >>> both = {"params": {"encoder": {"res4_block0": 1, "res5_block0": 2, "res5_1_block0": 3}, "head": 4}}
    >>> branch_of("local", both)
    {'params': {'res4_block0': 1, 'res5_block0': 3}}
    """
    found: dict[str, Any] = {}
    for kind, tree in part_of("encoder")(variables).items():
        found[kind] = {}
        for name, value in tree.items():
            is_local = name.startswith("res5_1_")
            if not name.startswith("res5_") or is_local == (branch == "local"):
                found[kind][name.replace("res5_1_", "res5_")] = value
    return found
