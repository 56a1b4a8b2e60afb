"""Parameter groups against the references, and optimizer state by name."""

from __future__ import annotations

import os
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from video_ssl.pretrain.optimizers import (
    build_optimizer,
    is_decayed,
    layer_id,
    layer_scales,
    load_optimizer_state,
    optimizer_state,
    parameter_groups,
    set_lr,
)
from video_ssl.pretrain.recipe import OptimizerConfig
from video_ssl.recipes import ConfigError

GOLDEN = Path(os.environ.get("VIDEO_SSL_GOLDEN", Path(__file__).parents[1] / "golden" / "data"))
FILES = sorted(GOLDEN.glob("*/layer_decay*.npz"))
TRACES = [f for f in sorted(GOLDEN.glob("*/*.npz")) if "steps/decayed" in np.load(f).files]


def test_there_are_references() -> None:
    assert FILES
    assert TRACES


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.parent.name)
def test_scales_of_layers(file: Path) -> None:
    data = np.load(file)
    found = 0
    for name in data.files:
        match = re.fullmatch(r"scales_depth(\d+)_decay([\d.]+)", name)
        if match:
            ours = layer_scales(int(match[1]), float(match[2]))
            np.testing.assert_allclose(ours, data[name], rtol=1e-12)
            found += 1
    assert found


def classifier_like(names: list[str], weight_decay: np.ndarray) -> list[tuple[str, nn.Parameter]]:
    """Parameters of these names; those that the reference does not decay are vectors, as they are there."""
    return [
        (name, nn.Parameter(torch.zeros(2, 2) if decay else torch.zeros(2)))
        for name, decay in zip(names, weight_decay, strict=True)
    ]


@pytest.mark.parametrize("prefix", ["", "encoder."])
@pytest.mark.parametrize("file", FILES, ids=lambda f: f.parent.name)
def test_groups_of_a_classifier(file: Path, prefix: str) -> None:
    data = np.load(file)
    tags = [name.removesuffix("/names") for name in data.files if name.endswith("/names")]
    assert tags
    for tag in tags:
        depth, decay, weight_decay = data[f"{tag}/depth_decay_wd"]
        names = [str(n) for n in data[f"{tag}/names"]]
        # The head of our classifier lies beside the encoder, not in it.
        ours = [n if n.startswith("head.") else prefix + n for n in names]
        parameters = classifier_like(ours, data[f"{tag}/weight_decay"])
        groups = parameter_groups(
            parameters, weight_decay=float(weight_decay), layer_decay=float(decay)
        )
        assert len(groups) == int(data[f"{tag}/n_groups"])
        of = {name: group for group in groups for name in group["names"]}
        for i, name in enumerate(ours):
            assert layer_id(name, int(depth)) == data[f"{tag}/layer_id"][i]
            assert of[name]["lr_scale"] == pytest.approx(data[f"{tag}/lr_scale"][i], rel=1e-12)
            assert of[name]["weight_decay"] == data[f"{tag}/weight_decay"][i]


@pytest.mark.parametrize("file", TRACES, ids=lambda f: f"{f.parent.name}-{f.stem}")
def test_who_is_decayed(file: Path) -> None:
    data = np.load(file)
    for name, decayed in zip(data["steps/final_param_names"], data["steps/decayed"], strict=True):
        vector = "norm" in name or name.endswith("bias")
        shape = (2,) if vector else (1, 1, 2) if "token" in name else (2, 2)
        assert is_decayed(str(name), torch.zeros(shape)) == decayed, name


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
