"""What jobs ask for where the profile leaves it open, and what a dry run tells of them.  No SLURM is needed."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

from video_ssl.files import write_json_lines
from video_ssl.launch import launching
from video_ssl.launch.estimates import remaining_sec
from video_ssl.launch.profile import load_profile
from video_ssl.launch.steps import plan_launch
from video_ssl.pretrain.recipe import load_pretrain_recipe


def asked(verb: str, *words: str, settings: tuple[str, ...] = (), profile: str = "slurm") -> Any:
    """(CPUs of a task, GPUs of a node) of every job."""
    plan = plan_launch(verb, words, load_profile(profile, settings))
    return {
        step.name: (step.profile.cpus_per_task, step.profile.gpus_per_node) for step in plan.steps
    }


def test_jobs_ask_for_what_their_recipes_need(tmp_path: Path) -> None:
    """Was wrong: a loader of 12 processes got the one CPU that a cluster gives, a recipe for GPUs got none."""
    eight = ("nodes=2", "tasks_per_node=8")
    assert asked("pretrain", "mvd/vit_b_k400", settings=eight) == {"pretrain": (13, 8)}
    assert asked("pretrain", "mae/demo") == {"pretrain": (2, None)}
    assert asked("pretrain", "mae/demo", "loader.num_workers=auto") == {"pretrain": (2, None)}
    cpu = ("training.device=cpu", "loader.num_workers=3")
    assert asked("pretrain", "mvd/vit_b_k400", *cpu) == {"pretrain": (4, None)}
    assert asked("pretrain", "mae/demo", "training.device=cuda") == {"pretrain": (2, 1)}
    out = str(tmp_path / "f.arrow")
    assert asked("embed", "run", "videos", out) == {"embed": (3, None), "merge": (None, None)}
    assert asked("embed", "run", "videos", out, "--num-workers", "7")["embed"] == (8, None)
    assert asked("embed", "run", "videos", out, "--num-workers=0")["embed"] == (1, None)
    words = ("probe", "encoder=run", "train=a.csv", "test=b.csv", "embed.num_workers=5")
    assert asked("evaluate", *words) == {"evaluate": (6, None)}


def test_what_the_profile_says_wins_and_this_machine_is_asked_for_nothing() -> None:
    given = ("cpus_per_task=4", "gpus_per_node=0")
    assert asked("pretrain", "mvd/vit_b_k400", settings=given) == {"pretrain": (4, 0)}
    assert asked("pretrain", "mvd/vit_b_k400", profile="local") == {"pretrain": (None, None)}


def dry(*words: str, caplog: pytest.LogCaptureFixture) -> tuple[str, list[str]]:
    """The script and the lines of a dry run on two nodes."""
    caplog.clear()
    with caplog.at_level(logging.INFO, logger="video_ssl"):
        script = launching.launch("slurm", "pretrain", words, overrides=["nodes=2"], dry_run=True)
    return script, [line for r in caplog.records for line in r.getMessage().splitlines()]


def test_dry_run_tells_recipe_jobs_and_cost(
    videos: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("submitit")
    run = tmp_path / "run"
    words = ("mae/demo", f"data.table={videos}", f"run={run}", "training.duration=4 epochs")
    script, lines = dry(*words, caplog=caplog)
    assert "#SBATCH --cpus-per-task=2" in script
    assert "  duration: 4 epochs" in lines
    (job,) = [line for line in lines if line.startswith("job ")]
    assert job.startswith("job pretrain: 2 processes on 2 nodes, 2 CPUs each, GPUs as the cluster")
    assert f"  video-ssl pretrain {run}/launch/pretrain.yaml" in lines
    assert lines[-1].startswith("cost: not known, since no step was timed")
    assert not run.exists()

    rows = [{"step": step, "time": 1000.0 + 360 * step} for step in (1, 2, 3)]
    run.mkdir()
    write_json_lines(run / "metrics.jsonl", rows)
    _, lines = dry(*words, caplog=caplog)
    steps = len(list(videos.iterdir())) * 4 / 8
    hours = (steps - 3) * 0.1
    assert lines[-1] == (
        f"cost: {hours:.2g} hours at the pace of the steps so far: 0 GPU-hours, {4 * hours:.2g} CPU-hours"
    )


def test_dry_run_of_data_that_only_the_cluster_has(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("submitit")
    words = ("mae/demo", f"data.table={tmp_path}/gone", f"run={tmp_path}/run")
    script, lines = dry(*words, caplog=caplog)
    assert "#SBATCH" in script
    assert any(line.startswith("its data cannot be looked at from here: ") for line in lines)


def test_remaining_time_is_that_of_the_steps_to_come(videos: Path, tmp_path: Path) -> None:
    recipe = load_pretrain_recipe(
        "mae/demo", [f"data.table={videos}", f"run={tmp_path}", "training.duration=10 steps"]
    )
    assert remaining_sec(recipe) is None
    rows = [{"step": 2, "time": 10.0}, {"step": 4, "time": 14.0}, {"step": 6, "time": 90.0}]
    rows.append({"step": 8, "time": 94.0})  # 2 s a step, and once a long stop between
    write_json_lines(tmp_path / "metrics.jsonl", rows)
    assert remaining_sec(recipe) == pytest.approx(4)


def test_a_loader_with_more_processes_than_cores_says_so(
    videos: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing is read: workers start with the first batch."""
    from video_ssl.clips import pipeline
    from video_ssl.clips.pipeline import LoaderConfig, Pipeline
    from video_ssl.datasets import open_table
    from video_ssl.objectives import OBJECTIVES

    recipe = load_pretrain_recipe("mae/demo")
    plan = OBJECTIVES["mae"].main_plan(recipe.objective)
    monkeypatch.setattr(pipeline.os, "sched_getaffinity", lambda _: {0, 1, 2})
    tables = [(open_table(str(videos)), 1.0)]
    for workers, expected in ((3, []), (4, ["loader.num_workers=4"])):
        caplog.clear()
        with Pipeline(
            tables,
            plan,
            seed=0,
            global_batch_size=2,
            num_steps=9,
            config=LoaderConfig(num_workers=workers),
        ):
            said = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
        assert [line.partition(" ")[0] for line in said] == expected
    assert "this one may use 3 CPU cores" in said[0]
    assert "Set loader.num_workers=2" in said[0]
    assert "cpus_per_task=5" in said[0]
