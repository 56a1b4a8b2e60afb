"""One table of all benches: ratios of what they wrote, failures that are told, nobody's file replaced, Ctrl-C."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import tiny_runs
from typer.testing import CliRunner

from video_ssl.bench import whole_table
from video_ssl.bench.config import AllBench, EmbedBench, EvaluateBench, RetrieveBench
from video_ssl.bench.embedding import bench_embed
from video_ssl.bench.evaluation import bench_evaluate
from video_ssl.bench.footage import FOOTAGE, Footage
from video_ssl.bench.loader import bench_loader
from video_ssl.bench.processes import bench_retrieve
from video_ssl.bench.step import bench_step
from video_ssl.bench.whole_table import Bench, Row, benches_of
from video_ssl.cli import app
from video_ssl.files import made_by
from video_ssl.pretrain.recipe import load_pretrain_recipe

#: What a bench of these tests does, told by its first word.
SCRIPTS = {
    "fine": "import json, sys; json.dump({'ours': 3.0, 'theirs': 2.0}, open(sys.argv[1], 'w'))",
    "slow": "import json, sys; json.dump({'ours': 1234.5, 'theirs': 0.4321}, open(sys.argv[1], 'w'))",
    "broken": "print('loading'); print('what | went wrong'); raise SystemExit(3)",
    "silent": "raise SystemExit(4)",
    "empty": "print('I have forgotten them')",
}


def read(content):
    return [Row(what="a thing", peer="its floor", **content)]


@pytest.fixture
def run(monkeypatch):
    """Runs `bench all` with benches by name in place of the real ones."""

    def invoke(names, *words):
        benches = [Bench(words=(name,), read=read) for name in names]
        monkeypatch.setattr(whole_table, "benches_of", lambda config, steps: benches)
        monkeypatch.setattr(
            Bench,
            "leaving",
            lambda bench, path: [sys.executable, "-S", "-c", SCRIPTS[bench.words[0]], str(path)],
        )
        return CliRunner().invoke(app, ["bench", "all", *words])

    return invoke


def test_the_table_is_markdown_with_the_machine_above(run):
    done = run(["fine", "fine"])
    assert done.exit_code == 0, done.output
    above, _, head, line, *rows = done.stdout.splitlines()
    assert re.search(r"\d+ cores, torch \d.*OMP_NUM_THREADS .*, \d{4}-\d\d-\d\d", above)
    assert head == "| what | ours | floor or peer | ratio | command |"
    assert line == "| --- | --- | --- | --- | --- |"
    assert rows == ["| a thing | 3 ms | its floor: 2 ms | 1.50 | `video-ssl bench fine` |"] * 2


def test_numbers_are_written_as_people_read_them(run):
    row = run(["slow"], "--repeats", "1").stdout.splitlines()[-1]
    assert row == (
        "| a thing | 1,234 ms | its floor: 0.432 ms | 2856.98 | `video-ssl bench slow` |"
    )


def test_a_bench_that_fails_is_told_and_ends_no_other(run):
    done = run(["broken", "silent", "empty", "fine"])
    assert done.exit_code == 1
    lines = done.stdout.splitlines()
    assert sum(line.startswith("| a thing") for line in lines) == 1
    told = [line for line in lines if line.startswith("FAILED")]
    assert told[0] == "FAILED: `video-ssl bench broken`: code 3: what | went wrong"
    assert told[1] == "FAILED: `video-ssl bench silent`: code 4: it said nothing"
    assert "left no figures" in told[2]
    assert "I have forgotten them" in told[2]


def test_the_file_is_the_table_and_only_ours_is_replaced(run, tmp_path):
    out = tmp_path / "new" / "figures.md"
    for name in ("broken", "fine"):
        done = run([name], "--out", str(out))
        mark, table = out.read_text().split("\n", 1)
        assert table == done.stdout
        assert mark.startswith("<!--")
        assert mark.endswith("-->")
    assert made_by(out) == "bench all"
    notes = tmp_path / "notes.md"
    notes.write_text("# mine\n")
    refused = run(["fine"], "--out", str(notes))
    assert refused.exit_code == 2
    assert "was not made by `video-ssl bench all`" in refused.output
    assert "a thing" not in refused.output
    assert notes.read_text() == "# mine\n"


def test_what_is_run_is_what_the_table_names():
    benches = benches_of(AllBench(repeats=2, folder=Path("my footage")), ["mvd/demo"])
    assert [bench.words[0] for bench in benches] == [
        *("start", "loader", "embed", "evaluate", "retrieve", "step"),
    ]
    command = benches[2].command
    assert command == ("video-ssl bench embed --footage easy --repeats 2 --folder 'my footage'")
    for bench in benches:
        *begin, flag, path = bench.leaving(Path("f.json"))
        assert begin[1:4] == ["-m", "video_ssl", "bench"]
        assert (flag, path) == ("--json" if bench.words[0] == "loader" else "--out", "f.json")


def test_every_command_parses(tmp_path):
    """Words of the flags as they are; nothing is run."""
    import typer

    group = typer.main.get_command(app).commands["bench"]
    for bench in benches_of(AllBench(folder=tmp_path), ["mvd/demo"]):
        verb, *words = bench.leaving(tmp_path / "f.json")[4:]
        assert verb == bench.words[0]
        given = group.commands[verb].make_context(verb, words).params
        if "repeats" in given:
            assert given["repeats"] == AllBench.repeats


def test_an_unknown_recipe_is_told_before_anything_is_run(run):
    done = run(["fine"], "--steps", "mvd/demo, mvd/dmeo")
    assert done.exit_code == 2
    assert "Did you mean 'mvd/demo'?" in done.output
    assert "a thing" not in done.output
    with pytest.raises(ValueError, match="repeats=0 must be at least 1"):
        AllBench(repeats=0)


def test_rows_are_read_from_what_the_benches_write(tmp_path, monkeypatch):
    """In small: the file of each bench, through the reader that `bench all` has for it."""
    folder = tmp_path / "videos"
    folder.mkdir()
    tiny_runs.write_video(folder / "0.mp4", seed=0)
    kind = Footage(name="tiny", size=(48, 64), gop=12, noise=0, num_files=1)
    monkeypatch.setitem(FOOTAGE, "easy", [kind])
    files = {
        verb: tmp_path / f"{verb}.json" for verb in ("loader", "embed", "evaluate", "retrieve")
    }
    files["step"] = tmp_path / "step.json"
    recipe = load_pretrain_recipe("videomae/demo", ["training.device=cpu"])
    bench_loader(
        recipe,
        footage="easy",
        folder=tmp_path / "f",
        num_batches=0,
        num_records=1,
        repeats=1,
        json_path=files["loader"],
    )
    small = EmbedBench(footage=str(folder), num_frames=4, size=16, repeats=1)
    (embedded,) = bench_embed(small, json_path=files["embed"])
    tiny = EvaluateBench(
        rows=60, dim=4, classes=2, test_rows=9, heads=1, repeats=1, folder=tmp_path / "f"
    )
    evaluated = bench_evaluate(tiny, json_path=files["evaluate"])
    searched = bench_retrieve(
        RetrieveBench(queries=5, gallery=50, width=4, repeats=1), json_path=files["retrieve"]
    )
    (step,) = bench_step(recipe, batch_size=1, steps=1, warmup=0, json_path=files["step"])
    readers = {bench.words[0]: bench.read for bench in benches_of(AllBench(), ["videomae/demo"])}
    rows = {verb: readers[verb](json.loads(path.read_text())) for verb, path in files.items()}
    assert [row.peer.split(":")[0] for row in rows["loader"]] == [
        *("decoding what must be decoded", "plain loop"),
    ]
    assert rows["embed"][0].ratio == pytest.approx(embedded.over_floor)
    assert rows["embed"][1].ratio == pytest.approx(1 / embedded.speedup)
    assert [row.ratio for row in rows["evaluate"]] == [c.ratio for c in evaluated.comparisons]
    assert rows["retrieve"][0].ratio == pytest.approx(searched[1].ratio)
    assert rows["step"][0].ratio == pytest.approx(1 / step.chip_share)


def test_the_floor_of_a_training_is_a_process_that_trains():
    """The five rows of `bench start`: two yardsticks, the version beside the first, trainings beside the second."""
    content = [{"name": f"n{i}", "cpu_sec": float(i)} for i in range(1, 6)]
    rows = whole_table._start_rows({"processes": content})
    assert [(row.what, row.peer[:9], row.ratio) for row in rows] == [
        ("n3", "n1", 3.0),
        ("n4", "a process", 2.0),
        ("n5", "a process", 2.5),
    ]


STOPPED = """
import sys
from pathlib import Path
from video_ssl.bench import whole_table
from video_ssl.bench.config import AllBench
from video_ssl.errors import one_sentence

child = '''
import os, subprocess, sys, time
own = subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(600)"])
open("pids", "w").write(f"{os.getpid()} {own.pid}")
time.sleep(600)
'''
whole_table.Bench.leaving = lambda bench, path: [sys.executable, "-S", "-c", child]
with one_sentence():
    whole_table.bench_all(AllBench(), markdown_path=Path("figures.md"))
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_the_bench_and_all_that_it_has_started(tmp_path, number, code):
    process = subprocess.Popen(
        [sys.executable, "-c", STOPPED], cwd=tmp_path, stdout=subprocess.PIPE, text=True
    )
    until = time.monotonic() + 120
    while not (tmp_path / "pids").exists() or not (tmp_path / "pids").read_text():
        assert time.monotonic() < until
        assert process.poll() is None
        time.sleep(0.05)
    pids = [int(word) for word in (tmp_path / "pids").read_text().split()]
    assert [os.getpgid(pid) for pid in pids] == [pids[0]] * 2
    process.send_signal(number)
    assert process.wait(timeout=60) == code
    assert not [pid for pid in pids if psutil.pid_exists(pid) and not ended(pid)]
    assert process.stdout.read() == ""
    assert not (tmp_path / "figures.md").exists()


def ended(pid):
    """A process that nobody has waited for yet has ended too."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True
