"""A run of ConST-CL: on one, two and eight devices, and what it leaves."""

from __future__ import annotations

from pathlib import Path

import jax
import numpy as np
import pytest
from flax_runs import tiny

import video_ssl
from video_ssl.pretrain.flax_loop.devices import join_flax_processes, put_batch
from video_ssl.pretrain.flax_loop.run import build_objective, run_flax
from video_ssl.pretrain.reporting import read_metrics
from video_ssl.pretrain.run import batch_source, open_streams


@pytest.mark.slow
def test_devices_do_not_matter(videos: Path, tmp_path: Path) -> None:
    """The forward pass of training, with its batch norms and its regions of all devices."""
    recipe = tiny(videos, tmp_path, "const_cl")
    objective = build_objective(recipe)
    variables = objective.init(3)
    with batch_source(recipe, open_streams(recipe), 1, (0, 1))(0) as batches:
        batch = next(iter(batches))
    found = []
    for count in (1, 2, 8):
        with join_flax_processes("cpu", jax.devices()[:count]) as processes:
            run = jax.jit(lambda v, b: objective.forward(v, b, jax.random.key(0))[0])
            placed = jax.device_put(variables, processes.whole)
            output = jax.device_get(run(placed, put_batch(batch, processes)))
            found.append([float(output.loss), float(output.figures["local"])])
    assert found[0][1] > 0.1
    np.testing.assert_allclose(found[1:], found[:1] * 2, rtol=1e-5)


@pytest.mark.slow
def test_both_branches_are_left(videos: Path, tmp_path: Path) -> None:
    recipe = tiny(videos, tmp_path, "const_cl", training__duration="2 steps")
    run_flax(recipe, devices=jax.devices()[:1])
    row = read_metrics(tmp_path / "metrics.jsonl")[0]
    assert {"contrastive", "local", "penalty", "accuracy", "regions_share"} <= row.keys()
    assert row["loss"] == pytest.approx(
        row["contrastive"] + row["local"] + row["penalty"], rel=1e-5
    )
    assert row["regions_share"] > 0.9
    frames = np.random.default_rng(0).integers(0, 256, (6, 20, 20, 3), dtype=np.uint8)
    found = {}
    for name, place in (("global", tmp_path), ("local", tmp_path / "encoders" / "local")):
        torch_twin, flax_twin = (
            load(place) for load in (video_ssl.load_encoder, video_ssl.load_flax_encoder)
        )
        one, two = (encoder(frames) for encoder in (torch_twin, flax_twin))
        np.testing.assert_allclose(one.frames, two.frames, rtol=1e-3, atol=1e-5)
        np.testing.assert_array_equal(one.times_sec, two.times_sec)
        assert len(one.times_sec) == len(one.frames) > 1
        clips = np.zeros((1, 4, 16, 16, 3), np.uint8)
        tokens = torch_twin.outputs_of_arrays(clips, ["tokens"])["tokens"]
        assert tokens.shape[1] == np.prod(torch_twin.token_grid(clips.shape[1:]))
        found[name] = one.clip
    assert not np.allclose(found["global"], found["local"])
