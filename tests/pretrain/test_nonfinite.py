"""A loss that is not finite: noticed late without harm, kept, replayed."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from video_ssl.objectives.videomae.objective import Objective
from video_ssl.pretrain.checkpoint_folders import Checkpoint, list_checkpoints
from video_ssl.pretrain.errors import NonFiniteLoss
from video_ssl.pretrain.optimizers import OptimizerConfig
from video_ssl.pretrain.processes import Processes
from video_ssl.pretrain.recipe import PretrainRecipe
from video_ssl.pretrain.torch_loop.checkpoints import load_objective, load_state
from video_ssl.pretrain.torch_loop.loop import gradients_of, seed_step
from video_ssl.pretrain.torch_loop.nonfinite import FiniteGuard
from video_ssl.pretrain.torch_loop.optimizers import build_optimizer, set_lr
from video_ssl.pretrain.torch_loop.replay import replay, replay_all
from video_ssl.pretrain.torch_loop.run import build_objective, run_torch

ALONE = Processes(0, 1, torch.device("cpu"))


@pytest.mark.parametrize("name", ["adamw", "sgd", "lars"])
@pytest.mark.parametrize("poison", ["loss", "gradient"])
def test_weights_stand_still_from_the_first_bad_step_on(name: str, poison: str) -> None:
    """As on an accelerator: the host looks only after several further steps."""
    module = nn.Linear(3, 1)
    optimizer = build_optimizer(module, OptimizerConfig(name=name))
    guard = FiniteGuard(optimizer, ALONE)
    history = []
    for step in range(6):
        optimizer.zero_grad()
        loss = module(torch.ones(2, 3)).square().sum()
        loss.backward()
        if step == 3:
            if poison == "gradient":
                module.weight.grad.fill_(math.nan)  # type: ignore[union-attr]
            else:
                loss = loss * math.inf
        grads = [p.grad for p in module.parameters() if p.grad is not None]
        guard.look(step, loss.detach(), torch.nn.utils.get_total_norm(grads))
        set_lr(optimizer, 0.1)
        optimizer.step()
        history.append(module.weight.detach().clone())
    assert guard.failed_step() == 3
    assert not torch.equal(history[1], history[2])
    assert torch.equal(history[2], history[3])
    assert torch.equal(history[2], history[5])


def poison_step(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """The objective returns NaN in the forward pass number `step` (from 0)."""
    forward = Objective.forward
    count = {"calls": 0}

    def poisoned(self: Any, batch: Any) -> Any:
        output = forward(self, batch)
        count["calls"] += 1
        return output._replace(loss=output.loss * (math.nan if count["calls"] == step + 1 else 1))

    monkeypatch.setattr(Objective, "forward", poisoned)


def test_the_run_stops_keeps_evidence_and_no_poisoned_checkpoint(
    videos: Path, tmp_path: Path, helpers: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    recipe = helpers.recipe(videos, run, training__checkpoint_every=2, training__log_every=50)
    poison_step(monkeypatch, 5)
    with pytest.raises(NonFiniteLoss, match=r"step 5 is not finite.*nonfinite"):
        run_torch(recipe)
    monkeypatch.undo()
    steps = list_checkpoints(run / "checkpoints")
    assert [c.step for c in steps] == [2, 4]
    for checkpoint in (*steps, Checkpoint(5, run / "nonfinite")):
        state = load_state(checkpoint)["objective"]
        assert all(v.isfinite().all() for v in state.values())
    assert not (run / "encoder").exists()
    # Step 5 itself is sound: repeating it gives the very loss that an undisturbed run has there.
    repeated = replay(run)
    straight = helpers.recipe(videos, tmp_path / "straight", training__log_every=1)
    run_torch(straight)
    from video_ssl.pretrain.reporting import read_metrics

    row = read_metrics(tmp_path / "straight" / "metrics.jsonl")[5]
    assert (repeated["step"], repeated["broken_parameters"]) == (5, [])
    assert (repeated["loss"], repeated["grad_norm"]) == (row["loss"], row["grad_norm"])
    one_of_two_processes(run, recipe)


def test_a_rate_that_explodes_is_reproduced(videos: Path, tmp_path: Path, helpers: Any) -> None:
    run = tmp_path / "run"
    recipe = helpers.recipe(
        videos, run, optimizer__name="sgd", optimizer__base_lr=1e30, optimizer__warmup=0
    )
    with pytest.raises(NonFiniteLoss):
        run_torch(recipe)
    again = replay(run)
    assert not (math.isfinite(again["loss"]) and math.isfinite(again["grad_norm"]))
    assert again["broken_parameters"]
    assert list_checkpoints(run / "checkpoints") == []


def one_of_two_processes(run: Path, recipe: PretrainRecipe) -> None:
    """Was wrong: the command repeated the batch of process 0 only, which may be sound where another one's is not.

    The evidence becomes that of two processes, each with a batch of its own; the one before had four.
    """
    place = run / "nonfinite"
    report = json.loads((place / "report.json").read_text())
    (place / "report.json").write_text(json.dumps({**report, "world_size": 2}))
    batch = torch.load(place / "batch_0.pt", weights_only=True)
    batch["video"] = 255 - batch["video"]
    for rank in (1, 3):
        torch.save(batch, place / f"batch_{rank}.pt")
    objective = build_objective(recipe)
    state = load_state(Checkpoint(report["step"], place))
    load_objective(objective, state["objective"], str(place))
    losses = [replay(run)["loss"]]
    seed_step(recipe.seed, report["step"], 1)
    losses.append(gradients_of(objective, batch, recipe.training).loss.item())
    assert losses[0] != losses[1]
    lines = [line.split(": ") for line in replay_all(run)]
    assert [line[:2] for line in lines] == [
        [f"process {rank}", name]
        for rank in (0, 1)
        for name in ("step", "loss", "grad_norm", "broken_parameters")
    ]
    assert [float(line[2]) for line in lines if line[1] == "loss"] == losses
