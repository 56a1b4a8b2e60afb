"""Reading for `embed` beside decoding alone and a plain loop: what is counted is what was read."""

from __future__ import annotations

import json

import numpy as np
import pytest
import tiny_runs

from video_ssl.bench import embedding
from video_ssl.bench.config import EmbedBench
from video_ssl.bench.embedding import bench_embed
from video_ssl.datasets.table import Table


@pytest.fixture
def folder(tmp_path):
    videos = tmp_path / "my videos"
    videos.mkdir()
    for seed in range(2):
        tiny_runs.write_video(videos / f"{seed}.mp4", seed=seed)
    return videos


def test_every_frame_is_read_by_each(folder, tmp_path, monkeypatch, capsys):
    """12 frames a video, which 5 windows of 5 do not divide: none is counted twice, none is left out."""
    decoded, shown = [], []
    floor, plain = embedding.Floor.decode, embedding.plain_loop
    monkeypatch.setattr(
        embedding.Floor, "decode", lambda *words, **how: decoded.append(floor(*words, **how))
    )
    monkeypatch.setattr(embedding, "plain_loop", lambda *words: shown.append(plain(*words)))
    out = tmp_path / "new" / "figures.json"
    config = EmbedBench(footage=str(folder), num_frames=5, size=16, repeats=1)
    (figures,) = bench_embed(config, json_path=out)
    assert figures.frames == 24
    assert decoded == [12, 12] * 2  # a turn that warms up, and one that counts
    assert [tuple(view.shape) for (view,) in shown] == [(3, 12, 16, 16)] * 4
    assert set(figures.cpu_ms) == {"floor", "plain", "read", "apart", "normalise"}
    (line,) = json.loads(out.read_text())["footage"]
    assert line["over_floor"] == pytest.approx(figures.cpu_ms["read"] / figures.cpu_ms["floor"])
    said = " ".join(capsys.readouterr().out.split())
    assert "(24), 16 px" in said


def test_the_square_is_that_of_the_windows(folder):
    """The plain loop shows the pixels that an encoder gets, but for how they are scaled."""
    video = embedding._Video.of(str(folder / "0.mp4"), 12)
    assert (video.square.width, video.square.height) == (32, 32)
    assert video.count == 12
    assert np.concatenate([wanted for _, wanted in video.floors]).tolist() == list(range(12))


def test_a_video_that_cannot_be_read_ends_it(folder):
    (folder / "2.mp4").write_bytes(b"no video" * 100)
    with pytest.raises(ValueError, match=r"2\.mp4 cannot be read, so nothing can be compared"):
        bench_embed(EmbedBench(footage=str(folder), num_frames=4, size=16, repeats=1))


def test_stretches_are_refused(folder, tmp_path):
    """Decoding alone would begin at the start of the file: other frames, at another cost."""
    columns = {"source": [str(folder / "0.mp4")], "start_sec": [0.2], "end_sec": [0.4]}
    Table.from_columns(columns).save(tmp_path / "t.arrow")
    with pytest.raises(ValueError, match=r"a stretch of .*give a folder, or a table of whole"):
        bench_embed(EmbedBench(footage=str(tmp_path / "t.arrow"), num_frames=4, size=16))


def test_settings_that_cannot_be():
    with pytest.raises(ValueError, match="num_frames=0 must be at least 1"):
        EmbedBench(num_frames=0)
