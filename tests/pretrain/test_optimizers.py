"""Parameter groups, and optimizer state by name.  The numbers of the references are in tests/golden."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from video_ssl.pretrain.recipe import OptimizerConfig
from video_ssl.pretrain.torch_loop.optimizers import (
    build_optimizer,
    layer_id,
    load_optimizer_state,
    optimizer_state,
    parameter_groups,
    set_lr,
)
from video_ssl.recipes import ConfigError


def test_layers_above_the_encoder_are_not_mistaken_for_its_blocks() -> None:
    assert layer_id("decoder.blocks.0.mlp.fc1.weight", 12) == 13
    assert layer_id("encoder.blocks.11.norm1.weight", 12) == 12
    assert layer_id("encoder.cls_token", 12) == 0


def test_objective_names_without_decay_and_frozen_parameters() -> None:
    module = nn.ModuleDict({"a": nn.Linear(2, 2), "b": nn.Linear(2, 2)})
    module["b"].weight.requires_grad_(False)
    groups = parameter_groups(module.named_parameters(), weight_decay=0.1, no_decay={"a.weight"})
    assert [(g["names"], g["weight_decay"]) for g in groups] == [
        (["a.weight", "a.bias", "b.bias"], 0)
    ]
    with pytest.raises(ConfigError, match=r"names \['c'\]"):
        parameter_groups(module.named_parameters(), weight_decay=0.1, no_decay={"c"})
    with pytest.raises(ConfigError, match="layer_decay"):
        parameter_groups(module.named_parameters(), weight_decay=0.1, layer_decay=0.5)


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_state_goes_by_name_not_by_position(name: str) -> None:
    """Two optimizers whose groups are in another order continue alike."""

    def model() -> nn.Module:
        torch.manual_seed(0)
        return nn.ModuleDict({"encoder": nn.Linear(3, 3), "head": nn.Linear(3, 1)})

    def step(module: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        optimizer.zero_grad()
        module["head"](module["encoder"](torch.ones(2, 3))).sum().backward()
        set_lr(optimizer, 0.1)
        optimizer.step()

    config = OptimizerConfig(name=name, weight_decay=0.1)
    one, two = model(), model()
    first = build_optimizer(one, config)
    step(one, first)
    state = optimizer_state(first)
    second = build_optimizer(two, config)
    second.param_groups.reverse()
    two.load_state_dict(one.state_dict())
    load_optimizer_state(second, state)
    step(one, first)
    step(two, second)
    for p, q in zip(one.parameters(), two.parameters(), strict=True):
        assert torch.equal(p, q)


def test_the_rate_of_a_group_is_scaled() -> None:
    module = nn.ModuleDict({"blocks": nn.ModuleList([nn.Linear(2, 2)]), "head": nn.Linear(2, 2)})
    optimizer = build_optimizer(module, OptimizerConfig(layer_decay=0.5))
    set_lr(optimizer, 1.0)
    assert {g["layer"]: g["lr"] for g in optimizer.param_groups} == {1: 0.5, 2: 1.0}
