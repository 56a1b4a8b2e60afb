"""The `small` tier: recipes for people's own videos, that fit themselves to few of them.

Those of flax are compiled and stepped in tests/bench/test_every_recipe.py.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from video_ssl.models.encoder_folder import find_encoder
from video_ssl.objectives import OBJECTIVES
from video_ssl.pretrain.dry_run import describe_start
from video_ssl.pretrain.durations import parse_duration
from video_ssl.pretrain.recipe import PretrainRecipe, load_pretrain_recipe
from video_ssl.pretrain.run import fit_batch, open_streams
from video_ssl.pretrain.start import run_recipe
from video_ssl.recipes import list_recipes

SMALL = sorted(name for name in list_recipes("pretrain") if name.endswith("/small"))
#: hicopp/small is hico/small with more clips.
TRAINED = sorted(
    set(SMALL)
    - {"const_cl/small", "cvrl/small", "teg/small", "vatt/small", "hicopp/small"}
    - {"supervised_sound/small"}  # it goes on from an encoder of sound: test_sound_finetuning.py
)


def test_every_objective_without_labels_has_one() -> None:
    folders = {name.partition("/")[0] for name in list_recipes("pretrain")}
    assert {name.partition("/")[0] for name in SMALL} == folders - {"supervised"}
    assert folders >= set(OBJECTIVES)


@pytest.mark.parametrize("name", SMALL)
def test_lengths_are_passes_and_the_batch_shrinks(name: str) -> None:
    recipe = load_pretrain_recipe(name)
    training = recipe.training
    lengths = (training.duration, training.checkpoint_every, recipe.optimizer.warmup)
    assert {parse_duration(length).unit for length in lengths} == {"epochs"}
    assert training.shrink_batch
    # BEVT's tokenizer sees pictures of half the size.
    if not hasattr(recipe.objective, "crop"):
        return
    least = 64 if recipe.objective_name == "tokenizer" else 112
    assert least <= recipe.objective.crop.size <= 160


#: Objectives whose clips are far apart, on videos of a second: they want other lengths, and more than one clip.
SHORT = ["objective.clip.num_frames=8", "objective.clip.frame_stride=2", "objective.clip.fps=60"]
CLIPS = {
    "hico": [*SHORT, "objective.clip.num_clips=3"],
    "bevt": ["objective.encoder.depths=[1, 1, 1, 1]", "data.streams.images.records=2"],
}


def small_on(name: str, videos: Path, run: Path, *more: str) -> PretrainRecipe:
    """The recipe on few videos for two steps, with one block and one clip of each."""
    settings = [
        *(f"data.table={videos}", f"run={run}", "loader.num_workers=0", "training.device=cpu"),
        *("training.duration=2 steps", "optimizer.warmup=1 step", "training.log_every=1"),
    ]
    objective = load_pretrain_recipe(name).objective
    if hasattr(objective, "clip"):
        settings += CLIPS.get(name.partition("/")[0], ["objective.clip.num_clips=1"])
    if hasattr(objective, "frames"):
        settings.append("objective.frames.num_frames=10")
    if type(objective.encoder).__name__ in ("ViTConfig", "ImageViTConfig"):
        settings.append("objective.encoder.depth=1")
    return load_pretrain_recipe(name, [*settings, *more])


@pytest.fixture(scope="module")
def three(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("three")
    for file in sorted(videos.iterdir())[:3]:
        (folder / file.name).symlink_to(file)
    return folder


@pytest.fixture(scope="module")
def trained(three: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Recipe name -> its run, trained once; the teachers of MVD are the runs of their own recipes."""
    folder = tmp_path_factory.mktemp("runs")

    def run_of(name: str, *more: str) -> Path:
        run = folder / name.replace("/", "-")
        if not (run / "finished.json").is_file():
            if name == "mvd/small":
                for teacher, of in (("image", "mae/small"), ("video", "videomae/small")):
                    key = f"objective.{teacher}.source"
                    more = (*more, f"{key}.recipe=null", f"{key}.run={run_of(of)}")
            if name == "bevt/small":
                key = "objective.tokenizer"
                more = (*more, f"{key}.recipe=null", f"{key}.run={run_of('tokenizer/small')}")
            run_recipe(small_on(name, three, run, *more))
        return run

    return run_of


def check_run(run: Path) -> None:
    """Losses are finite, the weights moved, and an encoder is there."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2]
    assert all(np.isfinite(row["loss"]) and row["grad_norm"] > 0 for row in rows)
    assert find_encoder(run).is_dir()
    meta = json.loads(next((run / "checkpoints").glob("step_*2/meta.json")).read_text())
    assert meta["global_batch_size"] == 2  # 8, 16 or 32, halved until three videos fill it


@pytest.mark.parametrize("name", TRAINED)
def test_small_recipe_trains_on_three_videos(name: str, trained: Any) -> None:
    check_run(trained(name))


# The rule itself


def fitted(recipe: PretrainRecipe) -> PretrainRecipe:
    return fit_batch(recipe, open_streams(recipe))[0]


@pytest.mark.parametrize(
    ("batch", "accumulation", "expected"),
    [(3, 1, 3), (4, 1, 2), (16, 1, 2), (6, 1, 3), (10, 1, 5), (8, 4, 4), (12, 3, 3)],
)
def test_batch_is_halved_until_the_data_fill_it(
    three: Path, tmp_path: Path, batch: int, accumulation: int, expected: int
) -> None:
    """Never below what its micro-batches allow; 5 is odd and stays above the 3 videos."""
    recipe = small_on(
        "mae/small",
        three,
        tmp_path / "run",
        f"training.global_batch_size={batch}",
        f"training.accumulation={accumulation}",
    )
    assert fitted(recipe).training.global_batch_size == expected
    kept = recipe.replace(training=type(recipe.training)(duration=1, global_batch_size=batch))
    assert fitted(kept).training.global_batch_size == batch  # without shrink_batch


def test_what_shrinks_is_told_with_what_the_rate_does(
    three: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, logger="video_ssl"):
        recipe, streams = fit_batch(
            r := small_on("mae/small", three, tmp_path / "run"), open_streams(r)
        )
    (line,) = [record.getMessage() for record in caplog.records]
    assert any("batches of 2 records" in told for told in describe_start(r))
    assert "holds 3 records: 2 make a step" in line
    assert "goes down as much (optimizer.lr_scaling=linear_256)" in line
    assert {stream.records for stream in streams.values()} == {2}
    rates = recipe.optimizer.rates(global_batch_size=2, clips_per_record=4)
    assert rates["base_lr"] == pytest.approx(6e-4 * 8 / 64)
