"""`bench step` of flax recipes: operations counted by hand and as torch counts them, figures that agree."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from colored_videos import make_table

from video_ssl.bench.figures import random_clips
from video_ssl.bench.step import bench_step, bench_twins
from video_ssl.bench.step_flax import count_flops
from video_ssl.bench.step_torch import _flops_of
from video_ssl.models.encoders import build_encoder
from video_ssl.models.encoders_flax import build_flax_module, init_variables
from video_ssl.models.networks.maps_flax import clip_features
from video_ssl.objectives.shared.torch_objective import StepOutput
from video_ssl.pretrain.errors import RunError
from video_ssl.pretrain.recipe import load_pretrain_recipe

TINY = [
    "training.device=cpu",
    "objective.crop.size=16",
    "objective.encoder.filters=[2,2,3,3]",
    "objective.encoder.stem_width=4",
    "loader.num_workers=0",
]


def test_operations_are_those_of_products_and_convolutions():
    a, b = jnp.ones((5, 8)), jnp.ones((8, 16))
    product = 2 * 5 * 8 * 16
    assert count_flops(lambda a, b: jnp.tanh(a @ b), a, b) == product
    both = jax.jit(jax.value_and_grad(lambda a, b: (a @ b).sum(), argnums=(0, 1)))
    assert count_flops(both, a, b) == 3 * product
    repeated = lambda b: jax.lax.scan(lambda x, _: (x @ b @ b.T, None), a, length=3)[0]  # noqa: E731
    assert count_flops(repeated, b) == 3 * 2 * product
    image, kernel = jnp.ones((2, 9, 8, 3)), jnp.ones((3, 3, 3, 7))

    def strided(image, kernel):
        return jax.lax.conv_general_dilated(
            image, kernel, (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    assert count_flops(strided, image, kernel) == 2 * (2 * 5 * 4 * 7) * (3 * 3 * 3)


def test_a_step_of_the_encoder_has_as_many_operations_as_torch_counts_in_its_twin():
    recipe = load_pretrain_recipe("teg/demo", TINY)
    config = recipe.objective.encoder
    module = build_flax_module(config)
    variables = init_variables(module, 0)

    def loss(params, video):
        maps, _ = module.apply(
            {**variables, "params": params}, video, train=True, mutable=["batch_stats"]
        )
        return jnp.square(clip_features(maps[config.endpoint])).mean()

    video = np.random.default_rng(0).random((2, 16, 16, 16, 3), np.float32)
    found = count_flops(jax.grad(loss), variables["params"], video)
    twin = build_encoder(config).train()
    wanted = _flops_of(
        lambda batch: StepOutput(twin.clip_features(batch["video"]).square().mean(), {}),
        {"video": torch.from_numpy(video).permute(0, 4, 1, 2, 3)},
        lambda: torch.autocast("cpu", enabled=False),
    )
    # jax does not compute some gradients of strided convolutions on the padding that torch counts.
    assert found == pytest.approx(wanted, rel=0.02)


@pytest.mark.slow
def test_a_flax_step_has_the_figures_of_a_torch_step(capsys):
    recipe = load_pretrain_recipe("teg/demo", TINY)
    (row,) = bench_step(recipe, batch_size=8, steps=2, warmup=1)
    assert (row.batch_size, row.clips) == (8, 16)
    assert row.compile_sec > 0
    assert row.parts_sec == {}
    assert row.chip_share == pytest.approx(row.flops / row.step_sec / row.chip_flops)
    assert 0 < row.chip_share < 1
    assert row.peak_gib > 0.1
    printed = capsys.readouterr().out
    for column in ("clips/s", "compile s", "peak GiB", "TFLOP", "of yardstick"):
        assert column in printed
    with pytest.raises(RunError, match=r"global_batch_size=3 cannot be divided among 8 devices"):
        bench_step(recipe, batch_size=3)


@pytest.mark.parametrize("name", ["teg/demo", "cvrl/demo"])
def test_clips_for_twins_have_the_size_that_the_encoder_sees(name):
    """TeG's encoder sees the long clip."""
    settings = [*TINY, *(["objective.short_frames=8"] if name == "teg/demo" else [])]
    recipe = load_pretrain_recipe(name, settings)
    encoder = recipe.objective.encoder
    assert random_clips(recipe, 3).shape == (3, encoder.num_frames, 16, 16, 3)


@pytest.mark.slow
def test_twins_are_timed_on_the_same_clips_in_processes_of_their_own():
    flax, torch_ = bench_twins(load_pretrain_recipe("teg/demo", TINY), batch_size=8, steps=2)
    assert (flax.variant, torch_.variant) == ("flax", "torch")
    assert flax.clips == torch_.clips == 8
    assert flax.flops == pytest.approx(torch_.flops, rel=0.02)
    assert flax.compile_sec > 0
    assert torch_.compile_sec is None


@pytest.mark.slow
def test_twins_of_vatt_are_timed_by_their_clip_feature(tmp_path):
    """Was wrong: only networks with a feature map had twins, and VATT's ended in an AttributeError."""
    (tmp_path / "words.txt").write_text("<pad>\n<bos>\n<eos>\n<unk>\nwalks\n")
    make_table(tmp_path, "train", 1, seed=0)
    words = [f"objective.vocabulary={tmp_path / 'words.txt'}", "training.device=cpu"]
    words += [f"data.table={tmp_path / 'train.arrow'}"]
    flax, torch_ = bench_twins(load_pretrain_recipe("vatt/demo", words), batch_size=8, steps=1)
    assert flax.clips == torch_.clips == 8
    assert flax.flops == pytest.approx(torch_.flops, rel=0.05)
