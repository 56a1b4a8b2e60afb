"""Several encoders that see the same clips share one decoding, and their features are those that each has alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from video_ssl.datasets.table import Table
from video_ssl.embed import embedding, rows
from video_ssl.embed.config import EmbedConfig
from video_ssl.embed.embedding import Embedder, EmbeddingError, write_side_by_side
from video_ssl.embed.features import open_features
from video_ssl.evaluate.run import cached_features
from video_ssl.models.networks.hog import HogConfig, HogEncoder
from video_ssl.models.networks.pixels import PixelEncoder, PixelsConfig
from video_ssl.models.preprocess_config import VideoPreprocess
from video_ssl.pretrain.processes import Processes

CONFIG = EmbedConfig(num_clips=2, batch_size=3, num_workers=0)
ONE = Processes(0, 1, torch.device("cpu"))


def embedders(config=CONFIG, **changes):
    made = []
    for name, module in {
        "pixels": PixelEncoder(PixelsConfig(num_frames=4, size=2)),
        "hog_bag": HogEncoder(HogConfig(shows="bag", num_frames=4, size=16)),
        "hog_order": HogEncoder(HogConfig(shows="order", num_frames=4, size=16)),
    }.items():
        module.preprocess = VideoPreprocess(
            num_frames=4, size=16, **{"frame_stride": 2, **changes.get(name, {})}
        )
        module.architecture, module.source = name.partition("_")[0], {}
        made.append(Embedder(module, config, name=name))
    return made


@pytest.fixture
def reads(monkeypatch):
    """How many records each decoding began with."""
    began, original = [], embedding.read_windows

    def counted(job, num_workers):
        began.append(len(job.records()))
        return original(job, num_workers)

    monkeypatch.setattr(embedding, "read_windows", counted)
    return began


def same(found, wanted):
    assert found.table.equals(wanted.table)
    assert found.skipped == wanted.skipped
    assert len(found) > 0


def test_the_features_are_those_of_each_alone(videos, tmp_path, reads):
    table = Table.open(videos / "broken.arrow")
    alone = [e.embed(table, tmp_path / f"{e.name}.arrow", progress=False) for e in embedders()]
    reads.clear()
    outs = [tmp_path / f"{e.name}-beside.arrow" for e in embedders()]
    write_side_by_side(embedders(), table, outs, progress=False)
    assert reads == [len(table)]
    for out, wanted in zip(outs, alone, strict=True):
        same(open_features(out), wanted)
        assert [entry["id"] for entry in wanted.skipped] == ["broken1", "broken4"]


def test_strict_and_videos_that_are_all_broken_are_told(videos, tmp_path):
    table = Table.open(videos / "broken.arrow")
    outs = [tmp_path / f"{number}.arrow" for number in range(3)]
    strict = EmbedConfig(num_clips=2, num_workers=0, strict=True)
    with pytest.raises(EmbeddingError, match=r"cannot be read.*With strict=false"):
        write_side_by_side(embedders(strict), table, outs, progress=False)
    broken = Table.from_columns({"id": ["b"], "source": [table.record(1).source]})
    outs = [tmp_path / f"none{number}.arrow" for number in range(3)]
    with pytest.raises(EmbeddingError, match="none of the 1 videos could be read"):
        write_side_by_side(embedders(), broken, outs, progress=False)
    assert not any(out.exists() for out in outs)


def test_an_evaluation_that_was_stopped_goes_on_with_each(videos, tmp_path, monkeypatch, reads):
    """Each has committed as many rows as it has: they go on alone, and one that has begun nothing from the start."""
    table = Table.open(videos / "train.arrow")
    wanted = [e.embed(table, tmp_path / f"{e.name}.arrow", progress=False) for e in embedders()]
    monkeypatch.setattr(rows, "_ROWS", 2)
    stopped = embedders()
    left, forward = [4], stopped[1].forward

    def mortal(video):
        left[0] -= 1
        if not left[0]:
            raise KeyboardInterrupt
        return forward(video)

    stopped[1].forward = mortal
    with pytest.raises(KeyboardInterrupt):
        cached_features(stopped, table, tmp_path / "f", "train", ONE, progress=False)
    reads.clear()
    found = cached_features(embedders(), table, tmp_path / "f", "train", ONE, progress=False)
    assert len(reads) == 3
    assert max(reads) < len(table)
    for file, alone in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(file.features, alone.features)
        assert file.ids.tolist() == alone.ids.tolist()
    reads.clear()
    cached_features(embedders(), table, tmp_path / "f", "train", ONE, progress=False)
    assert reads == []


def test_other_clips_are_decoded_apart(videos, tmp_path, reads):
    table = Table.open(videos / "test.arrow")
    apart = embedders(hog_bag={"frame_stride": 1})
    found = cached_features(apart, table, tmp_path / "f", "test", ONE, progress=False)
    assert reads == [len(table)] * 2
    assert [file.metadata["encoder"]["name"] for file in found] == [e.name for e in apart]
