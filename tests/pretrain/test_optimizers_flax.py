"""Optimizers of flax recipes: what they follow, what they decay, and that torch's make the same steps."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
import optax
import pytest
import torch
from torch import nn

from video_ssl.pretrain.flax_loop.optimizers import build_optimizer
from video_ssl.pretrain.optimizers import OPTIMIZERS, OptimizerConfig, ParameterGroup
from video_ssl.pretrain.torch_loop.optimizers import build_optimizer as build_torch_optimizer
from video_ssl.pretrain.torch_loop.optimizers import set_lr
from video_ssl.recipes import ConfigError


@pytest.mark.parametrize("name", ["adamw", "adam", "sgd", "lars"])
def test_optimizers_follow_the_schedule_and_decay_kernels_only(name: str) -> None:
    own = {"momentum": 0.0} if "momentum" in OPTIMIZERS[name].settings else {}
    config = OptimizerConfig(name=name, weight_decay=0.5, **own)
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


GROUPS = (
    ParameterGroup(match="head.*", lr_factor=10.0, weight_decay=0.0),
    ParameterGroup(match="encoder.b?as", weight_decay=0.3),
)


@pytest.mark.parametrize("groups", [(), GROUPS], ids=["alike", "by name"])
@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("adamw", {"betas": (0.8, 0.99)}),
        ("adam", {}),
        ("sgd", {"momentum": 0.8}),
        ("lars", {"nesterov": True, "trust_coefficient": 0.1}),
        ("lars", {"adapt_all": True, "momentum": 0.5}),
    ],
)
def test_torch_and_flax_make_the_same_steps(
    name: str, settings: dict[str, Any], groups: tuple[ParameterGroup, ...]
) -> None:
    rng = np.random.default_rng(3)
    shapes = {"encoder": {"weight": (4, 3), "bias": (4,)}, "head": {"weight": (2, 4), "bias": (2,)}}
    params = jax.tree.map(
        lambda shape: rng.normal(size=shape).astype(np.float32),
        shapes,
        is_leaf=lambda node: isinstance(node, tuple),
    )
    module = nn.ModuleDict({"encoder": nn.Linear(3, 4), "head": nn.Linear(4, 2)})
    module.load_state_dict(
        {
            f"{a}.{b}": torch.from_numpy(v.copy())
            for a, part in params.items()
            for b, v in part.items()
        }
    )
    config = OptimizerConfig(name=name, weight_decay=0.1, groups=groups, **settings)
    rates = np.array([0.1, 0.2, 0.05, 0.1])
    theirs, ours = build_optimizer(config, rates), build_torch_optimizer(module, config)
    state = theirs.init(params)
    for rate in rates:
        gradients = jax.tree.map(lambda v: rng.normal(size=v.shape).astype(np.float32), params)
        for key, parameter in module.named_parameters():
            part, inner = key.split(".")
            parameter.grad = torch.from_numpy(gradients[part][inner].copy())
        set_lr(ours, rate)
        ours.step()
        updates, state = theirs.update(gradients, state, params)
        params = optax.apply_updates(params, updates)
        for key, parameter in module.named_parameters():
            part, inner = key.split(".")
            np.testing.assert_allclose(
                parameter.detach().numpy(), params[part][inner], rtol=2e-6, atol=2e-6, err_msg=key
            )


@pytest.mark.parametrize("setting", [{"lr_factor": 2.0}, {"weight_decay": 0.5}])
@pytest.mark.parametrize("name", list(OPTIMIZERS))
def test_a_pattern_without_a_parameter_is_refused_before_the_first_step(
    name: str, setting: dict[str, float]
) -> None:
    config = OptimizerConfig(name=name, groups=(ParameterGroup(match="haed.*", **setting),))
    optimizer = build_optimizer(config, np.ones(1))
    params = {"head": {"kernel": np.ones((2, 2), np.float32)}, "stem": np.ones(2, np.float32)}
    with pytest.raises(ConfigError, match=r"groups.0.match='haed.\*' .* \['head.kernel', 'stem'\]"):
        optimizer.init(params)
