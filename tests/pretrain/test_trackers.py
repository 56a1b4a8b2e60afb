"""Metrics that go elsewhere too: whatever a tracker does, the training is the same, and metrics.jsonl has every row.

`fake` stands in the table of trackers; MLflow and Weights & Biases are tried for real where they are installed.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Mapping
from typing import Any, ClassVar

import pytest
import torch

from video_ssl.pretrain import trackers
from video_ssl.pretrain.errors import RunError
from video_ssl.pretrain.reporting import read_metrics
from video_ssl.pretrain.start import run_recipe
from video_ssl.pretrain.trackers import TrackedRun
from video_ssl.recipes import ConfigError


class Fake:
    """Keeps what it is told; fails or hangs where it is asked to."""

    made: ClassVar[list[Fake]] = []
    fails_at: ClassVar[str] = ""
    held: ClassVar[threading.Event | None] = None

    def __init__(self, run: TrackedRun) -> None:
        self.run, self.rows, self.finished = run, [], None
        Fake.made.append(self)
        self._do("start")

    def _do(self, what: str) -> None:
        if Fake.held is not None:
            Fake.held.wait(60)
        if Fake.fails_at == what:
            raise OSError(28, f"No space left\non device at {what}")

    def write(self, row: Mapping[str, Any]) -> None:
        self._do("write")
        self.rows.append(row)

    def close(self, *, finished: bool) -> None:
        self._do("close")
        self.finished = finished


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> type[Fake]:
    import sys

    monkeypatch.setitem(sys.modules, "a_fake_tracker", sys.modules[__name__])
    monkeypatch.setitem(trackers.TRACKERS, "fake", trackers.Entry("a_fake_tracker:Fake", "json"))
    monkeypatch.setattr(Fake, "made", [])
    monkeypatch.setattr(Fake, "fails_at", "")
    monkeypatch.setattr(Fake, "held", None)
    return Fake


def test_it_gets_every_row_and_how_the_run_ended(videos, tmp_path, helpers, fake):
    run_recipe(helpers.recipe(videos, tmp_path / "run", training__trackers=["fake", "tensorboard"]))
    (it,) = fake.made
    assert it.rows == read_metrics(tmp_path / "run" / "metrics.jsonl")
    assert [row["step"] for row in it.rows] == [4, 8, 12]
    assert it.finished is True
    assert (it.run.name, it.run.start_step) == ("tiny", 0)
    assert it.run.own == tmp_path / "run" / "tracking" / "fake"
    assert list((tmp_path / "run" / "tensorboard").iterdir())


def test_a_continued_run_says_where_it_goes_on(videos, tmp_path, helpers, fake):
    run = tmp_path / "run"
    run_recipe(helpers.recipe(videos, run, training__duration="8 steps", training__trackers="fake"))
    longer = helpers.recipe(videos, run, training__trackers="fake")
    run_recipe(longer, allow_changes=True)
    assert [it.run.start_step for it in fake.made] == [0, 8]
    assert [row["step"] for row in fake.made[1].rows] == [12]


@pytest.mark.parametrize("place", ["start", "write", "close"])
def test_one_that_fails_is_told_once_and_changes_no_bit(
    videos, tmp_path, helpers, fake, caplog, place
):
    run_recipe(helpers.recipe(videos, tmp_path / "without", training__trackers=None))
    assert not (tmp_path / "without" / "tensorboard").exists()
    fake.fails_at = place
    with caplog.at_level(logging.INFO, logger="video_ssl"):
        run_recipe(helpers.recipe(videos, tmp_path / "with", training__trackers="fake"))
    told = [line for line in caplog.messages if "trackers: fake" in line]
    assert len(told) == 1
    assert f"OSError: [Errno 28] No space left on device at {place}" in told[0]
    assert "metrics.jsonl" in told[0]
    before, after = (helpers.weights(tmp_path / name) for name in ("without", "with"))
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert len(read_metrics(tmp_path / "with" / "metrics.jsonl")) == 3
    assert (tmp_path / "with" / "finished.json").is_file()


def test_one_that_hangs_is_not_waited_for(videos, tmp_path, helpers, fake, caplog, monkeypatch):
    monkeypatch.setattr(trackers, "PATIENCE_SEC", 0.2)
    fake.held = threading.Event()
    try:
        with caplog.at_level(logging.INFO, logger="video_ssl"):
            run_recipe(helpers.recipe(videos, tmp_path / "run", training__trackers="fake"))
        assert len([line for line in caplog.messages if "has not taken its last rows" in line]) == 1
        assert (tmp_path / "run" / "finished.json").is_file()
    finally:
        fake.held.set()


def test_a_slow_one_loses_rows_and_not_memory(tmp_path, fake, caplog, monkeypatch):
    monkeypatch.setattr(trackers, "MOST_WAITING", 5)
    fake.held = threading.Event()
    both = trackers.Trackers(["fake"], name="it", folder=tmp_path, start_step=0)
    with caplog.at_level(logging.INFO, logger="video_ssl"):
        for step in range(50):
            both.write({"step": step})
    assert len([line for line in caplog.messages if "has left 5 rows waiting" in line]) == 1
    fake.held.set()
    both.close(finished=True)
    assert len(fake.made[0].rows) <= 6


def test_a_stopped_run_is_not_told_as_finished(tmp_path, fake):
    both = trackers.Trackers(["fake"], name="it", folder=tmp_path, start_step=0)
    both.write({"step": 1})
    both.close(finished=False)
    assert fake.made[0].finished is False


def test_an_unknown_one_is_refused_with_those_that_there_are(videos, tmp_path, helpers):
    with pytest.raises(ConfigError, match=r"tensorboard, mlflow, wandb.*Did you mean 'mlflow'"):
        helpers.recipe(videos, tmp_path / "run", training__trackers=["mlfow"])


@pytest.mark.parametrize("name", ["mlflow", "wandb"])
def test_a_missing_package_is_told_before_anything(videos, tmp_path, helpers, name, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(RunError, match=rf"needs {name}: pip install 'video_ssl\[{name}\]'"):
        run_recipe(helpers.recipe(videos, tmp_path / "run", training__trackers=name))
    assert not (tmp_path / "run").exists()


def test_without_tensorboard_a_run_trains_as_before(videos, tmp_path, helpers, monkeypatch, caplog):
    import sys

    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with caplog.at_level(logging.INFO, logger="video_ssl"):
        run_recipe(helpers.recipe(videos, tmp_path / "run"))
    assert "tensorboard is not installed: metrics do not go there" in caplog.messages
    assert not (tmp_path / "run" / "tensorboard").exists()


def test_a_tracker_is_changed_in_a_run_without_a_word(videos, tmp_path, helpers, fake):
    run = tmp_path / "run"
    run_recipe(helpers.recipe(videos, run, training__duration="4 steps"))
    changed = helpers.recipe(videos, run, training__duration="4 steps", training__trackers="fake")
    run_recipe(changed)  # finished, and not refused
    assert fake.made == []


def test_mlflow_keeps_a_run_in_its_folder_and_goes_on_in_it(videos, tmp_path, helpers, monkeypatch):
    pytest.importorskip("mlflow")
    from mlflow.tracking import MlflowClient

    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    run = tmp_path / "my run"
    short = {"training__duration": "8 steps", "training__trackers": "mlflow"}
    monkeypatch.setattr(trackers, "PATIENCE_SEC", 120)
    run_recipe(helpers.recipe(videos, run, **short))
    run_recipe(helpers.recipe(videos, run, training__trackers="mlflow"), allow_changes=True)
    assert {path.name for path in tmp_path.iterdir()} == {"my run"}  # nothing beside it
    client = MlflowClient(tracking_uri=f"sqlite:///{run}/tracking/mlflow/mlflow.db")
    experiment = client.get_experiment_by_name("video_ssl")
    (found,) = client.search_runs([experiment.experiment_id])
    assert found.info.status == "FINISHED"
    assert found.info.run_name == "tiny"
    assert found.data.params["optimizer.base_lr"] == "0.01"
    kept = client.get_metric_history(found.info.run_id, "loss")
    rows = read_metrics(run / "metrics.jsonl")
    assert [(m.step, m.value) for m in kept] == [(row["step"], row["loss"]) for row in rows]


def test_wandb_keeps_a_run_in_its_folder_and_sends_nothing(videos, tmp_path, helpers, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setattr(trackers, "PATIENCE_SEC", 120)
    run = tmp_path / "my run"
    run_recipe(helpers.recipe(videos, run, training__trackers="wandb"))
    assert {path.name for path in tmp_path.iterdir()} == {"my run"}
    own = run / "tracking" / "wandb"
    number = json.loads((own / "run.json").read_text())["run_id"]
    (file,) = own.rglob(f"*{number}.wandb")
    assert file.parent.name.startswith("offline-run-")
    assert file.stat().st_size > 0
    assert time.time() - file.stat().st_mtime < 600
