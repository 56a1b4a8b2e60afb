"""Trainings divided among two gloo processes equal undivided ones; checkpoints move between 1 and 2 processes."""

from __future__ import annotations

import shutil
import socket
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import video_ssl
from video_ssl.pretrain.checkpoint_folders import newest_checkpoint
from video_ssl.pretrain.errors import CheckpointError, RunError
from video_ssl.pretrain.recipe import TrainingConfig
from video_ssl.pretrain.reporting import read_metrics
from video_ssl.pretrain.torch_loop.run import build_objective, run_torch
from video_ssl.pretrain.torch_loop.sharded_checkpoints import SHARDS, load_for
from video_ssl.pretrain.torch_loop.sharding import blocks_of, prepare, recompute_blocks
from video_ssl.recipes import to_yaml

pytestmark = pytest.mark.slow

# AdamW, clipping, average and micro-batches are on; the drop path is off, since it draws per process.
SAME = {
    "objective__encoder__drop_path": 0.0,
    "optimizer__base_lr": 1e-3,
    "optimizer__eps": 1e-4,  # a tiny eps makes steps out of rounding errors
    "training__global_batch_size": 8,
    "training__grad_clip": 0.5,
    "training__ema": {"decay": 0.9},
    "training__accumulation": 2,
}


def two(helpers: Any, file: Path, *overrides: str) -> list[str]:
    """Trains with two processes and returns what they said."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    place = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    started = [
        helpers.start(file, *overrides, RANK=str(rank), LOCAL_RANK=str(rank), **place)
        for rank in range(2)
    ]
    outs = [process.communicate(timeout=600)[0] for process in started]
    assert [process.returncode for process in started] == [0, 0], outs
    return outs


@pytest.fixture(scope="session")
def single_run(videos: Path, tmp_path_factory: pytest.TempPathFactory, helpers: Any) -> Path:
    """The run of one process with the joint batch; not to be changed."""
    run = tmp_path_factory.mktemp("single") / "run"
    run_torch(helpers.recipe(videos, run, **SAME))
    return run


@pytest.fixture(scope="session")
def divided_run(videos: Path, tmp_path_factory: pytest.TempPathFactory, helpers: Any) -> Path:
    """The run of two processes with FSDP2 and recomputed activations; not to be changed."""
    folder = tmp_path_factory.mktemp("divided")
    file = recipe_file(helpers, videos, folder / "run")
    two(helpers, file, "training.sharding=fsdp", "training.activation_checkpointing=true")
    return folder / "run"


def recipe_file(helpers: Any, videos: Path, run: Path) -> Path:
    file = run.with_suffix(".yaml")
    file.write_text(to_yaml(helpers.tiny(videos, run, **SAME)), encoding="utf-8")
    return file


def state_of(helpers: Any, videos: Path, run: Path) -> dict[str, Any]:
    objective = build_objective(helpers.recipe(videos, run, **SAME))
    checkpoint = newest_checkpoint(run / "checkpoints")
    assert checkpoint is not None
    return load_for(checkpoint, objective)


def largest_difference(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> float:
    assert one.keys() == two.keys()
    return max((one[k].float() - two[k].float()).abs().max().item() for k in one)


def assert_same_training(helpers: Any, videos: Path, one: Path, other: Path) -> None:
    """Losses to 1e-5, weights and averages to 2e-5 (they move by more than 3e-3), moments of AdamW to 1e-5."""
    a, b = (state_of(helpers, videos, run) for run in (one, other))
    start = build_objective(helpers.recipe(videos, one, **SAME)).state_dict()
    assert largest_difference(a["objective"], start) > 3e-3
    for part in ("objective", "average"):
        assert largest_difference(a[part], b[part]) < 2e-5, part
    assert a["optimizer"].keys() == b["optimizer"].keys()
    for name in a["optimizer"]:
        assert largest_difference(a["optimizer"][name], b["optimizer"][name]) < 1e-5, name
    rows = [read_metrics(run / "metrics.jsonl") for run in (one, other)]
    for left, right in zip(*rows, strict=True):
        assert right["loss"] == pytest.approx(left["loss"], abs=1e-5)
        assert right["grad_norm"] == pytest.approx(left["grad_norm"], rel=1e-3)
    exported = [video_ssl.load_encoder(run).state_dict() for run in (one, other)]
    assert largest_difference(*exported) < 2e-5


def test_fsdp_on_two_processes_equals_one(
    videos: Path, helpers: Any, single_run: Path, divided_run: Path
) -> None:
    assert_same_training(helpers, videos, single_run, divided_run)
    assert (divided_run / "checkpoints" / "step_12" / SHARDS).is_dir()


def test_oss_on_two_processes_equals_one(
    videos: Path, tmp_path: Path, helpers: Any, single_run: Path
) -> None:
    pytest.importorskip("fairscale")
    two(helpers, recipe_file(helpers, videos, tmp_path / "run"), "training.sharding=oss")
    assert_same_training(helpers, videos, single_run, tmp_path / "run")


def back_to_step_8(run: Path) -> None:
    shutil.rmtree(run / "checkpoints" / "step_12")
    shutil.rmtree(run / "encoder")
    (run / "finished.json").unlink()


def test_one_process_goes_on_from_two(
    videos: Path, tmp_path: Path, helpers: Any, single_run: Path, divided_run: Path
) -> None:
    run = shutil.copytree(divided_run, tmp_path / "run")
    back_to_step_8(run)
    run_torch(helpers.recipe(videos, run, **SAME))
    assert_same_training(helpers, videos, single_run, run)


def test_two_processes_go_on_from_one(
    videos: Path, tmp_path: Path, helpers: Any, single_run: Path
) -> None:
    run = shutil.copytree(single_run, tmp_path / "run")
    back_to_step_8(run)
    outs = two(helpers, recipe_file(helpers, videos, run), "training.sharding=fsdp")
    assert "resuming after step 8" in outs[0]
    assert_same_training(helpers, videos, single_run, run)


def test_mvd_is_divided_and_its_teacher_is_not(videos: Path, tmp_path: Path, helpers: Any) -> None:
    """FSDP2 on two processes: the losses of one to 1e-5, the encoder to 2e-5; nothing of the teacher is saved."""
    run_torch(helpers.recipe(videos, tmp_path / "teacher", training__duration=2))
    student = helpers.tiny(videos, tmp_path)["objective"]
    objective = {
        **student,
        "name": "mvd",
        "image": None,
        "video": {"source": {"run": str(tmp_path / "teacher")}},
        "encoder": {**student["encoder"], "embed_dim": 32, "positions": "sincos_3d"},
        "decoder": {"embed_dim": 16, "depth": 1, "num_heads": 2},
    }
    runs = tmp_path / "one", tmp_path / "two"
    changes = {"objective": objective, **SAME}
    run_torch(helpers.recipe(videos, runs[0], **changes))
    file = tmp_path / "two.yaml"
    file.write_text(to_yaml(helpers.tiny(videos, runs[1], **changes)), encoding="utf-8")
    two(helpers, file, "training.sharding=fsdp")
    rows = [read_metrics(run / "metrics.jsonl") for run in runs]
    assert rows[0][0]["loss"] != rows[0][-1]["loss"]
    for one, other in zip(*rows, strict=True):
        assert other["loss"] == pytest.approx(one["loss"], abs=1e-5)
    assert largest_difference(*(video_ssl.load_encoder(run).state_dict() for run in runs)) < 2e-5
    whole = build_objective(helpers.recipe(videos, runs[1], **changes))
    checkpoint = newest_checkpoint(runs[1] / "checkpoints")
    assert checkpoint is not None
    saved = load_for(checkpoint, whole)["objective"]
    assert saved.keys() == whole.state_dict().keys()
    assert {name.split(".")[0] for name in saved} == {"encoder", "decoders"}


def test_a_damaged_shard_is_not_used(
    videos: Path, tmp_path: Path, helpers: Any, divided_run: Path
) -> None:
    run = shutil.copytree(divided_run, tmp_path / "run")
    shard = next((run / "checkpoints" / "step_12" / SHARDS).glob("*.distcp"))
    shard.write_bytes(shard.read_bytes()[:-10])
    checkpoint = newest_checkpoint(run / "checkpoints")
    assert checkpoint is not None
    assert checkpoint.step == 8
    metadata = checkpoint.folder / SHARDS / ".metadata"
    metadata.write_bytes(b"x" * metadata.stat().st_size)
    with pytest.raises(CheckpointError, match=r"cannot be read .* Remove"):
        load_for(checkpoint, build_objective(helpers.recipe(videos, run, **SAME)))


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv3d(3, 3, 1)
        self.norm = nn.BatchNorm3d(3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(self.conv(x)).relu()


class Tower(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stages = nn.Sequential(Block(), Block())
        self.head = nn.Linear(3, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.stages(x).mean((2, 3, 4))).sum()


def test_recomputing_counts_a_batch_once_and_changes_no_gradient() -> None:
    pytest.importorskip("fairscale")
    torch.manual_seed(0)
    plain = Tower()
    recomputed = Tower()
    recomputed.load_state_dict(plain.state_dict())
    recompute_blocks(recomputed)
    x = torch.rand(4, 3, 2, 5, 5)
    for tower in (plain, recomputed):
        tower(x).backward()
    assert [n for n, _ in blocks_of(plain)] == ["stages.0", "stages.1"]
    assert recomputed.stages[0].norm.num_batches_tracked == 1
    assert largest_difference(plain.state_dict(), recomputed.state_dict()) == 0
    for one, other in zip(plain.parameters(), recomputed.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad)


def tower_of(architecture: str) -> nn.Module:
    from video_ssl.models.networks.r2plus1d import R2Plus1D
    from video_ssl.models.networks.r2plus1d_config import R2Plus1DConfig
    from video_ssl.models.networks.r3d import R3D
    from video_ssl.models.networks.r3d_config import R3DConfig

    torch.manual_seed(0)
    if architecture == "r2plus1d":
        return R2Plus1D(R2Plus1DConfig())
    return R3D(R3DConfig(preset=None, blocks=(1, 2, 1, 1), filters=(2, 2, 3, 3), stem_width=4))


@pytest.mark.parametrize("architecture", ["r3d", "r2plus1d"])
def test_recomputing_3d_residual_networks(architecture: str) -> None:
    """Weights' gradients and running statistics are those without recomputation; TensorFlow's biased variance too."""
    pytest.importorskip("fairscale")
    plain, recomputed = (tower_of(architecture).train() for _ in range(2))
    assert len(blocks_of(recomputed)) >= 4
    recompute_blocks(recomputed)
    x = torch.rand(2, 3, 4, 32, 32)
    for model in (plain, recomputed):
        model.tokens(x).square().mean().backward()
    assert largest_difference(plain.state_dict(), recomputed.state_dict()) == 0
    counts = [v for k, v in recomputed.state_dict().items() if k.endswith("num_batches_tracked")]
    assert {int(count) for count in counts} == {1}
    for one, other in zip(plain.parameters(), recomputed.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad)


def test_recomputing_holds_fewer_activations(videos: Path, tmp_path: Path, helpers: Any) -> None:
    """Counts the numbers that autograd keeps for the backward pass."""
    kept = []
    batch = {
        "video": torch.zeros(2, 1, 4, 32, 32, 3, dtype=torch.uint8),
        "mask": torch.arange(32).expand(2, 1, 32) < 24,
    }
    for wanted in (False, True):
        objective = build_objective(helpers.recipe(videos, tmp_path, **SAME))
        if wanted:
            recompute_blocks(objective)
        total = 0

        def count(tensor: torch.Tensor) -> torch.Tensor:
            nonlocal total
            total += tensor.numel()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(count, lambda t: t):
            objective(batch)
        kept.append(total)
    assert kept[1] < 0.6 * kept[0]


def test_no_blocks_and_no_fairscale_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    with pytest.raises(RunError, match="no repeated blocks"):
        recompute_blocks(nn.Sequential(nn.Linear(2, 2), nn.ReLU()))
    monkeypatch.setitem(sys.modules, "fairscale.nn.checkpoint", None)
    with pytest.raises(RunError, match=r"pip install 'video_ssl\[sharded\]'"):
        recompute_blocks(Tower())


WORK = """
import sys, torch, torch.distributed as dist
from torch import nn
from video_ssl.models.collectives import gather_with_grad
from video_ssl.pretrain.torch_loop.optimizers import build_optimizer, set_lr
from video_ssl.pretrain.processes import Processes
from video_ssl.pretrain.optimizers import OptimizerConfig
from video_ssl.pretrain.torch_loop.sharding import shard, synchronise_batch_norm, whole as whole_tensor
rank = int(sys.argv[1])
dist.init_process_group("gloo", init_method="file://" + sys.argv[2], rank=rank, world_size=2)
torch.manual_seed(0)
x = torch.randn(8, 3, 2, 4, 4)
net = nn.Sequential(nn.Conv3d(3, 4, 1), nn.BatchNorm3d(4))
parts = x.chunk(2)

def loss_of(features, rows):
    return (features @ rows.t()).logsumexp(1).mean()

whole = net(x).mean((2, 3, 4))
loss_of(whole, whole).backward()
wanted = [p.grad.clone() for p in net.parameters()]
net.zero_grad()
net[1].reset_running_stats()
synced = synchronise_batch_norm(net, torch.device("cpu"))
rows = gather_with_grad(synced(parts[rank]).mean((2, 3, 4)))
loss_of(rows, rows).backward()
for p, w in zip(synced.parameters(), wanted):
    dist.all_reduce(p.grad)
    torch.testing.assert_close(p.grad / 2, w, atol=1e-6, rtol=1e-4)
torch.testing.assert_close(rows, whole, atol=1e-6, rtol=1e-5)
mean = nn.functional.conv3d(x, net[0].weight, net[0].bias).mean((0, 2, 3, 4))
torch.testing.assert_close(synced[1].running_mean, 0.1 * mean)

class Pair(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 4)) for _ in range(2))

    def forward(self, x):
        for block in self.blocks:
            x = x + block(x)
        return x

def ends_of(config, divided):
    torch.manual_seed(1)
    pair = Pair()
    if divided:
        shard(pair, Processes(rank, 2, torch.device("cpu")), precision="fp32")
    optimizer = build_optimizer(pair, config)
    set_lr(optimizer, 0.1)
    x = torch.linspace(-1, 1, 32).view(8, 4)
    for _ in range(3):
        optimizer.zero_grad()
        pair(x.chunk(2)[rank] if divided else x).square().mean().backward()
        optimizer.step()
    return [whole_tensor(p) for p in pair.parameters()]

sgd = OptimizerConfig(name="sgd", momentum=0.9)
lars = OptimizerConfig(name="lars", trust_coefficient=0.5, decay_all=True, nesterov=True)
for config in (sgd, lars):
    for one, two in zip(ends_of(config, False), ends_of(config, True)):
        torch.testing.assert_close(one, two, atol=1e-6, rtol=1e-5)
dist.destroy_process_group()
print("equal")
"""


def test_gather_batch_norm_sgd_and_lars_over_processes_equal_the_joint_batch(
    tmp_path: Path,
) -> None:
    """A contrastive loss over all rows: gradients of the weights, averaged over processes, as with one process.  SGD
    of sharded parameters, which has no fused kind, takes the same steps, and so does LARS, which measures them."""
    pytest.importorskip("pytorchvideo")
    import subprocess
    import sys

    started = [
        subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", WORK, str(rank), str(tmp_path / "meet")],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    outs = [process.communicate(timeout=600)[0] for process in started]
    assert all("equal" in out for out in outs), outs


def test_on_one_process_nothing_is_divided(videos: Path, tmp_path: Path, helpers: Any) -> None:
    from video_ssl.pretrain.processes import Processes

    objective = build_objective(helpers.recipe(videos, tmp_path, **SAME))
    training = TrainingConfig(duration=1, global_batch_size=1, sharding="fsdp")
    alone = Processes(0, 1, torch.device("cpu"))
    assert prepare(objective, training, alone) is objective
    assert not hasattr(objective, "set_requires_gradient_sync")
