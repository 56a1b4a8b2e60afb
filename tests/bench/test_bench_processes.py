"""Whole processes beside yardsticks: what is measured is what ran, and failures are told."""

from __future__ import annotations

import json
import sys

import pytest
from typer.testing import CliRunner

from video_ssl.bench import processes
from video_ssl.bench.config import RetrieveBench, StartBench
from video_ssl.bench.processes import bench_retrieve
from video_ssl.cli import app


def test_a_process_is_charged_for_what_it_does():
    """Half a second of work and 200 MiB show; sleeping costs time on the clock alone."""
    work = "import time\nx = bytearray(200 * 2**20)\nwhile time.process_time() < 0.5: pass"
    busy = processes._run([sys.executable, "-c", work])
    assert 0.5 <= busy.processor_sec <= busy.wall_sec + 0.1
    assert busy.peak_gib > 0.2
    idle = processes._run([sys.executable, "-S", "-c", "import time; time.sleep(0.4)"])
    assert idle.processor_sec < 0.4 <= idle.wall_sec
    assert idle.peak_gib < 0.1  # not that of the process that measures


def test_a_process_that_fails_is_told_with_its_last_words():
    with pytest.raises(RuntimeError, match=r"code 3: (?s:.*)what went wrong"):
        processes._run([sys.executable, "-c", "print('what went wrong'); raise SystemExit(3)"])


def test_retrieval_beside_numpy(tmp_path, capsys):
    out = tmp_path / "new" / "figures.json"
    config = RetrieveBench(queries=20, gallery=5000, width=8, repeats=1)
    yardstick, ours = bench_retrieve(config, json_path=out)
    assert (yardstick.ratio, ours.ratio) == (1.0, pytest.approx(ours.cpu_sec / yardstick.cpu_sec))
    assert "20 in 5,000 vectors of 8" in capsys.readouterr().out
    (first, second) = json.loads(out.read_text())["processes"]
    assert first["name"].startswith("numpy")
    assert second["peak_mib"] > 50


@pytest.mark.slow
def test_the_start_of_a_training(tmp_path):
    done = CliRunner().invoke(
        app, ["bench", "start", "--repeats", "1", "--out", str(tmp_path / "o.json")]
    )
    assert done.exit_code == 0, done.output
    rows = json.loads((tmp_path / "o.json").read_text())["processes"]
    assert len(rows) == 5
    assert rows[3]["cpu_sec"] > rows[0]["cpu_sec"]


@pytest.mark.parametrize("make", [lambda: StartBench(repeats=0), lambda: RetrieveBench(gallery=0)])
def test_settings_that_cannot_be(make):
    with pytest.raises(ValueError, match="must be at least 1"):
        make()
