"""The largest ViT that trains on one device, under VideoMAE (not a test): prints a line for every size and batch.

    python tests/pretrain/measure_largest_vit.py [--batch 8] [--steps 3] [--sizes L H g G e] [--keep] [--device cuda]

Settings of videomae/vit_h_k400 (16 frames of 224 px, 90 % hidden, bf16, AdamW in float32) with other encoders; blocks
are recomputed in the backward pass unless --keep.  G and e are the widths and depths of the image transformers of that
name (arXiv:2106.04560, 2209.06794); "e+4" is e with four blocks more.  A size that does not fit is told as such.
"""

from __future__ import annotations

import argparse
import gc
import time
from typing import Any

import numpy as np
import torch

from video_ssl.bench.step_torch import random_batch
from video_ssl.models.config import VIT_PRESETS
from video_ssl.pretrain.recipe import load_pretrain_recipe
from video_ssl.pretrain.torch_loop.loop import gradients_of
from video_ssl.pretrain.torch_loop.optimizers import objective_optimizer, set_lr
from video_ssl.pretrain.torch_loop.run import build_objective
from video_ssl.pretrain.torch_loop.sharding import recompute_blocks

#: embed_dim, depth, num_heads, mlp_ratio
SIZES: dict[str, tuple[int, int, int, float]] = {
    **{name: (*shape, 4.0) for name, shape in VIT_PRESETS.items()},
    "G": (1664, 48, 16, 8192 / 1664),
    "e": (1792, 56, 16, 15360 / 1792),
}


def shape_of(name: str) -> tuple[int, int, int, float]:
    base, _, more = name.partition("+")
    width, depth, heads, ratio = SIZES[base]
    return width, depth + int(more or 0), heads, ratio


def measure(name: str, given: argparse.Namespace) -> str:
    width, depth, heads, ratio = shape_of(name)
    encoder = {"embed_dim": width, "depth": depth, "num_heads": heads, "mlp_ratio": ratio}
    overrides = [f"objective.encoder.{key}={value}" for key, value in encoder.items()]
    if given.frames:
        overrides += [f"objective.clip.num_frames={given.frames}", "objective.crop.size=32"]
    recipe = load_pretrain_recipe(
        "videomae/vit_h_k400", ["objective.encoder.preset=null", *overrides]
    )
    device = torch.device(given.device)
    with device:  # initialised where it will live
        objective: Any = build_objective(recipe)
    objective.to(device).train()
    count = sum(p.numel() for p in objective.encoder.parameters())
    if not given.keep:
        recompute_blocks(objective)
    optimizer = objective_optimizer(objective, recipe.optimizer)
    set_lr(optimizer, 1e-5)
    batch = random_batch(recipe, given.batch, device)
    seconds = []
    for _ in range(given.steps):
        wait(device)
        begin = time.perf_counter()
        optimizer.zero_grad(set_to_none=True)
        outcome = gradients_of(objective, batch, recipe.training)
        optimizer.step()
        loss = outcome.loss.item()
        wait(device)
        seconds.append(time.perf_counter() - begin)
    peak = torch.cuda.max_memory_allocated() / 2**30 if device.type == "cuda" else float("nan")
    assert np.isfinite(loss)
    step = float(np.median(seconds[1:] or seconds))
    return f"{count / 1e9:.2f} billion parameters, {step:.3f} s a step, {peak:.1f} GiB, loss {loss:.3f}"


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--sizes", nargs="+", default=["L", "H", "g", "G", "e"])
    parser.add_argument("--keep", action="store_true")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--frames", type=int, help="tiny clips, to try this script")
    given = parser.parse_args()
    for name in given.sizes:
        try:
            told = measure(name, given)
        except torch.OutOfMemoryError as err:
            told = f"does not fit: {str(err).splitlines()[0][:150]}"
        print(f"ViT-{name}, batch {given.batch}: {told}", flush=True)
        gc.collect()
        if given.device == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()


if __name__ == "__main__":
    main()
