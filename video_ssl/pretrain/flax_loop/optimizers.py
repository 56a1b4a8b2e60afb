"""Optimizers of optax by the settings that torch's follow too."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
import optax

from video_ssl.pretrain.flax_loop.schedules import schedule_of
from video_ssl.pretrain.recipe import OptimizerConfig
from video_ssl.recipes import ConfigError


def build_optimizer(
    config: OptimizerConfig, lrs: np.ndarray, *, grad_clip: float | None = None
) -> optax.GradientTransformation:
    """Returns the transformation of gradients into steps, learning rate included.

    Kernels are decayed; biases and the scales of norms only with `decay_all`.  "sgd" adds the decay to the gradient, as
    torch's does; "lars" adapts the step of the decayed arrays to their length and leaves the others to plain momentum.

    Args:
        config: see `OptimizerConfig`.
        lrs: learning rate of every step, (num_steps,).
        grad_clip: largest norm of the whole gradient; None = no clipping.

    Raises:
        ConfigError: a setting that only torch objectives have.
    """
    if config.layer_decay is not None:
        raise ConfigError(
            f"optimizer.layer_decay={config.layer_decay} is for the objectives of torch. Set it to null."
        )
    schedule = schedule_of(lrs)
    mask = None if config.decay_all else decay_mask
    if config.name == "adamw":
        made = optax.adamw(
            schedule,
            *config.betas,
            eps=config.eps,
            weight_decay=config.weight_decay,
            mask=mask,
        )
    elif config.name == "lars":
        adapted = True if config.decay_all else decay_mask
        made = optax.lars(
            schedule,
            weight_decay=config.weight_decay,
            weight_decay_mask=adapted,
            trust_ratio_mask=adapted,
            momentum=config.momentum,
        )
    else:
        decay = optax.add_decayed_weights(config.weight_decay, mask)
        step = (
            optax.adam(schedule, *config.betas, eps=config.eps)
            if config.name == "adam"
            else optax.sgd(schedule, momentum=config.momentum)
        )
        made = optax.chain(decay, step) if config.weight_decay else step
    if grad_clip is not None:
        made = optax.chain(optax.clip_by_global_norm(grad_clip), made)
    return made


def decay_mask(params: Any) -> Any:
    """Returns which arrays weight decay acts on: those of two axes or more."""
    return jax.tree.map(lambda value: value.ndim > 1, params)
