"""Whatever cannot work is told before a video is embedded: names, features, packages of align and search."""

import numpy as np
import pytest

from video_ssl.embed.feature_writer import FeatureWriter
from video_ssl.embed.features import FeatureError
from video_ssl.explore import search_index, tracks
from video_ssl.explore.align import align_videos
from video_ssl.explore.search import search


@pytest.fixture(autouse=True)
def nothing_is_embedded(monkeypatch):
    def embed_video(*_, **__):
        raise AssertionError("a video was embedded")

    monkeypatch.setattr(tracks, "embed_video", embed_video)


def features(path, **columns):
    row = {"id": "a", "clip": 0, "feature": np.ones(4, np.float32), **columns}
    with FeatureWriter(path, embed_dim=4, metadata={}) as writer:
        writer.write([row])
    return path


@pytest.fixture
def clip(tmp_path):
    (tmp_path / "clip.mp4").write_bytes(b"a video")
    return str(tmp_path / "clip.mp4")


@pytest.mark.parametrize("order", [1, -1])
def test_align_looks_for_both_videos_first(clip, tmp_path, order):
    names = [clip, str(tmp_path / "gone.mp4")][::order]
    with pytest.raises(FeatureError, match=r"gone\.mp4' is no video file"):
        align_videos(*names, tmp_path / "out", encoder="runs/a")
    with pytest.raises(FeatureError, match="give the encoder that embeds it"):
        align_videos(clip, clip, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_search_looks_at_the_archive_first(clip, tmp_path):
    archive = features(tmp_path / "a.arrow")
    with pytest.raises(FeatureError, match="has no frame features"):
        search(clip, archive, encoder="runs/a")


def test_search_asks_for_its_package_first(clip, tmp_path, monkeypatch):
    frames = {
        "frame_features": np.ones((3, 4), np.float32),
        "frame_times_sec": [0.0, 0.1, 0.2],
    }
    archive = features(tmp_path / "a.arrow", **frames)
    monkeypatch.setattr(search_index, "available", lambda: False)
    with pytest.raises(FeatureError, match=r"pip install 'video_ssl\[search\]'"):
        search(clip, archive, encoder="runs/a", method="ann")
