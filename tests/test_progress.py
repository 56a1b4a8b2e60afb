"""How far a long job is: what the meter counts, the bar on a terminal, the lines in a log, of every verb."""

from __future__ import annotations

import io
import logging
import re
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from tiny_runs import write_video

from video_ssl import progress
from video_ssl.clips.upkeep.config import ScanConfig, TranscodeConfig
from video_ssl.clips.upkeep.scan import scan_table
from video_ssl.clips.upkeep.transcode import transcode_table
from video_ssl.datasets.folder import read_folder
from video_ssl.embed.config import EmbedConfig
from video_ssl.embed.embedding import Embedder
from video_ssl.evaluate.results_table import results_table
from video_ssl.models.networks.pixels import PixelEncoder, PixelsConfig
from video_ssl.models.preprocess_config import VideoPreprocess
from video_ssl.progress import Meter, console_for_tables, metered


class Clock:
    """Seconds that pass when told to."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_time_left_is_that_of_what_this_job_has_done() -> None:
    """60 of 100 were there already: 10 more took 20 s, so 30 take 60."""
    clock = Clock()
    meter = Meter("x", total=100, done=60, now=clock)
    assert meter.left_sec() is None
    assert meter.told() == "60/100 videos, 0:00:00 so far"
    clock.now = 20
    meter.advance(10, video_sec=120)
    assert meter.left_sec() == pytest.approx(60)
    assert meter.told() == "70/100 videos, 0:02:00 of video, 6 times real time, 0:01:00 left"


def test_one_long_video_tells_where_it_is() -> None:
    """Was wrong: of one file of two hours nothing was heard but 0/1 until it was over."""
    clock = Clock()
    meter = Meter("x", total=1, now=clock)
    clock.now = 60
    meter.within("long.mp4", 0.25, 1800)
    assert meter.left_sec() == pytest.approx(180)
    assert meter.told() == "0/1 videos, 25 %, 0:30:00 of video, 30 times real time, 0:03:00 left"
    clock.now = 240
    meter.advance(video_sec=7200, key="long.mp4")
    assert meter.reached == 1
    assert meter.told() == "1/1 videos, 2:00:00 of video, 30 times real time, 0:00:00 left"


def test_a_terminal_gets_a_bar_and_no_lines(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setattr(progress, "EVERY_SEC", 0.01)
    with caplog.at_level(logging.INFO), metered("counting", total=4, unit="files") as meter:
        meter.advance(4, video_sec=5)
        time.sleep(0.05)
    assert "counting" in screen.getvalue()
    assert "4/4 files, 0:00:05 of video" in screen.getvalue()
    assert not caplog.records


@pytest.mark.parametrize("silent", [{"show": False}, {"lines": False}, {"done": 4}])
def test_nothing_is_said_where_nobody_asked_or_nothing_is_left(
    silent: dict[str, int], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(progress, "EVERY_SEC", 0.01)
    with caplog.at_level(logging.INFO), metered("counting", total=4, **silent):  # type: ignore[arg-type]
        time.sleep(0.05)
    assert not caplog.records


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two videos of a second each, 12 frames."""
    where = tmp_path_factory.mktemp("videos")
    for i in range(2):
        write_video(where / f"{i}.mp4", seed=i)
    return where


def said(caplog: pytest.LogCaptureFixture, title: str) -> list[str]:
    """The lines of one meter."""
    lines = [record.getMessage() for record in caplog.records if record.name == progress.__name__]
    return [line for line in lines if line.startswith(f"{title}: ")]


def test_scan_transcode_embed_and_build_say_how_far_they_are(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(progress, "EVERY_SEC", 0.0005)  # two videos may be embedded in a moment
    table = read_folder(folder)
    with caplog.at_level(logging.INFO):
        scanned = scan_table(table, tmp_path / "t.arrow", ScanConfig(num_workers=1)).table
        transcode_table(table, tmp_path / "fast", TranscodeConfig(num_workers=1))
        embed_mean_colors(scanned, tmp_path / "f.arrow")
    for title, unit in (
        ("looking at files", "files"),
        ("transcoding", "files"),
        ("embedding with pixels", "videos"),
    ):
        lines = said(caplog, title)
        assert lines, title
        assert re.search(rf": [012]/2 {unit}, .*(left|so far)$", lines[-1]), lines[-1]
    last = next(r.getMessage() for r in caplog.records if "peak memory" in r.getMessage())
    assert re.search(r"4 clips in 0:00:\d\d \(0:00:02 of video, [\d.e+]+ times real time\)", last)


def embed_mean_colors(table: object, out: Path) -> None:
    """With windows that cover the videos."""
    module = PixelEncoder(PixelsConfig(num_frames=4, size=1))
    module.preprocess = VideoPreprocess(
        num_frames=4, frame_stride=2, size=16, mean=(0, 0, 0), std=(1, 1, 1)
    )
    module.architecture, module.source = "pixels", {}
    found = Embedder(module, EmbedConfig(num_clips=2, num_workers=0)).embed(table, out)  # type: ignore[arg-type]
    assert np.isfinite(found.features).all()


def test_transcoding_tells_how_far_a_file_is(tmp_path: Path) -> None:
    """The beats of the child carry the share and the seconds; here in one process, written down."""
    from video_ssl.clips.upkeep import transcode_file as module
    from video_ssl.clips.upkeep.config import VideoFormat

    write_video(tmp_path / "a.mp4", seed=1)
    heard: list[tuple[float, float]] = []
    record = read_folder(tmp_path).record(0)
    task = module.Transcode(record=record, target=tmp_path / "new" / "a.mp4", format=VideoFormat())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "beat", lambda *reached: heard.append(reached))
        module.transcode_file(task)
    shares, seconds = zip(*heard, strict=True)
    assert shares == pytest.approx([n / 12 for n in range(1, 13)])
    assert seconds == pytest.approx([n / 12 for n in range(12)], abs=1e-3)


def test_packing_says_how_far_it_is(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    pytest.importorskip("array_record", reason="array_record is not installed")
    from video_ssl.datasets.build import array_record

    write = array_record._write_shard
    monkeypatch.setattr(progress, "EVERY_SEC", 0.005)

    def slowly(*args: object) -> None:
        time.sleep(0.1)
        write(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(array_record, "_write_shard", slowly)
    with caplog.at_level(logging.INFO):
        array_record.build_array_records({"train": read_folder(folder)}, tmp_path / "packed")
    assert said(caplog, "packing")[0].startswith("packing: 0/2 videos, ")


@pytest.mark.parametrize("columns", [None, "60", "30"])
@pytest.mark.parametrize("ks", [(5, 10), (1, 5, 10, 20, 30, 40, 50)])
def test_tables_in_a_pipe_are_not_cut_off(monkeypatch, capsys, columns, ks):
    """Was wrong: at 80 columns "retrieval R@5" and "retrieval R@10" were both "retrieva…", and numbers "27.1 (…"."""
    monkeypatch.delenv("COLUMNS", raising=False)
    if columns is not None:
        monkeypatch.setenv("COLUMNS", columns)
    metrics = {f"R@{k}": 0.271 for k in ks}
    part = {"metrics": metrics, "details": {}, "total": 100}
    encoders = {f"encoder number {n}": {"results": {"retrieval": part}} for n in range(9)}
    found = {"name": "long", "recipe": {"test": "videos"}, "encoders": encoders}
    console_for_tables().print(results_table(found))
    said = capsys.readouterr().out
    assert "…" not in said
    if columns is None:
        assert all(name in said for name in (*metrics, "retrieval"))
