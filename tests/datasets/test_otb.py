"""OTB2015's and GOT-10k's folders as tables: separators, ranges of pictures, two targets, what is wrong with files."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from video_ssl.clips.reading import open_record
from video_ssl.datasets import open_table
from video_ssl.datasets.table import TableError


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VIDEO_SSL_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("VIDEO_SSL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "data" / "otb"


def sequence(root, name, pictures, **truth):
    (root / name / "img").mkdir(parents=True)
    for number in range(1, pictures + 1):
        Image.new("RGB", (40, 20), (number % 256, 0, 0)).save(
            root / name / "img" / f"{number:04d}.jpg"
        )
    for file, text in truth.items():
        file = file.replace("_1", ".1").replace("_2", ".2")
        (root / name / f"{file}.txt").write_text(text)


@pytest.mark.parametrize("separator", [",", "\t", " ", ", "])
def test_boxes_count_from_one_and_any_separator_will_do(root, separator):
    lines = [separator.join(row) for row in (("1", "1", "20", "10"), ("3", "5", "20.5", "10"))]
    sequence(root, "Box", 2, groundtruth_rect="\r\n".join(lines) + "\n")
    record = open_table("otb:test").record(0)
    np.testing.assert_allclose(
        record.boxes[:, 0], [[0, 0, 0.5, 0.5], [2 / 40, 4 / 20, 22.5 / 40, 14 / 20]], atol=1e-6
    )
    with open_record(record) as reader:
        assert reader.info.num_frames == 2
        assert reader.frames([1])[0, 0, 0, 0] <= 6


def test_ranges_two_targets_and_a_truth_that_ends_early(root, caplog):
    row = "1,1,20,10\n"
    sequence(root, "David", 305, groundtruth_rect=row * 6)
    sequence(root, "Jogging", 3, groundtruth_rect_1=row * 3, groundtruth_rect_2="5\t5\t4\t4\n" * 3)
    sequence(root, "Short", 4, groundtruth_rect=row * 2)
    records = {r.id.split("/")[0]: r for r in map(open_table("otb:test").record, range(3))}
    there = np.isfinite(records["David"].boxes[:, 0]).all(-1)
    assert np.flatnonzero(there).tolist() == [299, 300, 301, 302, 303, 304]
    assert records["Jogging"].boxes.shape == (3, 2, 4)
    assert np.isfinite(records["Short"].boxes).all(-1)[:, 0].tolist() == [True, True, False, False]
    assert "Short has 2 boxes of 4 pictures: the rest is not judged" in caplog.text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1,1,20,10\n1,1,20\n", "line 2 is '1,1,20'"),
        ("1;1;20;10\n", "commas, tabs or"),
        ("1,1,-20,10\n", "line 1"),
        ("", "has no boxes"),
        ("1,1,20,10\n" * 3, "has 3 boxes, but Box has 2 pictures"),
    ],
)
def test_what_is_wrong_with_a_truth_is_told(root, text, message):
    sequence(root, "Box", 2, groundtruth_rect=text)
    with pytest.raises(TableError, match=message):
        open_table("otb:test")


def test_a_folder_without_sequences_says_where_they_come_from(root):
    root.mkdir(parents=True)
    with pytest.raises(TableError, match="tracker_benchmark"):
        open_table("otb:test")


# GOT-10k ------------------------------------------------------------------------------------------


def got(root, name, pictures, boxes, absence=None):
    folder = root.parent / "got10k" / "train" / name
    folder.mkdir(parents=True)
    for number in range(1, pictures + 1):
        Image.new("RGB", (40, 20)).save(folder / f"{number:08d}.jpg")
    (folder / "groundtruth.txt").write_text(boxes)
    if absence is not None:
        (folder / "absence.label").write_text(absence)


def test_sequences_of_got10k_and_targets_that_are_not_to_be_seen(root):
    got(root, "GOT-10k_Train_000002", 2, "0,0,20,10\n" * 2)
    got(root, "GOT-10k_Train_000001", 3, "0,0,20,10\n" * 3, "0\n1\n0\n")
    table = open_table("got10k:train")
    first = table.record(0)
    assert "000001" in first.id
    assert np.isfinite(first.boxes).all(-1)[:, 0].tolist() == [True, False, True]
    np.testing.assert_allclose(first.boxes[0, 0], [0, 0, 0.5, 0.5])
    with open_record(first) as reader:
        assert reader.info.num_frames == 3


@pytest.mark.parametrize(
    ("boxes", "absence", "message"),
    [
        ("0,0,20,10\n", None, "has 2 pictures, but 1 boxes"),
        ("0,0,20,10\n" * 2, "0\n", "must have a 0 or a 1 for each of 2 pictures"),
        ("0,0,20,10\n" * 2, "0\n2\n", "must have a 0 or a 1"),
    ],
)
def test_what_is_wrong_with_got10k_is_told(root, boxes, absence, message):
    got(root, "GOT-10k_Train_000001", 2, boxes, absence)
    with pytest.raises(TableError, match=message):
        open_table("got10k:train")


def test_got10k_without_sequences_says_where_they_come_from(root):
    (root.parent / "got10k").mkdir(parents=True)
    with pytest.raises(TableError, match=r"got-10k\.aitestunion"):
        open_table("got10k:train")
