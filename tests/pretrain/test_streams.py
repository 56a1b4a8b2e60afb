"""Runs of an objective that takes two streams: recipe, batches of unequal parts, accumulation, resuming."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from two_streams.objective import Objective

from video_ssl.datasets import open_table
from video_ssl.objectives import OBJECTIVES, Entry
from video_ssl.pretrain.errors import CheckpointError, NonFiniteLoss, RunError
from video_ssl.pretrain.lengths import check_batch
from video_ssl.pretrain.recipe import (
    StreamConfig,
    load_pretrain_recipe,
    recipe_from_dict,
    recipe_to_dict,
    stage_recipe,
)
from video_ssl.pretrain.run import batch_source, open_streams
from video_ssl.pretrain.torch_loop.device_feed import split_batch, to_tensors
from video_ssl.pretrain.torch_loop.loop import gradients_of
from video_ssl.pretrain.torch_loop.replay import replay
from video_ssl.pretrain.torch_loop.run import build_objective, run_torch
from video_ssl.recipes import ConfigError, to_yaml


@pytest.fixture(autouse=True)
def two_streams(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(OBJECTIVES, "two_streams", Entry("two_streams", several_streams=True))


@pytest.fixture
def few(videos: Path, tmp_path: Path) -> str:
    """A table of five of the videos."""
    return str(open_table(videos).select(range(5)).save(tmp_path / "few.arrow").path)


def recipe_of(helpers: Any, videos: Path, run: Path, few: str, **changes: Any) -> Any:
    content = helpers.recipe(videos, run, objective__name="videomae", **changes)
    content = recipe_to_dict(content)
    content["objective"]["name"] = "two_streams"
    content["data"]["streams"] = {"extra": {"table": few, "records": 2}}
    return recipe_from_dict(content)


def batches_of(recipe: Any, num_steps: int = 3) -> list[dict[str, np.ndarray]]:
    with batch_source(recipe, open_streams(recipe), num_steps, (0, 1))(0) as batches:
        return list(batches)


def test_a_recipe_names_the_streams_that_its_objective_asks_for(
    videos: Path, tmp_path: Path, few: str, helpers: Any
) -> None:
    recipe = recipe_of(helpers, videos, tmp_path, few)
    assert recipe_from_dict(recipe_to_dict(recipe)) == recipe
    content = recipe_to_dict(recipe)

    def changed(**streams: Any) -> Any:
        return {**content, "data": {**content["data"], "streams": streams}}

    own = {"table": few, "records": 2}
    for wrong, message in (
        (changed(extra=own, extras=own), r"data\.streams\.extras: the streams of two_streams are \['extra'\]"),
        (changed(), r"data\.streams lacks \['extra'\]: .*data\.streams\.extra=\{table: NAME, records: N\}"),
        (changed(video=own, extra=own), r"data\.streams\.video: the streams of two_streams are \['extra'\]"),
        (changed(extra={**own, "record": 1}), "unknown key.*record"),
        (changed(extra={"table": few}), "records"),
        (changed(extra={**own, "records": 0}), "records=0 must be at least 1"),
        (changed(extra={**own, "mix": {"a": -1.0}}), "weights must be positive"),
        ({**changed(extra={**own, "records": 3}), "training": {**content["training"], "accumulation": 2}},
         r"data\.streams\.extra\.records=3 is not divisible by training\.accumulation=2"),
    ):  # fmt: skip
        with pytest.raises(ConfigError, match=message):
            recipe_from_dict(wrong)
    (tmp_path / "r.yaml").write_text(to_yaml(content))
    changes = [
        "data.streams.extra.table=2024",
        "data.streams.extra.mix={b: 0.5}",
        "data.streams.extra.records=4",
    ]
    changed_by_hand = load_pretrain_recipe(tmp_path / "r.yaml", changes).data.streams["extra"]
    assert changed_by_hand == StreamConfig(table="2024", mix={"b": 0.5}, records=4)
    content["objective"]["name"] = "videomae"
    with pytest.raises(
        ConfigError, match=r"videomae takes the records of data\.table and data\.mix"
    ):
        recipe_from_dict(content)
    check_batch(recipe, 2)
    with pytest.raises(
        RunError, match=r"data\.streams\.extra\.records=2 cannot be divided among 4"
    ):
        check_batch(recipe, 4)


def test_a_stream_without_a_table_takes_the_records_of_the_main_one(
    videos: Path, tmp_path: Path, few: str, helpers: Any
) -> None:
    content = recipe_to_dict(recipe_of(helpers, videos, tmp_path, few))
    content["data"] |= {"mix": {few: 0.5}, "streams": {"extra": {"records": 2}}}
    recipe = recipe_from_dict(content)
    main, extra = open_streams(recipe).values()
    assert [(t.path, w) for t, w in extra.tables] == [(t.path, w) for t, w in main.tables]
    assert len(extra.tables) == 2
    assert batches_of(recipe)[0]["extra/record_index"].shape == (2,)
    content["data"]["streams"] = {"extra": {"records": 2, "mix": {few: 0.5}}}
    with pytest.raises(ConfigError, match="name a table beside a mix"):
        recipe_from_dict(content)


def test_epochs_are_those_of_the_main_stream_and_batches_have_unequal_parts(
    videos: Path, tmp_path: Path, few: str, helpers: Any
) -> None:
    recipe = recipe_of(helpers, videos, tmp_path, few, training__duration="2 epochs")
    alone = recipe_to_dict(recipe)
    alone["data"]["streams"], alone["objective"]["name"] = {}, "videomae"
    batches = batches_of(recipe)
    for batch, other in zip(batches, batches_of(recipe_from_dict(alone)), strict=True):
        assert (len(batch["video"]), len(batch["extra/video"])) == (4, 2)
        for name in other:
            np.testing.assert_array_equal(batch[name], other[name])
    assert run_torch(recipe).steps == 6  # 12 videos, 4 a step


def test_accumulation_divides_every_stream(
    videos: Path, tmp_path: Path, few: str, helpers: Any
) -> None:
    """All masks hide the same number of tokens, so the mean over micro-batches is the mean over the batch."""
    recipe = recipe_of(helpers, videos, tmp_path, few, objective__encoder__drop_path=0.0)
    batch = to_tensors(batches_of(recipe)[0])
    found = []
    for parts in (1, 2):
        changed = recipe.replace(
            training=helpers.recipe(videos, tmp_path, training__accumulation=parts).training
        )
        objective = build_objective(changed)
        loss = gradients_of(objective, batch, changed.training).loss
        found.append((loss, [p.grad for p in objective.parameters() if p.grad is not None]))
    torch.testing.assert_close(found[0], found[1])
    halves = split_batch(batch, 2)
    assert [len(halves[0][n]) for n in ("video", "extra/video")] == [2, 1]


class Killed(BaseException):
    """Stands for the end of the process."""


def test_a_killed_run_goes_on_to_the_same_bits_and_not_with_other_streams(
    videos: Path, tmp_path: Path, few: str, helpers: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    short = {"training__duration": 6, "training__checkpoint_every": 2}
    run_torch(recipe_of(helpers, videos, tmp_path / "straight", few, **short))
    recipe = recipe_of(helpers, videos, tmp_path / "resumed", few, **short)

    def after_step(self: Any, progress: float) -> None:
        if round(progress * 6) == 3:
            raise Killed

    monkeypatch.setattr(Objective, "after_step", after_step)
    with pytest.raises(Killed):
        run_torch(recipe)
    monkeypatch.delattr(Objective, "after_step")
    for changes, message in (
        ({"records": 4}, r"stream_records=\{'extra': 2\}, now it is \{'extra': 4\}"),
        ({"table": str(videos)}, "other ids"),
    ):
        content = recipe_to_dict(recipe)
        content["data"]["streams"]["extra"] |= changes
        (tmp_path / "resumed" / "recipe.yaml").unlink()  # which would already refuse
        with pytest.raises(CheckpointError, match=message):
            run_torch(recipe_from_dict(content))
    (tmp_path / "resumed" / "recipe.yaml").unlink()
    run_torch(recipe)
    one, two = (helpers.weights(tmp_path / name) for name in ("straight", "resumed"))
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_the_evidence_of_a_loss_that_is_not_finite_holds_every_stream(
    videos: Path, tmp_path: Path, few: str, helpers: Any
) -> None:
    recipe = recipe_of(
        helpers, videos, tmp_path / "run", few, optimizer__base_lr=1e20, optimizer__warmup=0
    )
    with pytest.raises(NonFiniteLoss):
        run_torch(recipe)
    kept = torch.load(tmp_path / "run" / "nonfinite" / "batch_0.pt", weights_only=True)
    assert (len(kept["video"]), len(kept["extra/video"])) == (4, 2)
    assert replay(tmp_path / "run")["broken_parameters"]


def test_a_stage_keeps_its_streams_and_takes_their_tables_from_the_run(
    videos: Path, tmp_path: Path, few: str, helpers: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from video_ssl.objectives.shared.sources import EncoderSource
    from video_ssl.pretrain import recipe as module

    inner = recipe_of(helpers, videos, tmp_path, few)
    outer = recipe_to_dict(inner)
    outer["data"]["streams"]["extra"] = {"table": str(videos), "records": 4}
    monkeypatch.setattr(module, "load_pretrain_recipe", lambda name: inner)
    source = EncoderSource(recipe="inner")
    stage = stage_recipe(recipe_from_dict(outer), "teacher", source)
    assert (stage.data.streams["extra"].table, stage.data.streams["extra"].records) == (
        str(videos),
        2,
    )
    outer["data"]["streams"], outer["objective"]["name"] = {}, "videomae"
    assert (
        stage_recipe(recipe_from_dict(outer), "teacher", source).data.streams == inner.data.streams
    )


def test_flax_divides_every_stream_among_devices_and_micro_batches() -> None:
    import jax
    import jax.numpy as jnp

    from video_ssl.objectives.shared.flax_objective import StepOutput
    from video_ssl.pretrain.flax_loop.devices import join_flax_processes, put_batch
    from video_ssl.pretrain.flax_loop.loop import gradients_of as flax_gradients_of

    rng = np.random.default_rng(0)
    batch = {"x": rng.random((8, 3), np.float32), "extra/x": rng.random((16, 3), np.float32)}

    def forward(variables: Any, part: Any, key: Any) -> Any:
        w = variables["params"]["w"]
        loss = ((part["x"] @ w) ** 2).mean() + (part["extra/x"] @ w).mean()
        return StepOutput(loss, {}), {}

    with join_flax_processes("cpu", jax.devices()[:4]) as processes:
        placed = put_batch(batch, processes)
        assert [placed[n].sharding.shard_shape(placed[n].shape)[0] for n in batch] == [2, 4]
        state = {"params": {"w": jnp.arange(3.0)}}
        one, two = (
            flax_gradients_of(forward, state, placed, jax.random.key(0), parts)[0]["w"]
            for parts in (1, 2)
        )
    np.testing.assert_allclose(one, two, rtol=1e-5)
