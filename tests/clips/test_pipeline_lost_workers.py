"""A file that takes data workers down is found, named and left out, and the batches are those of a run without it."""

import json
import logging
import os
import signal
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from pipeline_plans import DyingPlan, LateDyingPlan, PickyPlan, SlowPlan

from video_ssl.clips.decoders.reader import BadVideo
from video_ssl.clips.pipeline import LoaderConfig, Pipeline
from video_ssl.clips.processes.in_flight import InFlightBoard, at_record
from video_ssl.clips.processes.workers import WorkerDied
from video_ssl.clips.samples import TooManyBadVideos
from video_ssl.datasets.table import Table

NAMES = ["gop12.mp4", "gop250.mp4", "audio.mp4", "matroska.mkv", "h264.avi"]
# Of a file, in the tests of hangs: three times as long passes until the worker is ended.
LIMIT_SEC = 1.0


@pytest.fixture
def table(videos):
    sources = [str(videos / name) for name in NAMES]
    return Table.from_columns({"source": sources, "id": [f"v{i}" for i in range(len(sources))]})


def run(table, plan, *, num_workers=1, steps=8, batch=3, seed=2, **settings):
    config = LoaderConfig(
        num_workers=num_workers,
        max_bad_share=settings.pop("max_bad_share", 1.0),
        video_timeout_sec=settings.pop("video_timeout_sec", 60.0),
        max_restarts=settings.pop("max_restarts", 10),
    )
    with Pipeline([(table, 1.0)], plan, seed=seed, global_batch_size=batch, num_steps=steps, config=config,
                  **settings) as p:  # fmt: skip
        return list(p), p.stats


def assert_equal(first, second):
    assert len(first) == len(second) > 0
    for one, other in zip(first, second, strict=True):
        for name in one:
            np.testing.assert_array_equal(one[name], other[name], err_msg=name)


def lines_of(path):
    return [json.loads(text) for text in path.read_text().splitlines()]


@pytest.mark.parametrize(
    ("way", "num_workers", "reason"),
    [
        ("SIGSEGV", 2, "SIGSEGV"),
        ("exit", 1, "exit code 3"),
        ("hang with the interpreter", 1, "hangs the decoder"),
        # twice at the same file: the file it is
        pytest.param("SIGKILL", 1, "SIGKILL", marks=pytest.mark.slow),
    ],
)
def test_a_run_goes_on_without_the_file_that_takes_workers_down(
    table, tmp_path, caplog, way, num_workers, reason
):
    path = tmp_path / "skipped.jsonl"
    with caplog.at_level(logging.WARNING):
        batches, stats = run(
            table, DyingPlan(way, [2]), num_workers=num_workers, skip_log=path,
            video_timeout_sec=LIMIT_SEC if "hang" in way else 60.0,
        )  # fmt: skip
    unreadable, expected = run(table, PickyPlan([2]), num_workers=0)
    assert_equal(batches, unreadable)
    assert stats.bad_samples == expected.bad_samples > 0
    (line,) = lines_of(path)
    assert (line["id"], Path(line["source"]).name) == ("v2", "audio.mp4")
    assert reason in line["reason"]
    assert reason in stats.bad_videos[line["source"]]
    assert "audio.mp4" in caplog.text
    assert "data workers start again" in caplog.text


@pytest.mark.slow
def test_several_files_and_no_worker_or_note_left(table):
    before = {child.pid for child in psutil.Process().children(recursive=True)}
    config = LoaderConfig(num_workers=2, max_bad_share=1.0)
    with Pipeline([(table, 1.0)], DyingPlan("SIGSEGV", [1, 4]), seed=2, global_batch_size=3, num_steps=6,
                  config=config) as p:  # fmt: skip
        batches = list(p)
        folder = p._board.folder
    assert_equal(batches, run(table, PickyPlan([1, 4]), num_workers=0, steps=6)[0])
    assert not os.path.exists(folder)
    assert {
        c.pid for c in psutil.Process().children(recursive=True) if c.name() == "python"
    } <= before


def test_a_resumed_run_keeps_to_what_was_banned_and_from_when(table, tmp_path):
    path = tmp_path / "skipped.jsonl"
    plan = LateDyingPlan(2)
    whole, _ = run(table, plan, steps=12, skip_log=path)
    (line,) = lines_of(path)
    assert 0 < line["step"] < 10
    used = [2 in batch["record_index"] for batch in whole]
    assert any(used[: line["step"]]), "before it crashed the file was used"
    assert not any(used[line["step"] :])
    for start, num_workers in (
        (2, 1),
        (9, 0),
    ):  # without its notes the second would end this process
        tail, stats = run(
            table, plan, steps=12, start_step=start, num_workers=num_workers, skip_log=path
        )
        assert_equal(whole[start:], tail)
        assert stats.bad_samples > 0
    assert len(lines_of(path)) == 1


def test_a_ban_of_another_host_is_not_ours_unless_their_number_changed(table, tmp_path):
    path = tmp_path / "skipped.jsonl"
    line = {
        "id": "v2",
        "source": table.record(2).source,
        "reason": "crashes.",
        "step": 0,
        "table": 0,
        "row": 2,
    }
    path.write_text(json.dumps({**line, "host": [1, 2]}) + "\n")

    def uses_it(host):
        batches, _ = run(table, PickyPlan([]), num_workers=0, batch=4, host=host, skip_log=path)
        return any(2 in batch["record_index"] for batch in batches)

    assert uses_it((0, 2))
    assert not uses_it((1, 2))
    assert not uses_it((0, 1))
    path.write_text(json.dumps({**line, "host": [0, 1], "source": "other.mp4"}) + "\n")
    assert uses_it((0, 1)), "the table has changed, row 2 is another file now"


def test_evaluation_names_the_file_instead_of_going_on(table):
    with pytest.raises(
        BadVideo, match=r"audio\.mp4: takes the data worker that reads it down \(SIGSEGV\)"
    ):
        run(table, DyingPlan("SIGSEGV", [2]), on_bad="raise", shuffle=False)


def test_the_number_of_restarts_is_bounded(table):
    with pytest.raises(WorkerDied, match=r"SIGSEGV.*loader\.max_restarts=1"):
        run(table, DyingPlan("SIGSEGV", [0, 1, 2]), max_restarts=1)


def test_files_that_crash_count_as_bad_ones(table):
    with pytest.raises(TooManyBadVideos, match="SIGSEGV"):
        run(table, DyingPlan("SIGSEGV", [2]), steps=40, batch=5, max_bad_share=0.1)


def take(p, count):
    return [next(p) for _ in range(count)]


def kill_a_worker(p):
    next(p)
    limit = time.monotonic() + 300
    while all(p._board.place_of(pid) is None for pid in p.worker_pids):
        assert time.monotonic() < limit
    pids = p.worker_pids
    (pid, *_) = [pid for pid in pids if p._board.place_of(pid) is not None]
    os.kill(pid, signal.SIGKILL)
    return pids


@pytest.mark.slow
def test_workers_killed_from_outside_again_and_again_end_the_run_in_bounded_time(table):
    """The system does so when memory runs out; at which file is chance."""
    many = Table.from_columns({"source": [table.record(i % 5).source for i in range(1000)]})
    config = LoaderConfig(num_workers=2, prefetch_batches=1)
    begin = time.monotonic()
    with Pipeline(
        [(many, 1.0)], SlowPlan(0.05), seed=0, global_batch_size=2, num_steps=1000, config=config
    ) as p:
        kill_a_worker(p)
        take(p, 4)  # once is forgiven
        pids = kill_a_worker(p)
        with pytest.raises(WorkerDied, match=r"SIGKILL.*ran out of memory"):
            take(p, 50)
        assert not p.stats.bad_videos
    assert time.monotonic() - begin < 300
    assert not any(psutil.pid_exists(pid) for pid in pids)


def test_the_board_keeps_the_place_of_a_process():
    board = InFlightBoard()
    assert board.place_of(os.getpid()) is None
    with at_record(board.folder, (1, 2**40)):
        assert board.place_of(os.getpid()) == (1, 2**40)
    assert board.place_of(os.getpid()) is None
    with pytest.raises(KeyError), at_record(board.folder, (0, 7)):
        raise KeyError
    assert board.place_of(os.getpid()) is None
    board.remove()
    assert not os.path.exists(board.folder)
