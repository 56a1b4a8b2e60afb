"""What every objective of the table promises, of torch and of flax, on batches that its own plans make."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_recipes import RECIPES, a_recipe_of, small_recipe

from video_ssl.bench.figures import random_samples
from video_ssl.bench.step_torch import untrained_stages
from video_ssl.models import NETWORKS, architecture_of
from video_ssl.objectives import OBJECTIVES
from video_ssl.objectives.shared import flax_objective
from video_ssl.objectives.shared.sources import EncoderSource, FileSource
from video_ssl.objectives.shared.torch_objective import StepOutput, TorchObjective
from video_ssl.pretrain.recipe import PretrainRecipe, load_pretrain_recipe
from video_ssl.pretrain.torch_loop.device_feed import to_tensors

ROWS = 3
TORCH, FLAX = (
    [name for name, entry in OBJECTIVES.items() if entry.framework == framework]
    for framework in ("torch", "flax")
)


def test_every_objective_has_a_recipe_in_the_tree() -> None:
    assert {load_pretrain_recipe(name).objective_name for name in RECIPES} == set(OBJECTIVES)


@pytest.mark.parametrize("name", RECIPES)
def test_settings_tell_stages_and_clips(name: str) -> None:
    config = load_pretrain_recipe(name).objective
    assert config.clips_per_record >= 1
    assert config.encoder is None or architecture_of(config.encoder) in NETWORKS
    assert all(isinstance(s, EncoderSource | FileSource) for s in config.stages().values())


@pytest.mark.parametrize(
    ("name", "clips"),
    [("mae/demo", 8), ("mvd/demo", 1), ("carl/demo", 2), ("tcn/demo", 1), ("teg/demo", 2)],
)
def test_the_settings_tell_how_many_clips_a_record_gives(name: str, clips: int) -> None:
    assert load_pretrain_recipe(name).objective.clips_per_record == clips


@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_plan_shows_the_pixels_of_its_sample(name: str, tmp_path: Path) -> None:
    recipe = small_recipe(a_recipe_of(name), tmp_path)
    sample = {key: array[0] for key, array in random_samples(recipe, 1).items()}
    plan = OBJECTIVES[name].main_plan(recipe.objective)
    clips = plan.shown(sample)
    assert bool(clips) == (not getattr(plan, "sound_alone", False))
    assert len({clip.name for clip in clips}) == len(clips)
    pixels = b"".join(array.tobytes() for array in sample.values() if array.dtype == np.uint8)
    for clip in clips:
        assert clip.frames.dtype == np.uint8
        assert clip.frames[0].tobytes() in pixels
        if clip.hidden is not None:
            assert 0 < clip.hidden.mean() < 1
            sizes = zip(clip.frames.shape[:3], clip.hidden.shape, strict=True)
            assert all(whole % parts == 0 for whole, parts in sizes)


# torch --------------------------------------------------------------------------------------------


@pytest.fixture(params=TORCH)
def torch_case(
    request: pytest.FixtureRequest, tmp_path: Path
) -> tuple[PretrainRecipe, TorchObjective, dict[str, torch.Tensor]]:
    recipe = small_recipe(a_recipe_of(request.param), tmp_path)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        objective = OBJECTIVES[request.param].objective()(
            recipe.objective, stages=untrained_stages(recipe, tmp_path)
        )
    return recipe, objective, to_tensors(random_samples(recipe, ROWS))


def test_a_torch_objective_makes_a_step_output(torch_case: Any) -> None:
    _, objective, batch = torch_case
    assert isinstance(objective, TorchObjective)
    output = objective.train()(batch)
    assert isinstance(output, StepOutput)
    assert output.loss.shape == ()
    assert output.loss.dtype == torch.float32
    assert output.loss.requires_grad
    assert not {"loss", "features", "grad_norm"} & set(output.figures)
    assert all(x.shape == () and not x.requires_grad for x in output.figures.values())
    assert output.features.ndim == 2
    assert output.features.dtype == torch.float32
    assert not output.features.requires_grad
    assert output.clips is None or output.clips >= 1
    objective.after_step(1.0)
    assert set(objective.no_weight_decay()) <= dict(objective.named_parameters()).keys()


def test_encoders_of_a_torch_objective_are_trained_parts_of_it(torch_case: Any) -> None:
    _, objective, _ = torch_case
    encoders = objective.encoders()
    assert encoders
    for name, (module, preprocess) in encoders.items():
        assert name.isidentifier()
        assert any(module is part for part in objective.modules())
        assert architecture_of(module)
        assert preprocess == objective.encoders()[name].preprocess


def test_frozen_networks_move_along_and_are_in_nobodys_state(torch_case: Any) -> None:
    recipe, objective, _ = torch_case
    assert set(objective.frozen) == set(recipe.objective.stages())
    inside = {id(p) for p in objective.parameters()}
    parts = {id(module) for module in objective.modules()}
    for network in objective.frozen.values():
        assert id(network.module) not in parts
        assert not any(id(p) in inside or p.requires_grad for p in network.module.parameters())
        objective.train()
        assert not network.module.training
    objective.to("meta")
    for network in objective.frozen.values():
        assert {p.device.type for p in network.module.parameters()} == {"meta"}


def test_every_trained_weight_has_a_gradient(torch_case: Any) -> None:
    _, objective, batch = torch_case
    objective.train()(batch).loss.backward()
    trained = {n: p for n, p in objective.named_parameters() if p.requires_grad}
    assert not [n for n, p in trained.items() if p.grad is None or not p.grad.any()]


def test_half_precision_is_close_and_the_loss_stays_in_float32(torch_case: Any) -> None:
    _, objective, batch = torch_case
    objective.eval()
    with torch.no_grad():
        exact = objective(batch).loss
        with torch.autocast("cpu", dtype=torch.bfloat16):
            rough = objective(batch).loss
    assert rough.dtype == torch.float32
    assert 0 < abs(rough - exact) / exact < 0.01


def test_one_graph_without_a_look_at_the_device(torch_case: Any) -> None:
    """A graph break is where a step would wait for the device."""
    _, objective, batch = torch_case
    objective.eval()
    expected = objective(batch)
    torch._dynamo.reset()
    found = torch.compile(objective, backend="eager", fullgraph=True)(batch)
    assert isinstance(found, StepOutput)
    torch.testing.assert_close(found, expected)


def test_training_steps_lower_the_loss(torch_case: Any) -> None:
    _, objective, batch = torch_case
    objective.eval()  # as dropout would have it otherwise
    optimizer = torch.optim.AdamW([p for p in objective.parameters() if p.requires_grad], lr=3e-3)
    losses = []
    for _ in range(15):
        loss = objective(batch).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]


@pytest.mark.parametrize("name", ["mae", "videomae", "mvd", "supervised", "tcn"])
def test_clips_that_do_not_see_each_other_weigh_the_same(name: str, tmp_path: Path) -> None:
    """The loss is the mean over records, and over their views."""
    recipe = small_recipe(a_recipe_of(name), tmp_path)
    objective = (
        OBJECTIVES[name]
        .objective()(recipe.objective, stages=untrained_stages(recipe, tmp_path))
        .eval()
    )
    batch = to_tensors(random_samples(recipe, ROWS))
    with torch.no_grad():
        whole = objective(batch).loss
        rows = [objective({k: v[i : i + 1] for k, v in batch.items()}).loss for i in range(ROWS)]
        views = [
            objective({k: x if x.dim() == 1 else x[:, v : v + 1] for k, x in batch.items()}).loss
            for v in range(recipe.objective.clips_per_record)
        ]
    torch.testing.assert_close(whole, torch.stack(rows).mean())
    torch.testing.assert_close(whole, torch.stack(views).mean())


# flax ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FLAX)
def test_a_flax_objective_makes_a_step_output(name: str, tmp_path: Path) -> None:
    """Only its shapes are computed."""
    jax = pytest.importorskip("jax")
    recipe = small_recipe(a_recipe_of(name), tmp_path)
    objective = OBJECTIVES[name].objective()(recipe.objective, stages={})
    variables = jax.eval_shape(lambda: objective.init(0))
    batch = {k: v for k, v in random_samples(recipe, ROWS).items() if v.dtype.kind in "biuf"}
    output, changed = jax.eval_shape(objective.forward, variables, batch, jax.random.key(0))
    assert isinstance(output, flax_objective.StepOutput)
    assert (output.loss.shape, output.loss.dtype) == ((), np.float32)
    assert not {"loss", "features", "grad_norm"} & set(output.figures)
    assert all(x.shape == () for x in output.figures.values())
    assert (output.features.ndim, output.features.dtype) == (2, np.float32)
    assert output.clips is None
    assert set(changed) <= set(variables) - {"params"}
    for i, (key, (module, pick, preprocess)) in enumerate(objective.encoders().items()):
        assert key.isidentifier()
        assert {"params"} <= set(pick(variables)) <= set(variables)
        assert architecture_of(module)
        assert preprocess.modality == NETWORKS[architecture_of(module)].modality
        if i == 0 or preprocess.modality == "video":
            assert module.config == recipe.objective.encoder
        assert preprocess == objective.encoders()[key].preprocess
