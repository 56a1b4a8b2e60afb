"""What comes after pre-training on two nodes of a real SLURM: the linear probe, and fine-tuning from a run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import video_ssl
from video_ssl.datasets.table import Table
from video_ssl.embed.features import open_features
from video_ssl.pretrain.reporting import read_metrics
from video_ssl.recipes import load_yaml, to_yaml

pytestmark = [pytest.mark.slow, pytest.mark.slurm, pytest.mark.usefixtures("nothing_stays")]

NO_DROP = {"objective__encoder__drop_path": 0.0}
NUM = 9000  # enough that an embedding takes seconds


@pytest.fixture(scope="module")
def table(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny videos, of two classes."""
    rows = [
        {"id": file.stem, "source": str(file), "label": i % 2, "group": file.stem}
        for i, file in enumerate(sorted(videos.glob("*.mp4")))
    ]
    path = tmp_path_factory.mktemp("table") / "labelled.arrow"
    Table.from_rows(rows, class_names=["even", "odd"]).save(path)
    return path


@pytest.fixture(scope="module")
def run(videos: Path, tmp_path_factory: pytest.TempPathFactory, kit: Any) -> Path:
    """A pre-trained run."""
    folder = tmp_path_factory.mktemp("pretrained") / "run"
    kit.command("pretrain", kit.recipe(videos, folder, training__duration=3, **NO_DROP))
    return folder


def halves(table: Path, folder: Path) -> tuple[Path, Path]:
    """Train and test."""
    whole = Table.open(table)
    paths = folder / "train.arrow", folder / "test.arrow"
    for path, rows in zip(paths, (np.arange(8), np.arange(8, 12)), strict=True):
        whole.select(rows).save(path)
    return paths


def test_a_probe_on_two_nodes_is_that_of_one_process(
    table: Path, run: Path, tmp_path: Path, kit: Any, cluster: Any
) -> None:
    """Features and losses of the grid to 1e-4, accuracies equal."""
    train, test = halves(table, tmp_path)
    two, one = tmp_path / "two", tmp_path / "one"
    words = ["probe", f"encoder={run}", f"train={train}", f"test={test}", "device=cpu"]
    words += ["embed.num_workers=0", "evaluators.probe.epochs=10"]
    job = cluster.launch("slurm", "evaluate", *words, f"out={two}", *cluster.TWO)
    script = (two / "launch" / f"{job}_submission.sh").read_text()
    assert "#SBATCH --nodes=2" in script
    kit.wait(lambda: kit.outcomes(two) == ["finished"], two)
    assert "Results:" in kit.command("jobs", "logs", two)
    kit.command("evaluate", *words, f"out={one}")
    found = [json.loads((out / "results.json").read_text()) for out in (one, two)]
    probes = [f["encoders"]["encoder"]["results"]["probe"] for f in found]
    assert probes[0]["metrics"] == probes[1]["metrics"]
    for a, b in zip(*(probe["details"]["grid"] for probe in probes), strict=True):
        assert b["held_out_loss"] == pytest.approx(a["held_out_loss"], abs=1e-4)
    for split in ("train", "test"):
        (path,) = (two / "features").glob(f"encoder-{split}-*.arrow")
        (other,) = (one / "features").glob(f"encoder-{split}-*.arrow")
        assert open_features(path).ids.tolist() == open_features(other).ids.tolist()
        np.testing.assert_allclose(
            open_features(path).features, open_features(other).features, atol=1e-4
        )


def rows_of(file: Path) -> int:
    """Records that a shard has written so far."""
    journal = file / "journal.jsonl"
    return journal.read_bytes().count(b"\n") if journal.is_file() else 0


def test_a_shared_evaluation_killed_and_queued_again(
    videos: Path, run: Path, tmp_path: Path, kit: Any, cluster: Any
) -> None:
    """One of its two processes is killed on its way, later all are told to stop.  What was embedded is not embedded
    again, and features, choices and accuracies are those of one process."""
    files = sorted(videos.glob("*.mp4"))
    rows = [
        {"id": f"{i:04}", "source": str(files[i % 12]), "label": i % 2, "group": f"{i % 12}"}
        for i in range(NUM)
    ]
    Table.from_rows(rows, class_names=["even", "odd"]).save(tmp_path / "all.arrow")
    train, test = tmp_path / "all.arrow", tmp_path / "test.arrow"
    Table.open(train).select(np.arange(0, NUM, 100)).save(test)
    two, one = tmp_path / "two", tmp_path / "one"
    words = ["probe", f"encoder={run}", f"train={train}", f"test={test}", "device=cpu"]
    words += ["embed.num_workers=0", "embed.batch_size=1", "evaluators.probe.epochs=1"]
    cluster.launch("slurm", "evaluate", *words, f"out={two}", *cluster.TWO)

    def part() -> int:
        return max(
            map(rows_of, (two / "features").glob("*.shards/1-of-2.arrow.partial")), default=0
        )

    kit.wait(part, two)
    cluster.processes(two, 1)[0].kill()
    kit.wait(lambda: kit.outcomes(two) == ["lost"], two)
    killed = part()
    assert 0 < killed < NUM // 2
    kit.wait(lambda: part() > killed, two)
    kit.command("jobs", "requeue", two)
    kit.wait(lambda: len(kit.outcomes(two)) == 2, two)
    assert kit.outcomes(two) == ["lost", "preempted"]
    kit.wait(lambda: kit.outcomes(two) == ["lost", "preempted", "finished"], two)
    starts = [row["step"] for row in kit.attempts(two) if row["event"] == "start"]
    assert 0 == starts[0] < starts[1] < starts[2]
    kit.command("evaluate", *words, f"out={one}")
    found = [json.loads((out / "results.json").read_text()) for out in (one, two)]
    results = [f["encoders"]["encoder"]["results"] for f in found]
    for title in ("probe", "knn"):
        assert results[0][title]["metrics"] == results[1][title]["metrics"]
    for split in ("train", "test"):
        (path,), (other,) = ((o / "features").glob(f"encoder-{split}-*.arrow") for o in (two, one))
        assert open_features(path).ids.tolist() == open_features(other).ids.tolist()
        np.testing.assert_array_equal(open_features(path).features, open_features(other).features)


def finetune(table: Path, out: Path, source: Path | None, run: Path) -> Path:
    """The file of a recipe that goes on from an encoder with labels."""
    content = load_yaml(run.with_suffix(".yaml"))
    assert isinstance(content, dict)
    objective = {
        "name": "supervised",
        "num_classes": 2,
        "init": None if source is None else {"run": str(source)},
        "clip": {"num_frames": 4, "frame_stride": 1},
        "crop": {"size": 32},
        "encoder": content["objective"]["encoder"],
    }
    training = {**content["training"], "duration": 20}
    data = {"table": str(table)}
    content |= {"run": str(out), "objective": objective, "training": training, "data": data}
    file = out.with_suffix(".yaml")
    file.write_text(to_yaml(content), encoding="utf-8")
    return file


def test_fine_tuning_on_two_nodes(
    table: Path, run: Path, tmp_path: Path, kit: Any, cluster: Any
) -> None:
    """From a run on SLURM, from its encoder folder as two processes here: the same bits.  One process: losses to 1e-5.
    From scratch it begins elsewhere."""
    two, folder, one, scratch = (tmp_path / n for n in ("two", "folder", "one", "scratch"))
    more = ("--set", "environment.MARK=7", "--set", "setup=['echo mark=$MARK']")
    cluster.launch("slurm", "pretrain", finetune(table, two, run, run), *cluster.TWO, *more)
    told = kit.command("jobs", "logs", "-f", two)  # until the job has ended
    assert kit.outcomes(two) == ["finished"], kit.story(two)
    assert "mark=7" in told.splitlines()
    assert "finished 20 steps" in told
    assert "finished 20 steps" in (two / "logs" / "rank_1.log").read_text()
    file = finetune(table, folder, run / "encoder", run)
    kit.command("launch", "local", "pretrain", file, "--set", "tasks_per_node=2")
    a, b = (video_ssl.load_encoder(r).state_dict() for r in (two, folder))
    assert [name for name in a if not torch.equal(a[name], b[name])] == []
    kit.command("pretrain", finetune(table, one, run, run))
    kit.command("pretrain", finetune(table, scratch, None, run))
    losses = {
        r.name: [row["loss"] for row in read_metrics(r / "metrics.jsonl")]
        for r in (two, one, scratch)
    }
    assert len(losses["two"]) == 20
    np.testing.assert_allclose(losses["two"], losses["one"], atol=1e-5)
    assert abs(losses["scratch"][0] - losses["one"][0]) > 1e-4


def test_a_chain_of_stage_training_and_evaluation(
    table: Path, run: Path, tmp_path: Path, kit: Any, cluster: Any
) -> None:
    """Three jobs, each after the one before; the last reads what the first two have made."""
    out = tmp_path / "chain"
    train, test = halves(table, tmp_path)
    evaluation = tmp_path / "quick.yaml"
    content = {"train": str(train), "test": str(test), "embed": {"num_workers": 0}, "device": "cpu"}
    content |= {"name": "quick", "evaluators": {"probe": {"poolings": ["clip"], "epochs": 5}}}
    evaluation.write_text(to_yaml(content), encoding="utf-8")
    file = finetune(table, out, run, run)
    changes = load_yaml(file)
    changes["objective"]["init"] = {"recipe": str(run.with_suffix(".yaml"))}
    changes["evaluate"] = str(evaluation)
    file.write_text(to_yaml(changes), encoding="utf-8")
    told = kit.command("launch", "slurm", "pretrain", file, "--chain", *cluster.SHORT)
    assert [line.split(": ")[1] for line in told.splitlines()[:3]] == [
        "stage-init",
        "pretrain after stage-init",
        "evaluate after pretrain",
    ]
    kit.wait(lambda: len(kit.outcomes(out)) == 2, out)
    assert kit.outcomes(out) == ["finished", "finished"]
    ends = [row for row in kit.attempts(out) if row["event"] == "end"]
    assert [row["task"] for row in ends] == ["pretrain", "evaluate"]
    stage = out / "stages" / "init"
    assert kit.outcomes(stage) == ["finished"]
    assert kit.attempts(stage)[-1]["time"] < kit.attempts(out)[0]["time"]
    results = json.loads((out / "evaluate" / "quick" / "results.json").read_text())
    assert results["encoders"]["encoder"]["results"]["probe"]["total"] == 4
    status = kit.command("jobs", "status", out)
    assert all(f"{name} " in status for name in ("stage-init", "pretrain", "evaluate"))
