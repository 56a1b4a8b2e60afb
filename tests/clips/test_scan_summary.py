"""What `scan` sums up of the files it has looked at."""

from __future__ import annotations

import logging
import shutil

from colored_videos import write_video

from video_ssl.bench.odd_videos import write_odd_video
from video_ssl.clips.upkeep.config import ScanConfig
from video_ssl.clips.upkeep.scan import scan_table
from video_ssl.clips.upkeep.summary import same_contents
from video_ssl.datasets.folder import read_folder
from video_ssl.datasets.table import Table


def scan(folder, out, caplog):
    with caplog.at_level(logging.INFO):
        result = scan_table(read_folder(folder), out, ScanConfig(num_workers=1), progress=False)
    return result, [r.message.strip() for r in caplog.records if r.message.startswith("  ")]


def test_a_scan_says_how_the_videos_are_and_what_is_odd(tmp_path, caplog):
    folder = tmp_path / "my vidéos"
    folder.mkdir()
    for number in range(3):
        write_video(folder / f"plain{number}.mp4", 12, (90 * number, 60, 60), number)
    shutil.copy(folder / "plain1.mp4", folder / "again.mp4")
    odd = [name for name in ("rotated_90.mp4", "one_frame.mp4") if write_odd_video(folder, name)]
    assert len(odd) == 2
    _, told = scan(folder, tmp_path / "a.arrow", caplog)
    assert told[0].startswith("length   0.")
    assert any(line.startswith("codecs   ") and "h264" in line for line in told)
    assert any("one frame only: 1 (one_frame.mp4)" in line for line in told)
    assert any("turned (shown upright): 1 (rotated_90.mp4)" in line for line in told)
    assert [line for line in told if line.startswith("copies")] == [
        "copies   again.mp4, plain1.mp4"
    ]


def test_ordinary_videos_have_nothing_odd(tmp_path, caplog):
    (tmp_path / "videos").mkdir()
    for number in range(2):
        write_video(tmp_path / "videos" / f"{number}.mp4", 12, (90 * number, 60, 60), number)
    result, told = scan(tmp_path / "videos", tmp_path / "a.arrow", caplog)
    assert [line.split()[0] for line in told] == ["length", "codecs", "sizes", "rates", "sound"]
    twice = [
        {"id": f"{n}", "source": str(tmp_path / "videos" / "0.mp4"), "start_sec": n * 0.5}
        for n in (0, 1)
    ]
    assert same_contents(Table.from_rows(twice)) == []  # two segments of one file
    assert len(result.table) == 2
