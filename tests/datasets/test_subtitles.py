"""Subtitles become captions with times: beside videos, in tars, named in a column; what is odd is named and counted."""

import contextlib
import io
import json
import logging
import tarfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from video_ssl.datasets import open_table
from video_ssl.datasets.subtitles import SubtitleError, parse_subtitles, read_subtitles
from video_ssl.datasets.table import Table, TableError

VTT = """\
WEBVTT - some title
Kind: captions

STYLE
::cue { color: red }

NOTE a remark
00:00:00.000 --> 00:00:09.000
of two lines

intro
00:01.000 --> 00:02.500 align:start position:0%
<v Anna><i>Sit</i> down &amp; wait.

01:00:03.000 --> 01:00:04.000

99:59:59.9 --> 100:00:00.05
<00:00:01.000><c> late</c>
"""
SRT = "1\r\n00:00:01,000 --> 00:00:02,500\r\n{\\an8}Erste Zeile\r\nund zweite\r\n\r\n2\r\n00:00:02,500 --> 00:00:03,000\r\n\u00fcbt 座\r\n"  # noqa: E501


def captions_of(text, *, is_vtt=False):
    found = parse_subtitles(text.encode(), is_vtt=is_vtt)
    return [(c.text, c.start_sec, c.end_sec) for c in found.captions], found.left_out


def cues(*rows):
    return "".join(f"{begin} --> {end}\n{text}\n\n" for begin, end, text in rows)


def test_webvtt():
    found, left_out = captions_of(VTT, is_vtt=True)
    assert found == [
        ("Sit down & wait.", 1.0, 2.5),
        ("late", 359999.9, pytest.approx(360000.05)),
    ]
    assert not left_out


@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_subrip(mark):
    found, left_out = captions_of(mark + SRT)
    assert found == [("Erste Zeile und zweite", 1.0, 2.5), ("übt 座", 2.5, 3.0)]
    assert not left_out


def test_captions_that_roll_are_taken_once():
    text = "WEBVTT\n\n" + cues(
        ("00:01.000", "00:02.000", "first line"),
        ("00:02.000", "00:02.010", "first line"),
        ("00:02.010", "00:04.000", "first line\nand<00:03.000><c> second</c>"),
        ("00:04.050", "00:05.000", "and second\nthird"),
        ("00:09.000", "00:10.000", "third"),
    )
    found, _ = captions_of(text, is_vtt=True)
    assert found == [
        ("first line", 1.0, 2.0),
        ("and second", 2.01, 4.0),
        ("third", 4.05, 5.0),
        ("third", 9.0, 10.0),
    ]


def test_a_line_of_a_blank_ends_no_cue_of_webvtt():
    """The automatic subtitles of YouTube have such a line before the text of the first cue: the cue was empty, and its
    words had the 10 ms of the cue behind it."""
    text = "WEBVTT\nKind: captions\n \nLanguage: en\n\n" + cues(
        ("00:00:00.160", "00:00:02.500", " \nhello<00:00:00.560><c> everyone</c>"),
        ("00:00:02.500", "00:00:02.510", "hello everyone\n "),
        ("00:00:02.510", "00:00:05.030", "hello everyone\nwelcome<00:00:03.000><c> back</c>"),
        ("00:00:05.030", "00:00:05.040", "welcome back\n\t"),
        ("00:00:09.000", "00:00:12.000", " \nchop"),
    )
    expected = [("hello everyone", 0.16, 2.5), ("welcome back", 2.51, 5.03), ("chop", 9.0, 12.0)]
    assert captions_of(text, is_vtt=True) == (expected, ())
    assert captions_of(text.replace("\n", "\r\n"), is_vtt=True) == (expected, ())
    no_empty_line = text.replace("\n\n", "\n \n")
    assert captions_of(no_empty_line, is_vtt=True) == (expected, ())
    in_srt = cues(
        ("00:00:01,000", "00:00:02,000", "one\n "), ("00:00:02,000", "00:00:03,000", "two")
    )
    assert captions_of(in_srt) == ([("one", 1.0, 2.0), ("two", 2.0, 3.0)], ())


@pytest.mark.parametrize(
    ("passage", "told"),
    [
        ("7\nno times at all\n\n", "line 4 is text without times, '7'"),
        ("7\n00:00:0x,000 --> 00:00:02,000\na\n\n", "line 5 has times that cannot be read"),
        ("00:61:00,000 --> 00:62:00,000\na\n\n", "line 4 has times that cannot be read"),
        (f"{'9' * 5000}:00:00,000 --> 00:00:03,000\na\n\n", "line 4 has times that cannot be"),
        ("00:00:02,000 -> 00:00:03,000\na\n\n", "line 4 is text without times"),
        ("00:00:03,000 --> 00:00:02,000\na\n\n", "line 4 ends before it begins"),
        ("00:00:03,000 --> 00:00:03,000\na\n\n", "line 4 ends before it begins"),
        ("00:00:03,000 --> 00:00:04,000 --> 00:00:05,000x\na\n\n", None),
    ],
)
def test_odd_passages_are_left_out_and_told(passage, told):
    good = cues(("00:00:01,000", "00:00:02,000", "good"))
    found, left_out = captions_of(good + passage + good)
    assert [text for text, *_ in found if text == "good"] == ["good", "good"]
    if told is None:
        assert not left_out
    else:
        assert len(found) == 2
        assert len(left_out) == 1
        assert told in left_out[0]


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("a.vtt", SRT.encode(), "its first line must begin with WEBVTT, but is '1'"),
        ("a.vtt", b"", "its first line must begin with WEBVTT, but is ''"),
        ("a.vtt", b"WEBVTTS\n\n", "must begin with WEBVTT"),
        ("a.srt", b"a text\nof a letter\n", "no cue with times: line 1 is text without times"),
        ("a.srt", b"\n\nok\n\xff\xfe\n", "line 4 is not UTF-8: save the file as UTF-8"),
        ("a.srt", SRT.encode("utf-16"), "line 1 is not UTF-8"),
        ("a.srt", b"a\0b", "holds zero bytes"),
        ("a.ass", b"", "subtitles end in .vtt or .srt, not in '.ass'"),
        ("nowhere.srt", None, "cannot be read"),
        ("zero\0byte.srt", None, "cannot be read"),
    ],
)
def test_files_that_are_no_subtitles(tmp_path, name, content, told):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(SubtitleError, match=told.replace(".vtt or .srt", r"\.vtt or \.srt")):
        read_subtitles(tmp_path / name)


def test_a_file_that_is_too_large(tmp_path):
    with (tmp_path / "a.srt").open("wb") as file:
        file.truncate(2**26)
    with pytest.raises(SubtitleError, match="67,108,864 bytes, more than any subtitles"):
        read_subtitles(tmp_path / "a.srt")


@pytest.mark.parametrize("content", [b"WEBVTT", b"WEBVTT\n\nNOTE nobody speaks\n"])
def test_subtitles_may_be_empty(tmp_path, content):
    (tmp_path / "a.vtt").write_bytes(content)
    assert read_subtitles(tmp_path / "a.vtt").captions == ()


@pytest.mark.timeout(120)
def test_long_lines_take_no_time():
    """Patterns go through a line once."""
    long = "<" * 200_000 + "{\\" * 200_000 + "00:" * 100_000
    found, left_out = captions_of(cues(("00:00:01,000", "00:00:02,000", long), (long, long, "a")))
    assert len(found) == len(left_out) == 1


PIECES = st.sampled_from(
    ["WEBVTT", "\n", "\n\n", "-->", " --> ", "00:00:01,000", "00:01.000", "99999:59:59.999", "<i>", "<", ">", "{\\an8}",
     "NOTE", "&amp;", "&#1114112;", "\u2028", "\r", "\t", "1", "\ud83c", "a b"]
)  # fmt: skip


@given(st.lists(PIECES, max_size=30).map("".join), st.booleans())
def test_any_text_is_captions_or_refused(text, is_vtt):
    """Captions have words and a stretch of time, and as tables hold them."""
    content = text.encode("utf-8", "surrogatepass")
    try:
        found = parse_subtitles(content, is_vtt=is_vtt)
    except SubtitleError:
        return
    for caption in found.captions:
        assert caption.text.strip()
        assert 0 <= caption.start_sec < caption.end_sec < 1e12
    rows = [{"source": "a.mp4", "captions": [vars(c) for c in found.captions]}]
    assert len(Table.from_rows(rows)) == 1


@given(st.binary(max_size=200), st.booleans())
def test_any_bytes_are_captions_or_refused(content, is_vtt):
    with contextlib.suppress(SubtitleError):
        parse_subtitles(content, is_vtt=is_vtt)


# Beside videos ------------------------------------------------------------------------------------


def cue(text, begin=1):
    return cues((f"00:00:0{begin},000", f"00:00:0{begin + 1},000", text))


def texts(table):
    rows = [table.record(row) for row in range(len(table))]
    return {r.id: [c.text for c in r.captions] if r.captions else None for r in rows}


def test_a_folder_of_videos_with_subtitles(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    files = {
        "a/one.mp4": None,
        "a/one.srt": cue("of one"),
        "a/two.mkv": None,
        "a/two.de.vtt": "WEBVTT\n\n" + cue("von zwei").replace(",", "."),
        "a/two.en.srt": cue("of two"),
        "b/three.mp4": None,
        "b/three.en-US.srt": cue("of three"),
        "b/three.srt": cue("three itself"),
        "b/Mr. Bean 1.mp4": None,
        "b/Mr.mp4": None,
        "b/Mr. Bean 1.SRT": cue("bean"),
        "b/broken.mp4": None,
        "b/broken.vtt": cue("no header"),
        "b/odd.mp4": None,
        "b/odd.srt": cue("odd") + "something\n\nelse\n\n",
        "b/alone.srt": cue("alone"),
        "b/plain.mp4": None,
    }
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content or "")
    table = open_table(tmp_path)
    assert texts(table) == {
        "a/one.mp4": ["of one"],
        "a/two.mkv": ["von zwei"],
        "b/three.mp4": ["three itself"],
        "b/Mr. Bean 1.mp4": ["bean"],
        "b/Mr.mp4": None,
        "b/broken.mp4": None,
        "b/odd.mp4": ["odd"],
        "b/plain.mp4": None,
    }
    assert table.class_names == ("a", "b")
    caption = table.record(0).captions[0]
    assert (caption.start_sec, caption.end_sec) == (1.0, 2.0)
    warned = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert any(
        "left out 1 × subtitles that cannot be read, so that their videos have none: b/broken.vtt (its first line"
        in line
        for line in warned
    )
    assert any(
        "2 × passages of subtitles: b/odd.srt (line 4 is text without times, 'something')" in line
        for line in warned
    )
    assert "1 × subtitles that belong to no video: b/alone.srt" in caplog.text
    assert "2 × further subtitles of a video" in caplog.text


def test_a_folder_without_subtitles_has_no_captions(tmp_path):
    (tmp_path / "a.mp4").touch()
    assert "captions" not in open_table(tmp_path).column_names


# In a column --------------------------------------------------------------------------------------


@pytest.fixture
def listed(tmp_path):
    (tmp_path / "subs").mkdir()
    (tmp_path / "subs/a.srt").write_text("".join(cue(f"at {i}", i) for i in range(6)))
    (tmp_path / "subs/bad.vtt").write_text("nothing")
    return tmp_path


def test_a_column_names_subtitles(listed, caplog):
    rows = "path,subtitles,caption\na.mp4,subs/a.srt,my own\nb.mp4,,\nc.mp4,subs/bad.vtt,mine\n"
    (listed / "t.csv").write_text(rows + "d.mp4,subs/nowhere.srt,\n")
    table = open_table(listed / "t.csv")
    found = texts(table)
    assert found == {
        "a.mp4": ["my own", *(f"at {i}" for i in range(6))],
        "b.mp4": None,
        "c.mp4": ["mine"],
        "d.mp4": None,
    }
    assert table.record(0).captions[0].start_sec is None
    assert table.record(0).captions[3].start_sec == 2.0
    assert "2 × subtitles that cannot be read" in caplog.text
    assert "subs/bad.vtt (its first line must begin with WEBVTT" in caplog.text
    assert "subs/nowhere.srt (it cannot be read (No such file or directory))" in caplog.text


@pytest.mark.parametrize("name", ["subtitles", "Subtitle File"])
def test_a_stretch_has_the_captions_that_are_seen_during_it(listed, name):
    rows = [
        {"path": "a.mp4", name: "subs/a.srt", "start": 1.5, "end": 4.0},
        {"path": "a.mp4", name: str(listed / "subs/a.srt")},
        {"path": "a.mp4", name: "subs/a.srt", "start": 5.0},
    ]
    (listed / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = list(texts(open_table(listed / "t.jsonl")).values())
    assert found == [["at 1", "at 2", "at 3"], [f"at {i}" for i in range(6)], ["at 5"]]


def test_only_subtitles_of_the_split_are_read(listed, caplog):
    rows = "path,subtitles,split\na.mp4,subs/a.srt,train\nb.mp4,subs/bad.vtt,val\n"
    (listed / "t.csv").write_text(rows)
    assert texts(open_table(f"{listed}/t.csv:train")) == {"a.mp4": [f"at {i}" for i in range(6)]}
    assert "cannot be read" not in caplog.text


def test_a_table_of_which_no_subtitles_can_be_read_is_refused(listed):
    (listed / "t.csv").write_text("path,subtitles\na.mp4,wrong/a.srt\nb.mp4,wrong/b.srt\n")
    with pytest.raises(
        TableError, match=r"no subtitles can be read. 2 × .*wrong/a.srt \(it cannot"
    ):
        open_table(listed / "t.csv")


def test_texts_in_the_place_of_files_are_told_shortly(listed):
    (listed / "t.csv").write_text(f"path,subtitles\na.mp4,{'Hello you. ' * 99}\n")
    with pytest.raises(
        TableError, match=r"'Hello you.*\(\d+ characters\) \(subtitles end in"
    ) as told:
        open_table(listed / "t.csv")
    assert len(str(told.value)) < 400


# In tars ------------------------------------------------------------------------------------------


def test_subtitles_in_a_tar(tmp_path, caplog, monkeypatch):
    monkeypatch.setenv("VIDEO_SSL_CACHE", str(tmp_path / "cache"))
    members = {
        "1.mp4": b"x", "1.srt": cue("of one").encode(), "1.txt": b"all of it",
        "2.mp4": b"x", "2.vtt": b"broken", "2.json": b'{"label": 1, "subtitles": "/etc/passwd"}',
        "3.mp4": b"x", "3.vtt": b"WEBVTT\n\n00:01.000 --> 00:02.000\nthree\n", "3.srt": cue("no").encode(),
    }  # fmt: skip
    with tarfile.open(tmp_path / "s.tar", "w") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    found = texts(open_table(tmp_path / "s.tar"))
    assert found == {"s/1": ["all of it", "of one"], "s/2": None, "s/3": ["three"]}
    assert "1 × subtitles that cannot be read" in caplog.text
    assert "s.tar!/2.vtt (its first line must begin with WEBVTT" in caplog.text
