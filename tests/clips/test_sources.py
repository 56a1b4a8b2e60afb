"""Sources other than a plain file: tars, folders of frames, pictures, URIs, odd paths, files that change."""

import http.server
import io
import os
import shutil
import subprocess
import sys
import tarfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import video_maker
from PIL import Image

from video_ssl.clips.decoders.reader import BadVideo
from video_ssl.clips.decoders.sources import locate
from video_ssl.clips.reading import open_record, open_video
from video_ssl.datasets.archives.tar_shards import read_shards
from video_ssl.datasets.cache import CacheError
from video_ssl.datasets.folder import read_folder
from video_ssl.datasets.table import Record

fsspec = pytest.importorskip("fsspec")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    folder = tmp_path / "the cache"
    monkeypatch.setenv("VIDEO_SSL_CACHE", str(folder))
    monkeypatch.delenv("VIDEO_SSL_CACHE_GIB", raising=False)
    monkeypatch.setattr("video_ssl.datasets.remote.fetching._WAITS_SEC", (0.01, 0.01))
    return folder


def expected(videos, name="audio.mp4"):
    with open_video(videos / name) as reader:
        return reader.frames([0, 17, 59]), reader.audio(0.5, 1.0, 8000)


def assert_same(reader, videos):
    frames, sound = expected(videos)
    np.testing.assert_array_equal(reader.frames([0, 17, 59]), frames)
    np.testing.assert_array_equal(reader.audio(0.5, 1.0, 8000), sound)


def pack(path, members):
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def shard(videos, path):
    video = (videos / "audio.mp4").read_bytes()
    return pack(path, {"k/1.txt": b"a caption", "k/1.mp4": video, "k/2.mp4": video[:3000]})


# Tars


def test_a_member_of_a_tar_reads_like_the_file(videos, tmp_path):
    path = shard(videos, tmp_path / "odd, name:\n.tar")
    with open_video(f"{path}!/k/1.mp4") as reader:
        assert_same(reader, videos)
    record = read_shards(str(path)).record(0)
    assert record.byte_size == (videos / "audio.mp4").stat().st_size
    with open_record(record) as reader:
        assert_same(reader, videos)


def test_known_places_need_no_index_of_the_tar(videos, tmp_path, monkeypatch):
    record = read_shards(str(shard(videos, tmp_path / "s.tar"))).record(0)
    monkeypatch.setattr("video_ssl.clips.decoders.sources.find_member", None)
    with open_record(record) as reader:
        assert reader.info.num_frames == 60


def test_a_damaged_member_is_named_as_it_was_given(videos, tmp_path):
    path = shard(videos, tmp_path / "s.tar")
    with pytest.raises(BadVideo, match=r"s\.tar!/k/2\.mp4: is cut off: 3000 bytes of"):
        open_video(f"{path}!/k/2.mp4")
    with pytest.raises(BadVideo, match=r"s\.tar!/k/3\.mp4: the tar has no member of that name"):
        open_video(f"{path}!/k/3.mp4")
    with pytest.raises(BadVideo, match=r"none\.tar!/k/3\.mp4: the tar cannot be read"):
        open_video(f"{tmp_path}/none.tar!/k/3.mp4")
    with pytest.raises(BadVideo, match=r"lies at bytes 5000000..5000010 of a file of"):
        open_video(f"{path}!/k/1.mp4", byte_range=(5_000_000, 10))


def test_a_picture_in_a_tar_is_a_video_of_one_frame(tmp_path):
    image = Image.fromarray(video_maker.draw(5, (96, 128)))
    content = io.BytesIO()
    image.save(content, "PNG")
    path = pack(tmp_path / "p.tar", {"a.cls": b"3", "a.png": content.getvalue()})
    record = read_shards(str(path)).record(0)
    assert record.label == 3
    with open_record(record) as reader:
        np.testing.assert_array_equal(reader.frames([0, 0]), np.stack([np.asarray(image)] * 2))


# Frames


@pytest.fixture
def frames(tmp_path):
    folder = tmp_path / "run" / "video 1"
    folder.mkdir(parents=True)
    for index in range(12):
        Image.fromarray(video_maker.draw(index, (96, 128))).save(folder / f"img_{index}.png")
    (folder / "notes.txt").write_text("x")
    return folder


def test_frames_come_in_natural_order_with_the_promises_of_a_video(frames):
    with open_video(frames, fps=10) as reader:
        assert (reader.info.num_frames, reader.info.fps, reader.info.duration_sec) == (12, 10, 1.2)
        assert (reader.info.width, reader.info.height, reader.info.has_audio) == (128, 96, False)
        wanted = [11, 2, 2, 10]
        pictures = reader.frames(wanted)
        assert [video_maker.read_index(p) for p in pictures] == wanted
        np.testing.assert_array_equal(pictures[0], video_maker.draw(11, (96, 128)))
        np.testing.assert_allclose(reader.times([0, 11]), [0, 1.1])
        assert reader.frames([3], (48, 64)).shape == (1, 48, 64, 3)
        assert not reader.audio(0, 0.5, 100).any()
        with pytest.raises(IndexError):
            reader.frames([12])


def test_the_rate_of_frames_comes_from_the_table_and_segments_work(frames):
    record = Record(index=0, id="a", source=str(frames), fps=4.0, start_sec=1.0, end_sec=2.0)
    with open_record(record) as reader:
        assert [video_maker.read_index(p) for p in reader.frames([0, 3])] == [4, 7]
    with open_video(frames) as reader:
        assert reader.info.fps == 25


def test_optical_flow_beside_the_frames_is_left_out_and_doubt_is_an_error(frames):
    for index in range(3):
        shutil.copy(frames / "img_0.png", frames / f"flow_x_{index}.png")
    with open_video(frames) as reader:
        assert reader.info.num_frames == 12
    for index in range(12):
        (frames / f"img_{index}.png").rename(frames / f"left_{index}.png")
    with pytest.raises(BadVideo, match="several series of pictures"):
        open_video(frames)


def test_bad_frames_are_named(frames):
    (frames / "img_3.png").write_bytes(b"no picture")
    Image.fromarray(video_maker.draw(4, (48, 64))).save(frames / "img_4.png")
    with open_video(frames) as reader:
        with pytest.raises(BadVideo, match=r"frame 3 \(img_3.png\) cannot be read as a picture"):
            reader.frames([3])
        with pytest.raises(BadVideo, match=r"frame 4 \(img_4.png\) is 64x48, but frame 0 is 128x"):
            reader.frames([4], (48, 64))


def test_pictures_are_turned_upright(tmp_path):
    image = Image.fromarray(video_maker.draw(5, (96, 128)))
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 90 degrees clockwise to see it upright
    image.save(tmp_path / "a.png", exif=exif)
    with open_video(tmp_path / "a.png") as reader:
        assert (reader.info.width, reader.info.height) == (96, 128)
        np.testing.assert_array_equal(reader.frames([0])[0], np.rot90(np.asarray(image), k=-1))


# Odd paths


@pytest.mark.parametrize(
    "name", ["a b.mp4", "line\nbreak.mp4", "ünïcode,:;.mp4", b"latin-\xe9\xff.mp4"]
)
def test_odd_paths_go_from_the_folder_to_the_reader(videos, tmp_path, name):
    folder = tmp_path / "odd"
    (folder / "x").mkdir(parents=True)
    (folder / "y").mkdir()
    shutil.copy(videos / "audio.mp4", os.path.join(os.fsencode(folder / "x"), os.fsencode(name)))
    shutil.copy(videos / "one_frame.mp4", folder / "y" / "b.mp4")
    table = read_folder(folder).save(tmp_path / "t.arrow")
    record = table.record(0)
    assert (record.label, len(table)) == (0, 2)
    with open_record(record) as reader:
        assert_same(reader, videos)


def test_a_list_may_hold_paths_that_are_not_utf8(videos, tmp_path):
    from video_ssl.datasets.lists.video_lists import read_list

    shutil.copy(videos / "audio.mp4", os.fsencode(tmp_path) + b"/caf\xe9.mp4")
    (tmp_path / "list.txt").write_bytes(b"caf\xe9.mp4 4\nb.mp4 5\n")
    table = read_list(tmp_path / "list.txt").save(tmp_path / "t.arrow")
    assert table.record(0).source == f"file://{tmp_path}/caf%E9.mp4"
    assert table.column("id").tolist() == ["caf\\xe9.mp4", "b.mp4"]
    with open_record(table.record(0)) as reader:
        assert_same(reader, videos)


# Files that change


def test_a_file_that_has_changed_since_the_scan_is_not_read(videos, tmp_path):
    path = tmp_path / "a.mp4"
    shutil.copy(videos / "audio.mp4", path)
    state = path.stat()
    record = Record(
        index=0, id="a", source=str(path), file_size=state.st_size, file_mtime=state.st_mtime
    )
    with open_record(record) as reader:
        assert_same(reader, videos)
    os.utime(path, (1, 1))
    with pytest.raises(
        BadVideo, match=r"a\.mp4: has changed since .* scan the table again"
    ) as caught:
        open_record(record)
    assert caught.value.path == str(path)
    path.write_bytes(path.read_bytes() + b"more")
    os.utime(path, ns=(state.st_mtime_ns, state.st_mtime_ns))
    with pytest.raises(BadVideo, match=f"{state.st_size} bytes then, {state.st_size + 4} now"):
        open_record(record)


def test_a_tar_that_is_written_again_is_noticed(videos, tmp_path):
    path = shard(videos, tmp_path / "s.tar")
    record = read_shards(str(path)).record(0)
    pack(path, {"k/1.mp4": (videos / "gop12.mp4").read_bytes()})
    with pytest.raises(BadVideo, match="has changed since"):
        open_record(record)


# URIs


@pytest.fixture
def memory(videos):
    files = fsspec.filesystem("memory")
    files.pipe("/t/a.mp4", (videos / "audio.mp4").read_bytes())
    yield files
    files.store.clear()


def test_a_uri_reads_like_the_file_and_is_fetched_once(videos, memory):
    with open_video("memory://t/a.mp4") as reader:
        assert_same(reader, videos)
    memory.store.clear()
    with open_video("memory://t/a.mp4") as reader:
        assert_same(reader, videos)
    with pytest.raises(BadVideo, match=r"^memory://t/b\.mp4: does not exist"):
        open_video("memory://t/b.mp4")


def test_of_a_remote_tar_only_the_member_is_fetched(videos, memory, tmp_path, cache):
    path = shard(videos, tmp_path / "s.tar")
    memory.pipe("/t/s.tar", path.read_bytes())
    record = read_shards("memory://t/s.tar").record(0)
    assert record.source == "memory://t/s.tar!/k/1.mp4"
    with open_record(record) as reader:
        assert_same(reader, videos)
    assert [f.stat().st_size for f in (cache / "fetched").glob("*.tar")] == [record.byte_size]
    with open_video(record.source) as reader:  # without a range the whole tar is fetched
        assert_same(reader, videos)


def test_fewer_bytes_than_asked_for_are_not_kept(memory, cache):
    memory.pipe("/t/s.tar", bytes(1000))
    with pytest.raises(BadVideo, match=r"s\.tar!/v\.mp4: came incomplete: 10 bytes of 50"):
        open_video("memory://t/s.tar!/v.mp4", byte_range=(990, 50))
    assert not list((cache / "fetched").glob("*.tar*"))


def test_the_least_recently_used_is_deleted_but_nothing_in_use(memory, monkeypatch, cache):
    for name in "bcde":
        memory.pipe(f"/t/{name}.bin", os.urandom(1000))
    monkeypatch.setenv("VIDEO_SSL_CACHE_GIB", str(2500 / 2**30))
    held = locate("memory://t/b.bin")
    for age, name in ((50, "c"), (10, "d")):
        place = locate(f"memory://t/{name}.bin")
        os.utime(place.path, (time.time() - age,) * 2)
        place.release()
        kept = sorted((cache / "fetched").glob("*.bin"))
        assert sum(f.stat().st_size for f in kept) <= 2500
    os.utime(held.path, (1, 1))  # the oldest, but in use
    locate("memory://t/e.bin").release()
    assert os.path.exists(held.path)
    assert len(list((cache / "fetched").glob("*.bin"))) == 2
    held.release()
    locate("memory://t/c.bin").release()
    assert not os.path.exists(held.path)
    memory.pipe("/t/large.bin", os.urandom(3000))
    with pytest.raises(BadVideo, match=r"large\.bin: has 3000 bytes or more.*VIDEO_SSL_CACHE_GIB"):
        locate("memory://t/large.bin")
    assert not list((cache / "fetched").glob("*.partial"))


class _Handler(http.server.BaseHTTPRequestHandler):
    """/slow.mp4 never answers, /short.mp4 breaks off, the rest is the file."""

    def do_GET(self):
        self.server.asked.append(self.path)
        if self.path == "/slow.mp4":
            self.server.release.wait(20)
            return
        if self.path == "/none.mp4":
            self.send_error(404)
            return
        content = self.server.content
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content[: len(content) // 2] if self.path == "/short.mp4" else content)

    do_HEAD = do_GET

    def log_message(self, *_):
        pass


@pytest.fixture
def server(videos):
    found = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    found.content, found.asked = (videos / "audio.mp4").read_bytes(), []
    found.release = threading.Event()
    found.daemon_threads = True
    threading.Thread(target=found.serve_forever, daemon=True).start()
    found.uri = f"http://127.0.0.1:{found.server_port}"
    yield found
    found.release.set()
    found.shutdown()
    found.server_close()


def test_http_and_what_goes_wrong_with_it(videos, server, cache):
    pytest.importorskip("aiohttp")
    with open_video(f"{server.uri}/a.mp4", timeout_sec=20) as reader:
        assert_same(reader, videos)
    with pytest.raises(BadVideo, match=f"^{server.uri}/none.mp4: does not exist"):
        open_video(f"{server.uri}/none.mp4", timeout_sec=20)
    with pytest.raises(BadVideo, match=r"short\.mp4: (came incomplete|cannot be fetched)"):
        open_video(f"{server.uri}/short.mp4", timeout_sec=20)
    assert server.asked.count("/short.mp4") >= 3, "a connection that breaks is tried again"
    assert len(list((cache / "fetched").glob("*.mp4*"))) == 1, "nothing is left of what failed"


def test_a_uri_that_stalls_ends_with_the_limit_of_a_video(server):
    pytest.importorskip("aiohttp")
    begin = time.monotonic()
    with pytest.raises(BadVideo, match=f"^{server.uri}/slow.mp4: takes longer than 1 s to fetch"):
        open_video(f"{server.uri}/slow.mp4", timeout_sec=1)
    assert time.monotonic() - begin < 10  # the server holds on for 20 s


def test_many_at_once_fetch_once(videos, server):
    pytest.importorskip("aiohttp")

    def read(_):
        with open_video(f"{server.uri}/a.mp4", timeout_sec=30) as reader:
            return reader.info.num_frames

    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(read, range(6))) == [60] * 6
    assert len([path for path in server.asked if path == "/a.mp4"]) <= 2  # HEAD and GET


def test_processes_share_the_cache_and_a_killed_one_blocks_nobody(videos, server, cache):
    pytest.importorskip("aiohttp")
    code = (
        "import sys; from video_ssl.clips.reading import open_video\n"
        "with open_video(sys.argv[1], timeout_sec=60) as r: print(r.info.num_frames)"
    )

    def start(name):
        command = [sys.executable, "-c", code, f"{server.uri}/{name}"]
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

    stuck = start("slow.mp4")
    limit = time.monotonic() + 300
    while "/slow.mp4" not in server.asked and time.monotonic() < limit:
        time.sleep(0.05)
    assert list((cache / "fetched").glob("*.partial"))
    stuck.kill()
    stuck.wait()
    stuck.stdout.close()
    (partial,) = (cache / "fetched").glob("*.partial")
    with pytest.raises(
        BadVideo, match=r"takes longer than 0\.5 s"
    ):  # not "another process writes it" for ever
        open_video(f"{server.uri}/slow.mp4", timeout_sec=0.5)
    assert not partial.exists()
    both = [start("a.mp4"), start("a.mp4")]
    assert [process.communicate()[0].strip() for process in both] == ["60", "60"]


def test_a_cache_that_cannot_be_written_says_what_to_set(memory, monkeypatch):
    monkeypatch.setenv("VIDEO_SSL_CACHE", "/dev/null/cache")
    with pytest.raises(
        CacheError, match=r"/dev/null/cache.* cannot be written .*set \$VIDEO_SSL_CACHE"
    ):
        open_video("memory://t/a.mp4")
    monkeypatch.setenv("VIDEO_SSL_CACHE_GIB", "-3")
    with pytest.raises(ValueError, match=r"VIDEO_SSL_CACHE_GIB='-3' must be a positive number"):
        open_video("memory://t/a.mp4")


def test_a_full_disk_says_so_and_leaves_nothing(videos, tmp_path, cache):
    """A limit on the size of files stands for the full disk: writing fails half-way in the same place."""
    code = (
        "import fsspec, resource, sys; from video_ssl.clips.reading import open_video\n"
        "fsspec.filesystem('memory').pipe('/a.mp4', open(sys.argv[1], 'rb').read())\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))\n"
        "try: open_video('memory://a.mp4')\n"
        "except OSError as err: print(type(err).__name__, err)"
    )
    command = [sys.executable, "-c", code, str(videos / "audio.mp4")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("CacheError the cache")
    assert "free space there" in done.stdout
    assert not list((cache / "fetched").glob("*.mp4*"))


def test_a_read_only_cache_serves_what_it_has(videos, memory, cache, monkeypatch):
    with open_video("memory://t/a.mp4"):
        pass
    memory.store.clear()

    def refuse(*_, **__):
        raise PermissionError(30, "Read-only file system")

    monkeypatch.setattr(os, "utime", refuse)
    monkeypatch.setattr("video_ssl.datasets.cache._lock_new", refuse)
    with open_video("memory://t/a.mp4") as reader:
        assert_same(reader, videos)


def test_a_missing_package_is_not_the_fault_of_the_video(monkeypatch):
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(
        ValueError, match=r"to read s3:// another package is needed: pip install s3fs"
    ) as caught:
        open_video("s3://bucket/a.mp4")
    assert not isinstance(caught.value, BadVideo)
    with pytest.raises(BadVideo, match=r"^nosuch://b/a\.mp4: cannot be fetched"):
        open_video("nosuch://b/a.mp4")


# All of them at once


def test_training_reads_every_kind_and_replaces_what_stalls(videos, frames, server, tmp_path):
    pytest.importorskip("aiohttp")
    from pipeline_plans import ClipPlan

    from video_ssl.clips.pipeline import LoaderConfig, Pipeline
    from video_ssl.datasets.table import Table

    member = read_shards(str(shard(videos, tmp_path / "s.tar"))).record(0)
    rows = [
        {"source": str(videos / "gop12.mp4")},
        {"source": str(frames)},
        {name: getattr(member, name) for name in ("source", "byte_offset", "byte_size")},
        {"source": f"{server.uri}/slow.mp4"},
        {"source": f"{server.uri}/a.mp4"},
    ]
    table = Table.from_rows([{"id": str(n), **row} for n, row in enumerate(rows)])
    seen = set()
    with Pipeline(
        [(table, 1.0)], ClipPlan(size=(96, 128)), seed=0, global_batch_size=5, num_steps=2,
        config=LoaderConfig(num_workers=2, video_timeout_sec=2.0, max_bad_share=0.5),
    ) as batches:  # fmt: skip
        for batch in batches:
            seen |= set(batch["record_index"].tolist())
            for clip, start in zip(batch["video"][:, 0], batch["start"], strict=True):
                shown = [video_maker.read_index(frame) for frame in clip]
                assert shown == list(range(start, start + 4))
        bad = dict(batches.stats.bad_videos)
    assert seen == {0, 1, 2, 4}
    assert bad == {f"{server.uri}/slow.mp4": "takes longer than 2 s to fetch."}
