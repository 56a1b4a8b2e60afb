"""Features of videos that are not what they were: seen by size, time and place, and with `--check` by every byte."""

from __future__ import annotations

import io
import json
import os
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image

from video_ssl.clips.contents import content_digest, content_key
from video_ssl.datasets import open_table
from video_ssl.datasets.table import Table
from video_ssl.embed.config import EmbedConfig
from video_ssl.embed.embed_videos import embed_table
from video_ssl.embed.embedding import Embedder, EmbeddingError
from video_ssl.embed.feature_writer import METADATA_KEY
from video_ssl.embed.features import FeatureError, open_features
from video_ssl.embed.partial import PartialFeatures
from video_ssl.embed.shards import embed_shard, merge_shards
from video_ssl.evaluate.run import cached_features
from video_ssl.models.encoders import load_encoder, save_encoder
from video_ssl.models.networks.pixels import PixelEncoder, PixelsConfig
from video_ssl.models.preprocess_config import VideoPreprocess
from video_ssl.pretrain.processes import Processes

SETTINGS = {"num_workers": 0, "device": "cpu", "num_clips": 1}


@pytest.fixture(scope="session")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("encoder") / "encoder"
    save_encoder(
        folder,
        PixelEncoder(PixelsConfig(num_frames=4, size=2)),
        architecture="pixels",
        preprocess=VideoPreprocess(num_frames=4, frame_stride=1, size=16),
        source={},
    )
    return str(folder)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("VIDEO_SSL_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def contents(videos: Path) -> tuple[bytes, bytes]:
    """Two videos of one length in bytes."""
    a, b = ((videos / f"train{v}.mp4").read_bytes() for v in (0, 4))
    size = max(len(a), len(b)) + 8  # a box of type `free` fills the rest
    return tuple(  # type: ignore[return-value]
        c + (size - len(c)).to_bytes(4, "big") + b"free" + bytes(size - len(c) - 8) for c in (a, b)
    )


def as_file(content: bytes) -> str:
    Path("v").mkdir(exist_ok=True)
    Path("v/a.mp4").write_bytes(content)
    return "v"


def as_tar(content: bytes) -> str:
    with tarfile.open("s.tar", "w") as tar:
        info = tarfile.TarInfo("a.mp4")
        info.size = len(content)
        tar.addfile(info, io.BytesIO(content))
    return "s.tar"


def as_member(content: bytes) -> str:
    Path("t.csv").write_text(f"path\n{as_tar(content)}!/a.mp4\n")
    return "t.csv"


def as_frames(content: bytes) -> str:
    """Pictures of one color: all have the same size in bytes."""
    folder = Path("f/one")
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(6):
        picture = np.full((16, 16, 3), content[-1] + 50 * (content == LATER[0]), np.uint8)
        Image.fromarray(picture).save(folder / f"{number}.bmp")
    return "f"


def as_records(content: bytes) -> str:
    pytest.importorskip("tensorflow_datasets")
    pytest.importorskip("array_record.python.array_record_module")
    from video_ssl.datasets.build.array_record import build_array_records

    shutil.rmtree("records", ignore_errors=True)
    build_array_records({"train": open_table(as_file(content))}, "records", progress=False)
    return "records:train"


LATER: list[bytes] = [b""]
WAYS = [as_file, as_tar, as_member, as_frames, as_records]


@pytest.mark.parametrize("way", WAYS)
def test_a_video_of_the_same_size_that_was_replaced_is_seen(
    way: Callable[[bytes], str], videos: Path, encoder: str
) -> None:
    """Was wrong: "is complete already", with features of the old video."""
    first, second = contents(videos)
    LATER[0] = second
    before = embed_table(encoder, way(first), "f.arrow", **SETTINGS).features.copy()
    embed_table(
        encoder, way.__name__ and source_of(way), "f.arrow", **SETTINGS
    )  # nothing has changed
    with pytest.raises(EmbeddingError, match=r"changed, replaced or touched since[^Z]*--restart\."):
        embed_table(encoder, way(second), "f.arrow", **SETTINGS)
    with pytest.raises(EmbeddingError, match=r"features of what these videos held before"):
        embed_table(encoder, source_of(way), "f.arrow", check=True, **SETTINGS)
    after = embed_table(encoder, source_of(way), "f.arrow", restart=True, **SETTINGS).features
    assert np.abs(after - before).max() > 0.05


def test_an_evaluation_embeds_changed_videos_again(videos: Path, encoder: str) -> None:
    """Was wrong: the cached features of the old videos were evaluated."""
    first, second = contents(videos)
    one = Processes(0, 1, torch.device("cpu"))

    def cached(check: bool = False) -> np.ndarray:
        config = EmbedConfig(num_clips=1, num_workers=0, check=check)
        embedder = Embedder(load_encoder(encoder), config, name="e")
        (file,) = cached_features(
            [embedder], open_table("v"), Path("features"), "test", one, progress=False
        )
        return file.features.copy()

    as_file(first)
    before, state = cached(), os.stat("v/a.mp4")
    as_file(second)
    after = cached()
    assert np.abs(after - before).max() > 0.05
    as_file(first)
    os.utime("v/a.mp4", ns=(state.st_atime_ns, state.st_mtime_ns))
    np.testing.assert_array_equal(cached(), before)  # as it was at first
    as_file(second)
    os.utime("v/a.mp4", ns=(state.st_atime_ns, state.st_mtime_ns))
    np.testing.assert_array_equal(cached(), before)  # nothing tells ...
    np.testing.assert_array_equal(cached(check=True), after)  # ... but what it holds


def source_of(way: Callable[[bytes], str]) -> str:
    names = {"as_file": "v", "as_tar": "s.tar", "as_member": "t.csv", "as_frames": "f"}
    return names.get(way.__name__, "records:train")


def test_videos_that_were_only_touched_are_told_by_check(videos: Path, encoder: str) -> None:
    source = as_file(contents(videos)[0])
    made = embed_table(encoder, source, "f.arrow", **SETTINGS).features.copy()
    os.utime("v/a.mp4")
    with pytest.raises(EmbeddingError, match="only copied or touched, --check compares"):
        embed_table(encoder, source, "f.arrow", **SETTINGS)
    found = embed_table(encoder, source, "f.arrow", check=True, **SETTINGS)
    np.testing.assert_array_equal(found.features, made)


@pytest.mark.parametrize("place", ["beginning", "middle"])
def test_check_sees_a_byte_where_size_and_time_are_the_same(
    place: str, videos: Path, encoder: str, tmp_path: Path
) -> None:
    """The beginning is compared whenever `--check` is given, the middle where it was given the first time, too."""
    source = as_file(contents(videos)[0] + bytes(300_000))
    embed_table(encoder, source, "f.arrow", check=place == "middle", **SETTINGS)
    embed_table(encoder, source, "f.arrow", check=True, **SETTINGS)
    state = os.stat("v/a.mp4")
    with open("v/a.mp4", "r+b") as file:
        file.seek(20 if place == "beginning" else state.st_size - 150_000)
        file.write(b"\x01")
    os.utime("v/a.mp4", ns=(state.st_atime_ns, state.st_mtime_ns))
    embed_table(encoder, source, "f.arrow", **SETTINGS)  # nothing tells
    with pytest.raises(EmbeddingError, match=r"held before: .*a\.mp4"):
        embed_table(encoder, source, "f.arrow", check=True, **SETTINGS)


def test_a_broken_video_that_was_repaired_is_seen(videos: Path, encoder: str) -> None:
    good = (videos / "train0.mp4").read_bytes()
    as_file(bytes(len(good)))
    Path("v/b.mp4").write_bytes(good)
    found = embed_table(encoder, "v", "f.arrow", **SETTINGS)
    assert [entry["id"] for entry in found.skipped] == ["a.mp4"]
    state = os.stat("v/a.mp4")
    Path("v/a.mp4").write_bytes(good)
    os.utime("v/a.mp4", ns=(state.st_atime_ns, state.st_mtime_ns))
    with pytest.raises(EmbeddingError, match=r"held before: .*a\.mp4"):
        embed_table(encoder, "v", "f.arrow", check=True, **SETTINGS)


def test_an_unfinished_file_does_not_go_on_with_other_videos(videos: Path, encoder: str) -> None:
    first, second = contents(videos)
    embedder = Embedder(load_encoder(encoder), EmbedConfig(num_clips=1, num_workers=0))
    table = open_table(as_file(first))
    with PartialFeatures(Path("f.arrow"), embed_dim=12, metadata={}, job=embedder.job(table)):
        pass
    as_file(second)
    with pytest.raises(
        FeatureError, match=r"begun by another job[^Z]*changed, replaced or touched"
    ):
        embedder.embed(table, "f.arrow")


def test_shards_of_videos_that_changed_in_between_are_not_merged(
    videos: Path, encoder: str
) -> None:
    first, second = contents(videos)
    as_file(first)
    Path("v/b.mp4").write_bytes(first)
    embed_shard(encoder, open_table("v"), "f.arrow", "0/2", **SETTINGS)
    as_file(second)
    embed_shard(encoder, open_table("v"), "f.arrow", "1/2", **SETTINGS)
    with pytest.raises(EmbeddingError, match=r"differ: .*changed, replaced or touched"):
        merge_shards("f.arrow")
    with pytest.raises(EmbeddingError, match=r"of another job[^Z]*changed, replaced or touched"):
        embed_shard(encoder, open_table("v"), "f.arrow", "0/2", **SETTINGS)


def as_of_format_3(path: Path) -> None:
    """Turns a feature file into what the version before wrote: sizes in the job, no sources, no contents."""
    table = pa.ipc.open_file(path).read_all()
    about = json.loads(table.schema.metadata[METADATA_KEY])
    about["job"] |= {"format": 3, "table": {"records": len(table), "fingerprint": "0" * 16}}
    later = ("source", "record_start_sec", "record_end_sec", "content", "digest")
    table = table.drop_columns(list(later)).replace_schema_metadata(
        {METADATA_KEY: json.dumps(about)}
    )
    with pa.ipc.new_file(path, table.schema) as writer:
        writer.write_table(table)


@pytest.mark.parametrize("check", [False, True])
def test_features_of_an_earlier_version_open_but_are_not_taken_for_complete(
    check: bool, videos: Path, encoder: str
) -> None:
    source = as_file(contents(videos)[0])
    made = embed_table(encoder, source, "f.arrow", **SETTINGS).features.copy()
    as_of_format_3(Path("f.arrow"))
    np.testing.assert_array_equal(open_features("f.arrow").features, made)
    with pytest.raises(EmbeddingError, match=r"noted only how large files were[^Z]*--restart"):
        embed_table(encoder, source, "f.arrow", check=check, **SETTINGS)
    embed_table(encoder, source, "f.arrow", restart=True, **SETTINGS)
    embed_table(encoder, source, "f.arrow", check=check, **SETTINGS)


def test_contents_are_equal_for_copies_and_differ_for_changes(videos: Path) -> None:
    first, second = contents(videos)
    as_file(first)
    shutil.copy("v/a.mp4", "v/b.mp4")
    as_tar(first)
    (tar,) = map(open_table("s.tar").record, range(1))
    a, b = map(open_table("v").record, range(2))
    for of in (content_key, content_digest):
        assert of(a) == of(b) == of(tar) is not None
    as_file(second)
    assert content_key(a) != content_key(b)
    assert content_key(Table.from_rows([{"source": "/nothing"}]).record(0)) is None


def test_a_video_in_several_files_is_embedded_as_one_and_every_part_is_watched(
    encoder: str, here: Path
) -> None:
    """Pictures are lossless, so one folder of frames and its three parts show the same pixels."""
    rng, names = np.random.default_rng(0), []
    for folder, frames in (("whole", range(12)), ("a", range(5)), ("b", range(5, 10)), ("c", (10, 11))):  # fmt: skip
        Path(folder).mkdir()
        names += [(folder, frame) for frame in frames]
    pictures = rng.integers(0, 256, (12, 16, 16, 3), np.uint8)
    for folder, frame in names:
        Image.fromarray(pictures[frame]).save(f"{folder}/{frame:02}.png")
    Path("t.jsonl").write_text('{"path": ["whole"]}\n{"path": ["a", "b", "c"]}\n')
    settings = {**SETTINGS, "num_clips": 3}
    found = embed_table(encoder, "t.jsonl", "f.arrow", **settings)
    np.testing.assert_array_equal(found.features[:3], found.features[3:])
    assert np.ptp(found.features[:3], axis=0).max() > 0.01, "clips differ"
    noted = found.table["source"][3].as_py()
    assert noted == "||".join(str(here / name) for name in "abc")
    assert found.table["content"][3].as_py() is not None
    embed_table(encoder, "t.jsonl", "f.arrow", **settings)  # nothing has changed
    Image.fromarray(pictures[0]).save("c/11.png")
    with pytest.raises(EmbeddingError, match=r"changed, replaced or touched since"):
        embed_table(encoder, "t.jsonl", "f.arrow", **settings)
