"""What fairscale and pytorchvideo do for a training, beside what torch has for the same purpose (not a test).

    python tests/launch/measure_packages.py [recompute] [norm] [optimizer] [--rounds 5]

    recompute   forward and backward of an R3D-50 (batch norm; 4 clips of 16 frames of 112 px) whose blocks are computed
                again in the backward pass, by torch's checkpoint and by fairscale's wrapper: seconds, peak of memory
                above the idle process, and how often a step was counted in the running statistics
    norm        batch norm of two processes: pytorchvideo's, torch's plain one (no synchronisation) and torch's
                synchronised one; the largest difference to the batch norm of one process with both halves
    optimizer   AdamW whose state is divided by two processes: fairscale's OSS and torch's ZeroRedundancyOptimizer,
                beside plain DDP; ViT-B, seconds of a step and what a process holds

Seconds are medians over rounds in which all variants take turns, each in fresh processes of one thread.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

from measure_sharding import forget_peak, memory_gib

STEPS = 3


def timed(step: Callable[[], Any]) -> dict[str, float]:
    """Returns the median seconds of a step after a first one, and the peak of memory above what was there before."""
    before = memory_gib("VmRSS")
    forget_peak()
    seconds = []
    for _ in range(1 + STEPS):
        begin = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - begin)
    peak = memory_gib("VmHWM") - before
    return {"sec": statistics.median(seconds[1:]), "peak_gib": peak}


# recompute -----------------------------------------------------------------------------------------


def recompute(variant: str, rank: int) -> dict[str, Any]:
    import functools

    import torch
    from torch.utils.checkpoint import checkpoint

    from video_ssl.models.networks.r3d import R3D
    from video_ssl.models.networks.r3d_config import R3DConfig
    from video_ssl.pretrain.torch_loop.sharding import blocks_of

    torch.manual_seed(0)
    model = R3D(R3DConfig()).train()
    blocks = [block for _, block in blocks_of(model)]
    for block in blocks:
        if variant == "torch":
            block.forward = functools.partial(checkpoint, block.forward, use_reentrant=False)
        elif variant == "fairscale":
            from fairscale.nn.checkpoint import checkpoint_wrapper

            checkpoint_wrapper(block)
    video = torch.rand(4, 3, 16, 112, 112)

    def step() -> None:
        model.zero_grad(set_to_none=True)
        model(video).mean().backward()

    found = timed(step)
    norms = [m for b in blocks for m in b.modules() if isinstance(m, torch.nn.BatchNorm3d)]
    return found | {"counted": norms[0].num_batches_tracked.item() / (1 + STEPS)}


# norm ----------------------------------------------------------------------------------------------


def norm(variant: str, rank: int) -> dict[str, Any]:
    import torch
    from torch import nn

    torch.manual_seed(0)
    channels = 64
    both = torch.randn(8, channels, 8, 28, 28) * torch.arange(1, 9).view(8, 1, 1, 1, 1)
    weights = torch.randn_like(both)
    joint = nn.BatchNorm3d(channels).train()
    whole = both.clone().requires_grad_()
    out = joint(whole)
    (out * weights).sum().backward()
    if variant == "pytorchvideo":
        from pytorchvideo.layers.batch_norm import NaiveSyncBatchNorm3d

        layer: nn.Module = NaiveSyncBatchNorm3d(num_features=channels).train()
    elif variant == "torch, synchronised":
        layer = nn.SyncBatchNorm(channels).train()
    else:
        layer = nn.BatchNorm3d(channels).train()
    own = slice(4 * rank, 4 * rank + 4)
    part = both[own].clone().requires_grad_()
    try:
        given = layer(part)
    except ValueError as err:
        return {"refused": str(err)}
    (given * weights[own]).sum().backward()
    assert part.grad is not None
    assert whole.grad is not None
    differences = {
        "output": (given - out[own]).abs().max().item(),
        "gradient": (part.grad - whole.grad[own]).abs().max().item(),
        "running_var": (layer.running_var - joint.running_var).abs().max().item(),  # type: ignore[operator, union-attr]
    }

    def step() -> None:
        part.grad = None
        (layer(part) * weights[own]).sum().backward()

    return timed(step) | differences


# optimizer -----------------------------------------------------------------------------------------


def optimizer(variant: str, rank: int) -> dict[str, Any]:
    import torch
    from torch import nn

    from video_ssl.models.config import ViTConfig
    from video_ssl.models.networks.vit import VideoViT

    torch.manual_seed(0)
    model = nn.parallel.DistributedDataParallel(
        VideoViT(ViTConfig(preset="B", num_frames=16, image_size=224))
    )
    settings = {"lr": 1e-4, "fused": True}
    if variant == "fairscale":
        from fairscale.optim import OSS

        steps: Any = OSS(params=model.parameters(), optim=torch.optim.AdamW, **settings)
    elif variant == "torch":
        from torch.distributed.optim import ZeroRedundancyOptimizer

        steps = ZeroRedundancyOptimizer(model.parameters(), torch.optim.AdamW, **settings)
    else:
        steps = torch.optim.AdamW(model.parameters(), **settings)
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, 1e-3)
    found = timed(steps.step)
    inner = getattr(steps, "optim", steps)
    moments = [v for state in inner.state.values() for v in state.values()]
    held = sum(v.numel() * v.element_size() for v in moments if torch.is_tensor(v))
    return found | {"moments_gib": held / 2**30}


SUBJECTS: dict[str, tuple[Callable[[str, int], dict[str, Any]], int, tuple[str, ...]]] = {
    "recompute": (recompute, 1, ("kept", "torch", "fairscale")),
    "norm": (norm, 2, ("torch, plain", "torch, synchronised", "pytorchvideo")),
    "optimizer": (optimizer, 2, ("ddp", "torch", "fairscale")),
}


def work(subject: str, variant: str, rank: int, meet: str) -> None:
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    function, processes, _ = SUBJECTS[subject]
    if processes > 1:
        dist.init_process_group(
            "gloo", init_method=f"file://{meet}", rank=rank, world_size=processes
        )
    found = function(variant, rank)
    if rank == 0:
        print(json.dumps(found))
    if processes > 1:
        dist.barrier()
        dist.destroy_process_group()


def measured(subject: str, variant: str) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        words = [sys.executable, "-W", "ignore", __file__, "--work", subject, variant]
        started = [
            subprocess.Popen(
                [*words, str(rank), os.path.join(folder, "meet")], stdout=subprocess.PIPE, text=True
            )
            for rank in range(SUBJECTS[subject][1])
        ]
        told = [process.communicate()[0] for process in started]
    if any(process.returncode for process in started):
        raise SystemExit(f"{subject}, {variant}: {told}")
    return dict(json.loads(told[0].splitlines()[-1]))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("subjects", nargs="*", metavar="subject", help=", ".join(SUBJECTS))
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    for subject in given.subjects or SUBJECTS:
        variants = SUBJECTS[subject][2]
        rounds = [{v: measured(subject, v) for v in variants} for _ in range(given.rounds)]
        print(f"{subject}:")
        for variant in variants:
            rows = [found[variant] for found in rounds]
            if "refused" in rows[0]:
                print(f"  {variant:20} refuses: {rows[0]['refused']}")
                continue
            figures = {k: statistics.median(row[k] for row in rows) for k in rows[0]}
            ratio = statistics.median(
                found[variant]["sec"] / found[variants[0]]["sec"] for found in rounds
            )
            told = "  ".join(f"{k} {v:.3g}" for k, v in figures.items())
            print(f"  {variant:20} {told}  of the first {ratio:.2f}", flush=True)


if __name__ == "__main__":
    if "--work" in sys.argv:
        _, _, subject, variant, rank, meet = sys.argv
        work(subject, variant, int(rank), meet)
    else:
        main()
