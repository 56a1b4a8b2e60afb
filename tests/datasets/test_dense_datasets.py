"""JHMDB and VIP as tables, and MATLAB's files as scipy writes them, whole and damaged."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from video_ssl.datasets import open_table
from video_ssl.datasets.public.mat_files import read_mat_arrays
from video_ssl.datasets.table import TableError

scipy_io = pytest.importorskip("scipy.io")


@pytest.fixture
def data(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VIDEO_SSL_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("VIDEO_SSL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "data"


ARRAYS = {
    "pos_img": np.arange(2 * 15 * 4, dtype=np.float64).reshape(2, 15, 4) / 7,
    "scale": np.array([[1.25]], np.float32),
    "small": np.array([[3]], np.int8),
    "viewpoint": "N",
    "long_name_of_an_array": np.arange(6, dtype=np.uint16).reshape(3, 2),
    "struct": {"a": np.eye(2)},
    "complex": np.array([[1 + 2j]]),
    "empty": np.zeros((0, 3)),
}


@pytest.mark.parametrize("compressed", [False, True])
def test_arrays_are_those_that_were_written(tmp_path, compressed):
    file = tmp_path / "a.mat"
    scipy_io.savemat(file, ARRAYS, do_compression=compressed)
    found = read_mat_arrays(file)
    assert set(found) == {"pos_img", "scale", "small", "long_name_of_an_array", "empty"}
    for name, array in found.items():
        assert array.shape == ARRAYS[name].shape
        np.testing.assert_array_equal(array, ARRAYS[name])


def refusal(file):
    """What is said of a file that cannot be read; None of one that can."""
    try:
        assert set(read_mat_arrays(file)) <= {"pos_img"}
    except TableError as err:
        return str(err)
    return None


def test_files_that_are_cut_or_changed_say_so(tmp_path):
    whole = io.BytesIO()
    scipy_io.savemat(whole, {"pos_img": ARRAYS["pos_img"]}, do_compression=True)
    content, file = whole.getvalue(), tmp_path / "a.mat"
    for end in range(0, 128, 7):
        file.write_bytes(content[:end])
        assert "is no MATLAB file" in refusal(file)
    for end in range(136, len(content), 7):
        file.write_bytes(content[:end])
        assert f"{file} is damaged" in refusal(file)
    rng = np.random.default_rng(0)
    for _ in range(200):
        wrong = bytearray(content)
        wrong[int(rng.integers(128, len(wrong)))] ^= int(rng.integers(1, 256))
        file.write_bytes(wrong)
        said = refusal(file)
        assert said is None or "copy it again" in said
    file.write_text("<html>not found</html>")
    with pytest.raises(TableError, match="is no MATLAB file of version 5"):
        read_mat_arrays(file)
    with pytest.raises(TableError, match="cannot be read"):
        read_mat_arrays(tmp_path / "none.mat")


def pictures(folder, count=2):
    folder.mkdir(parents=True)
    for number in range(1, count + 1):
        Image.new("RGB", (16, 12)).save(folder / f"{number:05d}.png")


def test_splits_of_jhmdb(data):
    root = data / "jhmdb"
    for action, name in (("run", "a b [1]"), ("run", "second"), ("catch", "third")):
        pictures(root / "Rename_Images" / action / name)
    (root / "splits").mkdir()
    (root / "splits" / "run_test_split1.txt").write_text("a b [1].avi 2 \nsecond.avi 1\n")
    (root / "splits" / "catch_test_split1.txt").write_text("third.avi 2\n")
    table = open_table("jhmdb:test1")
    assert table.class_names == ("catch", "run")
    found = {
        table.record(row).source.split("Rename_Images/")[1]: table.record(row).label
        for row in range(2)
    }
    assert found == {"catch/third": 0, "run/a b [1]": 1}
    assert len(open_table("jhmdb:train1")) == 1
    (root / "splits" / "run_test_split1.txt").write_text("second.avi 1\nsecond.avi\n")
    with pytest.raises(TableError, match=r"line 2 is 'second.avi': a video and 1"):
        open_table("jhmdb:test1")


def test_splits_of_vip(data):
    root = data / "vip"
    pictures(root / "Images" / "videos1")
    (root / "lists").mkdir()
    (root / "lists" / "val_videos.txt").write_text("videos1\n")
    table = open_table("vip:val")
    assert table.record(0).source.endswith("Images/videos1")
