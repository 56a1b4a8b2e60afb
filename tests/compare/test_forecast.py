"""`compare RECIPE --dry-run`: jobs, hours at the pace of steps that were timed, and disk."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from video_ssl.compare.cells import CELL, Cell
from video_ssl.compare.forecast import describe_cells
from video_ssl.recipes import to_yaml


@pytest.fixture
def cells(videos, tmp_path):
    """Three seeds of one objective: one finished whose steps took 2 s, one stopped after 30 of 40, one not begun."""
    recipe = tmp_path / "toy.yaml"
    recipe.write_text(
        to_yaml(
            {
                "objective": {"name": "mae", "crop": {"size": 64}},
                "data": {"table": str(videos / "train.arrow")},
                "training": {"duration": "80 steps", "global_batch_size": 4},
            }
        )
    )
    made = []
    for seed in range(3):
        folder = tmp_path / "cells" / "toy" / "5" / f"seed_{seed}"
        words = (f"seed={seed}", "training.scale=0.5", f"run={folder / 'run'}")
        train = ("pretrain", str(recipe), *words)
        made.append(Cell("toy", 5.0, seed, folder, train, {"judge": ("evaluate", "judge.yaml")}))
    write_metrics(made[0].run, 40)
    write_metrics(made[1].run, 30)
    encoder = made[0].run / "encoder" / "config.json"
    encoder.parent.mkdir()
    encoder.write_bytes(b"x" * 2**20)
    made[0].results_of("judge").parent.mkdir(parents=True)
    made[0].results_of("judge").write_text("{}")
    (made[0].folder / CELL).write_text("{}")
    return made


def write_metrics(run: Path, steps: int) -> None:
    run.mkdir(parents=True)
    rows = [{"step": step, "time": 1000.0 + 2 * step} for step in range(1, steps + 1)]
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_what_is_left_at_the_pace_so_far(cells):
    """10 steps of the second and 40 of the third are left, 2 s each; two more folders like the first."""
    finished, hours, disk = describe_cells(cells, None)
    assert finished == "finished: 1 of 3"
    assert hours.startswith(f"hours: {50 * 2 / 3600:.2g} of trainings")
    assert "GPU" not in hours
    assert disk.startswith(f"disk: {2 * (2**20 + 1500) / 2**30:.2g} GiB more")


def test_jobs_of_a_cluster_and_its_gpu_hours(cells, tmp_path):
    profile = tmp_path / "mine.yaml"
    profile.write_text(
        to_yaml({"executor": "slurm", "nodes": 2, "gpus_per_node": 4, "tasks_per_node": 4})
    )
    lines = list(describe_cells(cells, str(profile)))
    assert "toy: 2 x pretrain -> evaluate-judge (after pretrain)" in lines
    assert "jobs: 4, trainings of 8 processes each" in lines
    assert any(f"{50 * 2 / 3600 * 8:.2g} GPU-hours" in line for line in lines)


def test_what_was_never_timed_is_not_known(cells):
    _, hours, disk = describe_cells(cells[2:], None)
    assert "not known, since no step of toy was timed" in hours
    assert "budget.amounts" in hours
    assert disk == "disk: not known, since no cell of toy is finished"
    assert list(describe_cells([], None)) == []
