"""Untrimmed videos in files of a few seconds: the index, what is missing or does not join, clips across borders."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest

from video_ssl.clips.decoders.reader import BadVideo
from video_ssl.clips.reading import open_record
from video_ssl.datasets import open_table
from video_ssl.datasets.errors import TableError
from video_ssl.datasets.opening import check_data
from video_ssl.datasets.public.segments import _split, segment_file, segment_names
from video_ssl.objectives.hico.config import Config
from video_ssl.objectives.hico.plan import Plan, _duration
from video_ssl.recipes import build_config

FPS = 10
NAME = "a-b,c_1"


def write_file(path: Path, first: int, count: int, *, side: int = 32) -> None:
    """Frames whose grey says their number in the whole video."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=FPS)
        stream.width = stream.height = side
        stream.pix_fmt, stream.options = "yuv444p", {"qp": "0"}
        for i in range(first, first + count):
            picture = np.full((side, side, 3), 2 * i, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """One video of 112 frames in three files of 5, 5 and 1.2 seconds, and the index."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VIDEO_SSL_DATA", str(tmp_path / "data"))
    folder = tmp_path / "data" / "hacs"
    stamps = [(0, 5000), (5000, 10000), (10000, 11200)]
    for start, end in stamps:
        write_file(
            folder / "training" / segment_file(NAME, start, end), start // 100, (end - start) // 100
        )
    index(folder, *(f"{NAME},{start:07d},{end:07d}" for start, end in stamps))
    return folder


def index(folder: Path, *lines: str) -> None:
    (folder / "training.txt").write_text("".join(f"{line}\n" for line in lines))


CLIP = {"num_frames": 4, "frame_stride": 10, "fps": 20.0, "sampling": "seconds", "num_clips": 3}


def test_a_video_is_one_record_over_all_of_its_files(root: Path) -> None:
    table = open_table("hacs:train")
    assert len(table) == 1
    record = table.record(0)
    assert record.id == NAME
    with open_record(record) as reader:
        assert reader.info.num_frames == 112
        config = build_config(
            Config,
            {
                "clip": CLIP,
                "crop": {"kind": "whole", "size": 32},
                "color": None,
                "encoder": {"architecture": "r2plus1d"},
            },
        )
        seen = set()
        for visit in range(20):
            video = Plan(config)(record, reader, np.random.default_rng(visit), 1.0)["video"]
            numbers = np.rint(video[:, :, 16, 16, 0] / 2.0).astype(int)
            # Two seconds are 20 frames; both ends are cut to whole ones.
            assert np.isin(np.ptp(numbers, axis=1), (18, 19, 20)).all()
            seen |= set(numbers.ravel().tolist())
    assert {48, 49, 50, 51} & seen, "no clip crossed the border of two files"
    assert max(seen) >= 95


def test_a_file_that_is_missing_leaves_the_video_out_and_is_named(
    root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_file(root / "training" / segment_file("whole", 0, 5000), 0, 50)
    with (root / "training.txt").open("a") as file:
        file.write("whole,0000000,0005000\n")
    gone = root / "training" / segment_file(NAME, 5000, 10000)
    gone.unlink()
    with caplog.at_level(logging.WARNING):
        table = open_table("hacs:train")
    assert [table.record(i).id for i in range(len(table))] == ["whole"]
    assert gone.stem in caplog.text
    lines, complete = check_data("hacs")
    assert not complete
    assert any(f"missing 1: {NAME}" in line for line in lines)
    assert any(gone.stem in line for line in lines)


def test_a_file_without_content_is_named_when_it_is_read(root: Path) -> None:
    empty = root / "training" / segment_file(NAME, 5000, 10000)
    empty.write_bytes(b"")
    with pytest.raises(BadVideo, match="0005000_0010000"):
        open_record(open_table("hacs:train").record(0))


@pytest.mark.parametrize("second", ["0004000,0009000", "0006000,0011000"])
def test_files_that_overlap_or_leave_a_gap_are_left_out_and_named(
    root: Path, second: str, caplog: pytest.LogCaptureFixture
) -> None:
    index(root, f"{NAME},0000000,0005000", f"broken,{second}", "broken,0000000,0005000",
          f"{NAME},0005000,0010000", f"{NAME},0010000,0011200")  # fmt: skip
    with caplog.at_level(logging.WARNING):
        table = open_table("hacs:train")
    assert [table.record(i).id for i in range(len(table))] == [NAME]
    assert f"broken (5000 ms is followed by {int(second[:7])} ms)" in caplog.text


def test_how_long_a_video_lasts_is_what_the_name_of_its_last_file_says(root: Path) -> None:
    """Was wrong: counted from the frames of all files, although the index says it (papers/hico.md section 2.1)."""
    index(root, f"{NAME},0,5000", f"{NAME},5000,10000", f"{NAME},10000,11290")
    (root / "training" / segment_file(NAME, 10000, 11200)).rename(
        root / "training" / segment_file(NAME, 10000, 11290)
    )
    record = open_table("hacs:train").record(0)
    assert record.duration_sec == pytest.approx(11.29)
    with open_record(record) as reader:
        assert _duration(record, reader) == pytest.approx(11.29)
        # Files that hold something else than their names say are counted.
        other = replace(record, source=record.source.replace("0011290", "0013000"))
        assert _duration(other, reader) == pytest.approx(11.2)


@pytest.mark.parametrize(
    ("first", "second", "taken"),
    [
        ("0000000,0005000", "0005200,0010000", True),
        ("0000000,0005000", "0004800,0010000", True),
        ("0000200,0005000", "0005000,0010000", True),
        ("0000000,0005000", "0005201,0010000", False),
        ("0000000,0005000", "0004799,0010000", False),
        ("0000201,0005000", "0005000,0010000", False),
        # Was wrong: a video whose beginning is missing was taken, and its times were those of the rest.
        ("0005000,0010000", "0010000,0015000", False),
    ],
)
def test_files_may_end_a_fifth_of_a_second_beside_the_next(
    root: Path, first: str, second: str, taken: bool
) -> None:
    notes: list[str] = []
    split = _split("training.txt", segment_names([f"edge,{first}", f"edge,{second}"]), notes)
    assert list(split.columns["id"]) == ["edge"] * taken
    assert len(notes) == (not taken)
    if not taken and first != "0000000,0005000":
        assert f"the beginning is followed by {int(first[:7])} ms" in notes[0]


def test_every_video_that_is_left_out_is_named(
    root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Was wrong: of many the first three were named, and the others nowhere."""
    gaps = [f"broken{i:02d},{stamps}" for i in range(15) for stamps in ("0,5000", "6000,9000")]
    index(root, *gaps, f"{NAME},0,5000", f"{NAME},5000,10000", f"{NAME},10000,11200")
    with caplog.at_level(logging.WARNING):
        assert len(open_table("hacs:train")) == 1
    assert "broken09" in caplog.text
    assert "broken10" not in caplog.text
    assert "5 more of that kind; `video-ssl data check hacs` lists all" in caplog.text
    lines, complete = check_data("hacs")
    assert sum("(5000 ms is followed by 6000 ms)" in line for line in lines) == 15
    assert not complete
    assert any("train: 1 of 16 videos" in line for line in lines)


@pytest.mark.parametrize(
    ("lines", "text"),
    [(["gap,5000,10000"], "the beginning is followed by 5000 ms"), ([], "They are empty")],
)
def test_an_index_of_which_nothing_can_be_used_says_why(
    root: Path, lines: list[str], text: str
) -> None:
    """Was wrong: "not one of the listed videos lies below", and that `data check` names them, which found all right."""
    index(root, *lines)
    with pytest.raises(TableError, match=text):
        open_table("hacs:train")
    found, complete = check_data("hacs")
    assert not complete
    assert any(f"train: 0 of {len(lines)} videos" in line for line in found)


def test_a_file_that_is_listed_twice_is_taken_once(
    root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Was wrong: told as a gap, and the video was left out.  A space before the comma was a part of the name."""
    index(root, f"{NAME},0,5000", f"{NAME} ,0,5000", f"{NAME},5000,10000", f"{NAME},10000,11200")
    with caplog.at_level(logging.WARNING):
        table = open_table("hacs:train")
    assert "line 2 lists a file of a-b,c_1 once more: it is taken once" in caplog.text
    with open_record(table.record(0)) as reader:
        assert reader.info.num_frames == 112


@pytest.mark.parametrize("damage", ["empty", "cut", "other size", "gone"])
def test_the_file_of_a_video_that_is_damaged_is_named(
    root: Path, tmp_path: Path, damage: str
) -> None:
    """Was wrong: lists of what was skipped named all files of the video, and not which of them is damaged."""
    record = open_table("hacs:train").record(0)
    second = root / "training" / segment_file(NAME, 5000, 10000)
    if damage == "empty":
        second.write_bytes(b"")
    elif damage == "cut":
        second.write_bytes(second.read_bytes()[:700])
    elif damage == "gone":
        second.unlink()
    else:
        write_file(second, 50, 50, side=64)
    with pytest.raises(BadVideo) as caught:
        open_record(record)
    assert caught.value.reason.startswith(f"its file 2 of 3, {second.name}, ")
    assert caught.value.reason.count("its file") == 1


def test_who_lacks_uncut_kinetics_is_not_sent_to_hacs(root: Path) -> None:
    (root.parent / "kinetics400_uncut").mkdir()
    lines, _ = check_data("kinetics400_uncut")
    assert "whoever kept the videos" in "".join(lines)
    assert "HACS" not in "".join(lines)


def test_uncut_kinetics_is_read_in_the_same_way(root: Path) -> None:
    root.rename(root.with_name("kinetics400_uncut"))
    table = open_table("kinetics400_uncut:train")
    assert [table.record(i).id for i in range(len(table))] == [NAME]
    with open_record(table.record(0)) as reader:
        assert reader.info.num_frames == 112


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("x y", "line 2 is 'x y': expected NAME,START,END"),
        ("a,-5,10", "line 2"),
        (",0,5000", "expected NAME,START,END"),
        ("a,5000,5000", "holds nothing"),
        ("a,5000,100", "holds nothing"),
    ],
)
def test_a_line_of_another_kind_is_named(line: str, text: str) -> None:
    assert segment_names(["a,b-c_1,0000000,0005000"]) == {"a,b-c_1": [(0, 5000)]}
    with pytest.raises(TableError, match=text):
        segment_names(["a,0,5000", line])
