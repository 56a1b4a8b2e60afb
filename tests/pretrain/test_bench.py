"""The benchmarks measure what they say: operations counted by hand, shares that add up, clips that are counted."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from video_ssl.datasets.demo import build_demo
from video_ssl.pretrain.bench_loader import STAGES, bench_loader
from video_ssl.pretrain.bench_step import _flops_of, bench_step, random_batch
from video_ssl.pretrain.recipe import load_pretrain_recipe

SMALL = ["training.device=cpu", "objective.clip.num_clips=2"]


class Product(nn.Module):
    """loss = sum of (B, 8) @ (8, 16): forward and both gradients are one product each."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(8, 16))

    def forward(self, batch):
        return (batch["video"] @ self.weight).sum(), {}


def test_operations_are_those_of_the_products():
    batch = {"video": torch.randn(5, 8, requires_grad=True)}
    counted = _flops_of(Product(), batch, lambda: torch.autocast("cpu", enabled=False))
    assert counted == 3 * 2 * 5 * 8 * 16


@pytest.mark.parametrize(("name", "has_teachers"), [("mvd/demo", True), ("videomae/demo", False)])
def test_step_counts_clips_and_the_share_of_frozen_networks(name, has_teachers):
    recipe = load_pretrain_recipe(name, SMALL)
    (row,) = bench_step(recipe, batch_size=2, steps=2, warmup=1)
    assert row.clips == 4
    assert row.clips_per_sec == pytest.approx(4 / row.step_sec)
    assert (row.frozen_share > 0) == has_teachers
    assert 0 <= row.frozen_share < 1
    assert set(row.parts_sec) == {"frozen", "student", "backward", "optimizer"}
    assert row.flops > 0
    assert row.chip_flops > 0


def test_random_batch_has_the_shapes_of_the_recipe():
    recipe = load_pretrain_recipe("mvd/demo", SMALL)
    batch = random_batch(recipe, 3, torch.device("cpu"))
    assert batch["video"].shape == (3, 2, 8, 64, 64, 3)
    assert batch["mask"].shape == (3, 2, int(np.prod(recipe.objective.encoder.grid)))


@pytest.mark.slow
def test_loader_counts_clips_and_times_every_stage(tmp_path):
    build_demo(tmp_path / "demo", size="tiny", progress=False)
    recipe = load_pretrain_recipe("videomae/demo", [*SMALL, f"data.table={tmp_path}/demo:train"])
    figures = bench_loader(recipe, num_batches=4, num_records=6)
    assert set(figures.stage_ms) == set(STAGES)
    assert all(milliseconds > 0 for milliseconds in figures.stage_ms.values())
    assert figures.bottleneck in STAGES
    assert figures.clips_per_sec > 0
    assert figures.decode_floor_fps > 0
    assert figures.worker_gib > 0
