"""Which records of two feature files are the same: by source and stretch, never by names that happen to be equal."""

from __future__ import annotations

import json
import os
import shutil
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from video_ssl.datasets.table import Table
from video_ssl.embed.embed_videos import embed_table
from video_ssl.embed.feature_writer import METADATA_KEY
from video_ssl.embed.features import FeatureError, FeatureFile, open_features
from video_ssl.evaluate.contract import Given
from video_ssl.evaluate.knn import KNNConfig, NearestNeighbours
from video_ssl.evaluate.probe import LinearProbe, ProbeConfig
from video_ssl.evaluate.retrieval import Retrieval
from video_ssl.evaluate.retrieval_config import RetrievalConfig
from video_ssl.explore.archive import Archive
from video_ssl.explore.search import SearchConfig, search, search_track
from video_ssl.explore.tracks import embed_video, track_of
from video_ssl.models.encoders import save_encoder
from video_ssl.models.networks.pixels import PixelEncoder, PixelsConfig
from video_ssl.models.preprocess_config import VideoPreprocess

SETTINGS: dict[str, Any] = {"num_workers": 0, "device": "cpu", "num_clips": 2}


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


@pytest.fixture
def folders(videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """train/CLASS/N.mp4 and test/CLASS/N.mp4: other videos under the same names; test has red ones only twice."""
    monkeypatch.setenv("VIDEO_SSL_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    for split, count in (("train", 12), ("test", 6)):
        for v in range(count):
            target = tmp_path / split / ("red", "green", "blue")[v % 3] / f"{v // 3}.mp4"
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(videos / f"{split}{v}.mp4", target)
    return tmp_path


def features(encoder: str, source: str, **settings: Any) -> FeatureFile:
    name = source.replace("/", "_").replace(".", "_")
    return embed_table(encoder, source, f"features/{name}.arrow", **{**SETTINGS, **settings})


def by_numpy(queries: FeatureFile, gallery: FeatureFile) -> dict[str, str]:
    """The nearest of every query, nothing left out."""

    def means(file: FeatureFile) -> tuple[list[str], np.ndarray]:
        names = list(dict.fromkeys(file.ids))
        x = np.stack([file.features[file.ids == name].mean(0) for name in names])
        return names, x / np.linalg.norm(x, axis=1, keepdims=True)

    (ours, a), (theirs, b) = means(queries), means(gallery)
    return {name: theirs[int(row)] for name, row in zip(ours, (a @ b.T).argmax(1), strict=True)}


def retrieved(queries: FeatureFile, gallery: FeatureFile, **config: Any) -> Any:
    return Retrieval(RetrievalConfig(keep=20, **config)).evaluate(Given(gallery, queries))


def nearest(result: Any) -> dict[str, str]:
    return {q["id"]: q["nearest"][0]["id"] for q in result.details["nearest"]}


def test_equal_names_in_two_folders_are_other_videos(folders: Path, encoder: str) -> None:
    """Was wrong: 6 queries "in the gallery too", and the videos of their names hidden."""
    train, test = features(encoder, "train"), features(encoder, "test")
    result = retrieved(test, train)
    assert nearest(result) == by_numpy(test, train)
    assert result.notes == []
    assert all(len(q["nearest"]) == 12 for q in result.details["nearest"])
    for evaluator in (NearestNeighbours(KNNConfig()), LinearProbe(ProbeConfig(epochs=1))):
        assert not any(
            "in train and in test" in note
            for note in evaluator.evaluate(Given(train, test, seed=0)).notes
        )


@pytest.mark.parametrize("way", ["again", "link", "list", "folder above"])
def test_a_video_is_itself_however_it_is_named(folders: Path, encoder: str, way: str) -> None:
    train = features(encoder, "train")
    if way == "again":
        other = features(encoder, "train", batch_size=3)
    elif way == "link":
        (folders / "elsewhere").symlink_to(folders / "train")
        other = features(encoder, "elsewhere")
    elif way == "list":
        lines = [
            f"train/../train/{path.relative_to('train')} 0" for path in Path("train").rglob("*.mp4")
        ]
        Path("l.txt").write_text("\n".join(lines) + "\n")
        other = features(encoder, "l.txt")
    else:
        other = features(encoder, str(folders))
    result = retrieved(train, other)
    assert "12 queries are in the gallery too; none finds itself" in result.notes
    for query in result.details["nearest"]:
        own = {f"{above}{query['id']}" for above in ("", "train/", "train/../train/")}
        assert not own & {near["id"] for near in query["nearest"]}


def test_stretches_are_records_of_their_own(folders: Path, encoder: str) -> None:
    """Was wrong: "clips of the video ... have different labels"."""
    rows = "path,start,end,label\ntrain/red/0.mp4,0,0.5,a\ntrain/red/0.mp4,0.5,1,b\ntrain/blue/0.mp4,0,0.5,a\n"
    Path("seg.csv").write_text(rows + "train/blue/0.mp4,0.5,1,b\n")
    found = features(encoder, "seg.csv", num_frames=2)
    assert list(dict.fromkeys(found.ids)) == [
        f"train/{color}/0.mp4:{span}" for color in ("red", "blue") for span in ("0-0.5", "0.5-1")
    ]
    result = retrieved(found, found)
    assert (result.details["query_videos"], result.details["gallery_videos"]) == (4, 4)
    assert len(set(found.groups)) == 2, "stretches of one file are not held out apart"
    knn = NearestNeighbours(KNNConfig(poolings=("clip",))).evaluate(Given(found, found, seed=0))
    assert any("4 videos are in train and in test" in note for note in knn.notes)


def test_stretches_of_one_file_in_train_and_test_are_told(folders: Path, encoder: str) -> None:
    for name, span in (("a", "0,0.5"), ("b", "0.5,1")):
        Path(f"{name}.csv").write_text(
            f"id,path,start,end,label\nx{name},train/red/0.mp4,{span},0\ny{name},train/blue/0.mp4,{span},1\n"
        )
    train, test = (features(encoder, f"{name}.csv", num_frames=2) for name in "ab")
    notes = NearestNeighbours(KNNConfig()).evaluate(Given(train, test, seed=0)).notes
    assert any("other stretches of 2 videos are in train and in test" in note for note in notes)
    assert not any("are in the gallery too" in note for note in retrieved(test, train).notes)


@pytest.mark.parametrize("way", ["copy", "tar", "frames"])
def test_copies_of_training_videos_among_the_test_videos_are_told(
    folders: Path, encoder: str, way: str
) -> None:
    """Was wrong: not a word, since their names are other ones."""
    if way == "copy":
        shutil.copy("train/red/1.mp4", "test/red/other.mp4")
        train, test = features(encoder, "train"), features(encoder, "test")
    elif way == "tar":
        with tarfile.open("t.tar", "w") as tar:
            tar.add("train/red/1.mp4", "red_x.mp4")
            tar.add("test/red/1.mp4", "red_y.mp4")
            for name in ("red_x", "red_y"):
                Path("cls").write_text("1\n")
                tar.add("cls", f"{name}.cls")
        train, test = features(encoder, "train"), features(encoder, "t.tar")
    else:
        from PIL import Image

        rng = np.random.default_rng(0)
        for name in ("a/x", "a/y", "b/z"):
            Path("f", name).mkdir(parents=True)
            for number in range(6):
                picture = rng.integers(0, 255, (16, 16, 3), np.uint8)
                Image.fromarray(picture).save(f"f/{name}/{number}.png")
        shutil.copytree("f/a/x", "g/a/other")
        shutil.copytree("f/b/z", "g/b/z")
        train, test = features(encoder, "f"), features(encoder, "g")
    count = 2 if way == "frames" else 1
    notes = (
        NearestNeighbours(KNNConfig(poolings=("clip",))).evaluate(Given(train, test, seed=0)).notes
    )
    assert any(f"{count} videos of test are copies of training videos" in note for note in notes), (
        notes
    )
    result = retrieved(test, train)
    assert any(f"{count} queries are copies of gallery videos" in note for note in result.notes)


def arrays(path: str, x: np.ndarray, **others: Any) -> FeatureFile:
    np.savez(path, features=x, labels=np.arange(len(x)) // 2, **others)
    return open_features(path)


def test_files_without_ids_have_nothing_in_common(tmp_path: Path) -> None:
    """Was wrong: the number of the row was the id, in both files."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(6, 8)).astype(np.float32)
    test = arrays(f"{tmp_path}/test.npz", x)
    train = arrays(f"{tmp_path}/train.npz", x + 0.01)
    named = arrays(f"{tmp_path}/named.npz", x + 0.01, ids=np.array(list("012345")))
    for gallery in (train, named):
        result = retrieved(test, gallery, mean_ap=True)
        assert result.metrics["R@1"] == 1
        assert result.notes == []
    assert (
        NearestNeighbours(KNNConfig(poolings=("clip",)))
        .evaluate(Given(train, test, seed=0))
        .notes[:-1]
        == []
    )
    itself = retrieved(test, test)
    assert "6 queries are in the gallery too; none finds itself" in itself.notes


def test_ids_and_sources_of_others_are_taken_at_their_word(tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(6, 8)).astype(np.float32)
    ids = np.array(list("abcdef"))
    a, b = (arrays(f"{tmp_path}/{name}.npz", x, ids=ids) for name in "ab")
    assert "6 queries are in the gallery too; none finds itself" in retrieved(a, b).notes
    (tmp_path / "far").mkdir()
    here = arrays(f"{tmp_path}/here.npz", x, ids=ids, sources=np.array([f"{i}.mp4" for i in ids]))
    far = arrays(f"{tmp_path}/far/c.npz", x, ids=ids, sources=np.array([f"{i}.mp4" for i in ids]))
    back = np.array([f"../{i}.mp4" for i in ids])
    same = arrays(f"{tmp_path}/far/d.npz", x, ids=ids[::-1], sources=back)
    assert retrieved(here, far).notes == []
    assert "6 queries are in the gallery too; none finds itself" in retrieved(here, same).notes


def as_of_format_3(file: FeatureFile) -> FeatureFile:
    """The same in a file as the version before wrote it: without sources."""
    table = file.table.drop_columns(
        ["source", "record_start_sec", "record_end_sec", "content", "digest"]
    )
    about = json.loads(table.schema.metadata[METADATA_KEY])
    about["job"] |= {"format": 3, "table": {"fingerprint": str(file.path), "records": len(table)}}
    assert file.path is not None
    path = file.path.with_name(f"old_{file.path.name}")
    table = table.replace_schema_metadata({METADATA_KEY: json.dumps(about)})
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    return open_features(path)


def test_files_of_an_earlier_version_are_compared_with_themselves_only(
    folders: Path, encoder: str
) -> None:
    train, test = features(encoder, "train"), features(encoder, "test")
    old_train, old_test = as_of_format_3(train), as_of_format_3(test)
    for a, b in ((old_test, old_train), (test, old_train), (old_test, train)):
        result = retrieved(a, b)
        assert nearest(result) == by_numpy(test, train)
        assert any(
            "6 ids are in both files" in note and "Embed again" in note for note in result.notes
        )
    assert (
        "12 queries are in the gallery too; none finds itself"
        in retrieved(old_train, old_train).notes
    )


def test_classes_that_two_files_number_differently_are_matched_by_name(
    folders: Path, encoder: str
) -> None:
    """Was wrong: without its first class the test folder numbered the others from 0, and all labels were off by one."""
    expected = retrieved(features(encoder, "test"), features(encoder, "train")).metrics
    assert expected["R@1"] == 1
    shutil.rmtree("test/blue")
    Path("test/violet").mkdir()
    shutil.copy("test/red/0.mp4", "test/violet/0.mp4")
    train, test = features(encoder, "train"), embed_table(encoder, "test", "less.arrow", **SETTINGS)
    assert (train.metadata["class_names"], test.metadata["class_names"]) == (
        ["blue", "green", "red"], ["green", "red", "violet"],
    )  # fmt: skip
    result = retrieved(test, train)
    assert result.correct == 4, "all but the violet one"
    assert any(
        "number their classes differently: they are matched by name" in note
        for note in result.notes
    )
    for evaluator in (NearestNeighbours(KNNConfig()), LinearProbe(ProbeConfig(epochs=30))):
        found = evaluator.evaluate(Given(train, test, seed=0))
        assert any(
            "1 test videos are of classes that train does not have" in note for note in found.notes
        )
        assert found.correct == 4


def test_names_as_labels_are_matched_with_names_only(tmp_path: Path) -> None:
    x = np.eye(4, 6, dtype=np.float32)
    np.savez(tmp_path / "a.npz", features=x, labels=np.array(["run", "run", "sit", "sit"]))
    np.savez(tmp_path / "b.npz", features=x, labels=np.array(["run", "run", "eat", "sit"]))
    np.savez(tmp_path / "c.npz", features=x, labels=np.array([0, 0, 1, 1]))
    a, b, c = (open_features(tmp_path / f"{name}.npz") for name in "abc")
    assert retrieved(b, a).correct == 3, "`eat` is not `run`"
    for pair in ((a, c), (c, a)):
        with pytest.raises(
            FeatureError, match=r"a\.npz has names of classes as labels, .*c\.npz numbers"
        ):
            retrieved(*pair)


def test_search_leaves_out_the_video_itself_and_not_one_of_its_name(
    folders: Path, encoder: str, videos: Path
) -> None:
    """Was wrong: a file `0.mp4` hid whatever was called 0 in the archive."""
    Path("t.csv").write_text("id,path\n" + "".join(f"{v},train/red/{v}.mp4\n" for v in range(4)))
    archive = Archive(features(encoder, "t.csv", per_frame=True))
    config = SearchConfig(k=4, moments_per_video=1)
    other = embed_video(
        folders / "test/red/0.mp4", encoder, like=archive.features.metadata, device="cpu"
    )
    assert other.id == "0"
    assert "0" in {moment.id for moment in search_track(other, archive, config)[0]}
    own = embed_video(
        folders / "train/red/0.mp4", encoder, like=archive.features.metadata, device="cpu"
    )
    for query in (own, track_of(archive.features, "0")):
        assert {moment.id for moment in search_track(query, archive, config)[0]} == {"1", "2", "3"}


def test_frames_of_one_moment_do_not_stop_a_search(tmp_path: Path) -> None:
    """Was wrong: ZeroDivisionError where the usual step in time is 0: several crops, or two videos of one id."""
    rng = np.random.default_rng(0)
    frames = rng.normal(size=(3, 6, 5)).astype(np.float32)
    times = np.tile(np.repeat([0.0, 0.2, 0.4], 2), (3, 1))
    times[2] = 0.0
    np.savez(
        tmp_path / "f.npz", features=frames.mean(1), ids=np.array(list("abc")), frame_features=frames,
        frame_times_sec=times,
    )  # fmt: skip
    for name in "abc":
        found = search(name, tmp_path / "f.npz", quiet=True)
        assert {m["id"] for m in found["moments"]} == set("abc") - {name}


def test_pictures_of_another_table_are_not_shown(folders: Path, encoder: str) -> None:
    """A table that was written again under its old name holds other videos under the same ids.

    The pictures are those of the video that was embedded, as long as it lies where it was; of no other, ever.
    """
    rows = [{"id": "x", "source": "train/red/0.mp4"}, {"id": "y", "source": "train/blue/0.mp4"}]
    Table.from_rows(rows).save("t.arrow")
    found = features(encoder, "t.arrow", per_frame=True)
    rows[0]["source"] = "test/red/0.mp4"
    Table.from_rows(rows).save("t.arrow")
    for name, embedded in (("x", "train/red/0.mp4"), ("y", "train/blue/0.mp4")):
        shown = track_of(found, name).record
        assert shown is not None
        assert os.path.samefile(shown.source, embedded)
    os.unlink("train/red/0.mp4")
    assert track_of(found, "x").record is None
    assert track_of(found, "y").record is not None


def test_sources_stand_in_the_file(folders: Path, encoder: str) -> None:
    found = features(encoder, "train")
    paths = found.table["source"].to_pylist()
    assert all(os.path.isabs(path) and os.path.isfile(path) for path in paths)
    sizes = [int(content.partition(":")[0]) for content in found.table["content"].to_pylist()]
    assert sizes == [os.path.getsize(path) for path in paths]
