"""Schedules and layer decay of VideoMAE and MVD against the references."""

import pytest
import torch
from torch import nn

from video_ssl.pretrain.schedules import cosine_schedule
from video_ssl.pretrain.torch_loop.optimizers import Layers, layer_scales, parameter_groups

LAYER_DECAY = ("mvd/layer_decay", "videomae/layer_decay")


@pytest.mark.golden("mvd/schedules", "videomae/schedules")
def test_cosine(golden_case):
    case = golden_case.settings
    steps = int(case["epochs"] * case["steps_per_epoch"])
    # As in the reference, a number of steps wins where it is set.
    warmup = case["warmup_steps"] or 0
    if warmup <= 0:
        warmup = int(case["warmup_epochs"] * case["steps_per_epoch"])
    found = cosine_schedule(
        case["base"], case["final"], steps, warmup_steps=warmup, start=case["start"]
    )
    golden_case.file.check(golden_case.name, found)


@pytest.mark.golden(*LAYER_DECAY, cases=lambda settings: "weight_decay" not in settings)
def test_scales_of_layers(golden_case):
    settings = golden_case.settings
    found = layer_scales(settings["depth"], settings["decay"])
    golden_case.file.check(golden_case.name, found)


def parameters_of(names):
    """Parameters of these names with as many axes as they have in a ViT: biases and those of norms are vectors."""
    vectors = {name for name in names if name.endswith("bias") or "norm" in name or "gamma" in name}
    return [
        (name, nn.Parameter(torch.zeros(2) if name in vectors else torch.zeros(2, 2)))
        for name in names
    ]


@pytest.mark.parametrize("prefix", ["", "encoder."])
@pytest.mark.golden(*LAYER_DECAY, cases=lambda settings: "weight_decay" in settings)
def test_groups_of_a_classifier(golden_case, prefix):
    settings = golden_case.settings
    # The head of our classifier lies beside the encoder, not in it.
    names = [str(n) for n in golden_case["names"]]
    ours = [n if n.startswith("head.") else prefix + n for n in names]
    groups = parameter_groups(
        parameters_of(ours),
        weight_decay=settings["weight_decay"],
        layer_decay=settings["decay"],
        no_decay={n for n in ours if n.rpartition(".")[2] in ("cls_token", "pos_embed")},
    )
    of = {name: group for group in groups for name in group["names"]}
    golden_case.check("n_groups", len(groups))
    layers = Layers.of(None, ours)
    assert layers.depth == settings["depth"]
    golden_case.check("layer_id", [layers.layer_of(name) for name in ours])
    golden_case.check("lr_scale", [of[name]["lr_scale"] for name in ours])
    golden_case.check("weight_decay", [of[name]["weight_decay"] for name in ours])
