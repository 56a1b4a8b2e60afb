"""Tars in the WebDataset layout: which members make a sample, what is recorded, what is refused."""

import io
import json
import logging
import tarfile

import pytest

from video_ssl.datasets import open_table
from video_ssl.datasets.archives.tar_shards import expand_braces, read_shards
from video_ssl.datasets.archives.tars import divide_member, find_member
from video_ssl.datasets.table import Caption, TableError


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("VIDEO_SSL_CACHE", str(tmp_path / ".cache"))


def pack(path, members, *, mode="w", format=tarfile.PAX_FORMAT):
    with tarfile.open(path, mode, format=format) as tar:
        for name, content in members.items():
            info = content if isinstance(content, tarfile.TarInfo) else tarfile.TarInfo(name)
            if isinstance(content, tarfile.TarInfo):
                tar.addfile(info)
            else:
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    return str(path)


@pytest.mark.parametrize(
    ("pattern", "count", "last"),
    [
        ("s-{000..010}.tar", 11, "s-010.tar"),
        ("s-{8..11}.tar", 4, "s-11.tar"),
        ("{a,b}/{1..3}.tar", 6, "b/3.tar"),
        ("s3://bucket/s-{00..09}.tar", 10, "s3://bucket/s-09.tar"),
        ("plain{}.tar", 1, "plain{}.tar"),
    ],
)
def test_braces(pattern, count, last):
    found = expand_braces(pattern)
    assert (len(found), len(set(found)), found[-1]) == (count, count, last)


def test_samples_labels_and_captions(tmp_path):
    about = {
        "label": 7,
        "fps": 12.5,
        "caption": ["one", "two"],
        "license": "x",
        "source": "elsewhere",
    }
    path = pack(tmp_path / "s-0.tar", {
        "./a/0.1.mp4": b"first video", "./a/0.cls": b"2\n", "./a/0.txt": "ein Fluß".encode(),
        "b.json": json.dumps(about).encode(), "b.AVI": b"second",
        "c.jpg": b"thumbnail", "c.mp4": b"third", "d.txt": b"no video",
    })  # fmt: skip
    table = read_shards(path)
    records = [table.record(i) for i in range(len(table))]
    assert [r.id for r in records] == ["s-0/a/0", "s-0/b", "s-0/c"]
    assert [r.label for r in records] == [2, 7, None]
    assert [r.captions for r in records] == [
        (Caption(text="ein Fluß"),), (Caption(text="one"), Caption(text="two")), None,
    ]  # fmt: skip
    assert records[1].fps == 12.5
    content = (tmp_path / "s-0.tar").read_bytes()
    for record, video in zip(records, (b"first video", b"second", b"third"), strict=True):
        assert content[record.byte_offset :][: record.byte_size] == video
        assert find_member(*divide_member(record.source)) == (record.byte_offset, record.byte_size)
        assert record.file_size == len(content)


def test_members_of_a_sample_need_not_lie_side_by_side(tmp_path):
    """Was wrong: only neighbours were one sample, so all videos here had lost their labels."""
    path = pack(tmp_path / "s.tar", {
        "a.mp4": b"first", "b.mp4": b"second", "b.json": b'{"fps": 5}', "a.cls": b"0", "a.txt": b"said", "b.cls": b"1",
    })  # fmt: skip
    table = read_shards(path)
    found = [(r.id, r.label, r.fps, r.captions) for r in map(table.record, range(len(table)))]
    assert found == [("s/a", 0, None, (Caption(text="said"),)), ("s/b", 1, 5.0, None)]


def test_tars_of_one_name_in_two_folders_have_ids_of_their_own(tmp_path):
    """Was wrong: both videos were called 0/v, so their clips were taken for those of one video."""
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        pack(tmp_path / folder / "0.tar", {"v.mp4": folder.encode()})
    ids = read_shards(str(tmp_path / "*" / "0.tar")).column("id").tolist()
    assert ids == ["a/0/v", "b/0/v"]


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_and_odd_names_in_every_format(tmp_path, format):
    name = "/".join(["folder name"] * 8) + "/é video.mp4"
    path = pack(tmp_path / "s.tar", {name: b"video"}, format=format)
    record = read_shards(path).record(0)
    assert (tmp_path / "s.tar").read_bytes()[record.byte_offset :][:5] == b"video"
    assert record.source == f"{path}!/{name}"


def test_many_shards_by_pattern_glob_and_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for number in range(12):
        classes = {"cls": b"cat" if number % 2 else b"dog"}
        pack(
            tmp_path / f"s-{number}.tar", {f"v{number}.mp4": b"x", f"v{number}.cls": classes["cls"]}
        )
    wanted = [f"s-{n}/v{n}" for n in range(12)]
    for spec in ("s-{0..11}.tar", "s-*.tar", str(tmp_path)):
        table = open_table(spec)
        assert table.column("id").tolist() == wanted, "in natural order"
        assert table.class_names == ("cat", "dog")
        assert table.column("label").tolist() == [1, 0] * 6


def test_dots_in_names_merge_no_videos_and_lose_no_labels(tmp_path):
    """Was wrong: "Mr. Bean 2.mp4" was part of the sample "Mr", which had one video already, and gone."""
    path = pack(tmp_path / "s.tar", {
        "Mr. Bean 1.mp4": b"one", "Mr. Bean 2.mp4": b"two", "Mr. Bean 2.cls": b"2", "Mr. Bean 1.cls": b"1",
        "d/0.left.mp4": b"l", "d/0.right.mp4": b"r", "d/0.cls": b"5", "d/0.right.txt": b"right",
        "v1.0.mp4": b"v", "v1.0.cls": b"7", "x.mp4": b"x", "x.webm": b"y",
    })  # fmt: skip
    table = read_shards(path)
    records = [table.record(i) for i in range(len(table))]
    assert [(r.id, r.source.rpartition("!/")[2], r.label) for r in records] == [
        ("s/Mr. Bean 1", "Mr. Bean 1.mp4", 1), ("s/Mr. Bean 2", "Mr. Bean 2.mp4", 2),
        ("s/d/0.left", "d/0.left.mp4", 5), ("s/d/0.right", "d/0.right.mp4", 5),
        ("s/v1", "v1.0.mp4", 7), ("s/x.mp4", "x.mp4", None), ("s/x.webm", "x.webm", None),
    ]  # fmt: skip
    assert [r.captions for r in records[2:4]] == [None, (Caption(text="right"),)]


def test_what_is_left_out_of_a_tar_is_counted_and_named_every_time(tmp_path, caplog):
    """Was wrong: hidden members were videos, and of two members with one name the first was gone without a word."""
    path = tmp_path / "s.tar"
    pack(path, {
        "a.mp4": b"old", "._a.mp4": b"x", "__MACOSX/._b.mp4": b"x", "@eaDir/a.mp4": b"x", "c.jpg": b"thumb",
        "c.mp4": b"c", "empty.mp4": b"", "notes.pdf": b"p", "q.cls": b"3",
    })  # fmt: skip
    pack(path, {"./a.mp4": b"newer"}, mode="a")
    for _ in range(2):
        caplog.clear()
        with caplog.at_level(logging.INFO):
            table = open_table(path)
        assert table.column("id").tolist() == ["s/c", "s/a"]
        assert table.column("byte_size").tolist() == [1, 5]
        for text in (
            "3 × hidden files", "s.tar!/._a.mp4", "1 × pictures beside videos: s.tar!/c.jpg",
            "1 × empty members: s.tar!/empty.mp4",
            "2 × members that belong to no video: s.tar!/notes.pdf, s.tar!/q.cls",
            "1 × members of a tar with the name of a later one", ": s.tar!/./a.mp4",
        ):  # fmt: skip
            assert text in caplog.text, text


def link(name, kind, target):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"../../etc/a.mp4": b"x"}, r"'\.\./\.\./etc/a\.mp4', which leads out"),
        ({"a/../../b.mp4": b"x"}, r"which leads out"),
        ({"/etc/passwd.mp4": b"x"}, r"'/etc/passwd\.mp4', which leads out"),
        ({"..\\a.mp4": b"x"}, "which leads out"),
        ({"a.mp4": link("a.mp4", tarfile.SYMTYPE, "/etc/passwd")}, "the link 'a.mp4' -> '/etc/passwd'"),
        ({"a.mp4": link("a.mp4", tarfile.LNKTYPE, "b.mp4")}, "the link 'a.mp4' -> 'b.mp4'"),
        ({"a.mp4": link("a.mp4", tarfile.FIFOTYPE, "")}, "not a regular file"),
        ({"a.cls": b"1"}, r"no video in 1 tars: .* Found: 1 × members that belong to no video: bad\.tar!/a\.cls\."),
        ({"a.mp4": b"x", "a.json": b"{"}, r"a\.json cannot be read"),
        ({"a.mp4": b"x", "a.json": b"[1]"}, "must hold one JSON object"),
        ({"a.mp4": b"x", "a.cls": b"1", "b.mp4": b"x", "b.cls": b"cat"}, "mixes numbers and names"),
        ({"a.mp4": b"x", "a.txt": b"\xff"}, r"a\.txt cannot be read"),
    ],
)  # fmt: skip
def test_what_is_refused_is_named(tmp_path, members, message):
    path = pack(tmp_path / "bad.tar", members)
    with pytest.raises(TableError, match=message) as caught:
        open_table(path)
    assert "bad.tar" in str(caught.value)


def test_a_name_that_leads_out_is_refused_by_the_reader_too(tmp_path):
    from video_ssl.clips.decoders.reader import BadVideo
    from video_ssl.clips.reading import open_video

    path = pack(tmp_path / "bad.tar", {"a.mp4": b"x", "../b.mp4": b"x"})
    with pytest.raises(BadVideo, match=r"which leads out"):
        open_video(f"{path}!/a.mp4")


def test_other_files_are_named(tmp_path, caplog):
    pack(tmp_path / "z.tar", {"a.mp4": b"x" * 10_000}, mode="w:gz")
    with pytest.raises(TableError, match=r"z\.tar cannot be read as an uncompressed tar"):
        open_table(tmp_path / "z.tar")
    path = pack(tmp_path / "cut.tar", {"a.mp4": b"x" * 10_000})
    content = open(path, "rb").read()  # noqa: SIM115
    for length in (len(content) // 2, 300):
        (tmp_path / "cut.tar").write_bytes(content[:length])
        with pytest.raises(TableError, match=r"cut\.tar (is cut off|cannot be read)"):
            open_table(path)
    with pytest.raises(TableError, match=r"no tar .*none\.tar"):
        open_table(tmp_path / "none.tar")
    with pytest.raises(TableError, match="names no tar"):
        open_table(str(tmp_path / "none-*.tar"))
    with caplog.at_level(logging.WARNING):
        read_shards(pack(tmp_path / "s.tar", {"a.mp4": b"x", "b.txt": b"x", "c.cls": b"1"}))
    assert "left out 2 × members that belong to no video: s.tar!/b.txt, s.tar!/c.cls" in caplog.text


def test_a_tar_that_is_damaged_behind_its_first_members_is_refused(tmp_path):
    """Was wrong: `tarfile` ends at a damaged header in silence, and the videos behind it were missing."""
    path = tmp_path / "s.tar"
    pack(path, {f"{i}.mp4": b"x" * 600 for i in range(4)})
    whole = path.read_bytes()
    assert len(open_table(path)) == 4
    third = 2 * (512 + 1024)
    damaged = {
        "is damaged": whole[: third + 20] + b"\xff" + whole[third + 21 :],
        "is cut off, or still being written": whole[:third],
        "goes on behind its end": whole + whole,
        "about byte": whole + b"\1",
    }
    for word, content in damaged.items():
        path.write_bytes(content)
        with pytest.raises(TableError, match=rf"s\.tar .*{word}"):
            open_table(path)
    path.write_bytes(whole + bytes(10_240))
    assert len(open_table(path)) == 4


def test_shards_elsewhere_by_glob(tmp_path):
    fsspec = pytest.importorskip("fsspec")
    files = fsspec.filesystem("memory")
    for number in range(3):
        path = pack(tmp_path / "s.tar", {"v.mp4": b"video", "v.cls": str(number).encode()})
        files.pipe(f"/shards/s-{number}.tar", open(path, "rb").read())  # noqa: SIM115
    table = open_table("memory://shards/s-*.tar")
    assert table.column("label").tolist() == [0, 1, 2]
    assert table.record(2).source.endswith("s-2.tar!/v.mp4")
    assert table.record(2).source.startswith("memory://")
    assert table.record(2).file_size is None
    files.store.clear()


def test_tars_are_listed_once_and_again_when_they_change(tmp_path, monkeypatch):
    path = pack(tmp_path / "s.tar", {"v.mp4": b"video"})
    first = open_table(path)
    with monkeypatch.context() as patch:
        patch.setattr("video_ssl.datasets.archives.tar_shards.list_members", None)
        again = open_table(path)
    assert again.record(0).source == first.record(0).source == f"{path}!/v.mp4"
    assert again.record(0).byte_offset == first.record(0).byte_offset
    pack(path, {"v.mp4": b"video", "w.mp4": b"video"})
    assert open_table(path).column("id").tolist() == ["s/v", "s/w"]
