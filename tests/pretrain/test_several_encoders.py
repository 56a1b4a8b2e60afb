"""Several encoders leave a training: RUN/encoder and RUN/encoders/NAME, in torch and in flax."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import video_ssl
from video_ssl.explore.pages.report_page import write_report
from video_ssl.models.encoder_folder import EncoderError, find_encoder
from video_ssl.objectives import OBJECTIVES, Entry
from video_ssl.pretrain.export import export_encoders
from video_ssl.pretrain.recipe import recipe_from_dict, recipe_to_dict
from video_ssl.pretrain.reporting import Stopwatch, read_metrics
from video_ssl.pretrain.start import run_recipe


def torch_recipe(videos: Path, run: Path, helpers: Any) -> Any:
    content = recipe_to_dict(helpers.recipe(videos, run, training__duration=2))
    content["objective"]["name"] = "two_encoders"
    return recipe_from_dict(content)


def flax_recipe(videos: Path, run: Path, helpers: Any) -> Any:
    flax_runs = pytest.importorskip("flax_runs")
    content = flax_runs.content(videos, run, "cvrl", training__duration=2)
    content["objective"]["name"] = "two_encoders"
    return recipe_from_dict(content)


@pytest.fixture(
    params=[
        (Entry("two_encoders"), torch_recipe),
        pytest.param((Entry("two_encoders_flax", "flax"), flax_recipe), marks=pytest.mark.slow),
    ],
    ids=["torch", "flax"],
)
def make(
    request: pytest.FixtureRequest, videos: Path, helpers: Any, monkeypatch: pytest.MonkeyPatch
) -> Callable[[Path], Any]:
    entry, recipe_of = request.param
    monkeypatch.setitem(OBJECTIVES, "two_encoders", entry)
    return lambda run: recipe_of(videos, run, helpers)


def test_every_encoder_leaves_the_training_under_its_name(
    make: Callable[[Path], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, counted = tmp_path / "run", []
    trained = Stopwatch.trained

    def counts(self: Stopwatch, clips: int) -> None:
        counted.append(clips)
        trained(self, clips)

    monkeypatch.setattr(Stopwatch, "trained", counts)
    result = run_recipe(make(run))
    assert result.encoder == run / "encoder"
    assert result.encoders == {"student": run / "encoder", "teacher": run / "encoders" / "teacher"}
    assert counted == [3, 3]  # clips, as the objective tells them
    assert len(read_metrics(run / "metrics.jsonl")) >= 1
    student, teacher = (video_ssl.load_encoder(folder) for folder in result.encoders.values())
    video_ssl.load_encoder(run)  # the first
    weights, averages = student.state_dict(), teacher.state_dict()
    assert weights.keys() == averages.keys()
    moved = [name for name in weights if not torch.equal(weights[name], averages[name])]
    assert moved

    # The last checkpoint holds the same.
    made = export_encoders(run)
    assert made == {"student": run / "exports/step_2", "teacher": run / "exports/step_2_teacher"}
    for exported, of_end in zip(made.values(), (student, teacher), strict=True):
        found, wanted = video_ssl.load_encoder(exported).state_dict(), of_end.state_dict()
        assert all(torch.equal(found[name], wanted[name]) for name in wanted)

    # A finished run gives the same again, and is trained to its end where an encoder has gone.
    assert run_recipe(make(run)).encoders == result.encoders
    shutil.rmtree(run / "encoders")
    assert run_recipe(make(run)).encoders == result.encoders
    again = video_ssl.load_encoder(run / "encoders" / "teacher").state_dict()
    assert all(torch.equal(again[name], averages[name]) for name in averages)

    page = write_report(run).read_text()
    assert "encoders/teacher" in page


def test_a_place_that_is_taken_is_told_before_the_training(
    videos: Path, tmp_path: Path, helpers: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(OBJECTIVES, "two_encoders", Entry("two_encoders"))
    recipe = torch_recipe(videos, tmp_path, helpers)
    run_recipe(recipe)
    (tmp_path / "finished.json").unlink()
    (tmp_path / "encoders" / "teacher" / "thesis.txt").write_text("mine")
    with pytest.raises(EncoderError, match=r"teacher has thesis\.txt"):
        run_recipe(recipe)
    assert len(json.loads((tmp_path / "environment.json").read_text())["starts"]) == 1


def test_runs_of_before_had_one_encoder(tmp_path: Path, videos: Path, helpers: Any) -> None:
    recipe = helpers.recipe(videos, tmp_path, training__duration=2)
    run_recipe(recipe)
    finished = json.loads((tmp_path / "finished.json").read_text())
    assert finished.pop("encoders") == {"encoder": "encoder"}
    (tmp_path / "finished.json").write_text(json.dumps(finished))
    result = run_recipe(recipe)
    assert result.encoders == {"encoder": tmp_path / "encoder"}
    assert result.encoder == find_encoder(tmp_path)
