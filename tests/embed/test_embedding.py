"""Embedding real videos: times, order, independence of batch and workers, and broken videos."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from video_ssl.clips import reading, windows
from video_ssl.clips.decoders.backends import missing
from video_ssl.clips.decoders.pyav import reader as pyav_reader
from video_ssl.clips.decoders.reader import READERS, BadVideo
from video_ssl.clips.reading import open_record
from video_ssl.datasets.table import Table
from video_ssl.embed import window_workers
from video_ssl.embed.config import EmbedConfig
from video_ssl.embed.embed_videos import embed_table
from video_ssl.embed.embedding import Embedder, EmbeddingError
from video_ssl.embed.one_video import read_clip
from video_ssl.embed.window_workers import Piece, WindowJob, read_windows
from video_ssl.models.config import ViTConfig
from video_ssl.models.contract import Encoder
from video_ssl.models.encoders import load_encoder, save_encoder
from video_ssl.models.networks.pixels import PixelEncoder, PixelsConfig
from video_ssl.models.preprocess_config import VideoPreprocess

PREPROCESS = VideoPreprocess(num_frames=4, frame_stride=3, size=16)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from video_ssl.models.networks.vit import VideoViT

    torch.manual_seed(0)
    config = ViTConfig(
        preset=None, embed_dim=32, depth=2, num_heads=2, image_size=16, num_frames=4, patch_size=8
    )
    where = tmp_path_factory.mktemp("run") / "encoder"
    return save_encoder(
        where, VideoViT(config), architecture="vit", preprocess=PREPROCESS, source={}
    )


@pytest.fixture
def encoder(folder: Path) -> Encoder:
    return load_encoder(folder)


def pixels(**changes: object) -> Encoder:
    settings = {"num_frames": 4, "frame_stride": 3, "size": 16, **changes}
    module = PixelEncoder(PixelsConfig(num_frames=settings["num_frames"], size=1))
    module.preprocess = VideoPreprocess(**settings, mean=(0, 0, 0), std=(1, 1, 1))
    module.architecture, module.source = "pixels", {}
    return module


def test_every_clip_has_its_row_in_order_with_its_times(videos, tmp_path, encoder):
    table = Table.open(videos / "train.arrow")
    config = EmbedConfig(num_clips=3, batch_size=5, num_workers=0)
    found = Embedder(encoder, config).embed(table, tmp_path / "f.arrow")
    assert found.ids.tolist() == [f"train{v}" for v in range(12) for _ in range(3)]
    assert found.table["clip"].to_pylist() == [0, 1, 2] * 12
    assert found.labels.tolist() == [v % 3 for v in range(12) for _ in range(3)]
    assert found.groups[6] == "train-group1"
    # 12 frames at 10 a second: the clips of 10 frames start at frames 0, 1 and 2.
    assert found.table["start_sec"].to_pylist()[:3] == pytest.approx([0.0, 0.1, 0.2])
    assert found.table["end_sec"].to_pylist()[:3] == pytest.approx([0.9, 1.0, 1.1])
    # Tubelets of two frames that lie 0.3 s apart: their middles are at 0.15 and 0.75.
    assert found.frames(0)[1].tolist() == pytest.approx([0.15, 0.75])
    assert found.frames(2)[1].tolist() == pytest.approx([0.35, 0.95])
    assert found.frames(0)[0].shape == (2, 32)
    assert found.table["frame_labels"][0].as_py() == [1, 2]
    assert found.metadata["settings"]["num_clips"] == 3
    assert found.metadata["class_names"] == ["red", "green", "blue"]


def test_features_are_those_of_the_frames(videos, tmp_path):
    """Mean colors, so that every number can be told from the pixels of the reader."""
    table = Table.open(videos / "test.arrow")
    config = EmbedConfig(num_clips=2, num_workers=0)
    found = Embedder(pixels(), config).embed(table, tmp_path / "f.arrow")
    for v in range(6):
        with open_record(table.record(v)) as reader:
            last = reader.info.num_frames - 10
            frames = reader.frames(np.arange(reader.info.num_frames))
        square = frames[:, :, 8:40].astype(np.float64).mean(axis=(1, 2)) / 255
        for clip, start in enumerate((0, last)):
            expected = square[start : start + 10 : 3]
            np.testing.assert_allclose(found.frames(2 * v + clip)[0], expected, atol=2e-3)
            np.testing.assert_allclose(found.features[2 * v + clip], expected.mean(0), atol=2e-3)


@pytest.mark.parametrize(("batch_size", "num_workers"), [(1, 0), (7, 1), (64, 2), (4, 3)])
def test_features_do_not_depend_on_batches_and_workers(
    videos, tmp_path, encoder, batch_size, num_workers
):
    table = Table.open(videos / "broken.arrow")
    reference = Embedder(encoder, EmbedConfig(num_clips=3, batch_size=5, num_workers=0))
    other = Embedder(
        encoder, EmbedConfig(num_clips=3, batch_size=batch_size, num_workers=num_workers)
    )
    a = reference.embed(table, tmp_path / "a.arrow")
    b = other.embed(table, tmp_path / "b.arrow")
    assert b.ids.tolist() == a.ids.tolist()
    assert b.skipped == a.skipped
    np.testing.assert_allclose(b.features, a.features, atol=1e-5)
    for row in range(len(a)):
        np.testing.assert_allclose(b.frames(row)[0], a.frames(row)[0], atol=1e-5)
        np.testing.assert_array_equal(b.frames(row)[1], a.frames(row)[1])
    assert reference.key(table) == other.key(table)


def test_broken_videos_are_reported_and_not_replaced(videos, tmp_path, encoder, caplog):
    table = Table.open(videos / "broken.arrow")
    found = Embedder(encoder, EmbedConfig(num_workers=0)).embed(table, tmp_path / "f.arrow")
    assert sorted(set(found.ids)) == ["broken0", "broken2", "broken3", "broken5"]
    assert [entry["id"] for entry in found.skipped] == ["broken1", "broken4"]
    assert all(entry["reason"] for entry in found.skipped)
    assert found.skipped[0]["source"] == str(videos / "broken1.mp4")
    assert "2 of 6 videos could not be read" in caplog.text


def test_strict_stops_at_the_first_broken_video(videos, tmp_path, encoder):
    table = Table.open(videos / "broken.arrow")
    strict = Embedder(encoder, EmbedConfig(num_workers=0, strict=True))
    with pytest.raises(EmbeddingError, match=r"broken1\.mp4 cannot be read.*strict=false"):
        strict.embed(table, tmp_path / "f.arrow")
    assert [path.name for path in tmp_path.iterdir()] == ["f.arrow.partial"]


def test_no_readable_video_is_an_error(videos, tmp_path, encoder):
    table = Table.open(videos / "broken.arrow").select([1, 4])
    with pytest.raises(EmbeddingError, match=r"none of the 2 videos could be read.*broken1\.mp4"):
        Embedder(encoder, EmbedConfig(num_workers=0)).embed(table, tmp_path / "f.arrow")
    # What was begun stayed, since its own process held it, and the mended videos were refused as another job.
    assert list(tmp_path.iterdir()) == []
    whole = Table.open(videos / "broken.arrow").select([0])
    assert len(Embedder(encoder, EmbedConfig(num_workers=0)).embed(whole, tmp_path / "f.arrow"))


def test_a_short_video_keeps_only_the_moments_it_has(videos, tmp_path):
    table = Table.open(videos / "test.arrow").select([0])  # 12 frames; a clip would take 22
    found = Embedder(pixels(num_frames=8), EmbedConfig(num_clips=1, num_workers=0)).embed(
        table, tmp_path / "f.arrow"
    )
    moments, times = found.frames(0)
    assert moments.shape == (4, 3)
    assert times.tolist() == pytest.approx([0.0, 0.3, 0.6, 0.9])
    assert found.table["end_sec"][0].as_py() == pytest.approx(0.9)


def test_segments_have_times_of_the_source_and_hop_covers_a_video(videos, tmp_path):
    source = str(videos / "train3.mp4")  # 21 frames
    table = Table.from_rows([{"id": "s", "source": source, "start_sec": 0.5, "end_sec": 2.1}])
    found = Embedder(pixels(), EmbedConfig(num_clips=1, hop=4, num_workers=0)).embed(
        table, tmp_path / "f.arrow"
    )
    starts = found.table["start_sec"].to_pylist()
    assert starts == pytest.approx([0.5, 0.9, 1.1])
    assert found.table["end_sec"].to_pylist()[-1] == pytest.approx(2.0)
    assert found.labels.tolist() == [-1, -1, -1]


@pytest.mark.parametrize("end_sec", [None, 2.0])
def test_times_are_those_of_the_frames_where_a_segment_begins_between_two(
    videos, tmp_path, end_sec
):
    """They were those of a first frame at exactly `start_sec`, so early by up to a frame: 0.43 for 0.5."""
    row = {"id": "s", "source": str(videos / "train3.mp4"), "start_sec": 0.43, "end_sec": end_sec}
    config = EmbedConfig(num_clips=1, hop=4, num_workers=0)
    table = Table.from_rows([row])
    found = Embedder(pixels(), config).embed(table, tmp_path / "f.arrow", progress=False)
    assert found.table["start_sec"][0].as_py() == pytest.approx(0.5)
    assert found.table["record_start_sec"].to_pylist()[0] == pytest.approx(0.43)
    clip = read_clip(row["source"], start_sec=0.43, num_frames=40, frame_stride=1, size=16)
    assert clip.times_sec[0] == pytest.approx(0.5)


def test_key_changes_with_what_changes_features(videos, encoder, folder, tmp_path):
    table = Table.open(videos / "train.arrow")
    keys = [
        Embedder(encoder, EmbedConfig(num_clips=2)).key(table),
        Embedder(encoder, EmbedConfig(num_clips=3)).key(table),
        Embedder(encoder, EmbedConfig(num_clips=2)).key(table.select([0, 1])),
        Embedder(load_encoder(f"untrained:{folder}@1"), EmbedConfig(num_clips=2)).key(table),
        Embedder(encoder, EmbedConfig(num_clips=2)).key(Table.open(videos / "test.arrow")),
    ]
    assert len(set(keys)) == len(keys)
    same = Embedder(encoder, EmbedConfig(num_clips=2, batch_size=3, num_workers=0))
    assert same.key(table) == keys[0]


def test_no_frames_when_not_asked_for(videos, tmp_path, folder):
    found = embed_table(
        str(folder),
        str(videos / "test.arrow"),
        tmp_path / "f.arrow",
        device="cpu",
        frames=False,
        num_workers=0,
    )
    assert not found.has_frames
    both = embed_table(
        str(folder), str(videos / "test.arrow"), tmp_path / "g.arrow", device="cpu", num_workers=0
    )
    np.testing.assert_allclose(found.features, both.features, atol=1e-6)


@pytest.fixture
def forked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers by fork, so that they know the readers of this file."""
    import multiprocessing
    import sys

    context = multiprocessing.get_context("fork")
    monkeypatch.setattr(multiprocessing, "get_context", lambda _: context)
    monkeypatch.setitem(sys.modules, "deadly_reader", sys.modules[__name__])
    monkeypatch.setattr(reading, "READERS", dict(READERS))


class HalfReader(pyav_reader.PyAVReader):
    """Breaks at frame 14, as a file whose download was cut does."""

    def stream(self, indices, size=None):
        for index, picture in super().stream(indices, size):
            if index >= 14:
                raise BadVideo("half", "frame 14 cannot be decoded")
            yield index, picture


@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_a_video_that_breaks_half_way_leaves_no_rows(
    videos, tmp_path, monkeypatch, forked, batch_size
):
    # Videos 0 and 4 have 12 frames, 1 to 3 have 15 to 21; pieces of the others are on their way
    # when they break, because frames are asked for window by window.
    reading.READERS["pyav"] = "deadly_reader:HalfReader"
    monkeypatch.setattr(windows, "_PIECE", 1)
    monkeypatch.setattr(window_workers, "PIECE", 1)
    table = Table.open(videos / "train.arrow").select([0, 1, 2, 4, 3])
    config = EmbedConfig(num_clips=1, hop=1, batch_size=batch_size, num_workers=0)
    found = Embedder(pixels(), config).embed(table, tmp_path / "f.arrow")
    assert found.ids.tolist() == ["train0"] * 3 + ["train4"] * 3
    assert [entry["id"] for entry in found.skipped] == ["train1", "train2", "train3"]
    assert found.table["clip"].to_pylist() == [0, 1, 2] * 2


class DeadlyReader(pyav_reader.PyAVReader):
    """Kills the process at one video, and raises what is not the video's fault at another."""

    def __init__(self, path: str, **options: object) -> None:
        if path.endswith("train5.mp4"):
            os._exit(66)
        if path.endswith("train7.mp4"):
            raise ZeroDivisionError("a bug")
        super().__init__(path, **options)


@pytest.mark.parametrize("num_workers", [1, 2, 4])
def test_a_decoder_that_kills_its_process_costs_one_video(videos, forked, num_workers):
    table = Table.open(videos / "train.arrow").select([0, 1, 2, 3, 4, 5, 6])
    job = WindowJob(table=table, windows=Embedder(pixels()).windows)
    reading.READERS["pyav"] = "deadly_reader:DeadlyReader"
    pieces = list(read_windows(job, num_workers))
    ends: list[Piece] = [piece for piece in pieces if piece.last]
    assert [piece.index for piece in ends] == list(range(7))
    assert [piece.reason is None for piece in ends] == [True] * 5 + [False, True]
    assert "died (exit code 66)" in str(ends[5].reason)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_bug_is_not_the_fault_of_a_video(videos, forked, num_workers):
    table = Table.open(videos / "train.arrow").select([6, 7])
    job = WindowJob(table=table, windows=Embedder(pixels()).windows)
    reading.READERS["pyav"] = "deadly_reader:DeadlyReader"
    with pytest.raises((RuntimeError, ZeroDivisionError), match="a bug"):
        list(read_windows(job, num_workers))


def test_another_decoder_streams_the_same_windows(videos, tmp_path, encoder):
    backend = "torchcodec"  # decord cannot read pictures as narrow as these
    if (problem := missing(backend)) is not None:
        pytest.skip(problem)
    table = Table.open(videos / "test.arrow")
    config = {"hop": 3, "num_workers": 0, "video_timeout_sec": 60.0}
    made = [
        Embedder(encoder, EmbedConfig(backend=name, **config)).embed(
            table, tmp_path / f"{name}.arrow"
        )
        for name in ("pyav", backend)
    ]
    assert made[0].ids.tolist() == made[1].ids.tolist()
    np.testing.assert_allclose(made[0].features, made[1].features, atol=0.05)
