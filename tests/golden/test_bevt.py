"""BEVT against the numbers of its reference: what the optimizer needs so far."""

import numpy as np
import pytest
import torch
from torch import nn

from video_ssl.models.torch_encoder import TorchEncoder
from video_ssl.pretrain.optimizers import ParameterGroup
from video_ssl.pretrain.schedules import SCHEDULES
from video_ssl.pretrain.torch_loop.optimizers import parameter_groups


@pytest.mark.golden("bevt/lr_schedule", cases=lambda settings: settings["by"] == "iteration")
def test_learning_rates(golden_case):
    settings = golden_case.settings
    per_epoch = settings["iters_per_epoch"]
    found = SCHEDULES["cosine_damped"].rates(
        settings["epochs"] * per_epoch,
        base_lr=settings["base_lr"],
        min_lr=settings["min_lr"],
        warmup_lr=settings["warmup_ratio"] * settings["base_lr"],
        warmup_steps=int(settings["warmup_epochs"] * per_epoch),
        steps_per_epoch=per_epoch,
    )
    golden_case.check("lr", found)


class Swin(TorchEncoder):
    """Tells the layers of a Swin's parameters: blocks and what lies between stages count one each."""

    def __init__(self, depths: list[int]) -> None:
        self._depths = depths

    @property
    def num_layers(self) -> int:
        return sum(self._depths) + len(self._depths) - 1

    def layer_of(self, name: str) -> int:
        match name.split("."):
            case [*_, "relative_position_bias_table"]:
                return self.num_layers + 1
            case ["patch_embed", *_]:
                return 0
            case ["layers", stage, "blocks", block, *_]:
                return sum(self._depths[: int(stage)]) + int(stage) + int(block) + 1
            case ["layers", stage, "downsample", *_]:
                return sum(self._depths[: int(stage) + 1]) + int(stage) + 1
        return self.num_layers  # the last norm


def groups_by_name(golden_case, **options):
    """name in the reference -> its group; the backbone is our encoder."""
    names = [str(name) for name in golden_case["name"]]
    ours = [name.replace("backbone.", "encoder.", 1) for name in names]
    parameters = [(name, nn.Parameter(torch.zeros(2))) for name in ours]
    groups = parameter_groups(
        parameters, weight_decay=golden_case.settings["weight_decay"], decay_all=True, **options
    )
    of = {name: group for group in groups for name in group["names"]}
    golden_case.check("lr_mult", [of[name]["lr_scale"] for name in ours])
    golden_case.check("weight_decay", [of[name]["weight_decay"] for name in ours])
    assert len({len(set(names)), len(of)}) == 1


@pytest.mark.golden("bevt/param_groups", cases=lambda settings: "not_decayed" in settings)
def test_norms_and_tables_are_not_decayed(golden_case):
    spared = golden_case.settings["not_decayed"]
    names = [str(name) for name in golden_case["name"]]
    present = [word for word in spared if any(word in name for name in names)]
    groups = [ParameterGroup(match=f"*{word}*", weight_decay=0.0) for word in present]
    assert np.any(groups)
    groups_by_name(golden_case, groups=groups)


@pytest.mark.golden("bevt/param_groups", cases=lambda settings: "layer_decay" in settings)
def test_layers_of_a_swin(golden_case):
    spared = ("*relative_position_bias_table", "encoder.norm.*")
    groups_by_name(
        golden_case,
        layer_decay=golden_case.settings["layer_decay"],
        groups=[ParameterGroup(match=pattern, weight_decay=0.0) for pattern in spared],
        encoder=Swin(golden_case.file.settings["depths"]),
    )
