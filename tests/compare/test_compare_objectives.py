"""`compare RECIPE`: objectives with the same budget, from videos to the page."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from browser import Browser, needs_browser
from typer.testing import CliRunner

from video_ssl.cli import app
from video_ssl.compare import costs, objectives, running, shares
from video_ssl.compare.cells import Cell, cells_of, costs_of
from video_ssl.compare.costs import Cost, clips_of, cost_of, operations_of, planned
from video_ssl.compare.objectives import _scales, compare_objectives
from video_ssl.compare.recipe import is_comparison, load_comparison
from video_ssl.compare.shares import Share, shares_of_machine
from video_ssl.errors import AlreadyReported
from video_ssl.launch.errors import LaunchError
from video_ssl.locks import alone
from video_ssl.pretrain.run import fit_batch, open_streams
from video_ssl.recipes import ConfigError, list_recipes, to_yaml

#: The comparison that most of these look at is twelve trainings, each a process of its own.
pytestmark = pytest.mark.timeout(1800)

SMALL = {
    "clip": {"num_frames": 4, "frame_stride": 2},
    "crop": {"size": 16},
    "encoder": {"preset": None, "embed_dim": 32, "depth": 1, "num_heads": 2, "patch_size": 8},
    "decoder": {"embed_dim": 32, "depth": 1, "num_heads": 2},
}


def trained(folder: Path, table: Path, name: str, **changes: object) -> Path:
    """The file of a pretrain recipe that takes a second."""
    image = {key: value for key, value in SMALL.items() if key != "clip"}
    content = {
        "objective": {"name": name, **(SMALL if name == "videomae" else image), **changes},
        "data": {"table": str(table)},
        "loader": {"num_workers": 0},
        "training": {
            "duration": "40 steps",
            "global_batch_size": 4,
            "device": "cpu",
            "log_every": 1,
        },
        "optimizer": {"base_lr": 1e-3, "lr_scaling": "none", "warmup": 0},
    }
    file = folder / f"{name}.yaml"
    file.write_text(to_yaml(content))
    return file


def recipe_file(folder: Path, videos: Path, **changes: object) -> Path:
    """A comparison of two objectives and one that cannot be evaluated, in a folder with a space."""
    table = videos / "train.arrow"
    evaluation = folder / "of colors.yaml"
    evaluation.write_text(
        to_yaml(
            {
                "encoders": {"encoder": "{encoder}", "pixels": "pixels:{encoder}@4"},
                "train": str(table),
                "test": str(videos / "test.arrow"),
                "embed": {"num_clips": 1, "num_workers": 0},
                "device": "cpu",
                "evaluators": {
                    "probe": {"poolings": ["clip"], "epochs": 5, "learning_rates": [0.01]},
                    "knn": {"poolings": ["clip"]},
                },
            }
        )
    )
    content = {
        "name": "toys",
        "out": str(folder / "the comparison"),
        "seeds": [0],
        "table": str(table),
        "budget": {"kind": "clips", "amounts": [16, 8]},
        "objectives": {
            "video": {"recipe": str(trained(folder, table, "videomae"))},
            "image": {"recipe": str(trained(folder, table, "mae"))},
            "lost": {"recipe": str(folder / "videomae.yaml"), "words": ["training.device=cuda"]},
        },
        "evaluations": [str(evaluation)],
    }
    for key, value in changes.items():
        content[key] = value
    file = folder / "toys.yaml"
    file.write_text(to_yaml(content))
    return file


@pytest.fixture(scope="module")
def compared(videos, tmp_path_factory):
    """(recipe file, folder, what was said) of a comparison by the command, of one seed and then of two."""
    folder = tmp_path_factory.mktemp("a folder")
    file = recipe_file(folder, videos)
    first = CliRunner().invoke(app, ["compare", str(file)])
    assert first.exit_code == 0, first.output
    made = {
        path: path.stat().st_mtime_ns
        for path in (folder / "the comparison").rglob("seed_0/run/encoder/*")
    }
    at_once = ["--at-once", str(min(2, len(os.sched_getaffinity(0))))]
    second = CliRunner().invoke(app, ["compare", str(file), "seeds=[0, 1]", *at_once])
    assert second.exit_code == 0, second.output
    return file, folder / "the comparison", made, second.output


@pytest.mark.slow
def test_cells_that_are_there_are_kept_and_seeds_are_added(compared):
    _, out, made, _ = compared
    assert made
    assert all(path.stat().st_mtime_ns == when for path, when in made.items())
    runs = sorted(str(p.parent.parent.relative_to(out)) for p in out.rglob("run/encoder"))
    want = [f"cells/{o}/{a}/seed_{s}" for o in ("image", "video") for a in (16, 8) for s in (0, 1)]
    assert runs == sorted(want)


@pytest.mark.slow
def test_every_number_stands_beside_its_seed_its_twin_and_its_command(compared):
    _, out, _, _ = compared
    with open(out / "comparison.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * 2 * 2 * 2  # evaluators, objectives, amounts, seeds
    for row in rows:
        results = out / "cells" / row["objective"] / row["budget"] / f"seed_{row['seed']}"
        found = json.loads((results / "run/evaluate/of colors/results.json").read_text())
        evaluator = row["ability"].partition("/")[2]
        own = found["encoders"]["encoder"]["results"][evaluator]["metrics"]["top1"]
        twin = found["encoders"]["untrained"]["results"][evaluator]["metrics"]["top1"]
        assert (float(row["value"]), float(row["untrained"])) == (own, twin)
        assert f"seed={row['seed']}" in row["commands"]
        assert "video-ssl pretrain" in row["commands"]
        assert found["encoders"]["untrained"]["spec"].endswith(f"@{row['seed']}")


@pytest.mark.slow
def test_what_no_training_changes_is_measured_with_the_first_seed_only(compared):
    _, out, _, _ = compared
    of = {
        seed: json.loads(
            (out / f"cells/video/16/seed_{seed}/run/evaluate/of colors/results.json").read_text()
        )["encoders"]
        for seed in (0, 1)
    }
    assert list(of[0]) == ["encoder", "pixels", "untrained"]
    assert list(of[1]) == ["encoder", "untrained"]


@pytest.mark.slow
def test_all_spend_the_same(compared):
    """The shares that were trained are as many clips for a batch of frames as for one of images."""
    _, out, _, _ = compared
    for objective in ("video", "image"):
        for amount in (8, 16):
            run = out / f"cells/{objective}/{amount}/seed_1/run"
            recipe = yaml.safe_load((run / "recipe.yaml").read_text())
            assert recipe["training"]["scale"] == amount / 160
            lines = (run / "metrics.jsonl").read_text().splitlines()
            steps = [json.loads(line)["step"] for line in lines]
            assert max(steps) * 4 == amount


@pytest.mark.slow
def test_an_objective_that_fails_is_told_and_stops_no_other(compared):
    _, out, _, _said = compared
    found = json.loads((out / "comparison.json").read_text())
    lost = [line for line in found["failed"] if line.startswith("lost, 16, seed 1")]
    assert len(lost) == 1
    assert "cuda" in lost[0]
    assert "lost" not in found["abilities"][0]["rows"]
    assert "Not measured" in (out / "comparison.md").read_text()


@pytest.mark.slow
def test_the_page_says_what_the_tables_say(compared):
    _, out, _, said = compared
    assert said.rstrip().endswith("comparison.html")
    page = (out / "comparison.html").read_text()
    text = (out / "comparison.md").read_text()
    found = json.loads((out / "comparison.json").read_text())
    for ability in found["abilities"]:
        for name, row in ability["rows"].items():
            assert f"| {name} | {100 * row['mean']:.1f} |" in text
            assert f">{100 * row['mean']:.1f}</td>" in page
            assert len(row["values"]) == 2
            low, high = row["interval"]
            assert low <= row["mean"] <= high
    assert "By budget" in page  # two amounts
    assert "raw pixels" in page


@pytest.mark.slow
@needs_browser
def test_the_page_fits_a_phone(compared):
    _, out, _, _ = compared
    with Browser(390, 800) as browser:
        browser.open(out / "comparison.html")
        assert browser.eval("document.documentElement.scrollWidth") <= 390
        assert browser.eval("document.querySelectorAll('svg.dots circle.mean').length") == 4


@pytest.mark.slow
def test_cells_with_other_words_are_not_mixed(compared):
    """Numbers of two different trainings would stand in one row."""
    file, out, _, _ = compared
    with pytest.raises(ConfigError, match=r"another table.*Name another folder"):
        compare_objectives(load_comparison(file, ["table=elsewhere"]))
    with pytest.raises(ConfigError, match=r"budget\.kind"):
        compare_objectives(load_comparison(file, ["budget.kind=operations"]))
    with pytest.raises(ConfigError, match=r"objectives\.video"):
        compare_objectives(load_comparison(file, ["objectives.video.words=[seed=4]"]))
    evaluation = file.parent / "of colors.yaml"
    before = evaluation.read_text()
    try:
        evaluation.write_text(before.replace("epochs: ", "epochs: 1"))
        assert evaluation.read_text() != before
        with pytest.raises(ConfigError, match=r"when the evaluation .* was another"):
            compare_objectives(load_comparison(file, ["seeds=[0, 1]"]))
    finally:
        evaluation.write_text(before)
    assert (out / "comparison.html").is_file()


@pytest.mark.slow
def test_an_evaluation_may_be_added(compared, tmp_path):
    """Was refused: whoever wanted one more number had to train everything again."""
    file, out, made, _ = compared
    copy = tmp_path / "copy"
    shutil.copytree(out, copy)
    more = tmp_path / "more.yaml"
    more.write_text((file.parent / "of colors.yaml").read_text().replace("of colors", "more"))
    words = [f"evaluations=[{file.parent / 'of colors.yaml'}, {more}]", f"out={copy}"]
    words += ["budget.amounts=[8]", "objectives.video.evaluations=null"]
    told = CliRunner().invoke(app, ["compare", str(file), *words])
    assert told.exit_code == 0, told.output
    found = json.loads((copy / "comparison.json").read_text())
    keys = {ability["key"]: set(ability["rows"]) for ability in found["abilities"]}
    assert keys["more/probe"] == keys["of colors/probe"] == {"image", "video"}
    assert all(
        (copy / path.relative_to(out)).stat().st_mtime_ns == when for path, when in made.items()
    )


@pytest.mark.slow
@pytest.mark.parametrize("at_once", [1, 2])
def test_a_comparison_that_is_stopped_stops_its_training_too_and_goes_on(videos, tmp_path, at_once):
    """Was wrong in the first draft: the training went on without anybody, and a second call met its lock."""
    if at_once > len(os.sched_getaffinity(0)):
        pytest.skip("one core")
    budget, seeds = {"kind": "clips", "amounts": [16000]}, list(range(at_once))
    file = recipe_file(tmp_path, videos, budget=budget, seeds=seeds)
    content = yaml.safe_load(file.read_text())
    content["objectives"] = {"video": content["objectives"]["video"]}
    file.write_text(to_yaml(content))
    slow = yaml.safe_load((tmp_path / "videomae.yaml").read_text())
    slow["training"]["duration"] = "4000 steps"
    (tmp_path / "videomae.yaml").write_text(to_yaml(slow))
    command = [sys.executable, "-m", "video_ssl", "compare", str(file), "--at-once", str(at_once)]
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    cells = tmp_path / "the comparison/cells/video/16000"
    runs = [cells / f"seed_{seed}" / "run" for seed in seeds]
    deadline = time.monotonic() + 300
    while not all((run / "metrics.jsonl").is_file() for run in runs):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=600)
    assert process.returncode == 128 + signal.SIGTERM
    assert said.count("goes on where it was") == 1
    told = subprocess.run(["pgrep", "-f", str(cells)], capture_output=True, text=True)
    assert [pid for pid in told.stdout.split() if int(pid) != os.getpid()] == []
    assert not any((run / "encoder").exists() for run in runs)


@pytest.mark.slow
def test_cells_can_be_jobs_of_a_launch(videos, tmp_path):
    """The page is that of cells which were trained here: same places, same evaluations, same numbers."""
    file = recipe_file(tmp_path, videos, budget={"kind": "clips", "amounts": [8]})
    content = yaml.safe_load(file.read_text())
    content["objectives"] = {"video": content["objectives"]["video"]}
    file.write_text(to_yaml(content))
    launched = CliRunner().invoke(app, ["compare", str(file), "--profile", "local"])
    assert launched.exit_code == 0, launched.output
    results = tmp_path / "the comparison/cells/video/8/seed_0/run/evaluate/of colors/results.json"
    there = results.stat().st_mtime_ns
    told = CliRunner().invoke(app, ["compare", str(file)])
    assert told.exit_code == 0, told.output
    assert results.stat().st_mtime_ns == there
    found = json.loads((tmp_path / "the comparison/comparison.json").read_text())
    assert found["trainings"] == {"finished": 1, "all": 1}
    assert found["failed"] == []
    assert found["abilities"][0]["over_videos"]


# Without a training --------------------------------------------------------------------------------


@pytest.fixture
def begun(videos, tmp_path, monkeypatch):
    """(recipe file, folder, names of the cells that calls have run): trainings are left out, cells are there."""
    file = recipe_file(tmp_path, videos, budget={"kind": "clips", "amounts": [8]})
    ran = []

    def run(cell, *_):
        ran.append(cell.name)
        cell.keep(error="left out")

    monkeypatch.setattr(running, "run_cell", run)
    compare_objectives(load_comparison(file))
    return file, tmp_path / "the comparison", ran


def test_a_training_recipe_that_was_edited_is_refused(begun):
    """Was wrong: the words of an objective were compared, and not what its recipe says: cells of two trainings stood
    in one mean."""
    file, out, _ = begun
    compare_objectives(load_comparison(file))
    own = file.parent / "mae.yaml"
    before = own.read_text()
    own.write_text(before.replace("base_lr: 0.001", "base_lr: 0.002"))
    assert own.read_text() != before
    for more in ({}, {"page": True}):
        with pytest.raises(ConfigError, match=r"objectives\.image \(words, or a recipe"):
            compare_objectives(load_comparison(file), **more)
    shutil.rmtree(out / "cells" / "image")
    compare_objectives(load_comparison(file))
    own.write_text(before)
    with pytest.raises(ConfigError, match=r"objectives\.image"):
        compare_objectives(load_comparison(file))


def test_how_soon_batches_come_is_no_edit(begun):
    """Was wrong: a demo that took more loader processes could not be added to a comparison that had begun, though the
    batches are the same to the bit."""
    file, _, _ = begun
    own = file.parent / "mae.yaml"
    content = yaml.safe_load(own.read_text())
    own.write_text(to_yaml(content | {"loader": {"num_workers": "auto", "prefetch_batches": 4}}))
    compare_objectives(load_comparison(file))
    own.write_text(to_yaml(content | {"loader": {"max_bad_share": 0.5}}))
    with pytest.raises(ConfigError, match=r"objectives\.image \(words, or a recipe"):
        compare_objectives(load_comparison(file))


def test_an_objective_that_comes_back_is_the_one_that_it_was(begun):
    """Was wrong: left out for one call, an objective was forgotten, and came back with other words."""
    file, _, _ = begun
    content = yaml.safe_load(file.read_text())
    less = {**content, "objectives": {"image": content["objectives"]["image"]}}
    file.write_text(to_yaml(less))
    compare_objectives(load_comparison(file))
    other = {**content["objectives"]["video"], "words": ["optimizer.base_lr=0.01"]}
    file.write_text(to_yaml({**content, "objectives": {"video": other}}))
    with pytest.raises(ConfigError, match=r"objectives\.video"):
        compare_objectives(load_comparison(file))
    file.write_text(to_yaml(content))
    compare_objectives(load_comparison(file))


def test_a_setting_that_came_later_is_no_change(begun):
    file, out, _ = begun
    kept = json.loads((out / "trainings.json").read_text())
    for part in kept["objectives"]["video"]["recipes"]:
        del part["training"]["shrink_batch"]
    (out / "trainings.json").write_text(json.dumps(kept))
    compare_objectives(load_comparison(file))
    again = json.loads((out / "trainings.json").read_text())
    assert again["objectives"]["video"]["digest"] == kept["objectives"]["video"]["digest"]


@pytest.fixture
def asked(monkeypatch):
    """Objectives whose cost was asked for."""
    found = []

    def cost(_, name):
        found.append(name)
        return Cost(0.0, 160.0)

    monkeypatch.setattr(objectives, "cost_of", cost)
    return found


def test_costs_are_of_what_is_trained(begun, asked):
    """Was wrong: they were known by the words of an objective, and stayed when its recipe changed."""
    file, out, _ = begun
    compare_objectives(load_comparison(file))
    assert asked == []
    shutil.rmtree(out / "cells" / "image")
    own = file.parent / "mae.yaml"
    own.write_text(own.read_text().replace("base_lr: 0.001", "base_lr: 0.002"))
    compare_objectives(load_comparison(file))
    assert asked == ["image"]


def test_an_earlier_comparison_without_trainings_goes_on(begun):
    file, out, _ = begun
    (out / "trainings.json").unlink()
    compare_objectives(load_comparison(file), page=True)
    assert not (out / "trainings.json").exists()
    compare_objectives(load_comparison(file))
    assert set(json.loads((out / "trainings.json").read_text())["objectives"]) == {
        "video",
        "image",
        "lost",
    }


def test_a_page_of_what_is_there_runs_nothing(begun):
    """Was wrong: there was no such call: the one for the page trained every cell that was missing."""
    file, out, ran = begun
    ran.clear()
    (out / "comparison.html").unlink()
    with alone(out / ".lock", lambda: AssertionError):  # another call is at work
        told = CliRunner().invoke(app, ["compare", str(file), "--page"])
    assert told.exit_code == 0, told.output
    assert told.output.rstrip().endswith("comparison.html")
    assert (out / "comparison.html").is_file()
    assert ran == []
    told = CliRunner().invoke(app, ["compare", str(file), f"out={file.parent / 'no'}", "--page"])
    assert told.exit_code != 0
    assert "holds no comparison yet" in " ".join(told.output.split())
    assert not (file.parent / "no").exists()
    told = CliRunner().invoke(app, ["compare", str(file), "--page", "--dry-run"])
    assert told.exit_code == 2


def test_jobs_are_left_alone_and_one_that_is_refused_stops_no_other(begun, monkeypatch, caplog):
    """Was wrong: a call for the page trained cells here that were jobs in a queue, and a profile whose first cell had
    a job already handed over none of the others."""
    file, out, ran = begun
    ran.clear()

    def launch(_, __, words, *, chain):
        if any("/video/" in word for word in words):
            raise LaunchError("a job of it has not ended")
        return "submitted"

    monkeypatch.setattr(objectives, "launch", launch)
    said = compare_objectives(load_comparison(file), profile="slurm").splitlines()
    assert said[:2] == ["submitted", "submitted"]
    assert said[2] == "video, 8, seed 0 was not handed over: a job of it has not ended"
    assert ran == []
    compare_objectives(load_comparison(file))
    assert ran == ["video, 8, seed 0"]
    assert "image, 8, seed 0 is left to its job of the profile slurm" in caplog.text
    assert "- image, 8, seed 0: a job of the profile slurm" in (out / "comparison.md").read_text()
    content = yaml.safe_load(file.read_text())
    file.write_text(to_yaml({**content, "objectives": {"video": content["objectives"]["video"]}}))
    with pytest.raises(LaunchError, match="has not ended"):
        compare_objectives(load_comparison(file), profile="slurm")


def cell_of(folder, *words):
    return Cell("a", 8.0, 0, folder / "cell", words)


def test_what_a_training_took_is_kept_however_it_ended(tmp_path, monkeypatch):
    """Was wrong: attempts that failed or were stopped were free, and the cost on the page was that of the last one."""
    cell = cell_of(tmp_path, "pretrain", "no/such/recipe")
    running.run_cell(cell)
    once = cell.state()["training"]["processor_sec"]
    assert cell.state()["error"].startswith("training ended with code")
    assert once > 0
    really = running._wait_for

    def stopped(process, commands):
        commands.stop(signal.SIGTERM, send=False)
        really(process, commands)

    monkeypatch.setattr(running, "_wait_for", stopped)
    with pytest.raises(AlreadyReported):
        running.run_cell(cell)
    assert cell.state()["training"]["processor_sec"] > 1.3 * once
    assert costs_of([cell]) == {}  # not trained yet
    (cell.run / "encoder").mkdir(parents=True)
    (cell.run / "encoder" / "config.json").write_text("{}")
    assert costs_of([cell])["a"][0].processor_sec == cell.state()["training"]["processor_sec"]


def test_cells_side_by_side_have_cores_of_their_own(tmp_path, monkeypatch):
    """Two meet, so they run at the same time; what a cell is given is confined to its share."""
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("one core")
    met, seen, written = threading.Barrier(2, timeout=60), {}, []

    def run(cell, commands, env):
        assert commands.stopped is None
        met.wait()
        seen[cell.objective] = os.sched_getaffinity(0)

    monkeypatch.setattr(running, "run_cell", run)
    cells = [Cell(name, 8.0, 0, tmp_path / name, ()) for name in "abcd"]
    before = os.sched_getaffinity(0)
    running.run_side_by_side(cells, shares_of_machine(2), done=lambda: written.append(1))
    assert os.sched_getaffinity(0) == before
    assert sorted(seen) == list("abcd")
    assert len(written) == 4
    assert len(set(map(frozenset, seen.values()))) == 2
    first, second = set(map(frozenset, seen.values()))
    assert not first & second
    assert len(first) == len(second) == len(before) // 2


def test_what_breaks_beside_others_is_heard_of(tmp_path, monkeypatch):
    """A full disk, say: nothing hangs, and no further cell is begun."""
    begun = []

    def run(cell, *_):
        begun.append(cell.objective)
        raise OSError("no space left")

    monkeypatch.setattr(running, "run_cell", run)
    cells = [Cell(name, 8.0, 0, tmp_path / name, ()) for name in "abcd"]
    with pytest.raises(OSError, match="no space left"):
        running.run_side_by_side(cells, shares_of_machine(1), done=lambda: None)
    assert begun == ["a"]


def test_a_page_that_breaks_ends_the_other_cells(tmp_path, monkeypatch):
    """Was wrong in the first draft: nobody heard of it before all cells had ended."""
    begun = []

    def run(cell, commands, _):
        begun.append(cell.objective)
        for _ in range(1000 if len(begun) > 1 else 0):  # the second is at work until it is stopped
            if commands.stopped is not None:
                raise running.Stopped
            time.sleep(0.01)

    def done():
        raise OSError("no space left")

    monkeypatch.setattr(running, "run_cell", run)
    cells = [Cell(name, 8.0, 0, tmp_path / name, ()) for name in "abcd"]
    with pytest.raises(OSError, match="no space left"):
        running.run_side_by_side(cells, shares_of_machine(1), done=done)
    assert begun in (["a"], ["a", "b"])


def test_an_index_error_of_a_cell_is_not_the_end_of_the_list(tmp_path, monkeypatch):
    def run(*_):
        raise IndexError("out of range")

    monkeypatch.setattr(running, "run_cell", run)
    cells = [Cell("a", 8.0, 0, tmp_path / "a", ())]
    with pytest.raises(IndexError, match="out of range"):
        running.run_side_by_side(cells, shares_of_machine(1), done=lambda: None)


def test_shares_of_cores_and_of_gpus(tmp_path, monkeypatch):
    cores = sorted(os.sched_getaffinity(0))
    with pytest.raises(ConfigError, match=rf"--at-once {len(cores) + 1}: give 1 to {len(cores)}"):
        shares_of_machine(len(cores) + 1)
    with pytest.raises(ConfigError, match="--at-once 0"):
        shares_of_machine(0)
    monkeypatch.setattr(shares, "_cores", lambda: (0, 1, 2, 3, 5))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert shares_of_machine(2) == [Share((0, 1)), Share((2, 3))]
    assert shares_of_machine(1)[0].environment() is None
    listing = tmp_path / "nvidia-smi"
    listing.write_text("#!/bin/sh\necho 'GPU 0: one (UUID: x)'\necho 'GPU 1: another (UUID: y)'\n")
    listing.chmod(0o755)
    assert [share.gpu for share in shares_of_machine(3)] == ["0", "1", "0"]
    assert shares_of_machine(2)[1].environment()["CUDA_VISIBLE_DEVICES"] == "1"
    assert shares_of_machine(1) == [Share((0, 1, 2, 3, 5))]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4, GPU-7")
    assert [share.gpu for share in shares_of_machine(2)] == ["4", "GPU-7"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert shares_of_machine(2)[0].gpu is None


def test_at_once_goes_with_trainings_here():
    for words in (["demo", "--profile", "local"], ["runs/a", "runs/b"]):
        told = CliRunner().invoke(app, ["compare", *words, "--at-once", "2"])
        assert told.exit_code == 2
        assert "--at-once" in told.output


def test_a_misspelt_comparison_is_no_encoder():
    """Was wrong: "takes two encoders or more", or that --dry-run is for comparisons."""
    for words in (["bvet", "seeds=[0]"], ["bvet", "--dry-run"]):
        told = CliRunner().invoke(app, ["compare", *words])
        assert told.exit_code
        assert "Did you mean 'bevt'?" in f"{told.output}{told.exception}"
        assert "protocols" in f"{told.output}{told.exception}"


def test_amounts_that_agree_in_six_digits_are_two(videos, tmp_path):
    """Was wrong: both in one folder, so that the second counted as finished when the first was."""
    budget = {"kind": "clips", "amounts": [1234567, 1234568]}
    file = recipe_file(tmp_path, videos, budget=budget)
    recipe = load_comparison(file)
    scales = {("video", amount): 1.0 for amount in recipe.budget.amounts}
    cells = list(cells_of(recipe, scales))
    assert len({cell.folder for cell in cells}) == len({cell.name for cell in cells}) == 2


def test_every_recipe_at_its_own_length(videos, tmp_path):
    """Nothing is run or counted for that: the shares are the amounts."""
    budget = {"kind": "lengths", "amounts": [1, 0.25]}
    file = recipe_file(tmp_path, videos, budget=budget)
    lines = compare_objectives(load_comparison(file), dry_run=True).splitlines()
    assert "finished: 0 of 6" in lines
    recipe = load_comparison(file)
    scales = _scales(recipe, {"video": cost_of(recipe, "video")}, {})
    assert scales == {("video", 1.0): 1.0, ("video", 0.25): 0.25}


def test_a_budget_becomes_a_share_of_a_length():
    assert Cost(0, 160).scale_for(16) == 0.1
    assert Cost(10, 100).scale_for(35) == 0.25
    assert Cost(0, 3).scale_for(1) == 0.3333  # never more than the budget
    assert Cost(0, 0.5).scale_for(1234.5) == 2469
    with pytest.raises(ValueError, match="spent before the first step"):
        Cost(10, 100).scale_for(9)


def test_clips_and_operations_count_the_stages_too(videos, tmp_path):
    """A student whose teachers are trained for it costs what all three cost."""
    words = [f"data.table={videos / 'train.arrow'}", "loader.num_workers=0"]
    whole = planned("mvd/demo", words)
    teachers = [clips_of(planned(name, words)) for name in ("mae/demo", "videomae/demo")]
    given = [f"objective.{t}.source={{recipe: null, run: r}}" for t in ("image", "video")]
    alone = planned("mvd/demo", [*words, *given])
    assert clips_of(whole) == sum(teachers) + clips_of(alone)
    assert all(clips > 1000 for clips in teachers)
    part = planned("mvd/demo", words, scale=0.1)
    assert clips_of(part) == pytest.approx(clips_of(whole) / 10, rel=0.02)


def test_operations_are_those_of_the_batch_that_is_trained(videos, tmp_path, monkeypatch):
    """Was wrong: a recipe with `shrink_batch` on few videos was charged for the batch that it does not have, and got a
    fraction of the steps of the others."""
    asked = []

    class Pool:
        def __init__(self, *_, **__):
            pass

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def submit(self, _, content):
            asked.append(content["training"]["global_batch_size"])
            return SimpleNamespace(result=lambda: 400.0)  # of a step of 4 records

    monkeypatch.setattr(costs, "ProcessPoolExecutor", Pool)
    file = trained(tmp_path, videos / "train.arrow", "videomae")
    words = ["training.global_batch_size=64", "training.shrink_batch=true"]
    recipe = planned(str(file), words)
    batch = fit_batch(recipe, open_streams(recipe))[0].training.global_batch_size
    assert batch < 64
    assert operations_of(recipe) == 40 * batch * 100
    assert asked == [batch]


@pytest.mark.slow
def test_operations_grow_with_the_length(videos, tmp_path):
    file = trained(tmp_path, videos / "train.arrow", "videomae")
    half, whole = (operations_of(planned(str(file), [], scale=scale)) for scale in (0.5, 1.0))
    assert whole == 2 * half > 1e6


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["seeds=[]"], "at least one"),
        (["seeds=[1, 1]"], "different numbers"),
        (["budget.amounts=[0]"], "above 0"),
        (["budget.amounts=[5, 5]"], "twice"),
        (["budget.kind=hours"], "clips"),
        (["objectives.video.recipe=mvd/dmeo"], "no recipe 'mvd/dmeo'"),
        (["objectives.video.evaluations=[probe]"], "none of the comparison's"),
        (["objectives={'../x': {recipe: mvd/demo}}"], "becomes a folder"),
        (["objectives={Video: {recipe: mvd/demo}, video: {recipe: mvd/demo}}"], "upper and lower"),
        (["evaluation=[demo]"], "evaluations"),
        (["evaluations=[demo, a/demo.yaml]"], "same name"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_written(videos, tmp_path, words, said):
    file = recipe_file(tmp_path, videos)
    with pytest.raises(ConfigError, match=said):
        compare_objectives(load_comparison(file, words))
    assert not (tmp_path / "the comparison").exists()


def test_a_dry_run_writes_nothing(videos, tmp_path):
    file = recipe_file(tmp_path, videos)
    told = CliRunner().invoke(app, ["compare", str(file), "--dry-run"])
    assert "3 objectives x 1 seeds x 2 budgets = 6 trainings" in told.output
    assert not (tmp_path / "the comparison").exists()


def test_somebody_elses_folder_is_left_alone(videos, tmp_path):
    from video_ssl.files import OutputError

    file = recipe_file(tmp_path, videos)
    (tmp_path / "the comparison").mkdir()
    mine = tmp_path / "the comparison/comparison.md"
    mine.write_text("my notes")
    with pytest.raises(OutputError, match="not made it"):
        compare_objectives(load_comparison(file))
    assert mine.read_text() == "my notes"


def test_the_shipped_recipe_can_be_read_and_is_no_profile():
    recipe = load_comparison("demo")
    assert recipe.seeds == (0, 1, 2)
    assert "mvd" in recipe.objectives
    assert "comparisons/demo" not in list_recipes("launch")
    for entry in recipe.objectives.values():
        planned(entry.recipe, entry.words)


def test_encoders_are_still_compared_by_the_same_verb():
    told = CliRunner().invoke(app, ["compare", "runs/nowhere"])
    assert told.exit_code != 0
    assert "two encoders or more" in told.output
    assert is_comparison(["demoo"], asked=True)
    assert not is_comparison(["demo", "runs/a", "train=a.csv"])  # a run that is called so
    assert is_comparison(["demo", "seeds=[0]"])
