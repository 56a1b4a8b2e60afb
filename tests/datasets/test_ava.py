"""AVA's own annotation files as a table of key frames."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from video_ssl.datasets import open_table
from video_ssl.datasets.public.ava import read_ava
from video_ssl.datasets.table import TableError

MAP = """
item {
  name: "bend/bow (at the waist)"
  id: 1
}
item {
  name: "stand"
  id: 12
}
"""
TRAIN = """a,0902,0.1,0.1,0.5,0.9,12,0
a,0902,0.1,0.1,0.5,0.9,1,0
a,0902,0.6,0.1,0.9,0.9,2,1
a,0903,,,,,,
a,0904,0.1,0.1,0.5,0.9,12,0
"""
VAL = "b,1000,0.1,0.1,0.5,0.9,12,0\nb,1001,0.1,0.1,0.5,0.9,12,0\ngone,902,0,0,1,1,1,0\n"
FOUND = "b,1000,0.12,0.1,0.5,0.9,,0.93\nb,1002,0.3,0.3,0.5,0.9,,0.6\n"


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VIDEO_SSL_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("VIDEO_SSL_CACHE", str(tmp_path / "cache"))
    root = tmp_path / "data" / "ava"
    (root / "videos").mkdir(parents=True)
    for name, text in {
        "ava_action_list_v2.2_for_activitynet_2019.pbtxt": MAP,
        "ava_train_v2.2.csv": TRAIN,
        "ava_val_v2.2.csv": VAL,
        "ava_val_excluded_timestamps_v2.2.csv": "b,1001\n",
        "ava_val_predicted_boxes.csv": FOUND,
        "videos/a.mkv": "",
        "videos/b.mp4": "",
    }.items():
        (root / name).write_text(text)
    return root


def test_key_frames_of_train(root, caplog):
    table = open_table("ava:train")
    record = table.record(0)
    assert record.box_times_sec.tolist() == [902, 903, 904]
    # Both actions of one person; an action that the map does not name; nobody.
    assert record.box_labels == (((0, 11), ()), (), ((11,),))
    np.testing.assert_allclose(record.boxes[0, 1], [0.6, 0.1, 0.9, 0.9], atol=1e-6)
    assert np.isnan(record.boxes[1]).all()
    assert table.class_names[11] == "stand"
    assert len(table.class_names) == 80


def test_detections_and_excluded_seconds_of_val(root, caplog):
    table = open_table("ava:val")
    assert len(table) == 1  # "gone" has no video
    assert "1 listed videos are missing" in caplog.text
    record = table.record(0)
    assert record.box_times_sec.tolist() == [
        1000,
        1002,
    ]  # 1001 is excluded, nobody was annotated at 1002
    assert record.box_labels == (((11,), ()), ((),))
    np.testing.assert_allclose(record.box_scores, [[np.nan, 0.93], [0.6, np.nan]], atol=1e-6)


def test_a_box_detected_for_several_actions_is_one_box(root):
    """It stood once for each action, and each repeat counted as a false detection: a perfect detector fell to 0.71."""
    (root / "ava_val_predicted_boxes.csv").write_text(
        "b,1000,0.1,0.1,0.5,0.9,12,0.7\n"
        "b,1000,0.1,0.1,0.5,0.9,1,0.93\n"
        "b,1000,0.6,0.1,0.9,0.9,1,0.5\n"
        "b,1000,0.1,0.10,0.50,0.9,2,0.2\n"
    )
    record = open_table("ava:val").record(0)
    assert record.box_labels == (((11,), (), ()),)
    np.testing.assert_allclose(record.box_scores, [[np.nan, 0.93, 0.5]], atol=1e-6)
    np.testing.assert_allclose(record.boxes[0, 1:, 0], [0.1, 0.6], atol=1e-6)


def test_films_that_were_cut(root):
    train = read_ava(root, video_starts_at_sec=900).splits["train"]
    assert train.columns["box_times_sec"] == [[2, 3, 4]]


def test_clips_of_kinetics_stand_beside_films(root):
    root.rename(root.parent / "ava_kinetics")
    root = root.parent / "ava_kinetics"
    (root / "kinetics_train_v1.0.csv").write_text(
        "abcdefghijk,107.0,0.1,0.1,0.5,0.9,12\nwhole_video,3,0.1,0.1,0.5,0.9,1\n"
    )
    (root / "kinetics_val_v1.0.csv").write_text("abcdefghijk,107.0,0.1,0.1,0.5,0.9,12\n")
    (root / "kinetics_val_predicted_boxes.csv").write_text("abcdefghijk,107,0,0,1,1,,0.5\n")
    (root / "videos" / "abcdefghijk_000102_000112.mp4").write_text("")
    (root / "videos" / "whole_video.webm").write_text("")
    table = open_table("ava_kinetics:train")
    times = {Path(r.source).stem: r.box_times_sec.tolist() for r in map(table.record, range(3))}
    assert times == {
        "a": [902, 903, 904],
        "abcdefghijk_000102_000112": [5.0],
        "whole_video": [3.0],
    }
    val = [open_table("ava_kinetics:val").record(i) for i in range(2)]
    assert [len(r.boxes[0]) for r in val] == [2, 2]


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("ava_train_v2.2.csv", "a,902,0.1,0.1\n", "line 1 has 4 fields"),
        ("ava_train_v2.2.csv", "a,902,0.1,0.1,0.5,0.9,81,0\n", "line 1 has the action '81'"),
        ("ava_train_v2.2.csv", "a,902,0.1,0.1,0.5,0.9,x,0\n", "line 1 has the action 'x'"),
        (
            "ava_train_v2.2.csv",
            "a,902,0.5,0.1,0.1,0.9,1,0\n",
            "line 1 has the box 0.5, 0.1, 0.1, 0.9",
        ),
        ("ava_train_v2.2.csv", "a,902,5,10,100,90,1,0\n", "as shares of width and height"),
        ("ava_train_v2.2.csv", "a,soon,0.1,0.1,0.5,0.9,1,0\n", "line 1 has the second 'soon'"),
        ("ava_val_predicted_boxes.csv", "b,1000,0,0,1,1,,\n", "a detection without a score"),
        ("ava_val_predicted_boxes.csv", "b,1000,0,0,1,1,,nan\n", "line 1 has the score 'nan'"),
        ("ava_action_list_v2.2_for_activitynet_2019.pbtxt", "nothing", "names no action"),
        (
            "ava_action_list_v2.2_for_activitynet_2019.pbtxt",
            'item { name: "a" id: 90 }',
            "an id from 1 to 80",
        ),
    ],
)
def test_what_is_wrong_with_a_file_is_told(root, file, text, message):
    (root / file).write_text(text)
    with pytest.raises(TableError, match=message):
        open_table("ava:train")
