"""Peak memory and time of a step of ViT-B under DDP and FSDP2, on two CPU processes (not a test).

    python tests/launch/measure_sharding.py [--batch 2] [--steps 3]

Prints a line per setting: peak memory of process 0 in GiB, what of it was there before the model was built, and the
fastest step in seconds.  VideoMAE with the settings of videomae/vit_b_k400 on grey pictures.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import resource
import subprocess
import sys
import tempfile
import time

SETTINGS = {
    "ddp": {},
    "fsdp": {"sharding": "fsdp"},
    "fsdp, recomputed": {"sharding": "fsdp", "activation_checkpointing": True},
}


def memory_gib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def work(rank: int, meet: str, changes: str, batch_size: int, steps: int) -> None:
    import torch
    import torch.distributed as dist

    from video_ssl.pretrain.loop import gradients_of, wrap
    from video_ssl.pretrain.optimizers import build_optimizer
    from video_ssl.pretrain.processes import Processes
    from video_ssl.pretrain.recipe import load_pretrain_recipe
    from video_ssl.pretrain.run import build_objective
    from video_ssl.pretrain.sharding import prepare

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
    before = memory_gib()
    objective = prepare(build_objective(recipe), training, processes)
    optimizer = build_optimizer(objective, recipe.optimizer)
    module = wrap(objective, processes, compile=False)
    tokens = 8 * 14 * 14
    batch = {
        "video": torch.full((batch_size, 1, 16, 224, 224, 3), 128, dtype=torch.uint8),
        "mask": (torch.arange(tokens) < recipe.objective.mask.num_masked((8, 14, 14))).expand(
            batch_size, 1, tokens
        ),
    }
    times = []
    for _ in range(steps):
        begin = time.perf_counter()
        optimizer.zero_grad(set_to_none=True)
        gradients_of(module, batch, training)
        optimizer.step()
        times.append(time.perf_counter() - begin)
    if rank == 0:
        print(
            f"{memory_gib():.2f} GiB, {before:.2f} GiB before, {min(times):.2f} s a step",
            flush=True,
        )
    dist.barrier()
    dist.destroy_process_group()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--steps", type=int, default=3)
    given = parser.parse_args()
    for name, changes in SETTINGS.items():
        with tempfile.TemporaryDirectory() as folder:
            words = [
                os.path.join(folder, "meet"),
                json.dumps(changes),
                str(given.batch),
                str(given.steps),
            ]
            started = [
                subprocess.Popen(
                    [sys.executable, "-W", "ignore", __file__, "--work", str(rank), *words]
                )
                for rank in range(2)
            ]
            print(f"{name}: ", end="", flush=True)
            if sum(process.wait() for process in started):
                sys.exit(1)


if __name__ == "__main__":
    if "--work" in sys.argv:
        rank, meet, changes, batch, steps = sys.argv[2:]
        work(int(rank), meet, changes, int(batch), int(steps))
    else:
        main()
