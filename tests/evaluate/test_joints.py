"""Joints that travel: the corners of a box that moves, from files as JHMDB has them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from boxed_videos import FRAMES, HEIGHT, WIDTH, boxed_table
from other_device import check_device
from PIL import Image
from untrained_run import untrained_run

from video_ssl.clips.reading import open_record, open_video
from video_ssl.datasets.table import Table
from video_ssl.embed.config import EmbedConfig
from video_ssl.embed.features import FeatureError
from video_ssl.evaluate.dense import joint_propagation, poses
from video_ssl.evaluate.dense.joint_propagation import JointPropagationConfig
from video_ssl.evaluate.dense.propagation import PropagationConfig
from video_ssl.evaluate.dense.true_joints import joints_beside
from video_ssl.evaluate.recipe import EvaluateRecipe
from video_ssl.evaluate.run import evaluate

scipy_io = pytest.importorskip("scipy.io")


def corners_of(boxes):
    """float64 (T, 4, 2) in pixels: the corners of the first box of every frame."""
    left, top, right, bottom = (boxes[:, 0] * [WIDTH, HEIGHT, WIDTH, HEIGHT]).T
    return np.stack(
        [np.stack(xy, -1) for xy in ((left, top), (right, top), (left, bottom), (right, bottom))], 1
    )


@pytest.fixture(scope="module")
def jhmdb(tmp_path_factory):
    """Folders of frames with joints beside them, and their table."""
    root = tmp_path_factory.mktemp("jhmdb")
    table, rows = Table.open(boxed_table(root, "test", 3, seed=5)), []
    for row in range(3):
        record = table.record(row)
        frames, joints = (
            root / part / "run" / str(row) for part in ("Rename_Images", "joint_positions")
        )
        frames.mkdir(parents=True)
        joints.mkdir(parents=True)
        with open_record(record) as reader:
            for t, frame in enumerate(reader.frames(np.arange(FRAMES))):
                Image.fromarray(frame).save(frames / f"{t + 1:05d}.png")
        places = corners_of(record.boxes) + 1  # counted from 1
        scipy_io.savemat(joints / "joint_positions.mat", {"pos_img": places.transpose(2, 1, 0)})
        rows.append({"id": str(row), "source": str(frames)})
    return Table.from_rows(rows).save(root / "table.arrow").path


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return untrained_run(tmp_path_factory.mktemp("runs") / "toy", width=16)


def recipe(run, test, out, **settings):
    own = {
        "size": [128, 192],
        "rule": {"context": 3, "topk": 5, "radius": 4.0, "temperature": 0.05},
        **settings,
    }
    return EvaluateRecipe(
        encoders={"a": str(run)},
        train=None,
        test=str(test),
        evaluators={"joints": own},
        embed=EmbedConfig(num_workers=0, num_clips=1, frames=False),
        out=str(out),
        device="cpu",
    )


def result_of(found):
    return found["encoders"]["a"]["results"]["joints"]


def test_joints_count_from_0_and_stay_on_frames(jhmdb):
    record = Table.open(jhmdb).record(0)
    boxes = Table.open(jhmdb.parent / "test.arrow").record(0).boxes
    places = {"Rename_Images": "joint_positions"}
    found = joints_beside(record.source, places, FRAMES)
    np.testing.assert_allclose(found, corners_of(boxes), atol=1e-4)
    assert joints_beside(record.source, places, 5).shape == (5, 4, 2)


def test_joints_travel_on_the_device_of_the_evaluation(run, jhmdb):
    """Was wrong: on the CPU, whatever the evaluation ran on."""
    check_device(recipe, run, jhmdb)


def test_corners_of_a_box_that_moves_are_followed(run, jhmdb, tmp_path):
    folder = tmp_path / "files" / "a" / "joints"
    folder.mkdir(parents=True)
    (folder / "000009_old.mp4").write_text("")  # of an earlier evaluation: it goes
    found = evaluate(recipe(run, jhmdb, tmp_path), quiet=True)
    result = result_of(found)
    still = result["details"]["stays_where_it_is"]
    assert result["metrics"]["pck_50"] > still["pck_50"] + 0.1
    assert list(result["metrics"]) == ["pck_10", "pck_20", "pck_30", "pck_40", "pck_50"]
    assert sorted(result["metrics"].values()) == list(result["metrics"].values())
    assert "% of the joints were found; the others do not count" in result["notes"][0]
    assert "carries the joints of the first frame of 3 videos" in found["summary"]
    drawn = sorted(folder.iterdir())
    assert [path.name for path in drawn] == ["000000_0.mp4", "000001_1.mp4", "000002_2.mp4"]
    with open_video(drawn[0]) as reader:
        assert reader.info.num_frames == FRAMES


def test_joints_by_the_rule_of_older_tables(run, jhmdb, tmp_path):
    words = {"preset": "crw", "rule": None, "videos": 0}
    result = result_of(evaluate(recipe(run, jhmdb, tmp_path, **words), quiet=True))
    assert result["details"]["preset"] == "crw"
    assert result["metrics"]["pck_50"] > result["details"]["stays_where_it_is"]["pck_50"] + 0.1


@pytest.mark.parametrize(
    ("settings", "topk", "radius", "places"),
    [
        ({}, 7, 20.0, 5),
        ({"preset": "crw"}, 10, 12.0, 3),
        ({"preset": "crw", "topk": 4}, 10, 12.0, 4),
        ({"preset": "crw", "rule": PropagationConfig()}, 7, 20.0, 3),
    ],
)
def test_presets_have_the_published_settings(settings, topk, radius, places):
    config = JointPropagationConfig(**settings)
    assert (config.settings.topk, config.settings.radius, config.places) == (topk, radius, places)


def test_the_layer_of_the_evaluation_is_that_of_the_maps(run, jhmdb, tmp_path, monkeypatch):
    """Was wrong: embed.layer and embed.precision did not reach the maps."""
    seen = []

    def made(_encoder, _size, *, cubic, settings=None):
        seen.append(settings)
        raise FeatureError(f"cubic={cubic} was seen")

    monkeypatch.setattr(joint_propagation, "FrameMaps", made)
    asked = recipe(run, jhmdb, tmp_path)
    asked = replace(asked, embed=replace(asked.embed, layer=0, precision="bfloat16"))
    with pytest.raises(FeatureError, match="was seen"):
        evaluate(asked, quiet=True)
    assert [(s.layer, s.precision) for s in seen] == [(0, "bfloat16")]


def test_a_joint_that_was_not_found_does_not_count():
    truth = np.array([[[0.0, 0], [30, 40]]] * 3)
    found = truth + [3.0, 0]
    there = np.ones((3, 2), bool)
    assert poses.box_size(truth, there).tolist() == [30.0] * 3
    distances = poses.joint_distances(found, truth, there)
    assert [d.tolist() for d in distances] == [[0.1, 0.1], [0.1, 0.1]]
    there[1, 1] = False
    distances = poses.joint_distances(found, truth, there)
    assert len(distances[1]) == 1
    shares = poses.correct_joints([np.array([0.05, 0.3]), np.zeros(0)], [0.1])
    assert shares[0, 0] == 0.5
    assert np.isnan(shares[0, 1])


def broken(file, what):
    before = file.read_bytes()
    if what == "missing":
        file.unlink()
    elif what == "cut":
        file.write_bytes(before[:300])
    elif what == "other":
        scipy_io.savemat(file, {"pos_img": np.zeros((3, 2))})
    elif what == "nan":
        scipy_io.savemat(file, {"pos_img": np.full((2, 4, FRAMES), np.nan)})
    return before


@pytest.mark.parametrize(
    ("what", "text"),
    [
        ("missing", r"joint_positions.run.1.joint_positions.mat cannot be read"),
        ("cut", r"joint_positions.mat is damaged"),
        ("other", r"must hold pos_img of \(2, joints, frames\), but has \(3, 2\)"),
        ("nan", r"has joints that are no numbers"),
    ],
)
def test_joints_that_do_not_fit_are_named(run, jhmdb, tmp_path, what, text):
    file = jhmdb.parent / "joint_positions" / "run" / "1" / "joint_positions.mat"
    before = broken(file, what)
    try:
        with pytest.raises(FeatureError, match=text):
            evaluate(recipe(run, jhmdb, tmp_path), quiet=True)
    finally:
        file.write_bytes(before)


def test_settings_that_cannot_be():
    for settings, text in (
        ({"topk": 0}, "topk=0"),
        ({"size": (0, 1)}, "at least 1 pixel"),
        ({"videos": -1}, "videos=-1"),
    ):
        with pytest.raises(ValueError, match=text):
            JointPropagationConfig(**settings)
