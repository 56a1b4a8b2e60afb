"""What a flax objective is to the loop and to `bench`.  Free of torch and jax."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

from video_ssl.models.preprocess_config import Preprocess

Array = Any  # jax.Array
Tree = Mapping[str, Any]


class StepOutput(NamedTuple):
    """What an objective makes of a batch.  A pytree, so that jax passes it through grad, scan and jit.

    Attributes:
        loss: 0-d float32.
        figures: 0-d arrays that stand in metrics.jsonl beside the loss; the same names in every step.
        features: float32 (N, D), of which the health of the features is told (spread, rank); None = there are none.
        clips: clips that this batch showed to the encoder, a number that follows from its shapes, for the clips per
            second; None = `clips_per_record` of the settings for each of its records.
    """

    loss: Array
    figures: dict[str, Array]
    features: Array | None = None
    clips: int | None = None


class TrainedEncoder(NamedTuple):
    """An encoder that leaves a training.

    Attributes:
        module: a linen module with its `config`, as in `NETWORKS`.
        variables: picks its own, {"params": .., "batch_stats": ..}, out of those of the objective; see `part_of`.
        preprocess: what it expects of a clip.
    """

    module: Any
    variables: Callable[[Tree], dict[str, Any]]
    preprocess: Preprocess


def part_of(name: str) -> Callable[[Tree], dict[str, Any]]:
    """Returns what picks the variables of a module that is a part of another one under a name.

    >>> part_of("encoder")({"params": {"encoder": 1, "head": 2}, "batch_stats": {"encoder": 3}})
    {'params': 1, 'batch_stats': 3}
    """
    return functools.partial(_part, name)


def _part(name: str, variables: Tree) -> dict[str, Any]:
    return {kind: tree[name] for kind, tree in variables.items() if name in tree}


class FlaxObjective(Protocol):
    """Made by `Objective(config, stages=..., dtype=..., remat=...)`; it holds no arrays.

    Args:
        config: the objective's `Config`.
        stages: the path of everything that `config.stages()` names.
        dtype: of activations.
        remat: recompute the blocks in the backward pass.
    """

    def init(self, seed: int) -> dict[str, Any]:
        """Returns fresh variables on one device: {"params": .., "batch_stats": ..}; only "params" are trained."""

    def forward(self, variables: Tree, batch: Tree, key: Array) -> tuple[StepOutput, Tree]:
        """Returns what a training step makes of a batch, and the collections of variables that it has changed.

        Arrays of the batch are as the docstring of `Config` says; `key` is for whatever is random.  Gradients of
        "params" are taken of the loss; a moving average of them, too, is a collection that this function changes.
        """

    def encoders(self) -> dict[str, TrainedEncoder]:
        """Returns what leaves the training, by name: the first goes to RUN/encoder, the others to RUN/encoders/NAME."""
