"""What a run says before it has cost hours: each rule by hand, and the lines of real runs."""

from __future__ import annotations

import logging
import os
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from video_ssl.clips.config import ClipConfig, ClipLength
from video_ssl.objectives.shared.objective_config import clip_length_of
from video_ssl.pretrain import foresight
from video_ssl.pretrain.foresight import Pace, held_gib, pace_warning, warnings_before
from video_ssl.pretrain.optimizers import OptimizerConfig
from video_ssl.pretrain.recipe import load_pretrain_recipe
from video_ssl.pretrain.torch_loop.run import run_torch


def told(recipe: Any, *, steps: int, trained: int, cpus: int = 1, records: int = 240_000) -> str:
    """What is said about a recipe on so many records whose lengths are not known."""
    streams: Any = {"main": SimpleNamespace(num_examples=records, only_tables=())}
    return "\n".join(warnings_before(recipe, streams, steps=steps, trained=trained, cpus=cpus))


def test_a_recipe_for_gpus_is_told_on_a_cpu_and_only_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """ViT-B on Kinetics-400: 6 x 94M weights x 2048 clips x 94,000 steps on 2 cores is 12.6 days at the very least."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    recipe = load_pretrain_recipe("videomae/vit_b_k400")
    warning = told(recipe, steps=94_000, trained=94_000_000)
    assert warning.startswith("94,000 steps take 12.6 days at the very least on this CPU: a recipe")
    assert "training.scale=0.01" in warning
    assert told(recipe, steps=94_000, trained=94_000_000, cpus=0) == ""
    assert "6.3 days" in told(recipe, steps=94_000, trained=94_000_000, cpus=2)
    demo = load_pretrain_recipe("mvd/demo")
    assert told(demo, steps=2000, trained=2_000_000) == ""


def test_a_pace_that_is_too_slow_for_a_cpu_is_told() -> None:
    assert pace_warning(2.0, left=43_200, on_cpu=True) is None  # a day
    assert "50,000 steps take 28 hours on this CPU" in str(
        pace_warning(2, left=50_000, on_cpu=True)
    )
    assert pace_warning(2.0, left=50_000, on_cpu=False) is None


def test_a_batch_larger_than_the_data_is_told() -> None:
    recipe = load_pretrain_recipe("videomae/demo", ["training.global_batch_size=100"])
    assert told(recipe, steps=1, trained=1, records=100) == ""
    warning = told(recipe, steps=1, trained=1, records=75)
    assert "global_batch_size=100 is more than the 75 records" in warning
    assert "Lower it to 64 or less" in warning


@pytest.mark.parametrize(
    ("settings", "length"),
    [
        ({}, ClipLength(61)),
        ({"sampling": "reference"}, ClipLength(61)),
        ({"fps": 20.0}, ClipLength(seconds=61 / 20)),
        ({"sampling": "seconds"}, ClipLength(seconds=61 / 30)),
        ({"sampling": "segments"}, None),
    ],
)
def test_what_a_clip_spans(settings: dict[str, Any], length: ClipLength | None) -> None:
    assert ClipConfig(num_frames=16, frame_stride=4, **settings).length == length


def test_every_objective_of_clips_says_what_they_span() -> None:
    def of(name: str) -> ClipLength | None:
        return clip_length_of(load_pretrain_recipe(name).objective)

    assert of("mvd/vit_b_k400") == of("videomae/vit_b_k400") == ClipLength(61)
    assert of("cvrl/r3d50_k600") == ClipLength(31)
    assert of("teg/r3d50_k400") == ClipLength(61)
    assert of("mae/demo") is of("carl/demo") is of("tcn/demo") is None


def test_a_length_in_seconds_depends_on_the_rate() -> None:
    length = ClipLength(seconds=2.0)
    assert length.fits(50, 25.0)
    assert not length.fits(50, 30.0)
    assert str(length) == "2 s"


def test_what_is_held_beside_the_batch() -> None:
    """float32: weights and gradients, two moments of adamw or one of sgd; weights of frozen networks; the average."""
    million, gib = 10**6, 2**30
    assert held_gib(million, 0, OptimizerConfig(), average=False) == 16e6 / gib
    sgd = OptimizerConfig(name="sgd", momentum=0.9)
    assert held_gib(million, million, sgd, average=True) == 20e6 / gib
    assert (
        held_gib(million, 0, OptimizerConfig(name="sgd", momentum=0.0), average=False) == 8e6 / gib
    )


def test_the_pace_is_taken_once_without_the_first_step() -> None:
    pace = Pace(first=10, last=1000)
    assert pace.is_due(11, 100.0)
    assert pace.measure(11, 100.0) is None
    assert [pace.is_due(done, 101.0) for done in (12, 14, 30)] == [False, False, False]
    assert pace.is_due(31, 101.0)  # 20 steps
    assert pace.is_due(14, 105.0)  # or 5 seconds and 3 steps
    assert not pace.is_due(13, 105.0)
    assert pace.measure(14, 106.0) == 2.0
    assert not pace.is_due(40, 200.0)
    assert not Pace(first=0, last=4, _begin=1.0).is_due(4, 100.0)  # nothing is left


def test_a_run_says_all_of_it_before_and_after_its_first_steps(
    videos: Path,
    tmp_path: Path,
    helpers: Any,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The videos have 12 frames, and there are 12 of them."""
    monkeypatch.setattr(Pace, "_ENOUGH_STEPS", 3)
    monkeypatch.setattr(foresight, "LONG_ON_CPU_SEC", 0.0)
    caplog.set_level(logging.INFO, "video_ssl")
    settings = {"objective__clip__frame_stride": 5, "training__global_batch_size": 16}
    run_torch(helpers.recipe(videos, tmp_path / "run", **settings))
    said = [record.getMessage() for record in caplog.records]
    (start,) = (line for line in said if line.startswith("tiny: videomae on 12 records"))
    assert "0.04M parameters (with gradients and optimizer 0.00 GiB, a batch comes on top)" in start
    before = said[said.index(start) + 1 :][:3]
    assert "global_batch_size=16 is more than the 12 records" in before[0]
    assert (
        "12 of 12 videos that were looked at are shorter than a clip, which spans 16 frames"
        in before[1]
    )
    assert "12 steps take 0:00:00 at the very least on this CPU" in before[2]
    (pace,) = (number for number, line in enumerate(said) if line.startswith("a step takes "))
    assert re.search(
        r" GiB in this process; 8 steps are left: \d+:\d\d:\d\d, until about 2", said[pace]
    )
    assert said[pace + 1].startswith("warning: 8 steps take ")


def test_an_objective_that_leaves_short_videos_out_does_not_speak_of_repeated_frames(
    tmp_path: Path,
) -> None:
    """Was wrong: of HiCo it said that what is missing is made of repeated frames, but HiCo skips such videos."""
    from video_ssl.datasets import open_table

    table = tmp_path / "t.csv"
    rows = "".join(f"/nowhere/{i}.mp4,{frames},25\n" for i, frames in enumerate((20, 75, 200)))
    table.write_text(f"path,num_frames,fps\n{rows}", encoding="utf-8")
    recipe = load_pretrain_recipe("hico/small", ["training.global_batch_size=2"])
    streams: Any = {"main": SimpleNamespace(num_examples=3, only_tables=(open_table(table),))}
    (warning,) = warnings_before(recipe, streams, steps=1, trained=1, cpus=0)
    assert "2 of 3 videos that were looked at are shorter than the 4.27 s" in warning
    assert "their median lasts 1.90 s. They are skipped" in warning
    assert "objective.clip.frame_stride" in warning


def test_a_table_that_knows_its_lengths_is_believed_without_opening_a_file(tmp_path: Path) -> None:
    from video_ssl.datasets import open_table

    table = tmp_path / "t.csv"
    rows = "".join(f"/nowhere/{i}.mp4,{frames},25\n" for i, frames in enumerate((20, 70, 30)))
    table.write_text(f"path,num_frames,fps\n{rows}", encoding="utf-8")
    recipe = load_pretrain_recipe("videomae/vit_b_k400", ["training.global_batch_size=1"])
    opened = open_table(table)
    streams: Any = {"main": SimpleNamespace(num_examples=3, only_tables=(opened,))}
    (warning,) = warnings_before(recipe, streams, steps=1, trained=1, cpus=0)
    assert "2 of 3 videos" in warning
    assert "spans 61 frames; the median has 30 frames" in warning
