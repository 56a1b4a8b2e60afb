"""The torch side of `bench step`: eager or compiled steps of an objective, and the encoder alone.

Frozen networks (MVD's teachers) have random weights of the right size where the recipe would train them first.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from video_ssl.bench.figures import (
    StepFigures,
    Timing,
    matmul_side,
    product_rate,
    random_clips,
    random_samples,
    resident_gib,
    tidy,
    timed,
)
from video_ssl.files import temporary_folder
from video_ssl.models import architecture_of
from video_ssl.models.encoder_folder import DECODER
from video_ssl.models.encoders import build_encoder, save_encoder
from video_ssl.objectives import OBJECTIVES
from video_ssl.objectives.shared.frozen import FrozenNetwork
from video_ssl.objectives.shared.sources import EncoderSource
from video_ssl.objectives.shared.torch_objective import StepOutput, TorchObjective
from video_ssl.pretrain.processes import choose_device
from video_ssl.pretrain.recipe import PretrainRecipe, stage_recipe
from video_ssl.pretrain.run import stage_path
from video_ssl.pretrain.torch_loop.optimizers import objective_optimizer
from video_ssl.pretrain.torch_loop.sharding import recompute_blocks

Autocast = Callable[[], Any]


def measure_step(
    recipe: PretrainRecipe, batch_size: int, timing: Timing, *, compile_too: bool = False
) -> list[StepFigures]:
    """Returns the figures of the eager step, and of the compiled one if requested."""
    device = choose_device(recipe.training.device)
    torch.manual_seed(recipe.seed)
    with temporary_folder("bench") as folder:
        stages = untrained_stages(recipe, Path(folder))
        objective: TorchObjective = OBJECTIVES[recipe.objective_name].objective()(
            recipe.objective, stages=stages
        )
    objective.to(device).train()
    batch = random_batch(recipe, batch_size, device)
    # Counted before blocks are computed twice: the share of the chip's rate is that of the useful operations.
    flops = _flops_of(objective, batch, _autocast(recipe, device))
    objective.zero_grad(set_to_none=True)
    if recipe.training.activation_checkpointing:
        recompute_blocks(objective)
    variants = (False, True) if compile_too else (False,)
    return [
        _measure(
            recipe, objective, batch, batch_size, device, timing, flops=flops, compiled=compiled
        )
        for compiled in variants
    ]


def measure_encoder(recipe: PretrainRecipe, batch_size: int, timing: Timing) -> StepFigures:
    """Returns the figures of the encoder alone: forward pass, gradient of the mean square of the clip features."""
    device = choose_device(recipe.training.device)
    torch.manual_seed(recipe.seed)
    encoder: Any = build_encoder(recipe.objective.encoder).to(device).train()
    clips = random_clips(recipe, batch_size).transpose(0, 4, 1, 2, 3)
    video = torch.from_numpy(np.ascontiguousarray(clips)).to(device)
    autocast = _autocast(recipe, device)

    def forward(batch: Mapping[str, Tensor]) -> StepOutput:
        return StepOutput(encoder.clip_features(batch["video"]).float().square().mean(), {})

    def step() -> None:
        encoder.zero_grad(set_to_none=True)
        with autocast():
            loss = forward({"video": video}).loss
        loss.backward()

    flops = _flops_of(forward, {"video": video}, autocast)
    return _figures(
        recipe,
        step,
        device,
        timing,
        variant="torch",
        batch_size=len(video),
        clips=len(video),
        flops=flops,
    )


def untrained_stages(
    recipe: PretrainRecipe, folder: Path, before: Mapping[str, Path] | None = None
) -> dict[str, Path]:
    """Returns what a recipe needs before it starts; encoders that a recipe would train have random weights.

    Args:
        folder: where these go.
        before: stages before this one, of the run that it is a stage of.
    """
    found: dict[str, Path] = {}
    for name, source in recipe.objective.stages().items():
        if isinstance(source, EncoderSource) and source.stage and before:
            found[name] = before[source.stage]
            continue
        if not isinstance(source, EncoderSource) or source.recipe is None:
            found[name] = stage_path(recipe, name, source)
            continue
        inner = stage_recipe(recipe, name, source)
        built: TorchObjective = OBJECTIVES[inner.objective_name].objective()(
            inner.objective, stages=untrained_stages(inner, folder / name, found)
        )
        module, preprocess = next(iter(built.encoders().values()))
        found[name] = save_encoder(
            folder / name / "encoder",
            module,
            architecture=architecture_of(module),
            preprocess=preprocess,
            source={"objective": inner.objective_name, "untrained": True},
            beside={DECODER: parts} if (parts := built.parts_beside()) else {},
        )
    return found


def random_batch(
    recipe: PretrainRecipe, batch_size: int, device: torch.device
) -> dict[str, Tensor]:
    """Returns a batch of random pixels made by the recipe's own plan, on the device."""
    samples = random_samples(recipe, batch_size)
    return {key: torch.from_numpy(value).to(device) for key, value in samples.items()}


def _measure(
    recipe: PretrainRecipe,
    objective: TorchObjective,
    batch: Mapping[str, Tensor],
    batch_size: int,
    device: torch.device,
    timing: Timing,
    *,
    flops: float,
    compiled: bool,
) -> StepFigures:
    optimizer = objective_optimizer(objective, recipe.optimizer)
    forward: Callable[..., Any] = torch.compile(objective) if compiled else objective
    autocast = _autocast(recipe, device)

    def step() -> None:
        with autocast():
            output: StepOutput = forward(batch)
        output.loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    first = timed(step, lambda: _wait(device)) if compiled else None
    parts = {} if compiled else _parts(objective, optimizer, batch, autocast, device, timing.steps)
    with torch.no_grad(), autocast():
        clips = objective(batch).clips
    recomputed = ", recomputed" if recipe.training.activation_checkpointing else ""
    return _figures(
        recipe,
        step,
        device,
        timing,
        variant=("compiled" if compiled else "eager") + recomputed,
        batch_size=batch_size,
        clips=batch_size * recipe.objective.clips_per_record if clips is None else clips,
        flops=flops,
        compile_sec=first,
        parts_sec=parts,
    )


def _figures(
    recipe: PretrainRecipe,
    step: Callable[[], None],
    device: torch.device,
    timing: Timing,
    **known: Any,
) -> StepFigures:
    """Times a step between two measurements of the yardstick."""
    wait = lambda: _wait(device)  # noqa: E731
    before = _matmul_rate(device, _dtype(recipe))
    _reset_peak(device)
    step_sec = timing.median_sec(step, wait)
    peak = _peak_gib(device)
    return StepFigures(
        chip=_chip(device),
        step_sec=step_sec,
        peak_gib=peak,
        chip_flops=max(before, _matmul_rate(device, _dtype(recipe))),
        **known,
    )


def _flops_of(
    forward: Callable[..., StepOutput], batch: Mapping[str, Tensor], autocast: Any
) -> float:
    """Operations of a step.  Counted on as few records as can stand for all streams, but not on one alone, which some
    objectives have nothing to compare with; and with explicit attention, because torch's counter does not know the
    fused attention of every device."""
    parts = math.gcd(*(len(values) for values in batch.values()))
    if parts == min(len(values) for values in batch.values()):
        parts //= next((n for n in range(2, parts + 1) if parts % n == 0), 1)
    few = {name: values[: len(values) // parts] for name, values in batch.items()}
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH), autocast():
        forward(few).loss.backward()
    return float(counter.get_total_flops()) * parts


def _parts(
    objective: TorchObjective,
    optimizer: torch.optim.Optimizer,
    batch: Mapping[str, Tensor],
    autocast: Any,
    device: torch.device,
    steps: int,
) -> dict[str, float]:
    """Median seconds of the parts of a step, with a wait for the device after each."""
    seen: dict[str, list[float]] = {"frozen": [], "student": [], "backward": [], "optimizer": []}
    wait = lambda: _wait(device)  # noqa: E731
    for _ in range(steps):
        loss = None

        def forward() -> None:
            nonlocal loss
            with autocast():
                loss = objective(batch).loss

        with _stopwatch(objective.frozen, device) as spent:
            total = timed(forward, wait)
        assert loss is not None
        seen["frozen"].append(sum(spent))
        seen["student"].append(total - sum(spent))
        seen["backward"].append(timed(loss.backward, wait))
        seen["optimizer"].append(timed(optimizer.step, wait))
        optimizer.zero_grad(set_to_none=True)
    return {name: float(np.median(values)) for name, values in seen.items()}


@contextlib.contextmanager
def _stopwatch(
    networks: Mapping[str, FrozenNetwork], device: torch.device
) -> Iterator[list[float]]:
    """Collects the seconds in which the given networks compute."""
    spent: list[float] = []
    with contextlib.ExitStack() as stack:
        for network in networks.values():
            stack.enter_context(_timing(network, spent, device))
        yield spent


@contextlib.contextmanager
def _timing(network: FrozenNetwork, spent: list[float], device: torch.device) -> Iterator[None]:
    inner = network.compute

    def timed(*args: Any, **kwargs: Any) -> Any:
        _wait(device)
        start = time.perf_counter()
        result = inner(*args, **kwargs)
        _wait(device)
        spent.append(time.perf_counter() - start)
        return result

    network.compute = timed  # type: ignore[method-assign]
    try:
        yield
    finally:
        del network.compute


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def _reset_peak(device: torch.device) -> None:
    tidy()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()


def _peak_gib(device: torch.device) -> float:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated() / 2**30
    return resident_gib()


def _dtype(recipe: PretrainRecipe) -> torch.dtype:
    return torch.bfloat16 if recipe.training.precision == "bf16" else torch.float32


def _autocast(recipe: PretrainRecipe, device: torch.device) -> Autocast:
    return lambda: torch.autocast(
        device.type, dtype=torch.bfloat16, enabled=recipe.training.precision == "bf16"
    )


def _matmul_rate(device: torch.device, dtype: torch.dtype) -> float:
    side = matmul_side(device.type)
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    return product_rate(
        lambda: torch.mm(a, b), lambda: _wait(device), side=side, platform=device.type
    )


def _chip(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name()
    return f"{torch.get_num_threads()} CPU threads"
