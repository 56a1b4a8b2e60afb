"""Joints and masks of the figure that travel through generated videos, whose truth is known exactly."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from boxed_videos import boxed_table
from generated_videos import generated_table, settings_of
from PIL import Image
from untrained_run import untrained_run

from video_ssl.clips.reading import open_record, open_video
from video_ssl.datasets.demo.rows import clip_row
from video_ssl.datasets.demo.truth import figure_joints, figure_masks
from video_ssl.datasets.demo.worlds import plan_of, world_of
from video_ssl.datasets.table import Table, TableError
from video_ssl.embed.config import EmbedConfig
from video_ssl.embed.features import FeatureError
from video_ssl.evaluate.dense import joint_propagation, poses
from video_ssl.evaluate.dense.label_propagation import LabelPropagationConfig
from video_ssl.evaluate.dense.masks import masks_of_figure
from video_ssl.evaluate.dense.true_joints import joint_source
from video_ssl.evaluate.recipe import EvaluateRecipe
from video_ssl.evaluate.run import evaluate

SIDE, GRID = (
    96,
    48,
)  # pixels of a frame; places of 2 px round so little that a true joint is within a tenth


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    return generated_table(tmp_path_factory.mktemp("clips"), "val", range(3))


@pytest.fixture(scope="module")
def segments(tmp_path_factory):
    return generated_table(tmp_path_factory.mktemp("sessions"), "sessions_val", [0])


@pytest.fixture(scope="module")
def cropped(tmp_path_factory):
    """Figures near and far from the middle: of one, parts leave the frame, of the other some come into it."""
    strong = {"camera_shift": 3.0, "camera_zoom": 3.0, "camera_pan": 3.0}
    return generated_table(tmp_path_factory.mktemp("cropped"), "val", [5, 35], **strong)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return untrained_run(tmp_path_factory.mktemp("runs") / "toy", width=16)


def recipe(run, test, out, name="joints", **settings):
    rule = {"context": 3, "topk": 5, "radius": 4.0, "temperature": 0.05}
    return EvaluateRecipe(
        encoders={"a": str(run)},
        train=None,
        test=str(test),
        evaluators={name: {"size": [SIDE, SIDE], "rule": rule, **settings}},
        embed=EmbedConfig(num_workers=0, num_clips=1, frames=False),
        out=str(out),
        device="cpu",
    )


def result_of(found, name="joints"):
    return found["encoders"]["a"]["results"][name]


def truths(path):
    table = Table.open(path)
    return [figure_joints(table, row) for row in range(len(table))]


def rows_of(path):
    """What `Table.from_rows` takes: rows of a table of generated videos, and what it says of itself."""
    table = Table.open(path)
    names = ("id", "source", "fps", "start_sec", "end_sec")
    rows = [{name: getattr(table.record(row), name) for name in names} for row in range(len(table))]
    return rows, {"generator": table.metadata["generator"]}


@pytest.fixture
def feed(monkeypatch, run, tmp_path):
    """Evaluates as if the network had carried the joints to given places, (T, J, 2) for each video."""

    def fed(path, carried, **settings):
        left = [pose.copy() for pose in carried]

        def maps(_features, _first, _rule):
            frames = left.pop(0)
            return torch.from_numpy(
                np.stack([poses.map_of_pose(xy, (SIDE, SIDE), (GRID, GRID)) for xy in frames])
            )

        def features(reader):
            return np.zeros((reader.info.num_frames, GRID, GRID, 1), np.float32)

        monkeypatch.setattr(joint_propagation, "propagate", maps)
        monkeypatch.setattr(
            joint_propagation, "FrameMaps", lambda *_, **__: SimpleNamespace(of_video=features)
        )
        out = tmp_path / f"out{len(list(tmp_path.iterdir()))}"
        result = result_of(evaluate(recipe(run, path, out, videos=0, **settings), quiet=True))
        assert not left
        return result

    return fed


def test_joints_that_were_carried_rightly_are_right_and_others_are_not(clips, feed):
    truth = truths(clips)
    right = feed(clips, truth)
    assert set(right["metrics"].values()) == {1.0}
    assert right["details"]["found_share"] == 1.0
    assert right["details"]["true_on_the_grid"] == right["metrics"]
    late = feed(clips, [np.concatenate([xy[:1], xy[:-1]]) for xy in truth])
    later = feed(clips, [np.concatenate([xy[:1]] * 6 + [xy[:-6]]) for xy in truth])
    assert later["metrics"]["pck_10"] < late["metrics"]["pck_10"] - 0.1 < 0.9
    length = min(map(len, truth))
    others = [np.resize(truth[(row + 1) % 3], xy.shape) for row, xy in enumerate(truth)]
    assert length > 6
    assert feed(clips, others)["metrics"]["pck_10"] < 0.3
    swapped = feed(clips, [xy[:, ::-1] for xy in truth])  # the order of joints counts
    assert swapped["metrics"]["pck_10"] < 0.3


def test_joints_that_stay_are_judged_by_hand(run, clips, tmp_path):
    """With a real network: the mp4s, what stays where it is, and what the grid of 12 x 12 places allows."""
    found = evaluate(recipe(run, clips, tmp_path), quiet=True)
    result, right = result_of(found), []
    for xy in truths(clips):
        sides = xy.max(1) - xy.min(1)
        size = 0.6 * np.hypot(sides[:, 0], sides[:, 1])
        off = np.linalg.norm(xy - xy[:1], axis=-1) / size[:, None]
        right.append(off[1:] <= 0.1)
    share = np.concatenate(right).mean()
    details = result["details"]
    assert details["stays_where_it_is"]["pck_10"] == pytest.approx(share)
    assert details["true_on_the_grid"]["pck_10"] < 0.9
    assert "the grid of places is coarse: the true joints" in result["notes"][1]
    assert "carries the joints of the first frame of 3 videos" in found["summary"]
    table = Table.open(clips)
    for row in range(3):
        record = table.record(row)
        with open_video(tmp_path / f"files/a/joints/{row:06d}_{record.id}.mp4") as reader:
            assert reader.info.num_frames == record.num_frames
            assert reader.info.width == 2 * reader.info.height
            first = reader.frames(np.arange(1))[0].astype(int)
        left, right_side = first[:, : first.shape[0]], first[:, first.shape[0] :]
        with open_record(record) as reader:
            plain = Image.fromarray(reader.frames(np.arange(1))[0]).resize(left.shape[1::-1])
        drawn = np.abs(left - np.asarray(plain, int)).max(-1) > 60
        xy = figure_joints(table, row)[0] * left.shape[0] / SIDE
        near = np.hypot(*(np.indices(drawn.shape)[::-1, ..., None] - xy.T[:, None, None])).min(-1)
        assert drawn[near < 2].mean() > 0.8
        assert not drawn[near > 8].any()
        assert not np.array_equal(left, right_side)


def test_joints_outside_of_the_frame_are_not_judged(cropped, feed):
    """Those outside of the first frame in no frame, also where they come in: nobody has told where they are."""
    table, truth, judged, leave, come = Table.open(cropped), truths(cropped), [], 0, 0
    for row, xy in enumerate(truth):
        inside = ((xy >= 0) & (xy < SIDE)).all(-1)
        leave += (inside[:1] & ~inside).sum()
        come += (~inside[:1] & inside).sum()
        with open_record(table.record(row)) as reader:
            own = joint_source(table, {}).of_video(row, reader.info)
        for j in range(xy.shape[1]):
            expected = inside[:, j] if inside[0, j] else np.zeros(len(xy), bool)
            assert np.array_equal(own.judged[:, j], expected)
        np.testing.assert_array_equal(own.places, xy)
        judged.append(own.judged)
    assert min(leave, come) > 20, "the test has what it is about"
    pairs = list(zip(truth, judged, strict=True))
    away = feed(cropped, [np.where(each[..., None], xy, 5.0) for xy, each in pairs])
    assert away["metrics"]["pck_10"] == away["details"]["found_share"] == 1.0
    wrong = feed(cropped, [np.where(each[..., None], 5.0, xy) for xy, each in pairs])
    assert wrong["metrics"]["pck_10"] < 0.2


def test_a_joint_that_is_not_told_has_an_empty_map():
    xy = np.array([[4.0, 4], [8, 8]])
    both, one = (
        poses.map_of_pose(xy, (16, 16), (8, 8), given=told) for told in (None, [True, False])
    )
    assert np.array_equal(one[..., 1], both[..., 1])
    assert both[..., 2].any()
    assert not one[..., 2].any()
    assert np.array_equal(one[..., 0], one[..., 1] == 0)


def test_a_joint_that_is_not_judged_counts_for_the_size_of_the_person():
    truth = np.array([[[0.0, 0], [30, 40]]] * 2)
    judged = np.array([[True, False]] * 2)
    distances = poses.joint_distances(truth + [3.0, 0], truth, np.ones((2, 2), bool), judged)
    assert [each.tolist() for each in distances] == [[0.1], []]


def test_segments_have_the_joints_of_their_stretch(segments, feed):
    table = Table.open(segments)
    assert all(table.record(row).start_sec is not None for row in range(len(table)))
    assert feed(segments, truths(segments))["metrics"]["pck_10"] == 1.0


def test_a_smaller_copy_has_its_own_pixels(clips):
    table = Table.open(clips)
    with open_record(table.record(0)) as reader:
        info = reader.info
    source = joint_source(table, {})
    small = source.of_video(0, replace(info, width=48, height=48))
    np.testing.assert_allclose(small.places, figure_joints(table, 0) / 2)
    with pytest.raises(TableError, match=r"val-00000 is 96 x 48 px in .*but 96 x 96 px were gen"):
        source.of_video(0, replace(info, height=48))


def test_another_number_of_frames_is_an_error_that_names_the_video(run, clips, tmp_path):
    rows, about = rows_of(clips)
    lengths = [len(xy) for xy in truths(clips)]
    other = next(row for row in (0, 2) if lengths[row] != lengths[1])
    rows[1]["source"] = rows[other]["source"]
    Table.from_rows(rows, **about).save(tmp_path / "swapped.arrow")
    text = rf"val-00001 has {lengths[other]} frames in .*, but {lengths[1]} were generated"
    with pytest.raises(FeatureError, match=text):
        evaluate(recipe(run, tmp_path / "swapped.arrow", tmp_path / "out"), quiet=True)


@pytest.mark.parametrize("name", ["joints", "figure"])
def test_tables_without_a_truth_are_refused_before_anything_is_embedded(run, tmp_path, name):
    asked = {"joints": ("joints", {}), "figure": ("propagation", {"figure": True})}[name]
    text = {
        "joints": r"evaluators\.joints cannot judge videos of test: there are no joints of .*test0\.mp4\. Take "
        r"generated videos \(`video-ssl data demo`\), or folders of frames with a joint_positions\.mat",
        "figure": r"evaluators\.propagation cannot judge videos of test: .*test\.arrow is not of generated videos",
    }[name]
    test = boxed_table(tmp_path, "test", 2, seed=1)
    with pytest.raises(FeatureError, match=text):
        evaluate(recipe(run, test, tmp_path / "out", asked[0], **asked[1]), quiet=True)
    assert not list((tmp_path / "out").rglob("*.npy"))
    assert not (tmp_path / "out" / "features").exists()


def test_a_generator_that_is_gone_is_told(run, clips, tmp_path):
    rows, about = rows_of(clips)
    about["generator"] = {**about["generator"], "format": 2}
    Table.from_rows(rows, **about).save(tmp_path / "old.arrow")
    with pytest.raises(
        FeatureError, match=r"joints cannot judge .*nothing here generates format=2"
    ):
        evaluate(recipe(run, tmp_path / "old.arrow", tmp_path / "out"), quiet=True)


def test_videos_of_one_frame_are_left_out_and_told(run, clips, tmp_path):
    rows, about = rows_of(clips)
    rows[1] |= {"start_sec": 0.5, "end_sec": 0.55}
    Table.from_rows(rows, **about).save(tmp_path / "short.arrow")
    found = evaluate(recipe(run, tmp_path / "short.arrow", tmp_path / "out"), quiet=True)
    result = result_of(found)
    assert result["details"]["videos"] == 2
    assert "val-00001 has no joint to judge behind its first frame" in result["notes"][-1]


# Masks of the figure ------------------------------------------------------------------------------


def test_masks_of_the_figure_travel(run, clips, tmp_path):
    asked = recipe(run, clips, tmp_path, "propagation", figure=True, keep=True, videos=1)
    result = result_of(evaluate(asked, quiet=True), "propagation")
    assert (result["details"]["videos"], result["details"]["objects"]) == (3, 3)
    table, overlaps = Table.open(clips), []
    for row in range(3):
        masks = figure_masks(table, row, visible=True)
        judged = masks[1:-1]
        union = (judged | masks[0]).sum((1, 2))
        overlaps.append(((judged & masks[0]).sum((1, 2)) / union).mean())
        files = sorted((tmp_path / f"files/a/propagation/{row:06d}_val-{row:05d}").glob("*.png"))
        assert len(files) == len(masks)
        assert np.array_equal(np.asarray(Image.open(files[0])), masks[0])
    still = result["details"]["stays_where_it_is"]
    assert still["j"] == pytest.approx(np.mean(overlaps))
    assert result["metrics"]["j"] > still["j"]


def test_masks_of_the_figure_are_of_what_is_seen():
    """The other object is drawn before some figures, and those masks are smaller than the figures."""
    settings, hidden = settings_of(distractor=3.0), 0
    plans = [plan_of(settings, "val", index) for index in range(4)]
    rows = [clip_row(world_of("demo"), plan) for plan in plans]
    table = Table.from_rows(rows, generator=settings)
    for row in range(len(table)):
        whole, seen = (figure_masks(table, row, visible=visible) for visible in (False, True))
        found = masks_of_figure(table, row, len(seen), SIDE, SIDE)
        assert np.array_equal(found, seen)
        hidden += (whole & ~seen).sum()
    assert hidden > 50


def test_masks_of_files_and_of_the_figure_exclude_each_other():
    with pytest.raises(ValueError, match=r"figure=true takes .* give one"):
        LabelPropagationConfig(figure=True, masks={"a": "b"})


def test_masks_of_another_video_are_refused(run, clips, tmp_path):
    rows, about = rows_of(clips)
    lengths = [len(xy) for xy in truths(clips)]
    other = next(row for row in (1, 2) if lengths[row] != lengths[0])
    rows[0]["source"] = rows[other]["source"]
    Table.from_rows(rows, **about).save(tmp_path / "other.arrow")
    asked = recipe(run, tmp_path / "other.arrow", tmp_path / "out", "propagation", figure=True)
    text = (
        rf"val-00000 is 96 x 96 px x {lengths[other]} frames in .*but 96 x 96 x {lengths[0]} were"
    )
    with pytest.raises(FeatureError, match=text):
        evaluate(asked, quiet=True)
