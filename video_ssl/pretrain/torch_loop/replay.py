"""Repeats a step whose loss or gradient was not finite: `python -m video_ssl.pretrain.torch_loop.replay RUN`.

Names the parameters without a finite gradient, for the batch of each process; what it needs was kept by
`nonfinite.py`.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from video_ssl.errors import one_sentence
from video_ssl.pretrain.checkpoint_folders import Checkpoint
from video_ssl.pretrain.recipe import load_pretrain_recipe
from video_ssl.pretrain.torch_loop.checkpoints import load_objective, load_state
from video_ssl.pretrain.torch_loop.loop import gradients_of, seed_step
from video_ssl.pretrain.torch_loop.run import build_objective

logger = logging.getLogger(__name__)


def replay(folder: Path, rank: int = 0) -> dict[str, Any]:
    """Returns loss, gradient norm and the parameters without a finite gradient of the step kept in RUN/nonfinite.

    Args:
        folder: RUN.
        rank: of the process whose batch is computed on.
    """
    place = Path(folder) / "nonfinite"
    report = json.loads((place / "report.json").read_text(encoding="utf-8"))
    recipe = load_pretrain_recipe(Path(folder) / "recipe.yaml")
    objective = build_objective(recipe)
    state = load_state(Checkpoint(report["step"], place))
    load_objective(objective, state["objective"], str(place))
    batch = torch.load(place / f"batch_{rank}.pt", weights_only=True)
    seed_step(recipe.seed, report["step"], rank)
    outcome = gradients_of(objective, batch, recipe.training)
    broken = [
        name
        for name, p in objective.named_parameters()
        if p.grad is not None and not p.grad.isfinite().all()
    ]
    return {
        "step": report["step"],
        "loss": outcome.loss.item(),
        "grad_norm": outcome.grad_norm.item(),
        "broken_parameters": broken,
    }


def replay_all(folder: Path) -> Iterator[str]:
    """Yields the lines about the step as every process computed it: any of them may be the one that was not finite."""
    report = json.loads((Path(folder) / "nonfinite" / "report.json").read_text(encoding="utf-8"))
    for rank in range(report["world_size"]):
        for name, value in replay(folder, rank).items():
            yield f"process {rank}: {name}: {value}"


if __name__ == "__main__":
    logging.basicConfig(format="%(message)s", level=logging.INFO)
    with one_sentence():
        for line in replay_all(Path(sys.argv[1])):
            logger.info("%s", line)
