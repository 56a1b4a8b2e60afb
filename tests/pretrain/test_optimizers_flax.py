"""Optimizers of flax recipes: what they follow and what they decay."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from video_ssl.pretrain.flax_loop.optimizers import build_optimizer
from video_ssl.pretrain.recipe import OptimizerConfig
from video_ssl.recipes import ConfigError


@pytest.mark.parametrize("name", ["adamw", "adam", "sgd", "lars"])
def test_optimizers_follow_the_schedule_and_decay_kernels_only(name: str) -> None:
    config = OptimizerConfig(name=name, weight_decay=0.5, momentum=0.0)  # type: ignore[arg-type]
    params = {"kernel": np.full((2, 3), 2.0, np.float32), "bias": np.full(3, 2.0, np.float32)}
    optimizer = build_optimizer(config, np.array([0.0, 0.1]))
    state = optimizer.init(params)
    gradient = jax.tree.map(np.zeros_like, params)
    steps = []
    for _ in range(2):
        updates, state = optimizer.update(gradient, state, params)
        steps.append(updates)
    assert not any(np.any(value) for value in jax.tree.leaves(steps[0]))  # its rate is 0
    assert np.all(steps[1]["kernel"] < 0)
    assert not np.any(steps[1]["bias"])
    if name in ("sgd", "adamw"):
        np.testing.assert_allclose(steps[1]["kernel"], -0.1 * 0.5 * 2, rtol=1e-5)
    with pytest.raises(ConfigError, match="layer_decay"):
        build_optimizer(OptimizerConfig(layer_decay=0.5), np.ones(1))
