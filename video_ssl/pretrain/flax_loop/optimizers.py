"""Optimizers of optax by the settings that torch's follow too."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from video_ssl.pretrain.flax_loop.schedules import schedule_of
from video_ssl.pretrain.optimizers import OPTIMIZERS, OptimizerConfig, groups_of
from video_ssl.recipes import ConfigError

Schedule = Callable[[Any], Any]


def build_optimizer(
    config: OptimizerConfig, lrs: np.ndarray, *, grad_clip: float | None = None
) -> optax.GradientTransformation:
    """Returns the transformation of gradients into steps, learning rate included.

    Kernels are decayed; biases and the scales of norms only with `decay_all`, and whatever `groups` say.  "adam" and
    "sgd" add the decay to the gradient, as torch's do.

    Args:
        config: see `OptimizerConfig`.
        lrs: learning rate of every step, (num_steps,).
        grad_clip: largest norm of the whole gradient; None = no clipping.

    Raises:
        ConfigError: a setting that only torch objectives have; when it meets the parameters, a group without one.
    """
    if config.layer_decay is not None:
        raise ConfigError(
            f"optimizer.layer_decay={config.layer_decay} is for the objectives of torch. Set it to null."
        )
    place, _, name = OPTIMIZERS[config.name].flax.partition(":")
    make = getattr(import_module(place), name)
    parts = [make(schedule_of(lrs), Decay(config), **config.own_settings())]
    if any(group.lr_factor != 1 for group in config.groups):
        parts.append(_scale_by_name(config))
    if grad_clip is not None:
        parts.insert(0, optax.clip_by_global_norm(grad_clip))
    return parts[0] if len(parts) == 1 else optax.chain(*parts)


# What holds for a parameter -----------------------------------------------------------------------


class Rule(NamedTuple):
    """What holds for a parameter: its weight decay, whether decay is meant for it, the factor of its learning rate."""

    weight_decay: float
    decayed: bool
    lr_factor: float


def rules_of(config: OptimizerConfig, params: Any) -> Any:
    """Returns a `Rule` in place of every array; a parameter is called by its path, `encoder.stem.kernel`.

    Raises:
        ConfigError: a group without a parameter.
    """
    leaves, tree = jax.tree_util.tree_flatten_with_path(params)
    names = [jax.tree_util.keystr(path, simple=True, separator=".") for path, _ in leaves]
    chosen = groups_of(names, config.groups)
    rules = []
    for name, (_, value) in zip(names, leaves, strict=True):
        group = chosen[name]
        decay, decayed = config.weight_decay, config.decay_all or value.ndim > 1
        if group is not None and group.weight_decay is not None:
            decay, decayed = group.weight_decay, group.weight_decay > 0
        rules.append(Rule(decay if decayed else 0.0, decayed, group.lr_factor if group else 1.0))
    return jax.tree.unflatten(tree, rules)


class Decay:
    """The weight decay of a recipe: as a transformation that adds it, or parameter by parameter."""

    def __init__(self, config: OptimizerConfig) -> None:
        self._config = config
        own = [g.weight_decay for g in config.groups if g.weight_decay]
        self._values = list(dict.fromkeys([config.weight_decay, *own]))

    def __bool__(self) -> bool:
        return any(self._values)

    def rules(self, params: Any) -> Any:
        """Returns `rules_of`."""
        return rules_of(self._config, params)

    def added(self) -> optax.GradientTransformation:
        """Returns a transformation that adds decay * parameter to its input."""
        if self._config.decay_all and not self._config.groups:
            return optax.add_decayed_weights(self._config.weight_decay)
        parts = [optax.add_decayed_weights(v, self._mask(v)) for v in self._values]
        return parts[0] if len(parts) == 1 else optax.chain(*parts)

    def _mask(self, value: float) -> Callable[[Any], Any]:
        """Which parameters are decayed by `value`."""
        return lambda params: jax.tree.map(
            lambda rule: rule.decayed and rule.weight_decay == value,
            self.rules(params),
            is_leaf=_is_rule,
        )


def _is_rule(node: Any) -> bool:
    return isinstance(node, Rule)


def _scale_by_name(config: OptimizerConfig) -> optax.GradientTransformation:
    """Multiplies steps by the factors of their groups."""

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        rules = rules_of(config, params)
        scaled = jax.tree.map(
            lambda rule, step: step * rule.lr_factor, rules, updates, is_leaf=_is_rule
        )
        return scaled, state

    def init(params: Any) -> optax.EmptyState:
        rules_of(config, params)  # refuses patterns that match nothing before the first step
        return optax.EmptyState()

    return optax.GradientTransformation(init, update)


# The makers of the table of optimizers: schedule, decay, their own settings -------------------------------------------


def adamw(
    schedule: Schedule, decay: Decay, *, betas: tuple[float, float], eps: float
) -> optax.GradientTransformation:
    """Returns Adam whose decay is taken from the weights, times the learning rate."""
    return optax.chain(
        optax.scale_by_adam(*betas, eps=eps), decay.added(), optax.scale_by_learning_rate(schedule)
    )


def adam(
    schedule: Schedule, decay: Decay, *, betas: tuple[float, float], eps: float
) -> optax.GradientTransformation:
    """Returns Adam whose decay is added to the gradient."""
    step = optax.adam(schedule, *betas, eps=eps)
    return optax.chain(decay.added(), step) if decay else step


def sgd(schedule: Schedule, decay: Decay, *, momentum: float) -> optax.GradientTransformation:
    """Returns SGD whose decay is added to the gradient."""
    step = optax.sgd(schedule, momentum=momentum)
    return optax.chain(decay.added(), step) if decay else step


def lars(
    schedule: Schedule,
    decay: Decay,
    *,
    momentum: float,
    nesterov: bool,
    trust_coefficient: float,
    adapt_all: bool,
) -> optax.GradientTransformation:
    """Returns LARS; formula and source stand at `torch_loop.lars.Lars`, which makes the same steps."""

    def adapted(rule: Rule, gradient: jax.Array, weight: jax.Array) -> jax.Array:
        step = gradient + rule.weight_decay * weight
        if not (rule.decayed or adapt_all):
            return step
        length, slope = jnp.linalg.norm(weight.ravel()), jnp.linalg.norm(gradient.ravel())
        below = slope + rule.weight_decay * length
        share = trust_coefficient * length / jnp.where(below == 0, 1.0, below)
        return step * jnp.where(below == 0, 1.0, share)

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        rules = decay.rules(params)
        return jax.tree.map(adapted, rules, updates, params, is_leaf=_is_rule), state

    def init(params: Any) -> optax.EmptyState:
        decay.rules(params)
        return optax.EmptyState()

    return optax.chain(
        optax.GradientTransformation(init, update),
        optax.scale_by_learning_rate(schedule),
        optax.trace(decay=momentum, nesterov=nesterov),
    )
