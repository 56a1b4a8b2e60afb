import logging
import os
import re

import pytest

from video_ssl.datasets import open_table
from video_ssl.datasets.folder import read_folder
from video_ssl.datasets.lists.video_lists import read_list
from video_ssl.datasets.table import TableError


def write(path, text):
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("text", "sources", "labels"),
    [
        ("a.mp4 0\nsub/b.mp4 12\n", ["a.mp4", "sub/b.mp4"], [0, 12]),
        ("\n\na.mp4 0\n\nb.mp4 1\n\n", ["a.mp4", "b.mp4"], [0, 1]),
        ("a.mp4,0\nb c.mp4,1\n", ["a.mp4", "b c.mp4"], [0, 1]),
        ("a.mp4\t3\r\nb.mp4\t4\r\n", ["a.mp4", "b.mp4"], [3, 4]),
        ("my video.mp4 3\nb.mp4 4", ["my video.mp4", "b.mp4"], [3, 4]),
        ("x,y.mp4 3\nb.mp4 4", ["x,y.mp4", "b.mp4"], [3, 4]),
        ("a.mp4\nmy video.mp4\n", ["a.mp4", "my video.mp4"], None),
        ("path,label\na.mp4,5\n", ["a.mp4"], [5]),
        ("\ufeffa.mp4 -1\n", ["a.mp4"], [-1]),
    ],
)
def test_list_styles(tmp_path, text, sources, labels):
    table = read_list(write(tmp_path / "list.txt", text))
    records = [table.record(i) for i in range(len(table))]
    assert [r.source for r in records] == [str(tmp_path / s) for s in sources]
    assert [r.id for r in records] == sources
    assert [r.label for r in records] == (labels or [None] * len(sources))


def test_root_and_absolute_paths(tmp_path):
    path = write(tmp_path / "list.csv", "a.mp4 0\n/abs/b.mp4 1\n")
    table = read_list(path, root="/data")
    assert [table.record(i).source for i in range(2)] == ["/data/a.mp4", "/abs/b.mp4"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a.mp4 0\nb.mp4 cat\n", "list.txt line 2: the label 'cat' is not an integer"),
        ("a.mp4 0\n\nb.mp4 1.5\n", "list.txt line 3: the label '1.5' is not an integer"),
        ("a.mp4 0\nb.mp4\n", "list.txt line 2: 'b.mp4' has no label"),
        ("a.mp4\nb.mp4 1\n", "line 1 has no label, but line 2 has one"),
        ("", "names no video"),
        ("\n \n", "names no video"),
    ],
)
def test_wrong_lists_name_the_line(tmp_path, text, message):
    with pytest.raises(TableError, match=re.escape(message)):
        read_list(write(tmp_path / "list.txt", text))


def test_a_missing_or_binary_list_is_named(tmp_path):
    with pytest.raises(TableError, match="no list"):
        read_list(tmp_path / "none.txt")
    (tmp_path / "binary.txt").write_bytes(b"a.mp4 0\n\xfe\x00\x01\x80")
    with pytest.raises(
        TableError, match="not a text file: it holds zero bytes, the first in line 2"
    ):
        read_list(tmp_path / "binary.txt")


@pytest.mark.parametrize("separator", [" ", ",", "\t"])
def test_folders_of_frames_with_their_number(tmp_path, separator):
    """VideoMAE's lists of raw frames: `path num_frames label`."""
    touch(tmp_path, "some where/v 1/img_00001.jpg", "some where/v2/img_00001.jpg")
    lines = [("some where/v 1", 30, 4), ("some where/v2", 7, -1), ("some where/gone", 12, 0)]
    text = "".join(separator.join(map(str, line)) + "\n" for line in lines)
    table = read_list(write(tmp_path / "list.csv", text))
    records = [table.record(i) for i in range(3)]
    assert [(r.id, r.num_frames, r.label) for r in records] == lines
    assert records[0].source == str(tmp_path / "some where/v 1")


def test_a_number_that_belongs_to_the_path_stays_there(tmp_path):
    touch(tmp_path, "take 3/img_00001.jpg", "take/img_00001.jpg")
    table = read_list(write(tmp_path / "list.txt", "take 3 1\n"))
    assert (table.record(0).source, table.record(0).label) == (str(tmp_path / "take 3"), 1)
    assert "num_frames" not in table.column_names


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("v 30 4\nv 2\n", "line 2: behind the path 'v' comes 1 field ('2'); line 1 has 2"),
        ("v 30 4\ngone 2\n", "line 2: 'gone 2' is not `folder num_frames label`"),
        ("v 30 4\nv x 2\n", "line 2: 'v x 2' is not `folder num_frames label`"),
        ("v 30 4\nv 0 2\n", "line 2: 'v 0 2' announces no frame"),
        ("v 0 4\n", "line 1: 'v 0 4' announces no frame"),
        ("v 1 2 3\n", "line 1: behind the path 'v' comes 3 fields ('1 2 3')"),
    ],
)
def test_wrong_numbers_of_frames_name_the_line(tmp_path, text, message):
    touch(tmp_path, "v/img_00001.jpg")
    with pytest.raises(TableError, match=re.escape(message)):
        read_list(write(tmp_path / "list.txt", text))


@pytest.mark.parametrize("there", [True, False])
@pytest.mark.parametrize(
    ("text", "fields"),
    [
        ("a.mp4 0 2\n", "2 fields ('0 2')"),
        ("a.mp4 300 0\n", "2 fields ('300 0')"),
        ("a.mp4 0 -1\n", "2 fields ('0 -1')"),
        ("a.mp4\t0 2\n", "2 fields ('0 2')"),
        ("a.mp4, 0, 2, 5\n", "3 fields ('0 2 5')"),
        ("a.mp4;0;2\n", "2 fields ('0 2')"),
        ("a.mp4 0.5 1.5 3\n", "3 fields ('0.5 1.5 3')"),
        ('"a.mp4" 0 2\n', "2 fields ('0 2')"),
        ("b.mp4 7\na.mp4 0 2\n", "2 fields ('0 2')"),
    ],
)
def test_a_path_does_not_swallow_fields(tmp_path, text, fields, there):
    """Was wrong: `a.mp4 0 2` was the video "a.mp4 0" of class 2, "does not exist" when training had begun."""
    if there:
        touch(tmp_path, "a.mp4", "b.mp4")
    with pytest.raises(TableError, match=r"list\.txt line \d+: behind the path.*a\.mp4") as caught:
        read_list(write(tmp_path / "list.txt", text))
    assert fields in str(caught.value)
    assert "Allowed are `path`, `path label`" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "sources", "labels"),
    [
        ("a.mp4;0\nmy b.mp4;1\n", ["a.mp4", "my b.mp4"], [0, 1]),
        ("a.mp4 \t 0\nmy b.mp4 1\n", ["a.mp4", "my b.mp4"], [0, 1]),
        ("a.mp4\t0\nmy b.mp4 1\n", ["a.mp4", "my b.mp4"], [0, 1]),
        ("a.mp4 0\rmy b.mp4 1\r", ["a.mp4", "my b.mp4"], [0, 1]),
        ("clip 1\nclip 2\n", ["clip 1", "clip 2"], None),
        ("clip 1 3\nclip 2 4\n", ["clip 1", "clip 2"], [3, 4]),
        ("take 7\ntake 8\n", ["take", "take"], [7, 8]),
        ("odd.mp4 9\na.mp4\n", ["odd.mp4 9", "a.mp4"], None),
        ("odd.mp4 9 2\na.mp4 3\n", ["odd.mp4 9", "a.mp4"], [2, 3]),
    ],
)
def test_what_exists_as_written_is_a_path(tmp_path, text, sources, labels):
    """Was wrong: a list of the folders `clip 1` and `clip 2` was read as `clip` with the labels 1 and 2."""
    touch(tmp_path, "a.mp4", "my b.mp4", "clip 1/1.jpg", "clip 2/1.jpg", "take/1.jpg", "odd.mp4 9")
    table = read_list(write(tmp_path / "list.txt", text), look=True)
    records = [table.record(i) for i in range(len(table))]
    assert [r.source for r in records] == [str(tmp_path / s) for s in sources]
    assert [r.label for r in records] == (labels or [None] * len(sources))


def test_lists_that_mix_paths_and_labels_are_refused(tmp_path):
    touch(tmp_path, "clip 1/1.jpg", "a.mp4")
    for text in ("clip 1\na.mp4 3\n", "a.mp4 3\nclip 1\n"):
        with pytest.raises(TableError, match=r"has no label, but line \d has one"):
            read_list(write(tmp_path / "list.txt", text))


@pytest.mark.parametrize("end", ["", ",3"])
def test_quotes_around_a_path_are_no_part_of_it(tmp_path, end):
    """Was wrong: of a list without labels they stayed, and no such video was found."""
    for name in ("a, b.mp4", '"c".mp4'):
        (tmp_path / name).touch()
    lines = [f'"{tmp_path}/a, b.mp4"', '"a, b.mp4"', '"c".mp4', '"s3://bucket/d, e.mp4"']
    table = read_list(write(tmp_path / "l.csv", "".join(f"{line}{end}\n" for line in lines)))
    expected = [f"{tmp_path}/a, b.mp4", "a, b.mp4", '"c".mp4', "s3://bucket/d, e.mp4"]
    assert table.column("id").tolist() == expected
    whole = [os.path.join(tmp_path, name) for name in expected[:3]]
    assert [table.record(row).source for row in range(4)] == [*whole, expected[3]]


def test_numbers_at_the_end_of_what_is_there_or_elsewhere_are_no_labels(tmp_path, monkeypatch):
    """Was wrong: in a list without labels, paths at home and URIs that end in a number were refused as labelled."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name in ("clip 0", "clip 1", "clip 2", "clip 3"):
        (tmp_path / "home" / name).mkdir(parents=True)
    lines = ["~/clip 0", "~/clip 1", f"{(tmp_path / 'home').as_uri()}/clip 2", '"~/clip 3"']
    table = read_list(write(tmp_path / "list.txt", "\n".join([*lines, "s3://bucket/clip 2"])))
    assert table.column_names == ["id", "source"]
    assert table.record(1).source == str(tmp_path / "home/clip 1")
    assert table.record(4).source == "s3://bucket/clip 2"
    text = "s3://bucket/a.mp4\ns3://bucket/b.mp4 3\n"
    with pytest.raises(TableError, match=r"line 1 has no label, but line 2 has one"):
        read_list(write(tmp_path / "list.txt", text))


def test_a_list_of_which_nothing_is_there_is_refused_when_it_is_opened(tmp_path, monkeypatch):
    """Was wrong: every worker failed on every line, and training ended with 70 lines of traceback."""
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "list.txt", "\n" + "".join(f"{n}.mp4 {n}\n" for n in range(500)))
    with pytest.raises(TableError) as caught:
        open_table("list.txt")
    for text in ("list.txt line 2 names '0.mp4', but", str(tmp_path / "0.mp4"), "its folder"):
        assert text in str(caught.value)
    with pytest.raises(
        TableError, match=r"/elsewhere/0\.mp4 does not exist.*relative to /elsewhere"
    ):
        open_table("list.txt", root="/elsewhere")
    touch(tmp_path, "481.mp4")
    with pytest.raises(TableError, match="not one names what is there"):
        open_table("list.txt")
    touch(tmp_path, "7.mp4")
    assert len(open_table("list.txt")) == 500
    write(tmp_path / "uris.txt", "s3://bucket/a.mp4 1\n")
    assert open_table("uris.txt").record(0).source == "s3://bucket/a.mp4"


def test_a_tilde_is_the_home_folder_everywhere(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    touch(tmp_path, "home/a.mp4", "home/vids/x/b.mp4", "home/c d.mp4")
    write(tmp_path / "list.txt", "~/a.mp4 1\n~/c d.mp4 2\n")
    write(tmp_path / "t.csv", "path,label\n~/a.mp4,1\n")
    write(tmp_path / "home/l.txt", "a.mp4 1\n")
    home = f"{tmp_path}/home"
    for spec, sources in [
        (tmp_path / "list.txt", ["a.mp4", "c d.mp4"]), (tmp_path / "t.csv", ["a.mp4"]), ("~/l.txt", ["a.mp4"]),
        ("~/vids", ["vids/x/b.mp4"]), ("~/vids:x", ["vids/x/b.mp4"]),
    ]:  # fmt: skip
        table = open_table(spec)
        assert [table.record(i).source for i in range(len(table))] == [
            f"{home}/{s}" for s in sources
        ]
    assert open_table(tmp_path / "home/l.txt", root="~").record(0).source == f"{home}/a.mp4"


def touch(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"")


def test_sub_folders_are_classes(tmp_path):
    touch(tmp_path, "run/b.mp4", "jump/deep/a.MKV", "jump/note.txt", ".hidden/c.mp4", "run/.d.mp4")
    table = read_folder(tmp_path)
    assert table.class_names == ("jump", "run")
    assert table.column("id").tolist() == ["jump/deep/a.MKV", "run/b.mp4"]
    assert table.column("label").tolist() == [0, 1]
    assert table.record(1).source == str(tmp_path / "run/b.mp4")


@pytest.mark.parametrize(
    "names", [("a.mp4", "run/b.mp4", "jump/c.mp4"), ("only/a.mp4", "only/b.avi")]
)
def test_no_labels_where_folders_are_not_classes(tmp_path, names):
    touch(tmp_path, *names)
    table = read_folder(tmp_path)
    assert len(table) == len(names)
    assert table.record(0).label is None


def left_out_of(folder, caplog):
    """The lines of the log when the folder is read, and the ids."""
    caplog.clear()
    with caplog.at_level(logging.INFO):
        ids = read_folder(folder).column("id").tolist()
    lines = [record.getMessage() for record in caplog.records]
    assert all(line.startswith(f"{folder}: left out ") for line in lines), lines
    return [line.removeprefix(f"{folder}: left out ") for line in lines], ids


@pytest.mark.parametrize(
    "name", ["00001.MTS", "z.vob", "y.M2TS", "x.3gp", "w.TS", "v.Mpg", "u.m2v", "t.asf", "s.ogm"]
)
def test_every_usual_container_is_a_video(tmp_path, name):
    touch(tmp_path, f"a/{name}", "b/y.mp4")
    assert read_folder(tmp_path).column("id").tolist() == [f"a/{name}", "b/y.mp4"]


def test_what_is_left_out_of_a_folder_is_counted_and_named(tmp_path, caplog):
    """Was wrong: frames beside videos, unusual containers and broken links were left out without a line."""
    touch(
        tmp_path, "a/v0.mp4", "a/v0.jpg", "a/v1.jpg", "b/clip0/1.jpg", "b/clip0/2.jpg", "b/clip1/1.png", "a/v0.srt",
        "a/v1.srt", "notes.txt", "no_suffix", "t/s-0.tar", "a/._v0.mp4", "@eaDir/v0.mp4/x.jpg", "__MACOSX/a.mp4",
        "a/Thumbs.db", ".git/x.mp4", ".video_ssl_tables.json",
    )  # fmt: skip
    (tmp_path / "a/gone.mp4").symlink_to(tmp_path / "nowhere.mp4")
    (tmp_path / "a/itself.mp4").symlink_to(tmp_path / "a/itself.mp4")
    (tmp_path / "c").symlink_to(tmp_path / "a")
    os.mkfifo(tmp_path / "a/pipe.mp4")
    lines, ids = left_out_of(tmp_path, caplog)
    assert ids == ["a/v0.mp4"]
    for text in (
        "2 × folders of pictures, which are taken as videos only where", ": b/clip0, b/clip1",
        "2 × pictures beside videos: a/v0.jpg", "2 × files of other kinds (.txt 1, no suffix 1)",
        "1 × subtitles that belong to no video: a/v1.srt",
        "1 × tars, which", ": t/s-0.tar", "2 × links that lead nowhere: a/gone.mp4, a/itself.mp4",
        "1 × folders that are there under another name already (links): c",
        "1 × pipes, sockets and devices: a/pipe.mp4",
        "5 × hidden files and folders and what systems leave behind",
    ):  # fmt: skip
        assert any(text in line for line in lines), (text, lines)
    assert len(lines) == 9
    levels = {
        record.getMessage().partition(" × ")[2][:20]: record.levelname for record in caplog.records
    }
    assert levels["links that lead nowh"] == levels["folders of pictures,"] == "WARNING"
    assert levels["files of other kinds"] == "INFO"


def test_what_systems_leave_behind_is_no_video_of_frames(tmp_path, caplog):
    touch(
        tmp_path,
        "a/clip/1.jpg",
        "a/clip/@eaDir/1.jpg/thumb.jpg",
        "__MACOSX/clip/1.jpg",
        "b/clip/1.jpg",
    )
    lines, ids = left_out_of(tmp_path, caplog)
    assert (ids, len(lines)) == (["a/clip", "b/clip"], 1)


def test_a_folder_that_may_not_be_read_is_named(tmp_path, caplog, monkeypatch):
    touch(tmp_path, "a/v0.mp4", "b/v1.mp4")
    scandir = os.scandir

    def refuse(path):
        if str(path) == str(tmp_path / "b"):
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    lines, ids = left_out_of(tmp_path, caplog)
    assert (ids, lines) == (
        ["a/v0.mp4"],
        ["1 × folders or files that may not be read: b (Permission denied)"],
    )
    with pytest.raises(TableError, match=r"b cannot be read \(Permission denied\)"):
        read_folder(tmp_path / "b")


def test_empty_and_missing_folders_are_named(tmp_path):
    touch(tmp_path, "readme.txt")
    with pytest.raises(
        TableError,
        match=r"holds no video: .*\.mp4.*Found: 1 × files of other kinds \(\.txt 1\)",
    ):
        read_folder(tmp_path)
    with pytest.raises(TableError, match="no folder"):
        read_folder(tmp_path / "none")


def test_a_link_to_itself_ends(tmp_path):
    touch(tmp_path, "a/x.mp4")
    (tmp_path / "a/loop").symlink_to(tmp_path)
    assert len(read_folder(tmp_path)) == 1


def test_what_transcode_has_made_inside_of_a_folder_is_not_taken_once_more(tmp_path, caplog):
    """Was wrong: after `transcode . out` the same folder had every video twice, and nothing said so."""
    for name in ("a/1.mp4", "b/2.mp4", "out/videos/a/1.mp4", "out/videos/b/2.mp4"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "out" / ".transcode.jsonl").write_text("")
    with caplog.at_level("INFO"):
        table = open_table(tmp_path)
    assert sorted(table.column("id")) == ["a/1.mp4", "b/2.mp4"]
    assert "folders that transcode has made" in caplog.text
    assert len(open_table(tmp_path / "out")) == 2  # named by itself it is a folder like others
