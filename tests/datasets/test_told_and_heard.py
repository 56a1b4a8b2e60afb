"""Public data sets of captions and of sounds, on tiny copies of their published layouts, misspelt ones too."""

from __future__ import annotations

import json
import wave
from pathlib import Path

import numpy as np
import pytest

from video_ssl.clips.reading import open_record
from video_ssl.datasets import open_table
from video_ssl.datasets.errors import TableError
from video_ssl.datasets.opening import check_data
from video_ssl.datasets.table import Caption


@pytest.fixture(autouse=True)
def data(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VIDEO_SSL_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("VIDEO_SSL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "data"


def fill(root: Path, files: dict) -> None:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content if isinstance(content, str) else json.dumps(content))


def records(spec: str) -> list:
    table = open_table(spec)
    return [table.record(i) for i in range(len(table))]


# MSR-VTT

TEST_1K = "key,vid_key,video_id,sentence\nret0,msr9770,video9770,a person is connecting something to system\n"


def msrvtt(root: Path) -> None:
    sentences = [
        {"caption": "a dog runs", "video_id": "video1", "sen_id": 0},
        {"caption": "a brown dog", "video_id": "video1", "sen_id": 1},
        {"caption": "someone cooks", "video_id": "video2", "sen_id": 2},
    ]
    fill(root, {
        "annotations/MSRVTT_JSFUSION_test.csv": TEST_1K,
        "annotations/MSRVTT_train.9k.csv": "video_id\nvideo1\nvideo2\n",
        "annotations/MSRVTT_data.json": {"info": {}, "videos": [], "sentences": sentences},
        "MSRVTT/videos/all/video9770.mp4": "", "MSRVTT/videos/all/video1.mp4": "", "more/video2.avi": "",
    })  # fmt: skip


def test_msrvtt(data):
    msrvtt(data / "msrvtt")
    (test,) = records("msrvtt:test1k")
    assert test.id == "video9770"
    assert test.captions == (Caption(text="a person is connecting something to system"),)
    train = records("msrvtt:train9k")
    assert [(r.id, [c.text for c in r.captions]) for r in train] == [
        ("video1", ["a dog runs", "a brown dog"]),
        ("video2", ["someone cooks"]),
    ]
    assert check_data("msrvtt")[1]


def test_msrvtt_with_the_test_file_alone(data):
    fill(data / "msrvtt", {"MSRVTT_JSFUSION_test.csv": TEST_1K, "video9770.mp4": ""})
    assert len(records("msrvtt:test1k")) == 1
    with pytest.raises(TableError, match=r"no split 'train9k': it has \['test1k'\]"):
        open_table("msrvtt:train9k")
    msrvtt(data / "msrvtt")  # what comes later is seen
    assert len(records("msrvtt:train9k")) == 2


# YouCook2


def youcook2(root: Path) -> None:
    steps = [
        {
            "segment": [90, 102],
            "id": 0,
            "sentence": "spread margarine on two slices of white bread",
        },
        {"segment": [114, 127.5], "id": 1, "sentence": "place a slice of cheese on the bread"},
    ]
    database = {
        "-Ju39A": {
            "duration": 241.6,
            "subset": "training",
            "recipe_type": "113",
            "annotations": steps,
        },
        "GLd3aX": {"duration": 190.0, "subset": "validation", "annotations": steps[:1]},
        "later": {"subset": "testing"},
    }
    fill(root, {
        "youcookii_annotations_trainval.json": {"database": database},
        "raw_videos/training/113/-Ju39A.mkv": "", "raw_videos/validation/113/GLd3aX.webm": "",
    })  # fmt: skip


def test_youcook2(data):
    youcook2(data / "youcook2")
    first, second = records("youcook2:train")
    assert (first.id, first.start_sec, first.end_sec, first.group) == (
        "-Ju39A_00",
        90,
        102,
        "-Ju39A",
    )
    assert second.captions == (
        Caption(text="place a slice of cheese on the bread", start_sec=114, end_sec=127.5),
    )
    assert first.source == second.source
    assert [r.id for r in records("youcook2:val")] == ["GLd3aX_00"]


# ESC-50

ESC50 = """filename,fold,target,category,esc10,src_file,take
1-100032-A-0.wav,1,0,dog,True,100032,A
1-100038-A-1.wav,1,1,rooster,False,100038,A
2-200000-A-0.wav,2,0,dog,True,200000,A
5-900000-B-1.wav,5,1,rooster,False,900000,B
"""


def esc50(root: Path) -> None:
    fill(root, {"meta/esc50.csv": ESC50})
    (root / "audio").mkdir()
    for line in ESC50.splitlines()[1:]:
        with wave.open(str(root / "audio" / line.split(",")[0]), "wb") as out:
            out.setparams((1, 2, 8000, 0, "NONE", ""))
            out.writeframes(np.full(4000, 8192, np.int16).tobytes())


def test_esc50(data):
    esc50(data / "esc50")
    table = open_table("esc50:test1")
    assert table.class_names == ("dog", "rooster")
    first, _ = records("esc50:test1")
    assert (first.id, first.label, first.group) == ("1-100032-A-0", 0, "100032")
    assert [r.id for r in records("esc50:train1")] == ["2-200000-A-0", "5-900000-B-1"]
    assert [r.id for r in records("esc50:test5")] == ["5-900000-B-1"]
    with open_record(first, sound_alone=True) as reader:
        np.testing.assert_allclose(reader.audio(0.1, 0.4, 8000), 0.25, atol=1e-4)
    assert check_data("esc50")[1]


# AudioSet

HEAD = "# Segments csv created in 2017\n# num_ytids=2\n# YTID, start_seconds, end_seconds, positive_labels\n"
CLASSES = 'index,mid,display_name\n0,/m/09x0r,"Speech"\n1,/t/dd00088,"Gush"\n2,/m/0hdsk,"Chirp tone, high"\n'


def audioset(root: Path) -> None:
    fill(root, {
        "class_labels_indices.csv": CLASSES,
        "balanced_train_segments.csv": HEAD + '--PJHxphWEs, 30.000, 40.000, "/t/dd00088,/m/09x0r"\n',
        "eval_segments.csv": HEAD + '-0DdlOuIFUI, 50.000, 60.000, "/m/0hdsk"\nlost, 0.000, 10.000, "/m/0hdsk"\n',
        "balanced/--PJHxphWEs_30000_40000.mp4": "", "eval/-0DdlOuIFUI.flac": "",
    })  # fmt: skip


def test_audioset(data, caplog):
    audioset(data / "audioset")
    table = open_table("audioset:train")
    assert table.class_names == ("Speech", "Gush", "Chirp tone, high")
    (train,) = records("audioset:train")
    assert (train.id, train.labels, train.label) == ("--PJHxphWEs_30000_40000", (0, 1), None)
    assert train.start_sec is None  # the file is the stretch
    (test,) = records("audioset:test")
    assert test.source.endswith("eval/-0DdlOuIFUI.flac")
    assert "1 listed videos are missing" in caplog.text
    with pytest.raises(TableError, match=r"no split 'unbalanced'"):
        open_table("audioset:unbalanced")


# What is not as published


@pytest.mark.parametrize(
    ("make", "file", "content", "message"),
    [
        (msrvtt, "annotations/MSRVTT_JSFUSION_test.csv", "key,video,sentence\n", "has no column 'video_id'"),
        (msrvtt, "annotations/MSRVTT_JSFUSION_test.csv", "video_id,sentence\nvideo1,\n", "line 2 has no video or no"),
        (msrvtt, "annotations/MSRVTT_data.json", '{"sentences": [{"caption": "a"}]}', "items with `video_id`"),
        (msrvtt, "annotations/MSRVTT_data.json", '{"sentences": []}', "no caption of 2 of 2 videos"),
        (youcook2, "youcookii_annotations_trainval.json", '{"data": {}}', "must hold a `database`"),
        (youcook2, "youcookii_annotations_trainval.json",
         '{"database": {"a": {"subset": "training", "annotations": [{"segment": [9, 3], "id": 1, "sentence": "x"}]}}}',
         r"step 1 of a lasts from 9\.0 to 3\.0 s"),
        (youcook2, "youcookii_annotations_trainval.json",
         '{"database": {"a": {"subset": "training", "annotations": [{"segment": 9}]}}}', "must hold a `database`"),
        (esc50, "meta/esc50.csv", ESC50 + "x.wav,6,0,dog,True,1,A\n", r"line 6: fold '6' must be 1 to 5"),
        (esc50, "meta/esc50.csv", ESC50 + "x.wav,5,0,cat,True,1,A\n", "class 0 is 'cat', but was 'dog' before"),
        (esc50, "meta/esc50.csv", ESC50 + "x.wav,5,7,cat,True,1,A\n", "must number 3 classes from 0"),
        (audioset, "eval_segments.csv", 'a, 1, 2, "/m/none"\n', "the class '/m/none' is not in class_labels"),
        (audioset, "eval_segments.csv", 'a, 5, 2, "/m/0hdsk"\n', "'5' to '2' is no stretch of a video"),
        (audioset, "eval_segments.csv", "a, 1, 2, /m/09x0r, /m/0hdsk\n", "has 5 fields, not"),
        (audioset, "class_labels_indices.csv", CLASSES + "5,/m/x,y\n", "must have the index 3"),
    ],
)  # fmt: skip
def test_files_of_another_form_are_named(data, make, file, content, message):
    make(data / make.__name__)
    fill(data / make.__name__, {file: content})
    with pytest.raises(TableError, match=message):
        open_table(f"{make.__name__}:train1")
