"""What CARL asks of the optimizer: decay in the gradient of every tensor, a cosine that moves once per epoch."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from video_ssl.pretrain.optimizers import OptimizerConfig
from video_ssl.pretrain.recipe import load_pretrain_recipe
from video_ssl.pretrain.schedules import epoch_cosine_schedule
from video_ssl.pretrain.torch_loop.optimizers import build_optimizer, set_lr


def test_adam_adds_the_decay_to_the_gradient() -> None:
    """Adam by hand: m and v of gradient + decay * weight."""
    module = nn.Linear(2, 1)
    config = OptimizerConfig(
        name="adam", weight_decay=0.1, betas=(0.9, 0.999), decay_all=True, lr_scaling="none"
    )
    optimizer = build_optimizer(module, config)
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.1]
    weight = {name: p.detach().clone().double() for name, p in module.named_parameters()}
    m = {name: torch.zeros_like(w) for name, w in weight.items()}
    v = {name: torch.zeros_like(w) for name, w in weight.items()}
    x = torch.tensor([[1.0, -2.0]])
    for step in range(1, 4):
        set_lr(optimizer, 0.01)
        optimizer.zero_grad()
        module(x).square().sum().backward()
        y = float(weight["weight"] @ x[0].double() + weight["bias"])
        gradients = {"weight": 2 * y * x.double(), "bias": torch.tensor([2 * y]).double()}
        for name, gradient in gradients.items():
            total = gradient + 0.1 * weight[name]
            m[name] = 0.9 * m[name] + 0.1 * total
            v[name] = 0.999 * v[name] + 0.001 * total**2
            change = (m[name] / (1 - 0.9**step)) / ((v[name] / (1 - 0.999**step)).sqrt() + 1e-8)
            weight[name] = weight[name] - 0.01 * change
        optimizer.step()
    for name, parameter in module.named_parameters():
        torch.testing.assert_close(parameter.detach().double(), weight[name], atol=1e-5, rtol=1e-5)


def test_biases_are_spared_unless_all_are_decayed() -> None:
    module = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    for decay_all, expected in (
        (False, {"0.weight"}),
        (True, {"0.weight", "0.bias", "1.weight", "1.bias"}),
    ):
        groups = build_optimizer(module, OptimizerConfig(decay_all=decay_all)).param_groups
        decayed = {name for group in groups if group["weight_decay"] for name in group["names"]}
        assert decayed == expected


def test_the_cosine_moves_once_per_epoch() -> None:
    found = epoch_cosine_schedule(1e-4, 0.0, 12, steps_per_epoch=4)
    expected = [0.5e-4 * (1 + math.cos(math.pi * e / 4)) for e in range(3) for _ in range(4)]
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    uneven = epoch_cosine_schedule(1.0, 0.2, 7, steps_per_epoch=2.5)
    levels = [0.2 + 0.4 * (1 + math.cos(math.pi * e / 4)) for e in (0, 0, 0, 1, 1, 2, 2)]
    np.testing.assert_allclose(uneven, levels, rtol=1e-12)
    assert found[-1] > 0


def test_the_recipes_of_the_paper_say_so() -> None:
    for name in ("penn_action", "pouring", "finegym", "k400"):
        optimizer = load_pretrain_recipe(f"carl/{name}").optimizer
        assert (optimizer.name, optimizer.schedule, optimizer.base_lr) == (
            "adam",
            "cosine_epochs",
            1e-4,
        )
        assert (optimizer.weight_decay, optimizer.decay_all, optimizer.lr_scaling) == (
            1e-5,
            True,
            "none",
        )
    with pytest.raises(ValueError, match="schedule='cosine_epochs' has no ramp"):
        OptimizerConfig(schedule="cosine_epochs", warmup="2 steps")
