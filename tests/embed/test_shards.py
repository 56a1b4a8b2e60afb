"""A feature file of shards equals one made in one piece; whatever is missing or does not belong is told."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from video_ssl.cli import app
from video_ssl.datasets.table import Table
from video_ssl.embed.embed_videos import embed_table, open_source, refuse_other_source
from video_ssl.embed.embedding import EmbeddingError
from video_ssl.embed.shards import (
    embed_shard,
    merge_shards,
    parse_shard,
    shard_rows,
    shards_folder,
)
from video_ssl.launch import launching
from video_ssl.launch.profile import LaunchProfile
from video_ssl.launch.steps import plan_launch
from video_ssl.models.encoders import save_encoder
from video_ssl.models.networks.vit import VideoViT, ViTConfig
from video_ssl.models.preprocess_config import VideoPreprocess

SETTINGS: dict[str, Any] = {"hop": 3, "batch_size": 4, "num_workers": 0, "device": "cpu"}


@pytest.fixture(scope="session")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> str:
    config = ViTConfig(
        preset=None,
        image_size=16,
        num_frames=4,
        tubelet_size=2,
        patch_size=8,
        embed_dim=16,
        depth=1,
        num_heads=2,
    )
    folder = tmp_path_factory.mktemp("encoder") / "encoder"
    preprocess = VideoPreprocess(num_frames=4, frame_stride=1, size=16)
    save_encoder(folder, VideoViT(config), architecture="vit", preprocess=preprocess, source={})
    return str(folder)


@pytest.mark.parametrize(("name", "count"), [("train", 5), ("broken", 6)])
def test_shards_equal_one_piece(
    name: str, count: int, videos: Path, encoder: str, tmp_path: Path
) -> None:
    """12 videos in 5 shards; 6 videos in 6, two of which have nothing that can be read.  Features to 1e-6."""
    table = str(videos / f"{name}.arrow")
    whole = embed_table(encoder, table, tmp_path / "whole.arrow", **SETTINGS)
    out = tmp_path / "parts.arrow"
    for k in reversed(range(count)):
        embed_shard(encoder, Table.open(table), out, f"{k}/{count}", **SETTINGS)
    merged = merge_shards(out)
    assert merged.ids.tolist() == whole.ids.tolist()
    for column in whole.table.column_names:
        if column not in ("feature", "frame_features"):
            assert merged.table[column].to_pylist() == whole.table[column].to_pylist(), column
    np.testing.assert_allclose(merged.features, whole.features, atol=1e-6)
    for row in range(len(whole)):
        np.testing.assert_allclose(merged.frames(row)[0], whole.frames(row)[0], atol=1e-6)
    assert merged.skipped == whole.skipped
    assert merged.metadata == whole.metadata
    assert len(whole.skipped) == (2 if name == "broken" else 0)
    assert merge_shards(out).ids.tolist() == whole.ids.tolist()  # once more changes nothing
    assert (
        embed_table(encoder, table, out, **SETTINGS).ids.tolist() == whole.ids.tolist()
    )  # the same job


def test_every_record_is_in_one_shard() -> None:
    for records in (1, 2, 7, 100):
        for count in range(1, records + 1):
            parts = [shard_rows(records, k, count) for k in range(count)]
            assert [row for part in parts for row in part] == list(range(records))
            assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_what_is_missing_is_named(videos: Path, encoder: str, tmp_path: Path) -> None:
    out, table = tmp_path / "parts.arrow", Table.open(videos / "test.arrow")
    with pytest.raises(EmbeddingError, match="no shards"):
        merge_shards(out)
    for k in (0, 2):
        embed_shard(encoder, table, out, f"{k}/3", **SETTINGS)
    with pytest.raises(EmbeddingError, match=r"lacks the shards 1/3 of 3: .*--shard 1/3"):
        merge_shards(out)
    embed_shard(encoder, table, out, "1/3", **{**SETTINGS, "hop": 2})
    with pytest.raises(EmbeddingError, match=r"1-of-3.* differ: settings.hop: 2 <- 3"):
        merge_shards(out)
    with pytest.raises(EmbeddingError, match=r"another job .*\n  settings.hop: 3 <- 2"):
        embed_shard(encoder, table, out, "1/3", **SETTINGS)
    assert not out.exists()
    embed_shard(encoder, table, out, "0/2", **SETTINGS)
    with pytest.raises(EmbeddingError, match=r"divisions: remove all but one"):
        merge_shards(out)


def test_a_shard_of_other_records_is_refused(videos: Path, encoder: str, tmp_path: Path) -> None:
    out, table = tmp_path / "parts.arrow", Table.open(videos / "test.arrow")
    for k in range(2):
        embed_shard(encoder, table, out, f"{k}/2", **SETTINGS)
    folder = shards_folder(out)
    shutil.copy(folder / "0-of-2.arrow", folder / "1-of-2.arrow")
    with pytest.raises(EmbeddingError, match="begins at record 0, expected was 3"):
        merge_shards(out)


def test_a_damaged_shard_and_one_that_does_not_say_what_it_is_are_named(
    videos: Path, encoder: str, tmp_path: Path
) -> None:
    out, table = tmp_path / "parts.arrow", Table.open(videos / "test.arrow")
    for k in range(2):
        embed_shard(encoder, table, out, f"{k}/2", **SETTINGS)
    path = shards_folder(out) / "1-of-2.arrow"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    for again in (
        lambda: merge_shards(out),
        lambda: embed_shard(encoder, table, out, "1/2", **SETTINGS),
    ):
        with pytest.raises(EmbeddingError, match=r"1-of-2\.arrow is damaged .*--restart"):
            again()
    embed_table(encoder, str(videos / "test.arrow"), tmp_path / "one.arrow", **SETTINGS)
    shutil.copy(tmp_path / "one.arrow", path)
    with pytest.raises(EmbeddingError, match=r"does not say of which encoder and videos it is"):
        merge_shards(out)
    embed_shard(encoder, table, out, "1/2", restart=True, **SETTINGS)
    assert len(set(merge_shards(out).ids)) == 6


def test_features_of_another_job_are_not_merged_over(
    videos: Path, encoder: str, tmp_path: Path
) -> None:
    """Was wrong: shards were merged over a feature file of any other job, without a word."""
    out, table = tmp_path / "o.arrow", Table.open(videos / "test.arrow")
    for k in range(2):
        embed_shard(encoder, table, out, f"{k}/2", **{**SETTINGS, "hop": 2})
    embed_table(encoder, str(videos / "test.arrow"), out, **SETTINGS)
    before = out.read_bytes()
    told = r"o.arrow is there already and has other features .*\n  settings.hop: 2 <- 3\n.*remove that one"
    with pytest.raises(EmbeddingError, match=told):
        merge_shards(out)
    with pytest.raises(EmbeddingError, match=told):
        embed_shard(encoder, table, out, "0/2", **{**SETTINGS, "hop": 2})
    out.write_bytes(before[: len(before) // 2])
    with pytest.raises(EmbeddingError, match=r"Remove it first\.$"):
        merge_shards(out)
    assert out.read_bytes() == before[: len(before) // 2]
    assert len(list(shards_folder(out).glob("*.arrow"))) == 2
    out.write_bytes(before)
    plan = plan_launch(
        "embed", [encoder, str(videos / "train.arrow"), str(out)], LaunchProfile(executor="slurm")
    )
    with pytest.raises(EmbeddingError, match=r"table.records: 12 <- 6"):  # before it is submitted
        launching._claim(plan, tmp_path / "o.arrow.shards" / "launch")
    refuse_other_source(encoder, str(videos / "test.arrow"), out, check=False)
    out.unlink()
    assert merge_shards(out).metadata["job"]["settings"]["hop"] == 2


@pytest.mark.parametrize("check", [False, True])
def test_no_shard_of_a_complete_file_is_embedded_again(
    check: bool, videos: Path, encoder: str, tmp_path: Path
) -> None:
    """Was wrong: a second launch embedded every shard once more, and threw all of them away."""
    out, table = tmp_path / "o.arrow", Table.open(videos / "test.arrow")
    embed_table(encoder, str(videos / "test.arrow"), out, **SETTINGS, check=check)
    for k in range(2):
        assert embed_shard(encoder, table, out, f"{k}/2", **SETTINGS, check=check) == out
    assert not shards_folder(out).exists()
    assert len(set(merge_shards(out).ids)) == 6


def test_restart_of_a_shard_is_refused_where_the_whole_file_is_there(
    videos: Path, encoder: str, tmp_path: Path
) -> None:
    """Was wrong: every shard was embedded once more, and `merge` threw them away and kept the file that was there."""
    out, table = tmp_path / "o.arrow", str(videos / "test.arrow")
    embed_table(encoder, table, out, **SETTINGS)
    before = out.read_bytes()

    def embed_all() -> list[Any]:
        words = ["embed", encoder, table, str(out), "--hop", "3", "--device", "cpu", "--restart"]
        words += ["--num-workers", "0", "--batch-size", "4"]
        return [CliRunner().invoke(app, [*words, "--shard", f"{k}/2"]) for k in range(2)]

    for done in embed_all():
        assert done.exit_code == 2
        assert "o.arrow is there already, and --restart makes a shard" in done.output
    assert out.read_bytes() == before
    assert not shards_folder(out).exists()
    out.unlink()
    assert [done.exit_code for done in embed_all()] == [0, 0]
    assert len(set(merge_shards(out).ids)) == 6


@pytest.mark.parametrize("merged", [True, False])
def test_check_of_a_shard_compares_the_videos_of_that_shard(
    merged: bool, videos: Path, encoder: str, tmp_path: Path
) -> None:
    """A video of shard 1 holds something else, and its size and time of change tell nothing."""
    folder, out = tmp_path / "videos", tmp_path / "o.arrow"
    folder.mkdir()
    for k in range(4):
        shutil.copy(videos / f"train{k}.mp4", folder / f"{k}.mp4")
    for k in range(2):
        embed_shard(encoder, open_source(str(folder)), out, f"{k}/2", **SETTINGS, check=True)
    if merged:
        merge_shards(out)
    state = os.stat(folder / "3.mp4")
    with open(folder / "3.mp4", "r+b") as file:
        file.seek(state.st_size // 2)
        byte = file.read(1)
        file.seek(state.st_size // 2)
        file.write(bytes([byte[0] ^ 1]))
    os.utime(folder / "3.mp4", ns=(state.st_atime_ns, state.st_mtime_ns))
    # Of a whole file --restart of a shard would be refused.
    way = "Remove it, and embed them again" if merged else "Embed them again with --restart"
    told = rf"what these videos held before: \S*videos/3\.mp4\. {way}, or"
    with pytest.raises(EmbeddingError, match=told):
        embed_shard(encoder, open_source(str(folder)), out, "1/2", **SETTINGS, check=True)
    expected = out if merged else shards_folder(out) / "0-of-2.arrow"
    again = embed_shard(encoder, open_source(str(folder)), out, "0/2", **SETTINGS, check=True)
    assert again == expected


@pytest.mark.parametrize("text", ["4/4", "1", "-1/2", "a/b", "0/0"])
def test_wrong_shards(text: str) -> None:
    with pytest.raises(EmbeddingError, match="must be k/n"):
        parse_shard(text)


def test_more_shards_than_videos(videos: Path, encoder: str, tmp_path: Path) -> None:
    with pytest.raises(EmbeddingError, match="7 shards of 6 videos"):
        embed_shard(
            encoder, Table.open(videos / "test.arrow"), tmp_path / "o.arrow", "0/7", **SETTINGS
        )
