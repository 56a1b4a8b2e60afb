"""`transcode`: the same pictures at the same times in files that every decoder reads, whatever came in."""

import json
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from video_maker import sequential

from video_ssl.bench.odd_videos import (
    ODD_VIDEOS,
    VideoStyle,
    chirp,
    read_index,
    write_video,
)
from video_ssl.clips.decoders.backends import OPTIONAL, missing, wrong_on
from video_ssl.clips.decoders.files.facts import file_facts
from video_ssl.clips.reading import open_record, open_video
from video_ssl.clips.upkeep.config import ScanConfig, TranscodeConfig, VideoFormat
from video_ssl.clips.upkeep.scan import scan_table
from video_ssl.clips.upkeep.transcode import TRANSCODE, transcode_table
from video_ssl.datasets.folder import read_folder
from video_ssl.datasets.frame_labels import resampled_labels
from video_ssl.datasets.table import Table
from video_ssl.files import DiskFull

HERE = Path(__file__).parent
FULL_SIZE = VideoFormat(short_side=1000, crf=12)


def transcode(table, out, *, format=None, function=TRANSCODE, **settings):
    config = TranscodeConfig(**{"num_workers": 2, **settings})
    return transcode_table(table, out, config, format=format, progress=False, function=function)


@pytest.fixture(scope="module")
def done(odd_videos, tmp_path_factory):
    out = tmp_path_factory.mktemp("transcoded")
    return transcode(read_folder(odd_videos), out, format=FULL_SIZE)


def new_record(done, name):
    return done.table.record(done.table.column("id").tolist().index(name))


@pytest.mark.parametrize("name", ODD_VIDEOS)
def test_pictures_and_times_are_kept(done, odd_videos, name):
    record = new_record(done, name)
    first = {"edit_list.mp4": 15, "cut_in_gop.mkv": 12}.get(name, 0)
    with open_video(odd_videos / name) as old, open_record(record) as new:
        count = old.info.num_frames
        assert (new.info.num_frames, new.info.rotation, new.info.codec) == (count, 0, "h264")
        every = np.arange(count)
        assert [read_index(f) - first for f in new.frames(every)] == every.tolist()
        np.testing.assert_allclose(new.times(every), old.times(every), atol=1e-3)
        height, width = old.info.height, old.info.width
        assert abs(new.info.height - height) <= 1
        assert abs(new.info.width - width) <= 1
        if (new.info.height, new.info.width) == (height, width):
            apart = np.abs(new.frames([0]).astype(int) - old.frames([0])).mean()
            assert apart < 16, "the colors are those of the old file"


@pytest.mark.parametrize("name", ODD_VIDEOS)
def test_every_decoder_is_exact_on_the_result(done, name):
    record = new_record(done, name)
    facts = file_facts(record.source)
    assert (facts.container, facts.codec, facts.pix_fmt) == ("mp4", "h264", "yuv420p")
    assert facts.max_gop <= 12
    assert not facts.open_gop
    assert not facts.edit_list
    head = Path(record.source).read_bytes()
    assert head.index(b"moov") < head.index(b"mdat"), "faststart"
    expected, _ = sequential(record.source)
    for backend in OPTIONAL:
        assert wrong_on(backend, facts) is None
        if missing(backend) is None:
            with open_video(record.source, backend) as reader:
                for index in (len(expected) - 1, len(expected) // 2, 0):
                    np.testing.assert_array_equal(reader.frames([index])[0], expected[index])


def test_size_gop_and_fixed_rate(odd_videos, tmp_path):
    table = Table.from_rows(
        [{"source": "variable_rate.mp4"}, {"source": "rotated_270.mp4"}], root=odd_videos
    )
    form = VideoFormat(short_side=64, gop=5, fps=20)
    result = transcode(table, tmp_path, format=form)
    with (
        open_record(result.table.record(0)) as new,
        open_video(odd_videos / "variable_rate.mp4") as old,
    ):
        assert (new.info.height, new.info.width) == (64, 86)
        assert new.info.fps == pytest.approx(20)
        times = new.times(np.arange(new.info.num_frames))
        np.testing.assert_allclose(times, np.arange(len(times)) / 20, atol=1e-3)
        assert times[-1] == pytest.approx(old.info.duration_sec, abs=0.06)
        shown = np.searchsorted(old.times(np.arange(60)), times + 5e-4, side="right") - 1
        same = new.frames(np.arange(len(times)))
        expected = old.frames(shown, (64, 86))
        assert np.abs(same.astype(int) - expected).mean() < 20
    assert file_facts(result.table.record(0).source).max_gop == 5
    assert (result.table.record(1).height, result.table.record(1).width) == (72, 64)


@pytest.mark.parametrize("fps", [None, 10])
def test_sound_stays_in_sync(tmp_path, fps):
    style = VideoStyle(sound=True, num_frames=75)
    write_video(tmp_path / "a.mp4", style)
    result = transcode(read_folder(tmp_path), tmp_path / "out", format=VideoFormat(fps=fps))
    record = result.table.record(0)
    assert record.has_audio
    with open_record(record) as reader:
        at = 0.2 + np.arange(int(2.5 * 16000)) / 16000
        assert np.abs(reader.audio(0.2, 2.7, 16000) - chirp(at)).max() < 0.15
        index = 40 if fps is None else 16
        assert read_index(reader.frames([index])[0]) == 40
        assert reader.times([index])[0] == pytest.approx(1.6, abs=1e-3)
    silent = transcode(read_folder(tmp_path), tmp_path / "mute", format=VideoFormat(audio=False))
    assert not silent.table.record(0).has_audio


ROWS = [
    {"id": "a", "source": "plain.mp4", "start_sec": 0.4, "end_sec": 1.2, "label": 1,
     "frame_labels": list(range(20)), "captions": [{"text": "x", "start_sec": 0.6, "end_sec": 1.0}],
     "events": [{"name": "e", "time_sec": 0.8}]},
    {"id": "b", "source": "plain.mp4", "start_sec": 1.2, "end_sec": None, "label": 0,
     "frame_labels": list(range(30))},
    {"id": "c", "source": "plain.mp4", "start_sec": 7.0, "end_sec": 9.0},
    {"id": "d", "source": "none.mp4", "label": 1},
]  # fmt: skip


def test_segments_and_labels_are_carried_over(odd_videos, tmp_path):
    table = Table.from_rows(ROWS, root=odd_videos, class_names=["x", "y"], no_flip=True)
    result = transcode(table, tmp_path, format=FULL_SIZE)
    assert (result.files, len(list((tmp_path / "videos").iterdir()))) == (2, 1)
    assert result.table.column("id").tolist() == ["a", "b"]
    assert result.table.metadata["no_flip"] is True
    a = result.table.record(0)
    assert (a.start_sec, a.end_sec, a.label, a.num_frames) == (0.4, 1.2, 1, 20)
    assert a.frame_labels.tolist() == list(range(20))
    with open_record(a) as reader:
        assert [read_index(f) for f in reader.frames([0, 19])] == [10, 29]
    reasons = {line["id"]: line["reason"] for line in result.skipped}
    assert reasons == {"c": "has no frame in its segment.", "d": "does not exist."}
    written = (tmp_path / "skipped.jsonl").read_text().splitlines()
    assert [json.loads(line)["id"] for line in written] == ["c", "d"]


def test_frame_labels_follow_a_change_of_rate(odd_videos, tmp_path):
    table = Table.from_rows(ROWS[:2], root=odd_videos, class_names=["x", "y"])
    result = transcode(table, tmp_path, format=VideoFormat(short_side=1000, crf=12, fps=12.5))
    for row, first in ((0, 10), (1, 30)):
        record = result.table.record(row)
        with open_record(record) as reader:
            shown = [read_index(f) for f in reader.frames(np.arange(reader.info.num_frames))]
        assert len(shown) == record.num_frames == (10, 15)[row]
        assert record.frame_labels.tolist() == [index - first for index in shown]


@pytest.mark.parametrize("cut", [False, True])
def test_labels_of_another_number_than_the_frames_are_resampled(odd_videos, tmp_path, cut):
    """Was wrong: they were taken frame by frame, so those beyond the frames were lost and short ones ended early."""
    given = [{**ROWS[0], "frame_labels": list(range(40))}, {**ROWS[1], "frame_labels": [0, 1, 2]}]
    table = Table.from_rows(given, root=odd_videos, class_names=["x", "y"])
    form = VideoFormat(short_side=1000, crf=12, fps=12.5)
    result = transcode(table, tmp_path, format=form, cut=cut)
    for row, (first, count) in enumerate(((10, 20), (30, 30))):
        record = result.table.record(row)
        with open_record(record) as reader:
            shown = [read_index(f) for f in reader.frames(np.arange(reader.info.num_frames))]
        of_old = resampled_labels(given[row]["frame_labels"], count)
        assert record.frame_labels.tolist() == of_old[np.array(shown) - first].tolist()


def test_captions_and_events_outside_of_a_cut_segment_are_left_out(odd_videos, tmp_path):
    """Was wrong: all that came before the segment was moved to its first moment, and what came behind it stayed."""
    times = {"before": (0.0, 0.2), "touches": (0.1, 0.4), "into": (0.2, 0.6), "inside": (0.6, 0.8), "all": (None, None),
             "out of": (1.0, 1.6), "from the end": (1.2, 1.4), "behind": (1.3, 1.4), "open": (None, 0.2)}  # fmt: skip
    captions = [{"text": text, "start_sec": s, "end_sec": e} for text, (s, e) in times.items()]
    events = [{"name": f"{at}", "time_sec": at} for at in (0.2, 0.4, 0.8, 1.2, 1.4)]
    row = {**ROWS[0], "captions": captions, "events": events}
    rows = [row, {**row, "id": "whole", "start_sec": None, "end_sec": None, "frame_labels": None}]
    result = transcode(Table.from_rows(rows, root=odd_videos), tmp_path, cut=True)
    segment, whole = (result.table.record(row) for row in range(2))
    found = {c.text: (c.start_sec, c.end_sec) for c in segment.captions}
    assert list(found) == ["into", "inside", "all", "out of"]
    assert found["all"] == (None, None)
    kept = [at for text in ("into", "inside", "out of") for at in found[text]]
    assert kept == pytest.approx([0, 0.2, 0.2, 0.4, 0.6, 0.8])
    at = {event.name: event.time_sec for event in segment.events}
    assert at == pytest.approx({"0.4": 0, "0.8": 0.4, "1.2": 0.8})
    assert {c.text: (c.start_sec, c.end_sec) for c in whole.captions} == times
    assert len(whole.events) == len(events)


def test_segments_can_be_cut(odd_videos, tmp_path):
    table = Table.from_rows(ROWS, root=odd_videos, class_names=["x", "y"])
    result = transcode(table, tmp_path, format=FULL_SIZE, cut=True)
    assert [line["id"] for line in result.skipped] == ["c", "d"]
    a, b = result.table.record(0), result.table.record(1)
    assert a.source != b.source
    assert (a.start_sec, a.end_sec, a.num_frames, b.num_frames) == (None, None, 20, 30)
    assert a.captions[0].start_sec == pytest.approx(0.2)
    assert a.events[0].time_sec == pytest.approx(0.4)
    with open_record(a) as reader:
        assert [read_index(f) for f in reader.frames([0, 19])] == [10, 29]
    assert a.frame_labels.tolist() == list(range(20))


def test_times_of_a_cut_segment_count_from_its_first_frame(odd_videos, tmp_path):
    """They counted from `start_sec`, where seldom a frame lies: what is said came late by up to a frame."""
    table = Table.from_rows([{**ROWS[0], "start_sec": 0.37}], root=odd_videos)
    found = transcode(table, tmp_path, format=FULL_SIZE, cut=True).table.record(0)
    assert found.num_frames == 20
    assert found.captions[0].start_sec == pytest.approx(0.2)
    assert found.events[0].time_sec == pytest.approx(0.4)


def test_names_do_not_collide_and_folders_stay(odd_videos, tmp_path):
    long = f"y/{'l' * 240}.mp4"
    for name, like in (
        ("x/a.mp4", "one_frame"),
        ("x/a.mkv", "two_frames"),
        ("y/a.mp4", "intra"),
        (long, "intra"),
    ):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(odd_videos / f"{like}.mp4", tmp_path / "in" / name)
    for _ in range(2):
        result = transcode(read_folder(tmp_path / "in"), tmp_path / "out")
    assert result.written_now == 0
    table = result.table
    counts = dict(zip(table.column("id"), table.column("num_frames"), strict=True))
    assert counts == {"x/a.mp4": 1, "x/a.mkv": 2, "y/a.mp4": 20, long: 20}
    sources = [Path(s).as_posix() for s in table.column("source")]
    assert len(set(sources)) == 4
    assert sum(s.startswith("videos/x/a") for s in sources) == 2
    assert "videos/y/a.mp4" in sources
    assert table.class_names == ("x", "y")


def test_a_second_run_does_nothing_and_a_changed_file_is_done_again(odd_videos, tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    for name in ("a.mp4", "b.mp4"):
        shutil.copy(odd_videos / "one_frame.mp4", folder / name)
    assert transcode(read_folder(folder), tmp_path / "out").written_now == 2
    assert transcode(read_folder(folder), tmp_path / "out").written_now == 0
    shutil.copy(odd_videos / "two_frames.mp4", folder / "b.mp4")
    again = transcode(read_folder(folder), tmp_path / "out")
    assert again.written_now == 1
    assert again.table.column("num_frames").tolist() == [1, 2]
    (tmp_path / "out/videos/a.mp4").unlink()
    assert transcode(read_folder(folder), tmp_path / "out").written_now == 1
    with pytest.raises(ValueError, match="gop: 12 then, 24 now"):
        transcode(read_folder(folder), tmp_path / "out", format=VideoFormat(gop=24))


def test_a_killed_run_goes_on(odd_videos, tmp_path):
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    for number in range(10):
        shutil.copy(odd_videos / "odd_444.mp4", folder / f"{number}.mp4")
    (folder / "text.mp4").write_bytes(b"<html>" * 99)
    code = (
        "from video_ssl.clips.upkeep.transcode import TranscodeConfig, transcode_table\n"
        "from video_ssl.datasets.folder import read_folder\n"
        f"print(transcode_table(read_folder({str(folder)!r}), {str(out)!r},\n"
        "                      TranscodeConfig(num_workers=2), progress=False).written_now)\n"
    )
    killed = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.DEVNULL)
    journal = out / ".transcode.jsonl"
    while not journal.exists() or len(journal.read_bytes().splitlines()) < 5:
        assert killed.poll() is None
        time.sleep(0.01)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert not (out / "table.arrow").exists()
    known = len(journal.read_bytes().splitlines()) - 2  # the settings, and what was begun
    leftover = out / "videos" / ".3.123.partial.mp4"
    leftover.write_bytes(b"x")
    time.sleep(0.5)  # the processes end with their parent
    finished = subprocess.run(
        [sys.executable, "-c", code], check=True, stdout=subprocess.PIPE, text=True
    )
    assert int(finished.stdout) == 11 - known
    table = Table.open(out / "table.arrow")
    assert table.column("id").tolist() == [f"{number}.mp4" for number in range(10)]
    assert table.column("num_frames").tolist() == [20] * 10
    names = sorted(path.name for path in (out / "videos").iterdir())
    assert names == [f"{number}.mp4" for number in range(10)]


def test_a_full_disk_is_said_and_the_run_goes_on(odd_videos, tmp_path):
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    shutil.copy(odd_videos / "one_frame.mp4", folder / "small.mp4")
    shutil.copy(odd_videos / "odd_444.mp4", folder / "too_large.mp4")
    code = (
        "import resource, signal\n"
        "from video_ssl.clips.upkeep.transcode import TranscodeConfig, transcode_table\n"
        "from video_ssl.datasets.folder import read_folder\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, resource.RLIM_INFINITY))\n"
        f"transcode_table(read_folder({str(folder)!r}), {str(out)!r}, TranscodeConfig(num_workers=1), progress=False)\n"
    )
    full = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert full.returncode != 0
    assert DiskFull.__name__ in full.stderr
    assert "free space and run the same command again" in full.stderr
    assert [p.name for p in (out / "videos").iterdir()] == ["small.mp4"]
    assert transcode(read_folder(folder), out).written_now == 1


def test_settings_are_checked():
    for wrong in ({"short_side": 0}, {"gop": 0}, {"fps": 0}, {"crf": 60}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            VideoFormat(**wrong)


def test_scan_and_transcode_as_commands(odd_videos, tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    shutil.copy(odd_videos / "transport.ts", folder)
    (folder / "text.mp4").write_bytes(b"<html>" * 99)

    def run(*arguments):
        command = [sys.executable, "-m", "video_ssl", *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    assert run("scan", folder, tmp_path / "t.arrow").returncode == 0
    made = run("transcode", tmp_path / "t.arrow", tmp_path / "out", "--gop", 6, "--no-audio")
    assert made.returncode == 0, made.stderr
    record = Table.open(tmp_path / "out" / "table.arrow").record(0)
    assert (record.id, record.codec, record.max_gop) == ("transport.ts", "h264", 6)
    wrong = run("transcode", folder, tmp_path / "out2", "--gop", 0)
    assert (wrong.returncode, "gop=0 is too small" in wrong.stderr) == (2, True)
    assert "Traceback" not in wrong.stderr


def test_members_of_tars_and_folders_of_frames(odd_videos, tmp_path):
    with tarfile.open(tmp_path / "s.tar", "w") as tar:
        tar.add(odd_videos / "matroska.mkv", "x/m.mkv")
    (tmp_path / "frames").mkdir()
    with open_video(odd_videos / "plain.mp4") as reader:
        for index, frame in enumerate(reader.frames(np.arange(12))):
            Image.fromarray(frame).save(tmp_path / "frames" / f"{index:03}.png")
    rows = [{"source": "s.tar!/x/m.mkv"}, {"source": "frames", "fps": 10.0}]
    scanned = scan_table(
        Table.from_rows(rows, root=tmp_path),
        tmp_path / "t.arrow",
        ScanConfig(num_workers=2),
        progress=False,
    )
    described = [(r.container, r.num_frames, r.fps) for r in map(scanned.table.record, (0, 1))]
    assert described == [("matroska", 60, 25.0), ("frames", 12, 10.0)]
    result = transcode(scanned.table, tmp_path / "out", format=FULL_SIZE)
    assert result.table.column("source").tolist() == ["videos/s.tar/x/m.mp4", "videos/frames.mp4"]
    for row, count in ((0, 60), (1, 12)):
        with open_record(result.table.record(row)) as reader:
            assert [read_index(f) for f in reader.frames(np.arange(count))] == list(range(count))
