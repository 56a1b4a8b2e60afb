"""Parameter groups, and optimizer state by name.  The numbers of the references are in tests/golden."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

from video_ssl.models.config import ViTConfig
from video_ssl.models.networks.vit import VideoViT
from video_ssl.pretrain.optimizers import OPTIMIZERS, OptimizerConfig, ParameterGroup
from video_ssl.pretrain.recipe import load_pretrain_recipe
from video_ssl.pretrain.torch_loop.optimizers import (
    Layers,
    build_optimizer,
    kind_of,
    load_optimizer_state,
    optimizer_state,
    parameter_groups,
    set_lr,
)
from video_ssl.recipes import ConfigError


def test_layers_above_the_encoder_are_not_mistaken_for_its_blocks() -> None:
    encoder = VideoViT(ViTConfig(embed_dim=16, depth=3, num_heads=2, num_frames=2, image_size=32))
    module = nn.ModuleDict(
        {"encoder": encoder, "decoder": nn.ModuleDict({"blocks": encoder.blocks})}
    )
    names = [name for name, _ in module.named_parameters(remove_duplicate=False)]
    for layers in (Layers.of(encoder, names), Layers.of(None, names)):
        assert layers.depth == 3
        assert layers.layer_of("decoder.blocks.0.mlp.fc1.weight") == 4
        assert layers.layer_of("encoder.blocks.2.norm1.weight") == 3
        assert layers.layer_of("encoder.patch_embed.proj.weight") == 0


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


@pytest.mark.parametrize("name", ["adamw", "sgd", "lars"])
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


@pytest.mark.parametrize(
    ("before", "now", "known", "taken"),
    [
        ("adamw", "lars", False, False),
        ("sgd", "adamw", False, False),
        ("sgd", "lars", True, False),  # of one name, but only one has the rate in it
        ("adam", "adamw", True, True),
        ("lars", "lars", False, True),
    ],
)
def test_a_state_of_another_optimizer_is_left_out_with_a_warning(
    before: str, now: str, known: bool, taken: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """Was wrong: --allow-changes with another optimizer ended in a KeyError at the first step."""
    module = nn.Linear(2, 2)

    def stepped(name: str, state: Any = None, kind: str | None = None) -> torch.optim.Optimizer:
        optimizer = build_optimizer(module, OptimizerConfig(name=name))
        if state is not None:
            load_optimizer_state(optimizer, state, kind=kind)
            assert bool(optimizer.state) is taken
        module(torch.ones(2, 2)).sum().backward()
        optimizer.step()
        return optimizer

    first = stepped(before)
    stepped(now, optimizer_state(first), kind_of(first) if known else None)
    assert ("another optimizer" in caplog.text) is not taken


def test_the_rate_of_a_group_is_scaled() -> None:
    module = nn.ModuleDict({"blocks": nn.ModuleList([nn.Linear(2, 2)]), "head": nn.Linear(2, 2)})
    optimizer = build_optimizer(module, OptimizerConfig(layer_decay=0.5))
    set_lr(optimizer, 1.0)
    assert {g["layer"]: g["lr"] for g in optimizer.param_groups} == {1: 0.5, 2: 1.0}


def test_learned_positions_are_of_the_first_layer_and_not_decayed() -> None:
    """They had the rate of the head, 270 times that of the patches for a ViT-S, and were decayed."""
    config = ViTConfig(
        preset=None,
        embed_dim=16,
        depth=2,
        num_heads=2,
        image_size=16,
        num_frames=4,
        patch_size=8,
        positions="learned",
    )
    module = nn.ModuleDict({"encoder": VideoViT(config), "head": nn.Linear(16, 2)})
    groups = parameter_groups(
        module.named_parameters(),
        weight_decay=0.1,
        layer_decay=0.5,
        no_decay={"encoder.positions.table"},
        encoder=module["encoder"],
    )
    (own,) = (g for g in groups if "encoder.positions.table" in g["names"])
    (patches,) = (g for g in groups if "encoder.patch_embed.proj.weight" in g["names"])
    assert (own["layer"], own["lr_scale"]) == (patches["layer"], patches["lr_scale"]) == (0, 0.125)
    assert (own["weight_decay"], patches["weight_decay"]) == (0.0, 0.1)


def named(*names: str) -> list[tuple[str, nn.Parameter]]:
    return [(name, nn.Parameter(torch.zeros(2, 2))) for name in names]


def test_groups_go_by_name_and_the_first_one_counts() -> None:
    groups = parameter_groups(
        named("head.weight", "head.scale", "body.weight"),
        weight_decay=0.1,
        groups=[
            ParameterGroup(match="*.scale", weight_decay=0.5),
            ParameterGroup(match="head.*", lr_factor=10.0, weight_decay=0.0),
        ],
    )
    found = {
        name: (g["lr_scale"], g["weight_decay"], g["decayed"])
        for g in groups
        for name in g["names"]
    }
    assert found == {
        "head.weight": (10.0, 0.0, False),
        "head.scale": (1.0, 0.5, True),
        "body.weight": (1.0, 0.1, True),
    }


def test_the_factor_of_a_group_is_on_top_of_layer_decay() -> None:
    groups = parameter_groups(
        named("encoder.blocks.0.w", "encoder.blocks.1.w", "head.w"),
        weight_decay=0.0,
        layer_decay=0.5,
        groups=[ParameterGroup(match="*.blocks.0.*", lr_factor=3.0)],
    )
    assert {g["names"][0]: g["lr_scale"] for g in groups} == {
        "encoder.blocks.0.w": 0.25 * 3,
        "encoder.blocks.1.w": 0.5,
        "head.w": 1.0,
    }


def test_patterns_that_match_nothing_are_refused_with_the_nearest_names() -> None:
    names = named("head.weight", "encoder.weight")
    with pytest.raises(
        ConfigError, match=r"groups.1.match='haed.\*' matches none of the 2 .*head.weight"
    ):
        parameter_groups(
            names,
            weight_decay=0.0,
            groups=[
                ParameterGroup(match="*", lr_factor=2.0),
                ParameterGroup(match="haed.*", lr_factor=2.0),
            ],
        )
    with pytest.raises(ConfigError, match=r"groups.1.match='head.\*': groups before it take all"):
        parameter_groups(
            names,
            weight_decay=0.0,
            groups=[
                ParameterGroup(match="*", lr_factor=2.0),
                ParameterGroup(match="head.*", lr_factor=3.0),
            ],
        )
    with pytest.raises(ValueError, match="changes nothing"):
        ParameterGroup(match="head.*")


def test_recipes_name_groups_in_a_file_or_by_override() -> None:
    recipe = load_pretrain_recipe(
        "mae/demo", ["optimizer.groups=[{match: 'decoder.*', lr_factor: 0.5}]"]
    )
    assert recipe.optimizer.groups == (ParameterGroup(match="decoder.*", lr_factor=0.5),)
    with pytest.raises(ConfigError, match=r"optimizer.groups.*lr_factr.* 'lr_factor'"):
        load_pretrain_recipe("mae/demo", ["optimizer.groups=[{match: '*', lr_factr: 0.5}]"])


@pytest.mark.parametrize(
    ("name", "settings", "text"),
    [
        (
            "sgd",
            {"betas": (0.9, 0.999)},
            r"betas=\(0.9, 0.999\) is no setting of name='sgd'.*\['momentum'\].*\[0.9, 0.95\]",
        ),
        ("adamw", {"momentum": 0.8}, "momentum=0.8 is no setting of name='adamw'"),
        ("sgd", {"nesterov": True}, "write nesterov: false, its default"),
        (
            "adagrad",
            {},
            r"name='adagrad': allowed are \['adamw', 'adam', 'sgd', 'lars'\]. Did you mean",
        ),
    ],
)
def test_settings_of_another_optimizer_are_refused(
    name: str, settings: dict[str, Any], text: str
) -> None:
    with pytest.raises(ValueError, match=text):
        OptimizerConfig(name=name, **settings)


def test_what_a_run_has_written_down_opens_again() -> None:
    """The file of a run holds every setting, those of other optimizers too, at their defaults."""
    for name in OPTIMIZERS:
        OptimizerConfig(name=name, betas=(0.9, 0.95), eps=1e-8, momentum=0.9, nesterov=False)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"betas": (1.5, 2.0)}, r"betas=\(1.5, 2.0\) must lie in \[0, 1\)"),
        ({"name": "sgd", "momentum": -1.0}, r"momentum=-1.0 must lie in \[0, 1\)"),
        ({"name": "lars", "momentum": 3.0}, r"momentum=3.0 must lie in \[0, 1\)"),
        ({"base_lr": math.inf}, "base_lr=inf must be finite"),
        ({"weight_decay": math.inf}, "weight_decay=inf must be finite"),
    ],
)
def test_values_that_cannot_train_are_refused_before_the_run(
    settings: dict[str, Any], message: str
) -> None:
    """They ended in a traceback of torch, or trained with momentum that grows, or failed at the first step."""
    with pytest.raises(ValueError, match=message):
        OptimizerConfig(**settings)


def test_factors_of_groups_are_finite() -> None:
    with pytest.raises(ValueError, match="lr_factor=inf must be finite"):
        ParameterGroup(match="*", lr_factor=math.inf)
