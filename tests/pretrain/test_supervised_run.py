"""A whole run with labels: batch statistics and color survive a resume to the bit; a table's no_flip is told once."""

import logging

import pytest
import torch

import video_ssl
from video_ssl.datasets.table import Table
from video_ssl.objectives.supervised.objective import Objective
from video_ssl.pretrain.run import open_streams
from video_ssl.pretrain.torch_loop.run import run_torch

OBJECTIVE = {
    "name": "supervised",
    "num_classes": 3,
    "clip": {"num_frames": 4, "frame_stride": 2, "views_per_clip": 2},
    "crop": {"kind": "random_resized", "size": 32, "flip_probability": 0.5},
    "color": {"law": "simclr"},
    "encoder": {
        "architecture": "r2plus1d",
        "preset": None,
        "depth": 10,
        "widths": [4, 4, 4, 8, 8],
        "block": "r2plus1d",
        "stem": "r2d3d",
    },
}


def table_of(videos, folder, **metadata):
    files = sorted(videos.glob("*.mp4"))
    rows = [{"source": str(file), "label": i % 3} for i, file in enumerate(files)]
    path = folder / "labelled.arrow"
    Table.from_rows(rows, **metadata).save(path)
    return path


def recipe_of(helpers, table, run, **changes):
    return helpers.recipe(table, run, objective=OBJECTIVE, **changes)


class Killed(BaseException):
    """Stands for the end of the process."""


def test_killed_and_resumed_equals_undisturbed(videos, tmp_path, helpers, monkeypatch):
    table = table_of(videos, tmp_path)
    run_torch(recipe_of(helpers, table, tmp_path / "a"))

    def after_step(self, progress):
        if round(progress * 12) == 10:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Objective, "after_step", after_step)
        with pytest.raises(Killed):
            run_torch(recipe_of(helpers, table, tmp_path / "b"))
    count = "encoder.stem.layers.norm.num_batches_tracked"
    assert helpers.weights(tmp_path / "b")[count] == 8
    run_torch(recipe_of(helpers, table, tmp_path / "b"))
    one, two = helpers.weights(tmp_path / "a"), helpers.weights(tmp_path / "b")
    assert one[count] == 12
    assert [k for k in one if not torch.equal(one[k], two[k])] == []
    encoder = video_ssl.load_encoder(tmp_path / "a")
    assert encoder.architecture == "r2plus1d"
    mean = "stem.layers.norm.running_mean"
    assert torch.equal(encoder.state_dict()[mean], one[f"encoder.{mean}"])


@pytest.mark.parametrize(("metadata", "lines"), [({"no_flip": True}, 1), ({}, 0)])
def test_a_table_that_must_not_be_mirrored_is_told_once(
    videos, tmp_path, helpers, caplog, metadata, lines
):
    """Whatever the objective does with its clips, which is its own business."""
    recipe = helpers.recipe(
        table_of(videos, tmp_path, **metadata), tmp_path / "run", objective=OBJECTIVE
    )
    with caplog.at_level(logging.INFO):
        open_streams(recipe)
    told = [line for line in caplog.messages if "labelled.arrow says no_flip" in line]
    assert len(told) == lines
