"""Memory and time of a step of ViT-B under DDP, fairscale's OSS and FSDP2, on two CPU processes (not a test).

    python tests/launch/measure_sharding.py [--batch 2] [--steps 3] [--only fsdp] [--keep]

Prints a table for process 0, in GiB.  `now` is what is resident after a stage and `peak` the most since the stage
began, so that what is needed once, to build the model, is told apart from what every step needs; `holds` is what the
weights, gradients and moments come to by their sizes.  VideoMAE with the settings of videomae/vit_b_k400 on grey
pictures.
"""

from __future__ import annotations

import argparse
import dataclasses
import gc
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

SETTINGS = {
    "ddp": {},
    "ddp, recomputed": {"activation_checkpointing": True},
    "oss": {"sharding": "oss"},
    "fsdp": {"sharding": "fsdp"},
    "fsdp, recomputed": {"sharding": "fsdp", "activation_checkpointing": True},
}


def memory_gib(field: str) -> float:
    """What /proc says of this process: VmRSS (now) or VmHWM (peak since `forget_peak`)."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) / 2**20
    raise RuntimeError(f"/proc/self/status has no {field}: Linux is needed.")


def forget_peak() -> None:
    """Sets VmHWM to VmRSS."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


class Stages:
    """Prints a line for every stage of process 0."""

    def __init__(self, rank: int) -> None:
        self.rank = rank
        forget_peak()

    def end(self, name: str, **more: float) -> None:
        gc.collect()
        figures = {"now": memory_gib("VmRSS"), "peak": memory_gib("VmHWM"), **more}
        told = "  ".join(f"{key} {value:5.2f}" for key, value in figures.items())
        if self.rank == 0:
            print(f"  {name:18} {told}", flush=True)
        forget_peak()


def held_gib(module: Any, optimizer: Any) -> float:
    """Weights, gradients and moments of this process, by their sizes."""
    from torch.distributed.tensor import DTensor

    def size(tensor: Any) -> int:
        own = tensor.to_local() if isinstance(tensor, DTensor) else tensor
        return int(own.numel() * own.element_size())

    total = 0
    for parameter in module.parameters():
        total += size(parameter) + (0 if parameter.grad is None else size(parameter.grad))
    for state in optimizer.state.values():
        total += sum(size(value) for value in state.values() if hasattr(value, "numel"))
    return total / 2**30


def work(rank: int, meet: str, changes: str, batch_size: int, steps: int, keep: bool) -> None:
    import torch
    import torch.distributed as dist

    from video_ssl.pretrain.processes import Processes
    from video_ssl.pretrain.recipe import load_pretrain_recipe
    from video_ssl.pretrain.torch_loop.loop import gradients_of, wrap
    from video_ssl.pretrain.torch_loop.optimizers import objective_optimizer
    from video_ssl.pretrain.torch_loop.run import build_objective
    from video_ssl.pretrain.torch_loop.sharding import prepare, return_freed_memory

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{meet}", rank=rank, world_size=2)
    processes = Processes(rank, 2, torch.device("cpu"))
    recipe = load_pretrain_recipe("videomae/vit_b_k400")
    training = dataclasses.replace(
        recipe.training,
        global_batch_size=2 * batch_size,
        accumulation=1,
        precision="fp32",
        **json.loads(changes),
    )
    stages = Stages(rank)
    if not keep:
        return_freed_memory(training, processes)
    stages.end("imported")
    objective = build_objective(recipe)
    stages.end("built")
    objective = prepare(objective, training, processes)
    stages.end("divided")
    optimizer = objective_optimizer(objective, recipe.optimizer, divided=training.sharding == "oss")
    module = wrap(objective, processes, compile=False)
    stages.end("wrapped")
    tokens = 8 * 14 * 14
    batch = {
        "video": torch.full((batch_size, 1, 16, 224, 224, 3), 128, dtype=torch.uint8),
        "mask": (torch.arange(tokens) < recipe.objective.mask.num_masked((8, 14, 14))).expand(
            batch_size, 1, tokens
        ),
    }
    for number in range(1, steps + 1):
        begin = time.perf_counter()
        optimizer.zero_grad(set_to_none=True)
        gradients_of(module, batch, training)
        optimizer.step()
        spent = time.perf_counter() - begin
        stages.end(f"step {number}", holds=held_gib(objective, optimizer), sec=spent)
    dist.barrier()
    dist.destroy_process_group()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--only", choices=list(SETTINGS))
    parser.add_argument(
        "--keep", action="store_true", help="leave glibc as it is: without `return_freed_memory`"
    )
    given = parser.parse_args()
    for name, changes in SETTINGS.items():
        if given.only not in (None, name):
            continue
        with tempfile.TemporaryDirectory() as folder:
            words = [
                os.path.join(folder, "meet"),
                json.dumps(changes),
                str(given.batch),
                str(given.steps),
                str(int(given.keep)),
            ]
            print(f"{name}:", flush=True)
            started = [
                subprocess.Popen(
                    [sys.executable, "-W", "ignore", __file__, "--work", str(rank), *words]
                )
                for rank in range(2)
            ]
            if sum(process.wait() for process in started):
                sys.exit(1)


if __name__ == "__main__":
    if "--work" in sys.argv:
        rank, meet, changes, batch, steps, keep = sys.argv[2:]
        work(int(rank), meet, changes, int(batch), int(steps), keep == "1")
    else:
        main()
