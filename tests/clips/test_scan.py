"""`scan`: columns, skip list, resuming, and decoders that hang or crash."""

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
from video_maker import sequential

from video_ssl.bench.odd_videos import ODD_VIDEOS
from video_ssl.clips.decoders.backends import missing
from video_ssl.clips.decoders.reader import BadVideo
from video_ssl.clips.reading import open_record
from video_ssl.clips.upkeep.config import ScanConfig
from video_ssl.clips.upkeep.isolated import Failure, run_isolated
from video_ssl.clips.upkeep.journal import Journal
from video_ssl.clips.upkeep.probe import Probe, probe
from video_ssl.clips.upkeep.scan import PROBE, scan_table
from video_ssl.datasets.folder import read_folder
from video_ssl.datasets.table import Table, TableError
from video_ssl.files import DiskFull

HERE = Path(__file__).parent
BENT = "scan_fakes:misbehaving_probe"


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def scan(table, out, *, probe=PROBE, **settings):
    config = ScanConfig(**{"num_workers": 2, **settings})
    return scan_table(table, out, config, progress=False, probe=probe)


@pytest.fixture(scope="module")
def scanned(odd_videos, tmp_path_factory):
    out = tmp_path_factory.mktemp("scan") / "table.arrow"
    have_all = missing("decord") is None and missing("torchcodec") is None
    return scan(read_folder(odd_videos), out, exact=have_all)


def row_of(result, name):
    ids = result.table.column("id").tolist()
    return result.table.record(ids.index(name))


def test_every_odd_file_is_described(scanned, odd_videos):
    assert scanned.files == len(ODD_VIDEOS)
    assert scanned.skipped == []
    for name in ODD_VIDEOS:
        record = row_of(scanned, name)
        frames, _ = sequential(odd_videos / name)
        assert record.num_frames == len(frames), name
        assert (record.height, record.width) == frames[0].shape[:2], name
        assert record.file_size == (odd_videos / name).stat().st_size
        assert record.file_mtime == (odd_videos / name).stat().st_mtime
        assert record.duration_sec >= (record.num_frames - 1) / record.fps
        assert record.variable_fps == (name == "variable_rate.mp4"), name
        assert record.edit_list == (name == "edit_list.mp4"), name
        assert record.has_audio == (name == "two_streams.mp4"), name
        expected = int(name[8:].partition(".")[0]) if name.startswith("rotated") else 0
        assert record.rotation in (expected, (360 - expected) % 360), name


@pytest.mark.parametrize(
    ("name", "container", "codec", "max_gop"),
    [
        ("plain.mp4", "mp4", "h264", 12),
        ("long_gop.mp4", "mp4", "h264", 60),
        ("intra.mp4", "mp4", "h264", 1),
        ("av1.mp4", "mp4", "av1", 12),
        ("vp9.webm", "matroska", "vp9", 12),
        ("hevc.mp4", "mp4", "hevc", 11),
        ("packed_b.avi", "avi", "mpeg4", 60),
        ("transport.ts", "mpegts", "h264", 12),
        ("animation.gif", "gif", "gif", None),
    ],
)
def test_container_codec_and_key_frames(scanned, name, container, codec, max_gop):
    record = row_of(scanned, name)
    assert (record.container, record.codec) == (container, codec)
    assert max_gop is None or record.max_gop == max_gop


def test_exact_is_what_decoding_has_shown(scanned):
    if missing("decord") or missing("torchcodec"):
        pytest.skip(str(missing("decord") or missing("torchcodec")))
    assert row_of(scanned, "plain.mp4").exact == "decord,torchcodec"
    assert row_of(scanned, "av1.mp4").exact == "torchcodec"
    assert row_of(scanned, "transport.ts").exact == ""
    inexact = lines(scanned.table.path.with_name("table.inexact.jsonl"))
    reasons = {(Path(line["source"]).name, line["backend"]): line["reason"] for line in inexact}
    assert "open GOPs" in reasons["open_gop.mp4", "decord"]
    assert ("open_gop.mp4", "torchcodec") not in reasons
    for backend, kind in (("decord", "PyAVReader"), ("torchcodec", "TorchcodecReader")):
        with open_record(row_of(scanned, "open_gop.mp4"), backend) as reader:
            assert type(reader).__name__ == kind


def test_a_wrong_frame_is_found_by_the_proof(odd_videos, monkeypatch):
    if missing("decord"):
        pytest.skip(missing("decord"))
    from video_ssl.clips.upkeep import proof

    monkeypatch.setattr(proof, "wrong_on", lambda *_: None)  # only decoding speaks
    for name, said in (("transport.ts", "differs"), ("hevc.mp4", "differs"), ("av1.mp4", "opened")):
        probe_of = Probe(source=str(odd_videos / name))
        reason = proof.prove(proof.Proof(probe=probe_of, backend="decord", num_frames=0))
        assert said in reason
    clean = Probe(source=str(odd_videos / "plain.mp4"))
    assert proof.prove(proof.Proof(probe=clean, backend="decord", num_frames=0)) is None


def test_segments_of_a_file_and_records_without_frames(odd_videos, tmp_path):
    rows = [
        {"id": "a", "source": "plain.mp4", "start_sec": 0.4, "end_sec": 1.2, "label": 1},
        {"id": "b", "source": "plain.mp4", "start_sec": 9.0, "end_sec": 10.0, "label": 0},
        {"id": "c", "source": "none.mp4", "label": 1},
        {"id": "d", "source": "plain.mp4", "label": 0, "captions": [{"text": "kept"}]},
    ]
    table = Table.from_rows(rows, root=odd_videos, class_names=["x", "y"], note="kept")
    result = scan(table, tmp_path / "t.arrow")
    assert (result.files, result.read_now) == (2, 2)
    assert result.table.column("id").tolist() == ["a", "d"]
    first, last = result.table.record(0), result.table.record(1)
    with open_record(first) as reader:
        assert reader.info.num_frames == first.num_frames == 20
        assert reader.info.duration_sec == pytest.approx(first.duration_sec)
    assert (last.num_frames, last.captions[0].text) == (60, "kept")
    assert (result.table.class_names, result.table.metadata["note"]) == (("x", "y"), "kept")
    assert [line["id"] for line in lines(tmp_path / "t.skipped.jsonl")] == ["b", "c"]
    assert "has no frame from 9 s to 10 s" in result.skipped[0]["reason"]
    assert result.skipped[1]["reason"] == "does not exist."


@pytest.fixture
def bent(odd_videos, tmp_path):
    folder = tmp_path / "bent"
    folder.mkdir()
    for name in ("ok_1", "exits", "ok_2", "segfaults", "sleeps", "ok_3", "bug", "ok_4"):
        shutil.copy(odd_videos / "one_frame.mp4", folder / f"{name}.mp4")
    (folder / "text.mp4").write_bytes(b"<html>404</html>" * 50)
    return folder


def test_a_decoder_that_crashes_or_hangs_loses_its_process_only(bent, tmp_path):
    begin = time.monotonic()
    result = scan(read_folder(bent), tmp_path / "t.arrow", probe=BENT, timeout_sec=1.0)
    assert time.monotonic() - begin < 300
    assert result.table.column("id").tolist() == [f"ok_{i}.mp4" for i in range(1, 5)]
    reasons = {line["id"]: line["reason"] for line in lines(tmp_path / "t.skipped.jsonl")}
    assert "crashes the decoder (exit code 3)" in reasons.pop("exits.mp4")
    assert "crashes the decoder (SIGSEGV)" in reasons.pop("segfaults.mp4")
    assert "hangs the decoder for more than 2 s" in reasons.pop("sleeps.mp4")
    assert "unexpected TypeError: no such thing" in reasons.pop("bug.mp4")
    assert "cannot be opened as a video" in reasons.pop("text.mp4")
    assert reasons == {}


def test_one_process_is_enough(bent, tmp_path):
    table = read_folder(bent)
    result = scan(table, tmp_path / "t.arrow", probe=BENT, timeout_sec=0.5, num_workers=1)
    assert len(result.table) == 4


def test_a_task_that_gets_on_is_not_ended():
    sys_path = sys.path[:]
    found = dict(
        run_isolated(
            "scan_fakes:slow_but_beating", [("a", 3.0), ("b", 0.0)], num_workers=2, limit_sec=1.2
        )
    )
    assert found == {"a": None, "b": None}
    assert sys.path == sys_path
    [(_, failure)] = run_isolated("time:sleep", [("a", 30)], num_workers=1, limit_sec=0.3)
    assert isinstance(failure, Failure)
    assert failure.died


def test_processes_that_cannot_start_are_an_error():
    with pytest.raises(RuntimeError, match="could not start"):
        list(run_isolated("no_such_module:f", [("a", 1)], num_workers=1, limit_sec=1))


def test_a_killed_scan_goes_on(odd_videos, tmp_path):
    folder = tmp_path / "videos"
    folder.mkdir()
    for number in range(14):
        shutil.copy(odd_videos / "one_frame.mp4", folder / f"{number:02}.mp4")
    log, out = tmp_path / "log", tmp_path / "t.arrow"
    code = (
        f"import sys; sys.path.insert(0, {str(HERE)!r})\n"
        "from video_ssl.clips.upkeep.scan import ScanConfig, scan_table\n"
        "from video_ssl.datasets.folder import read_folder\n"
        f"scan_table(read_folder({str(folder)!r}), {str(out)!r}, ScanConfig(num_workers=2), progress=False,\n"
        "           probe='scan_fakes:slow_probe')\n"
    )
    environment = {**os.environ, "SCAN_FAKES_LOG": str(log)}
    killed = subprocess.Popen([sys.executable, "-c", code], env=environment)
    journal = tmp_path / ".t.scan.jsonl"
    while not journal.exists() or len(journal.read_bytes().splitlines()) < 5:
        assert killed.poll() is None
        time.sleep(0.02)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    with open(journal, "ab") as file:
        file.write(b'{"key": "torn')
    done_before = len(journal.read_bytes().splitlines()) - 2
    time.sleep(0.5)  # the processes end with their parent
    begun = log.read_text().splitlines()
    assert not out.exists()
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)
    ids = Table.open(out).column("id").tolist()
    assert ids == [f"{number:02}.mp4" for number in range(14)]
    second = log.read_text().splitlines()[len(begun) :]
    assert len(second) == 14 - done_before
    assert not journal.exists()


def test_a_file_that_changed_is_looked_at_again(odd_videos, tmp_path, monkeypatch):
    folder = tmp_path / "videos"
    folder.mkdir()
    for name in ("a", "b"):
        shutil.copy(odd_videos / "one_frame.mp4", folder / f"{name}.mp4")
    out = tmp_path / "t.arrow"
    monkeypatch.setattr(Table, "save", lambda *_, **__: (_ for _ in ()).throw(OSError("stop")))
    with pytest.raises(OSError, match="stop"):
        scan(read_folder(folder), out)
    monkeypatch.undo()
    shutil.copy(odd_videos / "two_frames.mp4", folder / "b.mp4")
    result = scan(read_folder(folder), out)
    assert result.read_now == 1
    assert result.table.column("num_frames").tolist() == [1, 2]


def test_a_table_out_of_a_scan_refuses_a_changed_file(odd_videos, tmp_path):
    path = tmp_path / "a.mp4"
    shutil.copy(odd_videos / "one_frame.mp4", path)
    record = scan(read_folder(tmp_path), tmp_path / "t.arrow").table.record(0)
    shutil.copy(odd_videos / "two_frames.mp4", path)
    with pytest.raises(BadVideo, match="has changed"):
        open_record(record)


def test_two_scans_and_other_settings_are_refused(tmp_path):
    path = tmp_path / ".j.jsonl"
    with Journal(path, {"decode": "ends"}) as journal:
        journal.add("x", {"reason": "y"})
        with pytest.raises(ValueError, match="is in use"):
            Journal(path, {"decode": "ends"})
    with pytest.raises(ValueError, match="decode: 'ends' then, 'all' now"):
        Journal(path, {"decode": "all"})
    with Journal(path, {"decode": "ends"}) as again:
        assert again.entries == {"x": {"reason": "y"}}


def test_a_full_disk_is_said_and_nothing_is_lost(tmp_path):
    code = (
        "import resource, signal, sys\nfrom pathlib import Path\n"
        "from video_ssl.clips.upkeep.journal import Journal\n"
        "from video_ssl.files import DiskFull\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))\n"
        f"journal = Journal(Path({str(tmp_path / 'j')!r}), {{}})\n"
        "try:\n"
        "    for i in range(100): journal.add(str(i), {'reason': 'x' * 30})\n"
        "except DiskFull as err:\n"
        "    sys.exit(f'{i} {err}')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    written = int(done.stderr.split()[0])
    assert 5 < written < 50
    assert "free space and run the same command again" in done.stderr
    with Journal(tmp_path / "j", {}) as journal:
        assert sorted(map(int, journal.entries)) == list(range(written))
        journal.add("after", {"reason": ""})
    with Journal(tmp_path / "j", {}) as journal:
        assert len(journal.entries) == written + 1


def test_a_worker_that_meets_a_full_disk_stops_everything():
    with pytest.raises(DiskFull, match="run the same command again"):
        list(run_isolated("scan_fakes:full_disk", [("a", 1)], num_workers=1, limit_sec=5))


def test_settings_are_checked(odd_videos, tmp_path):
    table = read_folder(odd_videos)
    with pytest.raises(ValueError, match=r"must end in \.arrow"):
        scan(table, tmp_path / "t.csv")
    with pytest.raises(ValueError, match="'some' is not one of"):
        scan(table, tmp_path / "t.arrow", decode="some")
    with pytest.raises(ValueError, match="must be positive"):
        scan(table, tmp_path / "t.arrow", timeout_sec=0)
    nothing = Table.from_rows([{"source": "none.mp4"}], root=tmp_path)
    with pytest.raises(TableError, match=r"not one of 1 records can be used; .*does not exist"):
        scan(nothing, tmp_path / "t.arrow")


def test_all_frames_are_decoded_when_asked(odd_videos, tmp_path):
    content = bytearray((odd_videos / "intra.mp4").read_bytes())
    begin = len(content) * 2 // 5
    content[begin : begin + len(content) // 5] = bytes(len(content) // 5)
    path = tmp_path / "hurt.mp4"
    path.write_bytes(content)
    assert probe(Probe(source=str(path)))["segments"][0][0] == 20
    with pytest.raises(BadVideo, match="frame"):
        probe(Probe(source=str(path), decode="all"))


def test_times_of_variable_rate_are_noticed_not_rounding():
    from video_ssl.clips.upkeep.probe import _is_variable

    steady = np.arange(3000) / 29.97
    assert not _is_variable(np.round(steady, 3), 29.97)
    assert _is_variable(np.where(np.arange(3000) > 1500, steady + 0.2, steady), 29.97)
