"""Two objectives that nobody built into the library: a folder each, and a line in a table, set from outside.

They take two streams of data, one with sound, and train two encoders.  Everything that a run can be used for must work
on them; where a change of the library were needed for that, one of its seams would be wrong.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import toys
from sounding_videos import sounding_table

from video_ssl.bench.loader import bench_loader
from video_ssl.bench.step import bench_step
from video_ssl.embed.embed_videos import embed_table
from video_ssl.evaluate.recipe import load_evaluate_recipe
from video_ssl.evaluate.run import evaluate
from video_ssl.explore.pages.report_page import write_report
from video_ssl.models.encoders import load_encoder
from video_ssl.pretrain.recipe import load_pretrain_recipe
from video_ssl.pretrain.reporting import read_metrics
from video_ssl.pretrain.start import run_recipe

SUPPORT = Path(__file__).parent / "support"
LENGTH, BETWEEN = 6, 2


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    toys.register(monkeypatch.setitem)


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Sums over several threads have other last bits; processes that are started have one, too."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sounding_table(tmp_path_factory.mktemp("sounding"))


@pytest.fixture(scope="module")
def other_table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sounding_table(tmp_path_factory.mktemp("others"), first=100)


@pytest.fixture(scope="module", params=sorted(toys.OWN))
def run(request: Any, table: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of each toy."""
    folder = tmp_path_factory.mktemp(request.param) / "run"
    with pytest.MonkeyPatch.context() as patch:
        toys.register(patch.setitem)
        result = run_recipe(recipe_of(request.param, table, folder))
    assert result.steps == LENGTH
    return folder


def words_of(name: str, table: Path, folder: Path) -> list[str]:
    """What a user writes behind `video-ssl pretrain`."""
    return [
        str(SUPPORT / name / "tiny.yaml"),
        f"run={folder}",
        f"data.table={table}",
        f"data.streams.stills.table={table}",
        f"training.duration={LENGTH} steps",
        f"training.checkpoint_every={BETWEEN} steps",
    ]


def recipe_of(name: str, table: Path, folder: Path, *more: str) -> Any:
    recipe, *words = words_of(name, table, folder)
    return load_pretrain_recipe(recipe, [*words, *more])


def name_of(run: Path) -> str:
    return run.parent.name.rstrip("0123456789")


def weights(run: Path) -> list[bytes]:
    return [
        (run / place / "model.safetensors").read_bytes() for place in ("encoder", "encoders/stills")
    ]


def test_figures_of_the_toy_are_logged(run: Path) -> None:
    last = read_metrics(run / "metrics.jsonl")[-1]
    assert {"loss", "pairs", "stills", "feature_std", "clips_per_sec"} <= set(last)
    assert last["loss"] == pytest.approx(last["pairs"] + last["stills"], rel=1e-5)


def test_both_encoders_have_learned_and_load_in_torch(
    run: Path, table: Path, tmp_path: Path
) -> None:
    fresh = tmp_path / "fresh"
    run_recipe(
        recipe_of(name_of(run), table, fresh, "optimizer.base_lr=0", "optimizer.weight_decay=0")
    )
    for place in ("encoder", "encoders/stills"):
        trained, before = load_encoder(run / place), load_encoder(fresh / place)
        assert trained.architecture == "toy"
        assert not torch.equal(
            trained.state_dict()["linear.weight"], before.state_dict()["linear.weight"]
        )
    assert load_encoder(run).preprocess.num_frames == 2
    assert load_encoder(run / "encoders" / "stills").preprocess.num_frames == 1


def test_a_run_that_goes_on_ends_in_the_same_bits(run: Path, table: Path, tmp_path: Path) -> None:
    again = tmp_path / "again"
    shutil.copytree(run, again)
    content = (again / "recipe.yaml").read_text()
    (again / "recipe.yaml").write_text(content.replace(str(run), str(again)))
    (again / "finished.json").unlink()
    for gone in ("encoder", "encoders", f"checkpoints/step_{LENGTH}"):
        shutil.rmtree(again / gone)
    assert list((again / "checkpoints").iterdir())
    run_recipe(recipe_of(name_of(run), table, again))
    assert weights(again) == weights(run)


def test_the_streams_are_measured(run: Path, table: Path, tmp_path: Path) -> None:
    recipe = recipe_of(name_of(run), table, tmp_path / "run")
    (figures,) = bench_loader(recipe, num_batches=2, num_records=2, repeats=1)
    assert figures.clips_per_sec > 0
    rows = bench_step(recipe, batch_size=8, steps=1, warmup=1)
    assert rows[0].step_sec > 0


def test_the_report_shows_the_clips_and_both_encoders(run: Path, tmp_path: Path) -> None:
    page = write_report(run, tmp_path / "report.html").read_text()
    assert page.count("data:image/") >= 4 + 2  # of each stream
    assert "stills: v0" in page
    assert "Encoder in encoders/stills" in page


def test_features_of_both_encoders_are_evaluated(
    run: Path, table: Path, other_table: Path, tmp_path: Path
) -> None:
    widths = []
    for place in ("encoder", "encoders/stills"):
        out = tmp_path / f"{Path(place).name}.arrow"
        found = embed_table(
            str(run / place), str(table), str(out), num_workers=0, device="cpu", num_clips=1
        )
        assert np.isfinite(found.features).all()
        widths.append(found.features.shape)
    assert widths == [(8, 6), (8, 6)]
    words = [
        f"encoder={run}", f"train={table}", f"test={other_table}", f"out={tmp_path / 'evaluation'}",
        "evaluators={knn: {}}", "embed.num_workers=0", "device=cpu",
    ]  # fmt: skip
    result = evaluate(load_evaluate_recipe("probe", words))
    assert "knn" in json.dumps(result.rows if hasattr(result, "rows") else str(result))


def test_it_is_launched(run: Path, table: Path, tmp_path: Path) -> None:
    """The toys come into the tables of the processes that are started by way of Python's own start file."""
    launched = tmp_path / "launched"
    paths = os.pathsep.join([str(SUPPORT / "toys_for_children"), os.environ.get("PYTHONPATH", "")])
    subprocess.run(
        [sys.executable, "-m", "video_ssl", "launch", "local", "pretrain"]
        + words_of(name_of(run), table, launched),
        env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
        check=True,
        cwd=tmp_path,
    )
    assert weights(launched) == weights(run)
