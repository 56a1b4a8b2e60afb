"""Patch tokens in feature files: those of the encoder, in the size asked for, also after a kill and from shards."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal

import numpy as np
import pytest
import torch

from video_ssl.clips.reading import open_record
from video_ssl.clips.windows import iterate_windows
from video_ssl.datasets.table import Table
from video_ssl.embed import rows
from video_ssl.embed.config import EmbedConfig
from video_ssl.embed.embed_videos import embed_table
from video_ssl.embed.embedding import Embedder, EmbeddingError
from video_ssl.embed.features import open_features
from video_ssl.embed.shards import embed_shard, merge_shards
from video_ssl.models.config import ViTConfig
from video_ssl.models.encoders import load_encoder, save_encoder
from video_ssl.models.preprocess_config import VideoPreprocess

TOKENS = EmbedConfig(outputs=("clip", "moments", "tokens"), tokens_dtype="float32", num_workers=0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    from video_ssl.models.networks.vit import VideoViT

    torch.manual_seed(0)
    config = ViTConfig(
        preset=None, embed_dim=16, depth=2, num_heads=2, image_size=32, num_frames=4, patch_size=8
    )
    return save_encoder(
        tmp_path_factory.mktemp("run") / "encoder",
        VideoViT(config),
        architecture="vit",
        preprocess=VideoPreprocess(num_frames=4, frame_stride=3, size=32),
        source={},
    )


@pytest.fixture
def encoder(folder):
    return load_encoder(folder)


def changed(**changes):
    return EmbedConfig(**{**vars(TOKENS), **changes})


def expected(encoder, embedder, table):
    """What the encoder says about each window, one by one: (t, h, w, D)."""
    found = []
    for index in range(len(table)):
        record = table.record(index)
        with open_record(record) as reader:
            for window in iterate_windows(record, reader, embedder.windows):
                tokens = encoder.outputs_of_arrays(window.clips, ["tokens"])["tokens"]
                found.append(tokens.reshape(2, 4, 4, 16))
    return np.stack(found)


def test_tokens_are_those_of_the_encoder_with_their_times(videos, tmp_path, encoder):
    table = Table.open(videos / "test.arrow").select([0, 1, 2])
    embedder = Embedder(encoder, TOKENS)
    found = embedder.embed(table, tmp_path / "f.arrow", progress=False)
    assert found.outputs["tokens"].grid == (2, 4, 4)
    wanted = expected(encoder, embedder, table)
    for row in range(6):
        grid = found.grid("tokens", row)
        np.testing.assert_allclose(grid.map, wanted[row], atol=1e-5)
        np.testing.assert_array_equal(grid.times, found.frames(row)[1])
        np.testing.assert_allclose(grid.map.mean((1, 2)), found.frames(row)[0], atol=1e-5)


def test_tokens_in_another_size(videos, tmp_path, encoder):
    table = Table.open(videos / "test.arrow").select([0])
    embedder = Embedder(encoder, changed(tokens_side=2, tokens_every=2, tokens_dtype="float16"))
    found = embedder.embed(table, tmp_path / "f.arrow", progress=False)
    told = found.outputs["tokens"]
    assert (told.grid, told.dtype) == ((1, 2, 2), "float16")
    whole = expected(encoder, embedder, table)[:, :1]
    means = whole.reshape(2, 1, 2, 2, 2, 2, 16).mean((3, 5))
    for row in range(2):
        grid = found.grid("tokens", row)
        np.testing.assert_allclose(grid.map, means[row], atol=2e-3)
        assert grid.times.tolist() == found.frames(row)[1][:1].tolist()


def test_times_are_those_of_the_moments_that_are_kept(videos, tmp_path):
    from video_ssl.models.networks.pixels import PixelEncoder, PixelsConfig

    module = PixelEncoder(PixelsConfig(num_frames=5, size=2))
    module.preprocess = VideoPreprocess(num_frames=5, frame_stride=2, size=16)
    module.architecture, module.source = "pixels", {}
    table = Table.open(videos / "test.arrow").select([0])
    found = Embedder(module, changed(tokens_every=2)).embed(table, tmp_path / "f.arrow")
    for row in range(2):
        moments, times = found.frames(row)
        grid = found.grid("tokens", row)
        assert grid.times.tolist() == times[[0, 2, 4]].tolist()
        colors = moments[[0, 2, 4]].reshape(3, 3, 4).mean(2)  # moments have the colors outermost
        np.testing.assert_allclose(grid.map.mean((1, 2)), colors, atol=1e-5)


def test_tokens_of_every_frame_lie_between_those_of_the_moments(videos, tmp_path, encoder):
    """Tubelets of two frames: three quarters of the own moment and a quarter of the next one, as in 4DS and RVM."""
    table = Table.open(videos / "test.arrow").select([0])
    config = changed(per_frame=True, overlap=0.0)
    embedder = Embedder(encoder, config)
    found = embedder.embed(table, tmp_path / "f.arrow", progress=False)
    first, last = expected(encoder, embedder, table)[0]
    wanted = [first, 0.75 * first + 0.25 * last, 0.25 * first + 0.75 * last, last]
    grid = found.grid("tokens", 0)
    np.testing.assert_allclose(grid.map, wanted, atol=1e-5)
    np.testing.assert_array_equal(grid.times, found.frames(0)[1])


def test_what_fills_up_a_short_video_has_no_times(videos, tmp_path, encoder):
    source = str(videos / "test0.mp4")
    table = Table.from_rows([{"id": "s", "source": source, "start_sec": 0.0, "end_sec": 0.5}])
    found = Embedder(encoder, changed(num_clips=1)).embed(table, tmp_path / "f.arrow")
    assert len(found.frames(0)[0]) == 1
    grid = found.grid("tokens", 0)
    assert grid.map.shape == (2, 4, 4, 16)
    assert np.isnan(grid.times).tolist() == [False, True]


def test_a_killed_job_goes_on_with_its_tokens(videos, tmp_path, encoder, monkeypatch):
    monkeypatch.setattr(rows, "_ROWS", 2)
    table = Table.open(videos / "test.arrow")
    config = changed(hop=4, batch_size=3)
    whole = Embedder(encoder, config).embed(table, tmp_path / "whole.arrow", progress=False)

    def work():
        torch.set_num_threads(1)
        embedder, left = Embedder(encoder, config), [3]
        forward = embedder.forward

        def mortal(video):
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            left[0] -= 1
            return forward(video)

        embedder.forward = mortal
        embedder.embed(table, tmp_path / "f.arrow", progress=False)

    process = multiprocessing.get_context("fork").Process(target=work)
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    again = Embedder(encoder, config)
    seen, forward = [], again.forward
    again.forward = lambda video: seen.append(len(video)) or forward(video)
    found = again.embed(table, tmp_path / "f.arrow", progress=False)
    assert 0 < sum(seen) < len(whole)
    np.testing.assert_allclose(
        found.read("tokens", range(len(found))), whole.read("tokens", range(len(whole))), atol=1e-5
    )


def test_shards_with_tokens_become_one_file(videos, tmp_path, folder):
    table = Table.open(videos / "test.arrow")
    settings = {"outputs": ("clip", "tokens"), "num_workers": 0}
    whole = embed_table(str(folder), str(videos / "test.arrow"), tmp_path / "a.arrow", **settings)
    for shard in ("1/2", "0/2"):
        embed_shard(str(folder), table, tmp_path / "b.arrow", shard, **settings)
    found = merge_shards(tmp_path / "b.arrow")
    assert list(found.outputs) == ["clip", "tokens"]
    assert found.ids.tolist() == whole.ids.tolist()
    np.testing.assert_allclose(
        found.read("tokens", range(len(found))), whole.read("tokens", range(len(whole))), atol=2e-3
    )
    # What is there already is of this job, contents compared; other sizes of tokens are another job.
    source = str(videos / "test.arrow")
    assert embed_table(str(folder), source, tmp_path / "b.arrow", check=True, **settings).path
    with pytest.raises(EmbeddingError, match=r"settings\.tokens_side"):
        embed_table(str(folder), source, tmp_path / "b.arrow", tokens_side=2, **settings)


def test_large_rows_are_written_and_copied_in_small_batches(tmp_path, encoder, videos, monkeypatch):
    from video_ssl.embed import feature_writer

    row_bytes = 2 * 16 * 16 * 4
    monkeypatch.setattr(rows, "_BYTES", 2 * row_bytes)
    monkeypatch.setattr(feature_writer, "_GRID_BYTES", 4 * row_bytes)
    table = Table.open(videos / "test.arrow")
    found = Embedder(encoder, changed(batch_size=1)).embed(table, tmp_path / "f.arrow")
    sizes = [len(batch) for batch in found.table.to_batches() if len(batch)]
    assert sum(sizes) == 12
    assert max(sizes) <= 5


def test_the_size_is_told_beforehand(videos, tmp_path, encoder, caplog):
    table = Table.open(videos / "test.arrow").select([0, 1])
    with caplog.at_level(logging.INFO):
        Embedder(encoder, changed(tokens_dtype="float16")).embed(table, tmp_path / "f.arrow")
    said = [record.getMessage() for record in caplog.records]
    assert "tokens: 2 x 4 x 4 vectors a clip, 0.00 MiB, 0.00 GiB in all" in said[0]
    # 2 videos x 2 clips x 32 tokens x 16 numbers x 2 bytes
    assert open_features(tmp_path / "f.arrow").read("tokens", range(4)).nbytes == 2 * 2 * 32 * 32


def test_a_file_without_tokens_is_of_the_same_job_as_before(encoder, videos):
    table = Table.open(videos / "test.arrow")
    job = Embedder(encoder, EmbedConfig()).job(table)
    assert not {"outputs", "tokens_dtype", "tokens_side", "tokens_every"} & set(job["settings"])
    assert job["settings"]["frames"] is True
    assert Embedder(encoder, EmbedConfig(tokens_side=3)).job(table) == job
    short, named = EmbedConfig(frames=False), EmbedConfig(outputs=("clip",))
    assert Embedder(encoder, short).job(table) == Embedder(encoder, named).job(table) != job


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"outputs": ("clip", "sound")}, r"no output 'sound', only clip, moments, tokens"),
        ({"tokens_side": 5}, r"tokens_side=5 is finer than the 4 x 4 tokens of a moment"),
        ({"tokens_every": 0}, "tokens_every=0 and tokens_side=None must be at least 1"),
        ({"tokens_every": 2, "per_frame": True}, "tokens_every=2 leaves out moments"),
        ({"outputs": ("clip",), "per_frame": True}, "per_frame asks for frame features"),
    ],
)
def test_what_cannot_be_kept(encoder, changes, text):
    with pytest.raises(ValueError, match=text):
        Embedder(encoder, changed(**changes))
