"""What transcode, scan, split and dedup keep counts only for a source as it is, and for what the table says of it."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from video_ssl.clips.upkeep import dedup, looks, scan, split
from video_ssl.clips.upkeep.config import (
    DedupConfig,
    ScanConfig,
    SplitConfig,
    TranscodeConfig,
    VideoFormat,
)
from video_ssl.clips.upkeep.probe import stamp
from video_ssl.clips.upkeep.transcode import transcode_table
from video_ssl.datasets.lists.video_lists import read_list
from video_ssl.datasets.parts import join_parts
from video_ssl.datasets.paths import TRANSCODE_JOURNAL
from video_ssl.datasets.table import Table


def write_frames(folder, count, first=0, shade=0):
    folder.mkdir(exist_ok=True)
    for index in range(first, first + count):
        picture = np.full((48, 64, 3), (17 * index + shade) % 256, np.uint8)
        Image.fromarray(picture).save(folder / f"{index:05}.png")


@pytest.fixture
def frames(tmp_path):
    write_frames(tmp_path / "F", 8)
    return tmp_path / "F"


def table_of(folder, **columns):
    return Table.from_columns({"source": ["F"], **columns}, root=folder)


def transcode(table, out, **settings):
    config = TranscodeConfig(num_workers=1, **settings)
    return transcode_table(table, out, config, progress=False)


def scanned(table, out, **settings):
    config = ScanConfig(num_workers=1, **settings)
    return scan.scan_table(table, out, config, progress=False)


def broken_off(monkeypatch, function, *arguments, **settings):
    """The work is done and noted, but its result cannot be written."""
    with monkeypatch.context() as patched:
        patched.setattr(Table, "save", lambda *_, **__: (_ for _ in ()).throw(OSError("stop")))
        with pytest.raises(OSError, match="stop"):
            function(*arguments, **settings)


# What the source is now


def test_a_folder_that_has_gained_or_repaired_pictures_is_transcoded_again(frames, tmp_path):
    """Was wrong: folders of frames had no stamp, so whatever happened to them the old file was kept."""
    out = tmp_path / "out"
    assert transcode(table_of(tmp_path), out).table.record(0).num_frames == 8
    assert transcode(table_of(tmp_path), out).written_now == 0
    write_frames(frames, 4, first=8)
    again = transcode(table_of(tmp_path), out)
    assert (again.written_now, again.table.record(0).num_frames) == (1, 12)
    (frames / "00003.png").write_bytes(b"damaged")
    assert "frame 3" in transcode_skipped(tmp_path, out)
    write_frames(frames, 1, first=3, shade=60)
    assert transcode(table_of(tmp_path), out).written_now == 1
    assert again.table.record(0).file_size is not None


def transcode_skipped(folder, out):
    """Why the only record is left out."""
    with pytest.raises(ValueError, match="no record can be used"):
        transcode(table_of(folder), out)
    return json.loads((out / "skipped.jsonl").read_text().splitlines()[0])["reason"]


def test_a_scan_that_was_broken_off_looks_again_at_a_changed_folder(frames, tmp_path, monkeypatch):
    """Was wrong: see above; and the size and time of a folder stay unknown in its table."""
    out = tmp_path / "t.arrow"
    broken_off(monkeypatch, scanned, table_of(tmp_path), out)
    write_frames(frames, 4, first=8)
    result = scanned(table_of(tmp_path), out)
    record = result.table.record(0)
    assert (result.read_now, record.num_frames) == (1, 12)
    assert (record.file_size, record.file_mtime) == (None, None)


def test_a_scan_that_was_broken_off_keeps_what_it_knows(frames, tmp_path, monkeypatch):
    broken_off(monkeypatch, scanned, table_of(tmp_path), tmp_path / "t.arrow")
    assert scanned(table_of(tmp_path), tmp_path / "t.arrow").read_now == 0


def test_a_decoder_is_compared_again_on_a_file_that_changed(odd_videos, tmp_path, monkeypatch):
    """Was wrong: what an unfinished scan had found of a decoder counted for the file that came in its place."""
    monkeypatch.setattr(scan, "OPTIONAL", ("decord",))
    monkeypatch.setattr(scan, "missing", lambda _: None)
    monkeypatch.setattr(scan, "PROVE", "scan_fakes:proof_by_content")
    shutil.copy(odd_videos / "one_frame.mp4", tmp_path / "a.mp4")
    table = Table.from_columns({"source": ["a.mp4"]}, root=tmp_path)
    broken_off(monkeypatch, scanned, table, tmp_path / "t.arrow", exact=True)
    shutil.copy(odd_videos / "two_frames.mp4", tmp_path / "a.mp4")
    scanned(table, tmp_path / "t.arrow", exact=True)
    (line,) = (tmp_path / "t.inexact.jsonl").read_text().splitlines()
    assert json.loads(line)["reason"] == f"{(tmp_path / 'a.mp4').stat().st_size} bytes"


@pytest.mark.parametrize("verb", ["dedup", "split"])
def test_copies_are_looked_for_anew_in_a_changed_folder(frames, tmp_path, verb, monkeypatch):
    """Was wrong: what had been seen of a folder of frames was taken for what is in it now."""
    write_frames(tmp_path / "G", 8, shade=100)

    def looked_at(table):
        asked = []
        run = looks.run_isolated
        with monkeypatch.context() as patched:
            patched.setattr(
                looks, "run_isolated",
                lambda function, tasks, **kept: run(function, asked.extend(tasks) or asked, **kept),
            )  # fmt: skip
            if verb == "dedup":
                dedup.look_at_all(table, tmp_path, DedupConfig(num_workers=1), progress=False)
            else:
                broken_off(
                    monkeypatch, split.split_table, table, tmp_path / "s",
                    SplitConfig(num_workers=1, test=0.5), progress=False,
                )  # fmt: skip
        return [row for row, _ in asked]

    def table(fps):
        return Table.from_columns({"source": ["F", "G"], "fps": [fps, None]}, root=tmp_path)

    assert sorted(looked_at(table(None))) == [0, 1]
    assert looked_at(table(None)) == []
    write_frames(frames, 4, first=8)
    assert looked_at(table(None)) == [0]
    assert looked_at(table(5.0)) == [0]  # at another rate other moments are compared


def test_stamps_of_several_in_a_row(frames, tmp_path):
    write_frames(tmp_path / "G", 2)
    (tmp_path / "v.mp4").write_bytes(b"12345")
    file, folder = str(tmp_path / "v.mp4"), str(tmp_path / "G")
    time = (tmp_path / "v.mp4").stat().st_mtime
    assert stamp(file) == (5, time)
    assert stamp(join_parts([file, file])) == (10, time)  # as older journals have it
    assert stamp("s3://bucket/v.mp4") == stamp(str(tmp_path / "none")) == (None, None)
    assert stamp(join_parts(["s3://bucket/v.mp4"] * 2)) == (None, None)
    for first in (str(frames), file, "s3://bucket/v.mp4"):
        before = stamp(join_parts([first, folder]))
        assert json.loads(json.dumps(before)) == list(before)
        write_frames(tmp_path / "G", 1, shade=len(first))
        assert stamp(join_parts([first, folder])) != before


def test_a_record_of_a_shard_is_as_old_as_its_shard(tmp_path):
    """Was wrong: a record of an ArrayRecord shard had no stamp either."""
    shard = tmp_path / "videos-train.array_record-00000-of-00001"
    shard.write_bytes(b"one")
    before = stamp(f"{shard}#3")
    shard.write_bytes(b"three")
    assert stamp(f"{shard}#3") != before


# What the table says of it


SEGMENTS = [(0.0, 0.4), (0.4, 1.2), (1.2, 2.4)]


def segments_of(folder, segments, **columns):
    start, end = zip(*segments, strict=True)
    return Table.from_columns(
        {
            "source": ["plain.mp4"] * len(start),
            "id": list("abc"),
            "start_sec": start,
            "end_sec": end,
            **columns,
        },
        root=folder,
    )


@pytest.mark.parametrize(
    ("segments", "counts"),
    [([(0.0, 0.8), *SEGMENTS[1:]], [20, 20, 30]), (SEGMENTS[::-1], [30, 20, 10])],
    ids=["corrected", "sorted anew"],
)
def test_segments_that_were_corrected_or_sorted_are_counted_anew(
    odd_videos, tmp_path, segments, counts
):
    """Was wrong: only the number of a file's segments was compared, and rows kept what another segment had."""
    first = transcode(segments_of(odd_videos, SEGMENTS), tmp_path)
    assert first.table.column("num_frames").tolist() == [10, 20, 30]
    assert transcode(segments_of(odd_videos, SEGMENTS), tmp_path).written_now == 0
    again = transcode(segments_of(odd_videos, segments), tmp_path)
    assert again.table.column("num_frames").tolist() == counts
    seconds = [end - start for start, end in segments]
    assert again.table.column("duration_sec") == pytest.approx(seconds, abs=1e-3)


def test_frame_labels_that_come_later_follow_the_frames(odd_videos, tmp_path):
    """Was wrong: the file was done, and nothing said which frames it shows: the labels stayed as they were."""

    def run(**columns):
        table = segments_of(odd_videos, SEGMENTS, **columns)
        config, form = TranscodeConfig(num_workers=1), VideoFormat(fps=12.5)
        return transcode_table(table, tmp_path, config, format=form, progress=False)

    run()
    labels = [list(range(10)), list(range(20)), list(range(30))]
    again = run(frame_labels=labels)
    assert [len(again.table.record(row).frame_labels) for row in range(3)] == [5, 10, 15]
    assert run().written_now == 0  # more is known than is asked for


def test_another_rate_of_frames_is_another_video(frames, tmp_path):
    """Was wrong: a corrected `fps` of a folder of frames changed nothing."""
    for fps, duration_sec, now in ((None, 0.32, 1), (10.0, 0.8, 1), (10.0, 0.8, 0)):
        done = transcode(table_of(tmp_path, fps=[fps]), tmp_path / "out")
        record = done.table.record(0)
        assert (done.written_now, record.duration_sec) == (now, pytest.approx(duration_sec))


def test_what_a_scan_has_found_of_a_video_is_no_reason_to_do_it_again(odd_videos, tmp_path):
    shutil.copy(odd_videos / "plain.mp4", tmp_path / "a.mp4")
    table = Table.from_columns({"source": ["a.mp4"]}, root=tmp_path)
    assert transcode(table, tmp_path / "out").written_now == 1
    found = scanned(table, tmp_path / "t.arrow").table
    assert transcode(found, tmp_path / "out").written_now == 0


def test_work_of_before_counts_where_nothing_was_asked_of_it(odd_videos, tmp_path):
    """Journals of before do not say which segments a file was counted for: whole videos are taken as they are."""
    shutil.copy(odd_videos / "plain.mp4", tmp_path / "a.mp4")
    whole = Table.from_columns({"source": ["a.mp4"]}, root=tmp_path)
    for table, now in ((whole, 0), (segments_of(odd_videos, SEGMENTS), 1)):
        out = tmp_path / f"out{now}"
        transcode(table, out)
        journal = out / TRANSCODE_JOURNAL
        lines = [json.loads(line) for line in journal.read_text().splitlines()]
        for line in lines:
            line.pop("asked", None)
        journal.write_text("".join(json.dumps(line) + "\n" for line in lines))
        assert transcode(table, out).written_now == now


def test_a_scan_that_was_broken_off_looks_again_at_another_rate(frames, tmp_path, monkeypatch):
    """Was wrong: the rate of a folder of frames was not among what an unfinished scan compares."""
    broken_off(monkeypatch, scanned, table_of(tmp_path), tmp_path / "t.arrow")
    record = scanned(table_of(tmp_path, fps=[10.0]), tmp_path / "t.arrow").table.record(0)
    assert (record.fps, record.duration_sec) == (10.0, pytest.approx(0.8))


def test_a_folder_with_fewer_frames_than_its_list_says_is_not_transcoded(frames, tmp_path):
    """Was wrong: the number went missing on the way, so half a folder became a whole video."""
    (tmp_path / "list.txt").write_text("F 300 0\n")
    with pytest.raises(ValueError, match="has 8 frames, its table says 300"):
        transcode(read_list(tmp_path / "list.txt"), tmp_path / "out")
    (tmp_path / "list.txt").write_text("F 8 0\n")
    done = transcode(read_list(tmp_path / "list.txt"), tmp_path / "out")
    assert done.table.record(0).num_frames == 8


def test_the_number_of_a_whole_folder_counts_beside_segments_of_it(frames, tmp_path):
    rows = {"source": ["F", "F"], "id": ["s", "w"], "end_sec": [0.1, None], "num_frames": [3, 9]}
    with pytest.raises(ValueError, match="has 8 frames, its table says 9"):
        transcode(Table.from_columns(rows, root=tmp_path), tmp_path / "out")
