"""Evaluations shared by two gloo processes: the features and the probe of one process, every video once."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from untrained_run import untrained_run

from video_ssl.embed.features import features_from_arrays, open_features
from video_ssl.evaluate.linear import Fit, Head, LinearHeads
from video_ssl.evaluate.pooling import POOLINGS, pooled_features
from video_ssl.evaluate.recipe import load_evaluate_recipe
from video_ssl.evaluate.row_shares import own_rows
from video_ssl.evaluate.run import evaluate
from video_ssl.pretrain.processes import Processes

EVALUATE = """
import sys
from video_ssl.evaluate.recipe import load_evaluate_recipe
from video_ssl.evaluate.run import evaluate
evaluate(load_evaluate_recipe("probe", sys.argv[1:]))
"""

FIT = """
import os, sys
import numpy as np
from video_ssl.evaluate.linear import Fit, Head, LinearHeads
from video_ssl.evaluate.row_shares import Share, own_rows
from video_ssl.pretrain.processes import join_processes
with np.load(sys.argv[1]) as data, join_processes("cpu") as processes:
    x, y = data["x"], data["y"]
    for optimizer in ("adamw", "sgd"):
        for rows in (own_rows(len(x), processes), np.arange(len(x)) if processes.rank else np.arange(0)):
            share = Share(rows, len(x), processes)
            fit = Fit(epochs=5, batch_size=7, optimizer=optimizer, seed=1)
            heads = LinearHeads([Head(lr=0.01, weight_decay=0.1), Head(lr=0.1, weight_decay=0)], 3)
            heads.fit(x[rows], y[rows], fit, share)
            name = f"{sys.argv[2]}.{optimizer}.{len(rows) in (0, len(x))}.{processes.rank}.npy"
            np.save(name, share.assemble(heads.predict(x[rows])))
"""


def run_two(code: str, *words: Any) -> list[str]:
    """Runs code in two processes and returns what they printed."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    place = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    place |= {"OMP_NUM_THREADS": "1"}
    started = [
        subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", code, *map(str, words)],
            env={**os.environ, **place, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    outs = [process.communicate(timeout=600)[0] for process in started]
    assert [process.returncode for process in started] == [0, 0], outs
    return outs


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return untrained_run(tmp_path_factory.mktemp("runs") / "toy")


def words(run: Path, videos: Path, out: Path, *more: str) -> list[str]:
    tables = [f"train={videos / 'train.arrow'}", f"test={videos / 'test.arrow'}"]
    quick = ["embed.num_workers=0", "device=cpu", "evaluators.probe.epochs=20"]
    return [f"encoder={run}", *tables, *quick, f"out={out}", *more]


def features_of(out: Path, split: str) -> Any:
    (path,) = (out / "features").glob(f"encoder-{split}-*.arrow")
    return open_features(path)


@pytest.mark.slow
def test_two_processes_evaluate_as_one(run: Path, videos: Path, tmp_path: Path) -> None:
    """Features to 1e-5, accuracies and choices equal, losses of all heads of the grid to 1e-4."""
    alone = evaluate(
        load_evaluate_recipe("probe", words(run, videos, tmp_path / "one")), quiet=True
    )
    outs = run_two(EVALUATE, *words(run, videos, tmp_path / "two"))
    assert "Results:" in outs[0]
    assert "Results:" not in outs[1]
    for split in ("train", "test"):
        one, two = (features_of(tmp_path / name, split) for name in ("one", "two"))
        assert one.ids.tolist() == two.ids.tolist()
        assert one.table["clip"].to_pylist() == two.table["clip"].to_pylist()
        np.testing.assert_allclose(two.features, one.features, atol=1e-5)
    assert not list((tmp_path / "two" / "features").glob("*.shards"))
    together = json.loads((tmp_path / "two" / "results.json").read_text())
    for title in ("probe", "knn"):
        one, two = (r["encoders"]["encoder"]["results"][title] for r in (alone, together))
        assert two["metrics"] == one["metrics"]
        assert two["total"] == one["total"] == 6
        assert {k: v for k, v in two["chosen"].items() if "loss" not in k} == {
            k: v for k, v in one["chosen"].items() if "loss" not in k
        }
    grids = [
        r["encoders"]["encoder"]["results"]["probe"]["details"]["grid"] for r in (alone, together)
    ]
    assert len(grids[0]) == len(grids[1]) == 50
    for one, two in zip(*grids, strict=True):
        assert two["held_out_loss"] == pytest.approx(one["held_out_loss"], abs=1e-4)
    assert len({round(entry["held_out_loss"], 3) for entry in grids[0]}) > 10  # they do differ


@pytest.mark.slow
def test_other_divisions_are_thrown_away_and_a_broken_video_is_named_once(
    run: Path, videos: Path, tmp_path: Path
) -> None:
    """Left behind: a shard of three of another launch."""
    more = [f"test={videos / 'broken.arrow'}", "evaluators={probe: {poolings: [clip]}}"]
    run_two(EVALUATE, *words(run, videos, tmp_path, *more))
    whole = features_of(tmp_path, "test")
    assert sorted(entry["id"] for entry in whole.skipped) == ["broken1", "broken4"]
    ids, path = whole.ids.tolist(), Path(whole.path)
    shards = path.with_name(f"{path.name}.shards")
    (shards / "1-of-3.arrow.partial").mkdir(parents=True)
    (shards / "1-of-3.json").write_text("{}")
    path.unlink()
    run_two(EVALUATE, *words(run, videos, tmp_path, *more))
    assert features_of(tmp_path, "test").ids.tolist() == ids
    assert not shards.exists()


@pytest.mark.slow
def test_divided_rows_give_the_heads_of_one_process(tmp_path: Path) -> None:
    """Probabilities to 1e-5, for either optimizer; also where one process has no row at all, and batches that are not
    full; both processes hold the same heads."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, 31)
    x = (rng.normal(size=(31, 6)) + 2 * np.eye(3, 6)[y]).astype(np.float32)
    x[:, 5] = 7  # constant
    np.savez(tmp_path / "data.npz", x=x, y=y)
    run_two(FIT, tmp_path / "data.npz", tmp_path / "out")
    for optimizer in ("adamw", "sgd"):
        heads = LinearHeads([Head(lr=0.01, weight_decay=0.1), Head(lr=0.1, weight_decay=0)], 3)
        fit = Fit(epochs=5, batch_size=7, optimizer=optimizer, seed=1)  # type: ignore[arg-type]
        wanted = heads.fit(x, y, fit).predict(x)
        assert np.abs(wanted[:, 0] - wanted[:, 1]).max() > 0.01
        for lopsided in (False, True):
            for rank in range(2):
                found = np.load(tmp_path / f"out.{optimizer}.{lopsided}.{rank}.npy")
                np.testing.assert_allclose(found, wanted, atol=1e-5)


@pytest.mark.parametrize("name", POOLINGS)
def test_pooling_of_some_rows(name: str) -> None:
    rng = np.random.default_rng(0)
    columns = {"features": rng.normal(size=(7, 3)), "frame_features": rng.normal(size=(7, 4, 3))}
    features = features_from_arrays({**columns, "ids": np.arange(7).astype(str)})
    whole = pooled_features(features, name)
    for rows in (np.array([1, 2, 6]), np.arange(7), np.zeros(0, np.int64)):
        np.testing.assert_array_equal(pooled_features(features, name, rows), whole[rows])


@pytest.mark.parametrize("total", [0, 1, 2, 7])
def test_every_row_is_that_of_one_process(total: int) -> None:
    places = [own_rows(total, Processes(rank, 3, torch.device("cpu"))) for rank in range(3)]
    assert sorted(np.concatenate(places).tolist()) == list(range(total))
