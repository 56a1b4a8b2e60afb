"""Before a stage begins, the log says how long it and what comes after it are."""

from __future__ import annotations

import logging
from pathlib import Path

from video_ssl.pretrain.recipe import load_pretrain_recipe
from video_ssl.pretrain.run import RunResult, prepare_stages


def test_the_length_of_every_stage_is_told(tmp_path, caplog):
    asked = [f"run={tmp_path / 'run'}", "training.scale=0.5", "training.duration=80 epochs"]
    recipe = load_pretrain_recipe("mvd/demo", asked)
    trained = []

    def train(inner):
        trained.append(inner)
        return RunResult(Path(inner.run), 0, {}, {"encoder": Path(inner.run) / "encoder"})

    with caplog.at_level(logging.INFO):
        found = prepare_stages(recipe, train)
    assert list(found) == ["image", "video"]
    told = [record.message for record in caplog.records]
    for number, inner in enumerate(trained):
        assert (
            f", {number + 1} of 2: {inner.name}, 0.5 of {inner.training.duration}" in told[number]
        )
        assert told[number].endswith("; then mvd/demo, 0.5 of 80 epochs")
