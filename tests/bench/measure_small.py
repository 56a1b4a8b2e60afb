"""Prints the table of docs/gpu.md: what a step of every `small` recipe needs, computed.

    python tests/bench/measure_small.py [RECIPE ...]

Memory is what a step holds at its fullest: weights, gradients, the moments of Adam and what the backward pass needs of
the forward pass.  Of torch that is summed over the tensors that autograd keeps for a batch of few records, scaled to
the whole batch; of flax it is what XLA plans for the step.  Workspaces of a GPU's libraries (0.5 to 1 GiB) come on top.
Operations are those of matrix products and convolutions, backward pass included.
"""

from __future__ import annotations

import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from video_ssl.objectives import OBJECTIVES
from video_ssl.pretrain.recipe import PretrainRecipe, load_pretrain_recipe
from video_ssl.recipes import list_recipes

GIB = 2**30
#: Records of the two batches whose operations and activations are counted; two, because some are kept once.
COUNTED = (2, 4)


@dataclass(frozen=True)
class Needs:
    """Of a step with the whole batch: parameters (frozen ones too), operations, GiB."""

    parameters: int
    flops: float
    gib: float


def torch_needs(recipe: PretrainRecipe) -> Needs:
    from video_ssl.bench.step_torch import untrained_stages
    from video_ssl.pretrain.torch_loop.run import build_objective

    with tempfile.TemporaryDirectory() as folder:
        objective = build_objective(recipe, untrained_stages(recipe, Path(folder)))
    few, more = (_kept(objective, recipe, count) for count in COUNTED)
    rest = recipe.training.global_batch_size - COUNTED[0]
    each = [(m - f) / (COUNTED[1] - COUNTED[0]) for f, m in zip(few, more, strict=True)]
    flops, held = (f + rest * e for f, e in zip(few, each, strict=True))
    trained = sum(p.numel() for p in objective.parameters())
    frozen = sum(
        p.numel() for network in objective.frozen.values() for p in network.module.parameters()
    )
    return Needs(trained + frozen, flops, (16 * trained + 4 * frozen + held) / GIB)


def _kept(objective: Any, recipe: PretrainRecipe, batch_size: int) -> tuple[float, float]:
    """Operations of a step, and bytes that autograd keeps for it."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from video_ssl.bench.step_torch import random_batch
    from video_ssl.pretrain.torch_loop.loop import autocast

    kept: dict[int, int] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    batch = random_batch(recipe, batch_size, torch.device("cpu"))
    with FlopCounterMode(display=False) as counter:
        with (
            torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor),
            autocast(torch.device("cpu"), recipe.training.precision),
        ):
            loss = objective(batch).loss
        for parameter in objective.parameters():
            kept.pop(parameter.untyped_storage().data_ptr(), None)
        loss.backward()
    return counter.get_total_flops(), sum(kept.values())


def flax_needs(recipe: PretrainRecipe) -> Needs:
    """On one device."""
    import jax
    import numpy as np

    from video_ssl.bench.figures import random_samples
    from video_ssl.bench.step_flax import count_flops
    from video_ssl.pretrain.flax_loop.devices import join_flax_processes, put_batch
    from video_ssl.pretrain.flax_loop.loop import make_step
    from video_ssl.pretrain.flax_loop.run import trained_parts

    with join_flax_processes("cpu") as processes:
        parts = trained_parts(recipe, None, processes, np.full(1, recipe.optimizer.base_lr))
        state = parts.pop("state")
        samples = random_samples(recipe, recipe.training.global_batch_size)
        batch = put_batch(samples, processes)
        step = make_step(**parts, seed=recipe.seed, accumulation=1)
        flops = count_flops(step, state, batch)
        plan: Any = step.lower(state, batch).compile().memory_analysis()
    count = sum(x.size for x in jax.tree.leaves(state["params"]))
    return Needs(count, flops, (plan.temp_size_in_bytes + plan.argument_size_in_bytes) / GIB)


def row_of(name: str) -> str:
    recipe = load_pretrain_recipe(name, ["training.device=cpu"])
    needs = {"torch": torch_needs, "flax": flax_needs}[OBJECTIVES[recipe.objective_name].framework]
    full = needs(recipe)
    half = needs(load_pretrain_recipe(name, ["training.device=cpu", "training.precision=bf16"]))
    batch, clips = recipe.training.global_batch_size, recipe.objective.clips_per_record
    return (
        f"| `{name}` | {full.parameters / 1e6:.1f} | {batch} x {clips} | {full.flops / 1e12:.2f} | "
        f"{full.gib:.1f} | {half.gib:.1f} |"
    )


def main() -> None:
    names = sys.argv[1:] or [n for n in list_recipes("pretrain") if n.endswith("/small")]
    for name in names:
        print(row_of(name), flush=True)


if __name__ == "__main__":
    main()
