"""ArrayRecord: what a build writes, that readers see the frames and batches of the loose files, what is refused."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from video_ssl.clips import reading
from video_ssl.clips.decoders.pyav.reader import PyAVReader
from video_ssl.clips.decoders.reader import BadVideo
from video_ssl.clips.pipeline import LoaderConfig, Pipeline
from video_ssl.clips.reading import open_record
from video_ssl.datasets import open_table
from video_ssl.datasets.archives import array_records
from video_ssl.datasets.build import array_record as array_record_build
from video_ssl.datasets.build.array_record import build_array_records
from video_ssl.datasets.demo.mp4 import write_mp4
from video_ssl.datasets.opening import open_splits
from video_ssl.datasets.table import Caption, Event, Table, TableError

tfds = pytest.importorskip("tensorflow_datasets")
pytest.importorskip("array_record.python.array_record_module")
pytest.importorskip("fsspec")

SHARD = "videos-train.array_record-0000{}-of-00003"
SHARD_OF_TWO = "videos-train.array_record-0000{}-of-00002"


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """A folder of tables as `video-ssl data demo` makes it, with less to encode."""
    root = tmp_path_factory.mktemp("demo") / "demo"
    write_videos(root)
    clips = [clip_row(row) for row in range(30)]
    names = {"class_names": ["squat", "lunge", "jump"], "phase_names": ["down", "up"]}
    Table.from_rows(clips[:24], root=root, **names).save(root / "train.arrow")
    Table.from_rows(clips[24:], root=root, **names).save(root / "val.arrow")
    segments = [
        {
            **clip_row(row),
            "id": f"{row}-{part}",
            "start_sec": part * 0.4,
            "end_sec": part * 0.4 + 0.4,
        }
        for row in (0, 3)
        for part in range(3)
    ]
    topics = Table.from_rows(segments, root=root, class_names=["a", "b", "c"])
    topics.save(root / "segments_train.arrow")
    return root


def write_videos(root):
    (root / "videos").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for index in range(6):
        path = root / f"videos/{index}.mp4"
        sound = rng.normal(0, 0.2, 25_600).astype(np.float32)
        write_mp4(path, rng.integers(0, 255, (16, 80, 80, 3), np.uint8), sound, fps=10, size=80)
    for index in range(6, 30):
        os.link(root / f"videos/{index % 6}.mp4", root / f"videos/{index}.mp4")


def clip_row(row):
    rng = np.random.default_rng(row)
    boxes = np.sort(rng.random((16, 2, 2, 2), np.float32), axis=2).reshape(16, 2, 4)
    boxes[3, 1] = np.nan
    return {
        "id": f"clip-{row}",
        "source": f"videos/{row}.mp4",
        "label": row % 3,
        "captions": [Caption(text=f"Übung {row}", start_sec=0.5), Caption(text="another")],
        "frame_labels": rng.integers(-1, 2, 16),
        "boxes": boxes,
        "events": [Event(name="thud", time_sec=row / 7)],
        "num_frames": 16,
        "fps": 10.0,
    }


@pytest.fixture(scope="module")
def built(demo, tmp_path_factory):
    out = tmp_path_factory.mktemp("built") / "out"
    return build_array_records(open_splits(str(demo)), out, num_shards=3, progress=False)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("VIDEO_SSL_CACHE", str(tmp_path / ".cache"))


@pytest.fixture
def copy(built, tmp_path):
    return Path(shutil.copytree(built, tmp_path / "copy"))


class ClipPlan:
    def __call__(self, record, reader, rng, progress):
        start = int(rng.integers(reader.info.num_frames - 3))
        frames = reader.frames(np.arange(start, start + 4), (24, 32))
        return {"video": frames, "label": np.int64(record.label), "draw": rng.random(2)}


def batches(table, steps=4):
    config = LoaderConfig(num_workers=0)
    with Pipeline(
        [(table, 1.0)], ClipPlan(), seed=3, global_batch_size=4, num_steps=steps, config=config
    ) as pipeline:
        return [{name: value.tobytes() for name, value in batch.items()} for batch in pipeline]


def test_every_split_has_the_same_table_but_for_sources(demo, built):
    names = sorted(file.stem for file in demo.glob("*.arrow"))
    assert names == ["segments_train", "train", "val"]
    assert sorted(file.stem for file in built.glob("*.arrow")) == names
    for split in names:
        loose, packed = open_table(f"{demo}:{split}"), open_table(f"{built}:{split}")
        assert packed.arrow.drop_columns(["source"]).equals(loose.arrow.drop_columns(["source"]))
        assert packed.metadata == loose.metadata
    assert open_table(f"{built}:train").record(0).source == f"{built}/{SHARD.format(0)}#0"


def test_batches_are_byte_equal_to_those_from_loose_files(demo, built):
    loose, packed = (batches(open_table(f"{folder}:train")) for folder in (demo, built))
    assert len(loose) == 4
    assert len({batch["video"] for batch in loose}) == 4
    assert packed == loose


@pytest.mark.parametrize("backend", ["pyav", "auto", "decord", "torchcodec"])
@pytest.mark.parametrize("in_memory", [True, False])
def test_every_backend_gets_the_frames_and_sound_of_the_file(
    demo, built, backend, in_memory, monkeypatch
):
    monkeypatch.setattr(array_records, "_MEMORY_BYTES", 2**26 if in_memory else 0)
    for split, row in (("train", 23), ("segments_train", 1)):
        loose = open_record(open_table(f"{demo}:{split}").record(row))
        held = os.listdir("/proc/self/fd")
        with loose, open_record(open_table(f"{built}:{split}").record(row), backend) as packed:
            assert packed.info == loose.info
            wanted = [loose.info.num_frames - 1, 0, 2]
            np.testing.assert_array_equal(packed.frames(wanted), loose.frames(wanted))
            np.testing.assert_array_equal(packed.audio(0.2, 0.9, 8000), loose.audio(0.2, 0.9, 8000))
            if split == "train":
                assert type(packed._reader) is PyAVReader
        assert len(os.listdir("/proc/self/fd")) <= len(held)  # nothing stays open


def test_tensorflow_datasets_opens_the_folder(demo, built):
    source = tfds.builder_from_directory(built).as_data_source("train")
    table = open_table(f"{demo}:train")
    assert len(source) == len(table)
    for row in (0, 9, 23):
        record, example = table.record(row), source[row]
        assert example["video"] == Path(record.source).read_bytes()
        assert (example["id"].decode(), example["label"]) == (record.id, record.label)
        assert [text.decode() for text in example["captions"]["text"]] == [
            caption.text for caption in record.captions
        ]
        np.testing.assert_array_equal(example["frame_labels"], record.frame_labels)
        np.testing.assert_array_equal(example["boxes"], record.boxes)
        assert len(example["events"]["name"]) == len(record.events) > 0
        np.testing.assert_allclose(
            example["events"]["time_sec"], [event.time_sec for event in record.events], rtol=1e-6
        )
    assert len(tfds.builder_from_directory(built).as_data_source("train[:25%]")) == 6


def test_rows_of_one_video_share_a_record(demo, built):
    table = open_table(f"{built}:segments_train")
    sources = [table.record(row).source for row in range(len(table))]
    source = tfds.builder_from_directory(built).as_data_source("segments_train")
    assert len(set(sources)) == len(source) < len(table)
    segments, rows = source[0]["segments"], json.loads(source[0]["rows"])
    record = open_table(f"{demo}:segments_train").record(1)
    assert segments["id"][1].decode() == rows[1]["id"] == record.id
    assert segments["label"][1] == rows[1]["label"] == record.label
    assert rows[1]["start_sec"] == record.start_sec
    assert rows[1]["frame_labels"] == record.frame_labels.tolist()


def test_class_names_reach_tensorflow_datasets_where_splits_agree(demo, tmp_path):
    table = open_table(f"{demo}:val")
    build_array_records({"val": table.select([2, 0])}, tmp_path, progress=False)
    builder = tfds.builder_from_directory(tmp_path)
    assert tuple(builder.info.features["label"].names) == table.class_names
    assert open_table(tmp_path).record(0).id == table.record(2).id  # the only split needs no name


def test_a_second_split_joins_and_a_tar_record_or_uri_is_a_source_too(demo, built, tmp_path):
    out = tmp_path / "again"
    packed = open_table(f"{built}:val").select([1, 4])
    remote = Table.from_columns({"source": [f"memory://some/{SHARD.format(1)}#2"], "id": ["far"]})
    upload(built, "some")
    build_array_records({"val": packed}, out, progress=False)
    build_array_records({"far": remote}, out, progress=False)
    builder = tfds.builder_from_directory(out)
    assert {name: info.num_examples for name, info in builder.info.splits.items()} == {
        "val": 2, "far": 1
    }  # fmt: skip
    row = open_table(f"{demo}:train").record(8 + 2)
    assert builder.as_data_source("far")[0]["video"] == Path(row.source).read_bytes()


def upload(folder, name):
    import fsspec

    memory = fsspec.filesystem("memory")
    for file in folder.iterdir():
        memory.pipe_file(f"/{name}/{file.name}", file.read_bytes())


def test_a_remote_folder_is_read_through_the_cache(demo, built):
    upload(built, "bucket/data")
    far, near = open_table("memory://bucket/data:train"), open_table(f"{demo}:train")
    assert far.record(23).source.startswith("memory://bucket/data/videos-train.array_record")
    with open_record(far.record(23)) as reader, open_record(near.record(23)) as loose:
        np.testing.assert_array_equal(reader.frames([3, 1]), loose.frames([3, 1]))
    fetched = list((Path(os.environ["VIDEO_SSL_CACHE"]) / "fetched").iterdir())
    assert len([file for file in fetched if file.stat().st_size > 2**17]) == 1  # one shard


def test_pictures_are_videos_of_one_frame(tmp_path):
    from PIL import Image

    picture = np.random.default_rng(0).integers(0, 255, (20, 30, 3), np.uint8)
    Image.fromarray(picture).save(tmp_path / "a.PNG")
    table = Table.from_columns({"source": [str(tmp_path / "a.PNG")]})
    build_array_records({"train": table}, tmp_path / "out", progress=False)
    record = open_table(f"{tmp_path}/out:train").record(0)
    assert record.source.endswith("#0.png")
    with open_record(record) as reader:
        np.testing.assert_array_equal(reader.frames([0])[0], picture)


# Builds that end early


SLOW_BUILD = """
import sys, time
from video_ssl.datasets import open_table
from video_ssl.datasets.build import array_record as build
real = build.make_example
def slow(*arguments):
    time.sleep(0.1)
    return real(*arguments)
build.make_example = slow
build.build_array_records({"train": open_table(sys.argv[1])}, sys.argv[2], num_shards=3, num_workers=1)
"""


def test_a_killed_build_goes_on_and_gives_the_same_bytes(demo, built, tmp_path, monkeypatch):
    out = tmp_path / "out"
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW_BUILD, f"{demo}:train", str(out)], stdout=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 300
    while not (out / f".{SHARD.format(1)}.partial").exists():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    with pytest.raises(TableError, match="another process is building"):
        build_array_records({"train": open_table(f"{demo}:train")}, out, progress=False)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert (out / SHARD.format(0)).exists()
    with pytest.raises(TableError, match="unfinished build: run the same"):
        open_table(f"{out}:train")
    seen = []
    real = array_record_build.make_example
    monkeypatch.setattr(
        array_record_build, "make_example", lambda *args: (seen.append(args), real(*args))[1]
    )
    build_array_records({"train": open_table(f"{demo}:train")}, out, progress=False)
    assert len(seen) == 16  # two shards of three
    for shard in range(3):
        assert (out / SHARD.format(shard)).read_bytes() == (
            built / SHARD.format(shard)
        ).read_bytes()
    assert not list(out.glob(".*partial")) + list(out.glob("*.begun"))


def test_a_complete_build_is_left_alone_and_a_lost_shard_written_again(demo, copy, built):
    tables = {"train": open_table(f"{demo}:train")}
    state = (copy / SHARD.format(0)).stat().st_mtime_ns
    (copy / SHARD.format(1)).unlink()
    build_array_records(tables, copy, progress=False)
    assert (copy / SHARD.format(1)).read_bytes() == (built / SHARD.format(1)).read_bytes()
    assert (copy / SHARD.format(0)).stat().st_mtime_ns == state
    assert len(open_table(f"{copy}:train")) == 24


def test_a_full_disk_ends_the_build_in_one_sentence(demo, tmp_path):
    code = (
        "import resource, signal, sys\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))\n"
        "from video_ssl.cli import main\n"
        "sys.argv[1:] = ['data', 'build', *sys.argv[1:]]\n"
        "main()"
    )
    command = [sys.executable, "-c", code, f"{demo}:train", str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "error: the disk is full" in done.stderr
    assert "goes on from here" in done.stderr
    assert not list((tmp_path / "out").glob(".*partial"))


def test_other_data_are_not_mixed_in(demo, copy):
    for table, shards, reason in (
        (open_table(f"{demo}:train"), 2, "num_shards=3, now 2"),
        (open_table(f"{demo}:val"), None, "another table"),
    ):
        with pytest.raises(TableError, match=reason):
            build_array_records({"train": table}, copy, num_shards=shards, progress=False)


@pytest.fixture
def small(tmp_path):
    """Five files that stand for videos, and the table of them."""
    for number in range(5):
        (tmp_path / f"{number}.mp4").write_bytes(bytes([number]) * 100)
    return Table.from_columns({"source": [f"{n}.mp4" for n in range(5)]}, root=tmp_path)


def build(table, out, **options):
    return build_array_records({"train": table}, out, num_shards=2, progress=False, **options)


def test_a_video_of_the_same_size_that_was_replaced_is_seen(small, tmp_path):
    """Was wrong: only sizes were compared, so the old video stayed in the shards without a word."""
    out = build(small, tmp_path / "out")
    build(small, out)
    (tmp_path / "3.mp4").write_bytes(b"x" * 100)
    with pytest.raises(TableError, match=r"changed, replaced or touched since .*--check"):
        build(small, out)
    with pytest.raises(TableError, match=r"held before: .*3\.mp4\. Choose"):
        build(small, out, check=True)


def test_check_compares_all_bytes_and_notes_that_they_are_the_same(small, tmp_path):
    out = build(small, tmp_path / "out")
    os.utime(tmp_path / "3.mp4")
    with pytest.raises(TableError, match="touched since"):
        build(small, out)
    build(small, out, check=True)
    build(small, out)  # the new time is known now
    state = (tmp_path / "1.mp4").stat()
    (tmp_path / "1.mp4").write_bytes(b"y" * 100)
    os.utime(tmp_path / "1.mp4", ns=(state.st_atime_ns, state.st_mtime_ns))
    build(small, out)  # nothing but its bytes tells
    with pytest.raises(TableError, match=r"held before: .*1\.mp4"):
        build(small, out, check=True)


def test_a_build_of_an_earlier_version_is_not_trusted_and_can_be_checked(small, tmp_path):
    out = build(small, tmp_path / "out")
    stamp = json.loads((out / "train.build.json").read_text())
    del stamp["files"]
    (out / "train.build.json").write_text(json.dumps({**stamp, "format": 1}))
    with pytest.raises(TableError, match=r"earlier version, which noted only how large .*--check"):
        build(small, out)
    build(small, out, check=True)
    build(small, out)


def test_shards_that_no_stamp_speaks_of_are_written_anew(small, tmp_path):
    """Was wrong: a build killed between two stamps left shards that another table took for its own."""
    out = build(small, tmp_path / "out")
    (out / "train.build.json").unlink()
    for number in range(5):
        (tmp_path / f"{number}.mp4").write_bytes(b"n" * 100)
    build(small, out)
    assert all(
        array_records.read_video(f"{out}/{SHARD_OF_TWO.format(k)}", 0) == b"n" * 100
        for k in range(2)
    )


def test_a_build_stopped_while_it_is_looked_at_again_stays_one_of_its_table(
    small, tmp_path, monkeypatch
):
    """Whatever is killed when: the stamp that says what the shards are of is there before the other one goes."""
    out = build(small, tmp_path / "out")
    os.truncate(out / SHARD_OF_TWO.format(1), 10)
    monkeypatch.setattr(Path, "unlink", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        build(small, out)
    monkeypatch.undo()
    assert (out / "train.build.json.begun").exists()
    other = Table.from_columns({"source": [f"{n}.mp4" for n in (4, 3, 2, 1, 0)]}, root=tmp_path)
    with pytest.raises(TableError, match="another table"):
        build(other, out)


def test_missing_files_folders_and_names_are_refused_before_anything_is_written(tmp_path):
    (tmp_path / "frames").mkdir()
    table = Table.from_columns({"source": ["gone.mp4", "frames"]}, root=tmp_path)
    with pytest.raises(TableError, match=r"gone\.mp4 cannot be read .*frames is a folder"):
        build_array_records({"train": table}, tmp_path / "out", progress=False)
    with pytest.raises(TableError, match="'my-split' must be of letters"):
        build_array_records({"my-split": table}, tmp_path / "out", progress=False)
    with pytest.raises(TableError, match="num_shards=0"):
        build_array_records({"train": table}, tmp_path / "out", num_shards=0, progress=False)
    assert not list((tmp_path / "out").glob("videos-*"))


# Folders that are not whole


def test_missing_and_cut_shards_are_named(copy):
    (copy / SHARD.format(0)).unlink()
    os.truncate(copy / SHARD.format(2), 70_000)
    with pytest.raises(TableError, match=r"00000-of-00003 is missing; .*00002-of-00003 is cut off"):
        open_table(f"{copy}:train")
    assert len(open_table(f"{copy}:val")) == 6


@pytest.mark.parametrize("damage", ["cut", "flipped", "missing", "empty"])
def test_a_shard_that_breaks_later_is_a_bad_video_that_names_it(demo, copy, damage):
    video = (demo / "videos/2.mp4").read_bytes()
    record = open_table(f"{copy}:train").record(2)
    shard = copy / SHARD.format(0)
    content = bytearray(shard.read_bytes())
    if damage == "missing":
        shard.unlink()
    else:
        at = content.index(video[5000:5032])
        content[at] ^= 1
        shard.write_bytes({"cut": content[:150_000], "empty": b"", "flipped": content}[damage])
    with pytest.raises(BadVideo, match=r"-00000-of-00003#2: the shard .*(damaged|No such file)"):
        open_record(record)


def test_a_number_beyond_the_shard(copy):
    with pytest.raises(BadVideo, match=r"#99: the shard has 8 records"):
        reading.open_video(f"{copy}/{SHARD.format(0)}#99")


def test_tfrecords_and_strange_shards_are_refused(copy, tmp_path):
    folder = tmp_path / "tf"
    folder.mkdir()
    file = folder / "mnist-train.tfrecord-00000-of-00001"
    file.touch()
    for spec in (folder, f"{folder}:train", file):
        with pytest.raises(TableError, match=r"TFRecord files.*ArrayRecord is needed"):
            open_table(spec)
    for file in copy.glob("*.arrow"):
        file.unlink()
    with pytest.raises(TableError, match=r"no SPLIT\.arrow"):
        open_table(f"{copy}:train")
    with pytest.raises(TableError, match="is one shard: give the folder"):
        open_table(copy / SHARD.format(0))


@pytest.mark.parametrize("package", ["array_record", "tensorflow_datasets"])
def test_without_the_packages_one_line_says_what_to_install(demo, built, package, tmp_path):
    for run in (
        f"open_record(open_table('{built}:train').record(0))",
        f"build_array_records({{'train': open_table('{demo}:train')}}, '{tmp_path}/o')",
    ):
        code = (
            f"import sys; sys.modules['{package}'] = None\n"
            "from video_ssl.clips.reading import open_record\n"
            "from video_ssl.datasets import open_table\n"
            "from video_ssl.datasets.build.array_record import build_array_records\n" + run
        )
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=False
        )
        last = done.stderr.strip().splitlines()[-1]
        assert "MissingPackage" in last
        assert "pip install 'video_ssl[jax]'" in last


def test_neither_tensorflow_nor_torch_nor_jax_is_imported(demo, built, tmp_path):
    code = (
        "import sys\n"
        "from video_ssl.clips.reading import open_record\n"
        "from video_ssl.datasets import open_table\n"
        "from video_ssl.datasets.build.array_record import build_array_records\n"
        f"build_array_records({{'v': open_table('{demo}:val')}}, '{tmp_path}/o', progress=False)\n"
        f"open_record(open_table('{tmp_path}/o:v').record(0)).frames([0])\n"
        "print(sorted({'tensorflow', 'torch', 'jax', 'keras'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"


def test_a_build_killed_between_its_descriptions_goes_on(demo, tmp_path, monkeypatch):
    """Was wrong: `features.json` came first, and does not say whose it is: nobody could go on."""
    splits, straight, out = open_splits(demo), tmp_path / "straight", tmp_path / "out"
    build_array_records(splits, straight, num_workers=1, progress=False)
    original = os.replace

    def once(source, target, **more):
        original(source, target, **more)
        if Path(target).name in ("features.json", "dataset_info.json"):
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(array_record_build.os, "replace", once)
        with pytest.raises(KeyboardInterrupt):
            build_array_records(splits, out, num_workers=1, progress=False)
    assert not (out / "features.json").exists()
    build_array_records(splits, out, num_workers=1, progress=False)
    for name in ("features.json", "dataset_info.json"):
        assert (out / name).read_bytes() == (straight / name).read_bytes()
    assert not list(out.glob(".*tmp"))
