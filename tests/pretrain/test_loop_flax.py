"""Whole runs of flax objectives on tiny videos: devices, exactness, what is left behind and what is refused."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from flax_runs import assert_same_bits, assert_same_losses, content, losses, tiny, weights
from quick_xla import quick_xla

import video_ssl
from video_ssl.objectives.teg.objective_flax import Objective
from video_ssl.pretrain import start
from video_ssl.pretrain.checkpoint_folders import list_checkpoints, newest_checkpoint
from video_ssl.pretrain.errors import CheckpointError, NonFiniteLoss, RunError
from video_ssl.pretrain.flax_loop import devices as devices_flax
from video_ssl.pretrain.flax_loop import loop as loop_flax
from video_ssl.pretrain.flax_loop.devices import join_flax_processes, put_batch
from video_ssl.pretrain.flax_loop.loop import gradients_of, variables_of
from video_ssl.pretrain.flax_loop.run import build_job, build_objective, run_flax
from video_ssl.pretrain.reporting import read_metrics
from video_ssl.pretrain.run import batch_source, open_streams
from video_ssl.recipes import to_yaml

TIMES = ("time", "clips_per_sec", "data_wait_share", "host_memory_gib")


class Killed(BaseException):
    """Stands for the end of the process."""


def kill_after(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """The run ends without a word right after optimizer step number `step`."""
    original = loop_flax._FlaxSession._step

    def dies(self: Any, number: int, batch: Any) -> int:
        clips = original(self, number, batch)
        if number + 1 == step:
            raise Killed
        return clips

    monkeypatch.setattr(loop_flax._FlaxSession, "_step", dies)


@pytest.fixture(scope="module")
def straight(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on one device."""
    run = tmp_path_factory.mktemp("straight")
    run_flax(tiny(videos, run), devices=jax.devices()[:1])
    return run


def test_a_run_leaves_what_it_promises(straight: Path) -> None:
    rows = read_metrics(straight / "metrics.jsonl")
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6]
    wanted = {"lr", "grad_norm", "feature_std", "effective_rank", "clips_per_sec", "penalty"}
    assert {*wanted, "match_accuracy", "fine", "persistent"} <= rows[0].keys()
    assert [row["lr"] for row in rows][:2] == [0, pytest.approx(1e-6 * 0.75 / 2)]
    assert rows[-1]["loss"] != rows[0]["loss"]
    assert [c.step for c in list_checkpoints(straight / "checkpoints")] == [4, 6]
    assert "step 6/6" in (straight / "logs" / "rank_0.log").read_text()
    starts = json.loads((straight / "environment.json").read_text())["starts"]
    assert starts[0]["versions"]["jax"] == jax.__version__
    torch_twin, flax_twin = (
        video_ssl.load_encoder(straight),
        video_ssl.load_flax_encoder(straight),
    )
    assert torch_twin.preprocess == flax_twin.preprocess
    assert flax_twin.preprocess.frame_stride == 2
    video = np.random.default_rng(0).random((2, 4, 16, 16, 3), np.float32)
    import torch

    with torch.no_grad():
        found = torch_twin.eval().clip_features(torch.from_numpy(video.transpose(0, 4, 1, 2, 3)))
    np.testing.assert_allclose(found.numpy(), flax_twin.clip_features(video), atol=1e-5)


def test_a_damaged_checkpoint_is_passed_over_and_averages_go_on(
    videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Was wrong: arrays with a flipped bit were trained on, and the row after a resume left out steps before it."""
    seldom = {"training__log_every": 3}
    run_flax(tiny(videos, tmp_path / "straight", **seldom), devices=jax.devices()[:1])
    recipe = tiny(videos, tmp_path / "run", **seldom)
    with monkeypatch.context() as patch:
        kill_after(patch, 5)
        with pytest.raises(Killed):
            run_flax(recipe, devices=jax.devices()[:1])
    state = tmp_path / "run" / "checkpoints" / "step_4" / "state"
    largest = max((p for p in state.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 1
    largest.write_bytes(bytes(content))
    run_flax(recipe, devices=jax.devices()[:1])
    starts = json.loads((tmp_path / "run" / "environment.json").read_text())["starts"]
    assert [start["step"] for start in starts] == [0, 2]
    assert (tmp_path / "run" / "checkpoints" / "step_4").is_dir()  # made again
    rows = [read_metrics(tmp_path / name / "metrics.jsonl") for name in ("straight", "run")]
    one, two = ([{k: v for k, v in r.items() if k not in TIMES} for r in part] for part in rows)
    assert one == two
    assert [row["step"] for row in one] == [3, 6]
    assert_same_bits(weights(tmp_path / "straight"), weights(tmp_path / "run"))


@pytest.mark.slow
def test_gradients_over_devices_are_those_of_one(videos: Path, tmp_path: Path) -> None:
    recipe = tiny(videos, tmp_path)
    objective = build_objective(recipe)
    variables = objective.init(3)
    with batch_source(recipe, open_streams(recipe), 1, (0, 1))(0) as batches:
        batch = next(iter(batches))
    found = []
    for count in (1, 8):
        with join_flax_processes("cpu", jax.devices()[:count]) as processes:
            run = jax.jit(
                lambda v, b: gradients_of(objective.forward, v, b, jax.random.key(0), 1)[0]
            )
            placed = jax.device_put(variables, processes.whole)
            found.append(jax.device_get(run(placed, put_batch(batch, processes))))
    largest = max(np.linalg.norm(x) for x in jax.tree.leaves(found[0]))
    for one, many in zip(*map(jax.tree.leaves, found), strict=True):
        size = np.linalg.norm(one)
        # Biases before a batch norm have no gradient but rounding.
        assert np.linalg.norm(many - one) < 1e-4 * (size if size > 1e-6 * largest else largest)


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 8])
def test_the_number_of_devices_changes_nothing_but_rounding(
    straight: Path, videos: Path, tmp_path: Path, count: int
) -> None:
    run_flax(tiny(videos, tmp_path / "run"), devices=jax.devices()[:count])
    assert_same_losses(tmp_path / "run", straight)


@pytest.mark.parametrize("killed_at", [2, 3])
def test_killed_and_resumed_equals_uninterrupted_to_the_bit(
    straight: Path,
    videos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    killed_at: int,
) -> None:
    recipe = tiny(videos, tmp_path / "run")
    kill_after(monkeypatch, killed_at)
    with pytest.raises(Killed):
        run_flax(recipe, devices=jax.devices()[:1])
    monkeypatch.undo()
    run_flax(recipe, devices=jax.devices()[:1])
    assert_same_bits(weights(tmp_path / "run"), weights(straight))
    one, two = (read_metrics(run / "metrics.jsonl") for run in (straight, tmp_path / "run"))
    for a, b in zip(one, two, strict=True):
        assert {k: v for k, v in a.items() if k not in TIMES} == {
            k: v for k, v in b.items() if k not in TIMES
        }
    starts = json.loads((tmp_path / "run" / "environment.json").read_text())["starts"]
    assert [s["step"] for s in starts] == [0, (killed_at - 1) // 2 * 2]


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_process_killed_for_real_is_resumed_to_the_bit(videos: Path, tmp_path: Path) -> None:
    def start(name: str) -> subprocess.Popen[bytes]:
        file, run = tmp_path / f"{name}.yaml", tmp_path / name
        file.write_text(to_yaml(content(videos, run)), encoding="utf-8")
        return subprocess.Popen(
            [sys.executable, "-m", "video_ssl", "pretrain", str(file)],
            env={**os.environ, "XLA_FLAGS": quick_xla(1)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    assert start("straight").wait(300) == 0
    process = start("killed")
    while process.poll() is None and not list_checkpoints(tmp_path / "killed" / "checkpoints"):
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "it ended before it was killed"
    steps = [c.step for c in list_checkpoints(tmp_path / "killed" / "checkpoints")]
    assert start("killed").wait(300) == 0
    assert_same_bits(weights(tmp_path / "killed"), weights(tmp_path / "straight"))
    starts = json.loads((tmp_path / "killed" / "environment.json").read_text())["starts"]
    assert [attempt["step"] for attempt in starts] == [0, steps[-1]]


@pytest.mark.slow
def test_fsdp_divides_the_state_and_fewer_devices_go_on_with_it(
    straight: Path, videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices_flax, "SMALLEST_SHARDED", 8)
    divided: list[Any] = []
    states: dict[str, Any] = {}
    original = loop_flax._FlaxSession._step

    def looks(self: Any, number: int, batch: Any) -> int:
        if number == 2:  # what the checkpoint of step 2 holds, and what is made of it
            when = "restored" if self._job.start_step else "saved"
            states[when] = jax.device_get(self._job.state)
        clips = original(self, number, batch)
        if not divided:
            leaves = jax.tree.leaves(self._job.state)
            divided.extend(x.shape for x in leaves if not x.is_fully_replicated)
        if number + 1 == 3 and self._job.start_step == 0:
            raise Killed
        return clips

    monkeypatch.setattr(loop_flax._FlaxSession, "_step", looks)
    with pytest.raises(Killed):
        run_flax(tiny(videos, tmp_path, training__sharding="fsdp"), devices=jax.devices()[:4])
    assert len(divided) >= 4
    run_flax(tiny(videos, tmp_path, training__sharding="ddp"), devices=jax.devices()[:2])
    jax.tree.map(np.testing.assert_array_equal, states["restored"], states["saved"])
    np.testing.assert_allclose(losses(tmp_path)[:2], losses(straight)[:2], rtol=1e-5)
    np.testing.assert_allclose(losses(tmp_path)[2], losses(straight)[2], rtol=2e-4)


def test_accumulation_is_the_mean_over_micro_batches(videos: Path, tmp_path: Path) -> None:
    """Statistics of batch norms and negatives are those of a micro-batch, so it is no larger batch."""
    recipe = tiny(videos, tmp_path, "cvrl")
    objective = build_objective(recipe)
    variables = objective.init(0)
    rng = np.random.default_rng(0)
    batch = {"video": rng.integers(0, 256, (8, 2, 4, 16, 16, 3), dtype=np.uint8)}
    key = jax.random.key(0)
    run = jax.jit(gradients_of, static_argnums=(0, 4))
    whole, _, told = run(objective.forward, variables, batch, key, 2)
    parts, rest = [], variables
    for k in range(2):
        part = {name: value[k::2] for name, value in batch.items()}
        gradient, changed, output = run(objective.forward, rest, part, key, 1)
        rest = {**rest, **changed}
        parts.append((gradient, output.loss))
    assert float(told.loss) == pytest.approx(float(parts[0][1] + parts[1][1]) / 2, rel=1e-5)
    assert told.features.shape == (8, 12)
    jax.tree.map(
        lambda w, a, b: np.testing.assert_allclose(w, (a + b) / 2, atol=2e-4),
        *(whole, parts[0][0], parts[1][0]),
    )


@pytest.mark.slow
def test_bfloat16_computes_alike_and_keeps_float32(
    straight: Path, videos: Path, tmp_path: Path
) -> None:
    changes = {"training__precision": "bf16", "training__duration": 2, "training__accumulation": 2}
    run_flax(tiny(videos, tmp_path, "cvrl", **changes), devices=jax.devices()[:1])
    assert np.isfinite(losses(tmp_path)).all()
    assert {v.dtype for k, v in weights(tmp_path).items() if "tracked" not in k} == {
        np.dtype(np.float32)
    }
    recipe = tiny(videos, tmp_path, "cvrl")
    batch = {
        "video": np.random.default_rng(0).integers(0, 256, (8, 2, 4, 16, 16, 3), dtype=np.uint8)
    }
    variables = build_objective(recipe).init(0)
    both = [
        jax.jit(build_objective(tiny(videos, tmp_path, "cvrl", training__precision=p)).forward)(
            variables, batch, jax.random.key(0)
        )[0].loss
        for p in ("fp32", "bf16")
    ]
    assert both[0].dtype == both[1].dtype == np.float32
    assert both[0] != both[1]
    assert float(both[0]) == pytest.approx(float(both[1]), rel=0.05)


def test_both_loops_get_the_same_bytes(videos: Path, tmp_path: Path) -> None:
    """The data depend on (seed, step) alone: the torch loop's feed and the flax loop's give equal arrays."""
    import torch

    from video_ssl.pretrain.torch_loop.device_feed import DeviceFeed

    recipe = tiny(videos, tmp_path, objective__color={"law": "cvrl"})
    source = batch_source(recipe, open_streams(recipe), 4, (0, 1))
    with join_flax_processes("cpu") as processes, source(2) as one, source(2) as two:
        flax = list(loop_flax._feed(iter(one), processes))
        pairs = list(zip(flax, DeviceFeed(iter(two), torch.device("cpu")), strict=True))
    assert len(pairs) == 2
    for ours, theirs in pairs:
        assert ours.keys() == theirs.keys() >= {"short", "long", "position", "color"}
        for name in ours:
            wanted = theirs[name].numpy()  # jax has no int64
            assert np.asarray(ours[name]).astype(wanted.dtype).tobytes() == wanted.tobytes()


# What is refused ----------------------------------------------------------------------------------


def test_a_batch_that_the_devices_cannot_share(videos: Path, tmp_path: Path) -> None:
    recipe = tiny(videos, tmp_path, training__global_batch_size=6)
    with pytest.raises(RunError, match=r"=6 cannot be divided among 4 devices .* multiple of 4"):
        run_flax(recipe, devices=jax.devices()[:4])
    with join_flax_processes("cpu", jax.devices()[:4]) as processes:
        hosts = type(processes)(rank=0, world_size=4, mesh=processes.mesh)
        with pytest.raises(RunError, match="divided among 4 processes"):
            build_job(recipe, open_streams(recipe), {}, hosts)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"training__ema": {"decay": 0.9}}, "training.ema is set"),
        ({"training__sharding": "oss"}, "use ddp or fsdp"),
        # Was wrong: trained until the first validation, and ended there with a NotImplementedError.
        ({"validation": {"table": "other.csv"}}, "validation is set: set it to null"),
        ({"training__device": "tpu"}, "jax sees no such device"),
    ],
)
def test_settings_that_only_torch_knows(
    videos: Path, tmp_path: Path, changes: dict[str, Any], text: str
) -> None:
    with pytest.raises(RunError, match=text):
        run_flax(tiny(videos, tmp_path, **changes))


def test_another_seed_or_batch_or_model_is_not_resumed(
    videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = jax.devices()[:1]
    kill_after(monkeypatch, 3)
    with pytest.raises(Killed):
        run_flax(tiny(videos, tmp_path), devices=one)
    monkeypatch.undo()
    with pytest.raises(RunError, match=r"seed: 4 <- 3"):
        run_flax(tiny(videos, tmp_path, seed=4), devices=one)
    with pytest.raises(RunError, match=r"training\.global_batch_size: 4 <- 8"):
        run_flax(tiny(videos, tmp_path, training__global_batch_size=4), devices=one)
    (tmp_path / "recipe.yaml").unlink()  # the checkpoint itself knows too
    with pytest.raises(CheckpointError, match="was made with seed=3, now it is 4"):
        run_flax(tiny(videos, tmp_path, seed=4), devices=one)
    (tmp_path / "recipe.yaml").unlink()
    wider = tiny(videos, tmp_path, objective__heads={"hidden_dims": [6], "out_dim": 4})
    with pytest.raises(CheckpointError, match=r"another architecture: .*mismatched"):
        run_flax(wider, devices=one)
    (tmp_path / "recipe.yaml").unlink()
    checkpoint = newest_checkpoint(tmp_path / "checkpoints")
    assert checkpoint is not None
    for file in (checkpoint.folder / "state").rglob("*"):
        if file.is_file():
            file.write_bytes(bytes(file.stat().st_size))
    with pytest.raises(CheckpointError, match=r"every checkpoint in .* is damaged"):
        run_flax(tiny(videos, tmp_path), devices=one)
    meta = json.loads((checkpoint.folder / "meta.json").read_text())
    old = {k: v for k, v in meta.items() if k not in ("crc32", "checksum")}  # of an earlier version
    (checkpoint.folder / "meta.json").write_text(json.dumps(old))
    with pytest.raises(CheckpointError, match="cannot be read"):
        run_flax(tiny(videos, tmp_path), devices=one)


def test_a_loss_that_is_not_finite_stops_at_its_step(
    videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = Objective.forward
    state: dict[str, Any] = {}

    def poisoned(self: Any, variables: Any, batch: Any, key: Any) -> Any:
        output, rest = original(self, variables, batch, key)
        return output._replace(loss=output.loss / state["gone"](batch)), rest

    recipe = tiny(videos, tmp_path)
    source = batch_source(recipe, open_streams(recipe), 6, (0, 1))
    with source(3) as batches:
        bad = next(iter(batches))["position"]
    state["gone"] = lambda batch: 1 - (batch["position"] == bad).all()
    monkeypatch.setattr(Objective, "forward", poisoned)
    with pytest.raises(NonFiniteLoss, match="of step 3 is not finite"):
        run_flax(recipe, devices=jax.devices()[:1])
    assert len(losses(tmp_path)) == 3
    assert [c.step for c in list_checkpoints(tmp_path / "checkpoints")] == [2]
    kept = np.load(tmp_path / "nonfinite" / "batch_0.npz")
    np.testing.assert_array_equal(kept["position"], bad)
    assert json.loads((tmp_path / "nonfinite" / "report.json").read_text())["step"] == 3
    assert (tmp_path / "nonfinite" / "state").is_dir()


def test_without_jax_one_line_says_what_to_install(
    videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(name: str) -> Any:
        raise ModuleNotFoundError("No module named 'optax'", name="optax")

    monkeypatch.setattr(start, "import_module", missing)
    with pytest.raises(
        RunError, match=r"^objective.name=teg needs optax: pip install 'video_ssl\[jax\]'$"
    ):
        start.run_recipe(tiny(videos, tmp_path))


def test_the_state_is_the_variables_and_more() -> None:
    state = {"params": 1, "batch_stats": 2, "optimizer": 3, "step": 4, "failed": 5}
    assert variables_of(state) == {"params": 1, "batch_stats": 2}
