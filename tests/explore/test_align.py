"""Alignment: the path, the data about it, and a video whose two halves show the same."""

from __future__ import annotations

import csv
import json
import shutil
from fractions import Fraction

import av
import numpy as np
import pytest
from PIL import Image

from video_ssl.clips.reading import open_video
from video_ssl.datasets.table import Table
from video_ssl.embed.embed_videos import embed_table
from video_ssl.embed.feature_writer import FeatureWriter
from video_ssl.embed.features import FeatureError
from video_ssl.explore.align import align_videos
from video_ssl.explore.alignment import AlignmentError, align, key_times, similarity
from video_ssl.explore.alignment_video import path_picture
from video_ssl.explore.config import AlignConfig


def write_greys(path, greys, rate=10, size=(32, 48)):
    """A video whose frames have one grey each."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=rate, options={"crf": "5"})
        stream.height, stream.width = size
        stream.pix_fmt = "yuv420p"
        for number, grey in enumerate(greys):
            frame = av.VideoFrame.from_ndarray(np.full((*size, 3), grey, np.uint8), "rgb24")
            frame.pts, frame.time_base = number, Fraction(1, rate)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


GREYS = {"slow": np.repeat(np.arange(40, 240, 8), 2), "fast": np.arange(40, 240, 8)}


@pytest.fixture(scope="module")
def greys(tmp_path_factory):
    """A feature file of two videos, one half as fast; the feature of a frame is its grey."""
    folder = tmp_path_factory.mktemp("greys")
    rows = []
    for name, values in GREYS.items():
        write_greys(folder / f"{name}.mp4", values)
        rows.append({"id": name, "source": str(folder / f"{name}.mp4"), "fps": 10.0})
    Table.from_rows(rows).save(folder / "table.arrow")
    metadata = {"table": {"path": str(folder / "table.arrow")}}
    with FeatureWriter(folder / "features.arrow", embed_dim=1, metadata=metadata) as writer:
        for name, values in GREYS.items():
            frames = values.astype(np.float32)[:, None]
            writer.write(
                [
                    {
                        "id": name,
                        "clip": 0,
                        "feature": frames[0],
                        "frame_features": frames,
                        "frame_times_sec": (np.arange(len(values)) / 10).tolist(),
                    }
                ]
            )
    return folder


def halves(path):
    """The grey of the left and of the right half of every frame."""
    with open_video(path) as reader:
        frames = reader.frames(np.arange(reader.info.num_frames)).astype(float)
        middle = frames.shape[2] // 2
        left, right = frames[:, :, : middle - 4], frames[:, :, middle + 4 :]
        return left.mean(axis=(1, 2, 3)), right.mean(axis=(1, 2, 3)), reader.info


@pytest.mark.parametrize(("query", "key"), [("fast", "slow"), ("slow", "fast")])
def test_both_halves_show_the_same_moment(greys, tmp_path, query, key):
    found = align_videos(
        query, key, tmp_path, features=greys / "features.arrow", config=AlignConfig(height=64)
    )
    left, right, info = halves(tmp_path / "aligned.mp4")
    assert info.num_frames == len(GREYS[query])
    assert info.fps == pytest.approx(10)
    assert (info.height, info.width) == (64, 96 * 2 + 4)
    np.testing.assert_allclose(left, GREYS[query], atol=3)
    np.testing.assert_allclose(right, left, atol=3)
    assert [f.rsplit("/", 1)[1] for f in found["files"]] == [
        "path.csv",
        "path.json",
        "path.npz",
        "path.png",
        "aligned.mp4",
    ]
    assert found["notes"] == []
    assert found["cost_per_step"] == 0


def test_linear_is_the_unaligned_version(greys, tmp_path):
    """`fast` ends when its greys end; stretched or not, a shifted key is not found by `linear`."""
    align_videos(
        "slow",
        "fast",
        tmp_path,
        features=greys / "features.arrow",
        config=AlignConfig(method="linear"),
    )
    left, right, _ = halves(tmp_path / "aligned.mp4")
    np.testing.assert_allclose(right, left, atol=9)  # here the plain stretch is right, to a frame


def test_the_path_as_data(greys, tmp_path):
    align_videos("fast", "slow", tmp_path, features=greys / "features.arrow")
    content = json.loads((tmp_path / "path.json").read_text())
    count = len(GREYS["fast"])
    assert content["match"] == [2 * t for t in range(count)]  # the first of equal frames
    assert content["path"] == [[t // 2, t] for t in range(2 * count)]
    assert content["key_source"].endswith("slow.mp4")
    with open(tmp_path / "path.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * count
    assert rows[3] == {
        "query_frame": "1",
        "key_frame": "3",
        "query_sec": "0.1",
        "key_sec": "0.3",
        "cost": "0.0",
    }
    with np.load(tmp_path / "path.npz") as arrays:
        assert arrays["match"].tolist() == content["match"]
        assert arrays["cost"].shape == (count, 2 * count)
    picture = np.array(Image.open(tmp_path / "path.png"))
    assert picture.shape == (400, 800, 3)
    red = np.argwhere((picture == (230, 40, 40)).all(axis=2))
    np.testing.assert_allclose(red[:, 1], 2 * red[:, 0], atol=40)  # runs along the diagonal


def test_a_video_with_itself_is_the_diagonal(greys, tmp_path):
    found = align_videos("slow", "slow", tmp_path, features=greys / "features.arrow")
    assert found["cost_per_step"] == 0
    left, right, _ = halves(tmp_path / "aligned.mp4")
    np.testing.assert_allclose(left, right, atol=1)
    frames = np.random.default_rng(0).normal(size=(30, 4))
    assert align(frames, frames).match.tolist() == list(range(30))


def test_video_files_are_embedded(greys, tmp_path):
    """Raw pixels of 16 frames, every fourth: the match is right to the step of the features."""
    query, key = str(greys / "fast.mp4"), str(greys / "slow.mp4")
    align_videos(query, key, tmp_path, encoder="pixels:4", config=AlignConfig(height=32))
    left, right, info = halves(tmp_path / "aligned.mp4")
    assert info.num_frames == len(GREYS["fast"])
    np.testing.assert_allclose(right[:-4], left[:-4], atol=20)
    with pytest.raises(FeatureError, match="give the encoder that embeds it"):
        align_videos(query, key, tmp_path)
    with pytest.raises(FeatureError, match="is no video file"):
        align_videos("nothing.mp4", key, tmp_path, encoder="pixels:4")
    with pytest.raises(FeatureError, match=r"no record 'fasd' among 2.*Did you mean 'fast'"):
        align_videos("fasd", "slow", tmp_path, features=greys / "features.arrow")


def test_features_of_a_folder_tell_where_its_videos_are(greys, tmp_path):
    """Was wrong: only a table that is a file was looked into, so features of folders had no pictures."""
    folder = tmp_path / "vidéos #1"
    folder.mkdir()
    for name in GREYS:
        shutil.copy(greys / f"{name}.mp4", folder)
    features = tmp_path / "features.arrow"
    embed_table("pixels:4", str(folder), features, per_frame=True, num_workers=0)
    found = align_videos(
        "fast.mp4", "slow.mp4", tmp_path / "a", features=features, config=AlignConfig(height=32)
    )
    assert found["notes"] == []
    assert found["query_source"] == str(folder / "fast.mp4")
    left, right, _ = halves(tmp_path / "a" / "aligned.mp4")
    np.testing.assert_allclose(right[:-4], left[:-4], atol=20)
    (folder / "slow.mp4").unlink()
    found = align_videos(
        "fast.mp4", "slow.mp4", tmp_path / "b", features=features, config=AlignConfig(height=32)
    )
    assert "no video was written" in found["notes"][0]
    assert (tmp_path / "b" / "path.csv").exists()


def test_without_the_pictures_the_path_is_written(tmp_path):
    frames = np.arange(12, dtype=np.float32).reshape(2, 3, 2)
    np.savez(tmp_path / "a.npz", features=frames[:, 0], ids=["a", "b"], frame_features=frames)
    found = align_videos("a", "b", tmp_path / "out", features=tmp_path / "a.npz")
    assert "no video was written" in found["notes"][0]
    assert not (tmp_path / "out" / "aligned.mp4").exists()
    assert json.loads((tmp_path / "out" / "path.json").read_text())["query_sec"] == [None] * 3


def test_the_video_of_another_pair_does_not_stay(greys, tmp_path):
    """Was wrong: a pair without pictures left the video of an earlier pair beside its own path."""
    align_videos("fast", "slow", tmp_path / "out", features=greys / "features.arrow")
    assert (tmp_path / "out" / "aligned.mp4").exists()
    frames = np.arange(12, dtype=np.float32).reshape(2, 3, 2)
    np.savez(tmp_path / "a.npz", features=frames[:, 0], ids=["a", "b"], frame_features=frames)
    align_videos("a", "b", tmp_path / "out", features=tmp_path / "a.npz")
    assert not (tmp_path / "out" / "aligned.mp4").exists()


def test_long_videos_are_thinned_out():
    rng = np.random.default_rng(0)
    frames = np.cumsum(rng.normal(size=(300, 3)), axis=0)
    found = align(frames, frames[::2], max_cells=5000)
    assert found.cost.size <= 5000
    assert found.stride == 3
    at = np.linspace(0, 29, 50)
    times = key_times(found, np.arange(300) / 10, np.arange(150) / 5, at)
    np.testing.assert_allclose(times, at, atol=1.5)


@pytest.mark.parametrize("method", ["dtw", "nearest", "linear"])
def test_single_frames(method):
    one, many = np.ones((1, 2)), np.arange(8.0).reshape(4, 2)
    assert align(one, many, method=method).match.tolist() == [0]
    assert align(many, one, method=method).match.tolist() == [0] * 4
    assert path_picture(align(one, many, method=method)).size[0] == 800


def test_nearest_may_run_backwards_and_dtw_not():
    query = np.arange(10.0)[:, None]
    assert align(query, query[::-1], method="nearest").match.tolist() == list(range(9, -1, -1))
    assert (np.diff(align(query, query[::-1]).match) >= 0).all()
    times = key_times(
        align(query, query[::-1], method="nearest"), np.arange(10), np.arange(10), np.array([0.5])
    )
    assert times.tolist() == [9]


@pytest.mark.parametrize(
    ("query", "key", "method", "text"),
    [
        (np.zeros((0, 2)), np.zeros((3, 2)), "dtw", "the query has no frame features"),
        (np.zeros((2, 2)), np.full((3, 2), np.nan), "dtw", "the key has .* not finite"),
        (np.zeros((2, 2)), np.zeros((3, 4)), "dtw", "width 2 and 4 cannot be compared"),
        (np.zeros((2, 2)), np.zeros((3, 2)), "warp", "method='warp' must be one of"),
    ],
)
def test_what_cannot_be_aligned(query, key, method, text):
    with pytest.raises(AlignmentError, match=text):
        align(query, key, method=method)


def test_similarity_is_a_softmax_of_distances():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(4, 3)), rng.normal(size=(5, 3))
    found = similarity(a, b, temperature=0.5)
    for i in range(4):
        weights = [np.exp(-((a[i] - b[j]) ** 2).sum() / 0.5) for j in range(5)]
        np.testing.assert_allclose(found[i], np.array(weights) / sum(weights))
