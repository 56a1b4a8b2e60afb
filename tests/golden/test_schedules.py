"""Schedules and layer decay of VideoMAE and MVD against the references."""

import pytest
import torch
from torch import nn

from video_ssl.pretrain.optimizers import layer_id, layer_scales, parameter_groups
from video_ssl.pretrain.schedules import cosine_schedule

LAYER_DECAY = ("mvd/layer_decay", "videomae/layer_decay")


@pytest.mark.golden("mvd/schedules", "videomae/schedules")
def test_cosine(golden_case):
    case = golden_case.settings
    steps = int(case["epochs"] * case["steps_per_epoch"])
    warmup = case["warmup_steps"]
    if warmup is None:
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


def parameters_of(names, weight_decay):
    """Parameters of these names; those that the reference does not decay are vectors, as they are there."""
    return [
        (name, nn.Parameter(torch.zeros(2, 2) if decay else torch.zeros(2)))
        for name, decay in zip(names, weight_decay, strict=True)
    ]


@pytest.mark.parametrize("prefix", ["", "encoder."])
@pytest.mark.golden(*LAYER_DECAY, cases=lambda settings: "weight_decay" in settings)
def test_groups_of_a_classifier(golden_case, prefix):
    settings = golden_case.settings
    # The head of our classifier lies beside the encoder, not in it.
    names = [str(n) for n in golden_case["names"]]
    ours = [n if n.startswith("head.") else prefix + n for n in names]
    groups = parameter_groups(
        parameters_of(ours, golden_case["weight_decay"]),
        weight_decay=settings["weight_decay"],
        layer_decay=settings["decay"],
    )
    of = {name: group for group in groups for name in group["names"]}
    golden_case.check("n_groups", len(groups))
    golden_case.check("layer_id", [layer_id(name, settings["depth"]) for name in ours])
    golden_case.check("lr_scale", [of[name]["lr_scale"] for name in ours])
    golden_case.check("weight_decay", [of[name]["weight_decay"] for name in ours])
