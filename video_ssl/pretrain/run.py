"""One pre-training run from recipe to encoder: stages first, then build, resume, train, export."""

from __future__ import annotations

import contextlib
import json
import logging
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from video_ssl.clips.pipeline import Pipeline
from video_ssl.datasets import open_table
from video_ssl.datasets.table import Table
from video_ssl.models import ENCODERS
from video_ssl.models.encoders import find_encoder, save_encoder
from video_ssl.objectives import OBJECTIVES
from video_ssl.pretrain.averages import WeightAverage
from video_ssl.pretrain.checkpoints import (
    load_objective,
    newest_checkpoint,
    read_meta,
    sweep_unfinished,
)
from video_ssl.pretrain.durations import to_steps
from video_ssl.pretrain.errors import CheckpointError, RunError
from video_ssl.pretrain.loop import Job, OpenBatches, train
from video_ssl.pretrain.optimizers import build_optimizer, load_optimizer_state
from video_ssl.pretrain.processes import Processes, join_processes
from video_ssl.pretrain.recipe import PretrainRecipe, recipe_to_dict, stage_recipe
from video_ssl.pretrain.reporting import duration_text, read_metrics
from video_ssl.pretrain.run_folder import (
    FINISHED,
    METRICS,
    hold,
    log_to_file,
    note_start,
    settle_recipe,
    write_atomically,
)
from video_ssl.pretrain.schedules import (
    constant_schedule,
    cosine_schedule,
    epoch_cosine_schedule,
    scaled_lr,
)
from video_ssl.pretrain.sharded_checkpoints import load_for
from video_ssl.pretrain.sharding import is_sharded, prepare, whole

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunResult:
    """What a run has left.

    Attributes:
        folder: RUN.
        steps: optimizer steps of the whole run.
        metrics: the last row of metrics.jsonl.
        encoder: RUN/encoder, for `video_ssl.load_encoder`.
    """

    folder: Path
    steps: int
    metrics: Mapping[str, Any]
    encoder: Path


def pretrain(recipe: PretrainRecipe, *, allow_changes: bool = False) -> RunResult:
    """Returns the result of a run, trained to its end: from the start, from its newest checkpoint, or at once if done.

    Under torchrun every process calls it.  Encoders that the objective needs and that a recipe is given for are trained
    first, in RUN/stages/NAME, by the same processes.

    Args:
        recipe: see `load_pretrain_recipe`.
        allow_changes: resume a folder although its recipe differs in more than harmless settings.

    Raises:
        RunError: the folder is in use, holds another recipe, or the batch does not fit the processes.
        CheckpointError: a checkpoint cannot be written or is of another architecture.
        NonFiniteLoss: the loss or gradient is NaN or infinite.
        Interrupted: SIGINT or SIGTERM; a `SystemExit` with code 128 + signal.
    """
    with join_processes(recipe.training.device) as processes:
        return _run(recipe, processes, allow_changes=allow_changes)


def _run(recipe: PretrainRecipe, processes: Processes, *, allow_changes: bool) -> RunResult:
    folder = recipe.folder
    with contextlib.ExitStack() as stack:

        def claim() -> dict[str, Any] | None:
            stack.enter_context(hold(folder))
            return _settle(recipe, allow_changes=allow_changes)

        finished = processes.on_main(claim)
        stack.enter_context(log_to_file(folder, processes.rank))
        if finished is not None:
            steps, metrics = finished["steps"], finished["metrics"]
            logger.info("%s is already finished: %d steps", folder, steps)
            return RunResult(folder, steps, metrics, folder / "encoder")
        encoders = prepare_encoders(recipe, processes, allow_changes=allow_changes)
        tables = open_tables(recipe)
        job = build_job(recipe, tables, encoders, processes)
        job.start_step = _resume(job, allow_changes=allow_changes)
        processes.on_main(lambda: note_start(folder, processes, step=job.start_step))
        _announce(recipe, job)
        begin = time.perf_counter()
        metrics = train(job) or _last_metrics(folder)
        _finish(recipe, job, metrics)
        logger.info(
            "finished %d steps in %s: encoder in %s",
            job.num_steps - job.start_step,
            duration_text(time.perf_counter() - begin),
            folder / "encoder",
        )
        return RunResult(folder, job.num_steps, metrics, folder / "encoder")


def _settle(recipe: PretrainRecipe, *, allow_changes: bool) -> dict[str, Any] | None:
    """Makes the folder ready for this recipe; returns finished.json if there is nothing left to do."""
    folder = recipe.folder
    if settle_recipe(folder, recipe_to_dict(recipe), allow_changes=allow_changes):
        (folder / FINISHED).unlink(missing_ok=True)
    sweep_unfinished(folder / "checkpoints")
    return _finished(folder)


def prepare_encoders(
    recipe: PretrainRecipe, processes: Processes, *, allow_changes: bool = False
) -> dict[str, Path]:
    """Returns name -> encoder folder or weight file for what the objective needs; trains the stages that are missing.

    Raises:
        RunError: a source that does not exist.
    """
    encoders = {}
    for name, source in recipe.objective.stages().items():
        if source.recipe is not None:
            logger.info("stage %s of %s: %s", name, recipe.name, source.recipe)
            inner = stage_recipe(recipe, name, source)
            encoders[name] = _run(inner, processes, allow_changes=allow_changes).encoder
        elif source.run is not None:
            encoders[name] = find_encoder(source.run)
        else:
            encoders[name] = Path(source.file)
            if not encoders[name].is_file():
                raise RunError(f"the {name} encoder of {recipe.name}: no file {source.file}.")
    return encoders


def existing_encoders(recipe: PretrainRecipe) -> dict[str, Path]:
    """Returns name -> encoder folder or weight file; stages must have been trained already.

    Raises:
        EncoderError: a stage without an encoder.
    """
    sources = recipe.objective.stages()
    return {
        name: Path(source.file)
        if source.file is not None
        else find_encoder(source.run or recipe.folder / "stages" / name)
        for name, source in sources.items()
    }


def open_tables(recipe: PretrainRecipe) -> list[tuple[Table, float]]:
    """Returns the tables of a recipe and their weights."""
    mix = {recipe.data.table: 1.0, **recipe.data.mix}
    tables = [(open_table(spec), weight) for spec, weight in mix.items()]
    crop = getattr(recipe.objective, "crop", None)
    for spec, (table, _) in zip(mix, tables, strict=True):
        if table.no_flip and getattr(crop, "flip_probability", 0) > 0:
            logger.info("%s says no_flip: its views are not mirrored", spec)
    return tables


def build_objective(
    recipe: PretrainRecipe, encoders: Mapping[str, Path] | None = None
) -> nn.Module:
    """Returns the objective with weights drawn from the seed of the recipe."""
    if encoders is None:
        encoders = existing_encoders(recipe)
    torch.manual_seed(recipe.seed)
    objective: nn.Module = OBJECTIVES[recipe.objective_name].objective()(
        recipe.objective, encoders=encoders
    )
    return objective


def build_job(
    recipe: PretrainRecipe,
    tables: list[tuple[Table, float]],
    encoders: Mapping[str, Path],
    processes: Processes,
) -> Job:
    """Returns everything the loop needs to train from the start."""
    training = recipe.training
    check_batch(recipe, processes.world_size)
    sizes = {
        "num_examples": sum(len(table) for table, _ in tables),
        "global_batch_size": training.global_batch_size,
    }
    num_steps = to_steps(training.duration, **sizes)
    objective = prepare(build_objective(recipe, encoders).to(processes.device), training, processes)
    divided = training.sharding == "oss" and processes.world_size > 1
    return Job(
        name=recipe.name,
        folder=recipe.folder,
        seed=recipe.seed,
        training=training,
        processes=processes,
        objective=objective,
        optimizer=build_optimizer(objective, recipe.optimizer, divided=divided),
        average=WeightAverage(objective, training.ema, num_steps=num_steps)
        if training.ema
        else None,
        lrs=lr_schedule(
            recipe,
            num_steps,
            to_steps(recipe.optimizer.warmup, **sizes),
            steps_per_epoch=sizes["num_examples"] / training.global_batch_size,
        ),
        open_batches=batch_source(recipe, tables, num_steps, processes),
        checkpoint_steps=to_steps(training.checkpoint_every, **sizes),
        keep_steps=to_steps(training.keep_every, **sizes) if training.keep_every else None,
        num_examples=sizes["num_examples"],
    )


def check_batch(recipe: PretrainRecipe, world_size: int) -> None:
    """Raises RunError if the global batch cannot be shared equally by processes and micro-batches."""
    training = recipe.training
    parts = world_size * training.accumulation
    if training.global_batch_size % parts:
        raise RunError(
            f"training.global_batch_size={training.global_batch_size} cannot be divided among {world_size} processes "
            f"x training.accumulation={training.accumulation}: use a multiple of {parts}."
        )


def lr_schedule(
    recipe: PretrainRecipe, num_steps: int, warmup_steps: int, *, steps_per_epoch: float
) -> np.ndarray:
    """Returns float64 (num_steps,): the learning rate of every step, scaled."""
    optimizer = recipe.optimizer
    peak, final = (
        scaled_lr(
            lr,
            scaling=optimizer.lr_scaling,
            global_batch_size=recipe.training.global_batch_size,
        )
        for lr in (optimizer.base_lr, optimizer.min_lr)
    )
    if optimizer.schedule == "constant":
        return constant_schedule(peak, num_steps, warmup_steps=warmup_steps)
    if optimizer.schedule == "cosine_epochs":
        return epoch_cosine_schedule(peak, final, num_steps, steps_per_epoch=steps_per_epoch)
    return cosine_schedule(peak, final, num_steps, warmup_steps=warmup_steps)


def batch_source(
    recipe: PretrainRecipe,
    tables: list[tuple[Table, float]],
    num_steps: int,
    processes: Processes,
) -> OpenBatches:
    """Returns a function that opens this process's part of the batches from a step on."""
    plan = OBJECTIVES[recipe.objective_name].plan()(recipe.objective)

    @contextlib.contextmanager
    def open_batches(start_step: int) -> Iterator[Iterator[dict[str, np.ndarray]]]:
        with Pipeline(
            tables,
            plan,
            seed=recipe.seed,
            global_batch_size=recipe.training.global_batch_size,
            num_steps=num_steps,
            start_step=start_step,
            host=(processes.rank, processes.world_size),
            config=recipe.loader,
            skip_log=recipe.folder / "skipped.jsonl",
            balance=recipe.data.balance,
        ) as pipeline:
            yield iter(pipeline)

    return open_batches


def architecture_of(encoder: nn.Module) -> str:
    """Returns the key of `ENCODERS` under which the class of an encoder is listed.

    Raises:
        RunError: it is not listed, so nobody could load it again.
    """
    target = f"{type(encoder).__module__}:{type(encoder).__qualname__}"
    for name, listed in ENCODERS.items():
        if listed == target:
            return name
    raise RunError(f"{target} is not in video_ssl.models.ENCODERS {ENCODERS}: add it there.")


def _resume(job: Job, *, allow_changes: bool) -> int:
    """Loads the newest checkpoint into the job and returns its step; 0 without one."""
    checkpoint = job.processes.on_main(lambda: newest_checkpoint(job.folder / "checkpoints"))
    if checkpoint is None:
        return 0
    if checkpoint.step > job.num_steps:
        raise CheckpointError(
            f"{checkpoint.folder} is past the end: training.duration is {job.num_steps} steps. Lengthen it, or give "
            "this run another folder: run=..."
        )
    before = read_meta(checkpoint).get("num_examples", job.num_examples)
    if before != job.num_examples and not allow_changes:
        raise CheckpointError(
            f"the data has {job.num_examples} records now and had {before} when {checkpoint.folder} was made: the "
            "order of the rest would be another one. Restore the data, or resume all the same with --allow-changes."
        )
    state = load_for(checkpoint, job.objective)
    load_objective(job.objective, state["objective"], str(checkpoint.folder))
    load_optimizer_state(job.optimizer, state["optimizer"])
    if job.average is not None and "average" in state:
        job.average.load_state(state["average"])
    elif job.average is not None:
        logger.warning(
            "%s holds no average (training.ema): it starts at these weights", checkpoint.folder
        )
        job.average.restart()
    return checkpoint.step


def _announce(recipe: PretrainRecipe, job: Job) -> None:
    trainable = sum(p.numel() for p in job.objective.parameters() if p.requires_grad)
    frozen = sum(p.numel() for p in job.objective.parameters() if not p.requires_grad)
    logger.info(
        "%s: %s on %d records of %s, %d steps of %d, peak lr %.3g, %.2fM parameters%s, %s x %d, %s -> %s",
        recipe.name,
        recipe.objective_name,
        job.num_examples,
        recipe.data.table,
        job.num_steps,
        recipe.training.global_batch_size,
        job.lrs.max(),
        trainable / 1e6,
        f" (+ {frozen / 1e6:.2f}M frozen)" if frozen else "",
        job.processes.device,
        job.processes.world_size,
        recipe.training.precision,
        job.folder,
    )
    if job.start_step:
        logger.info("resuming after step %d of %d", job.start_step, job.num_steps)


def _finish(recipe: PretrainRecipe, job: Job, metrics: Mapping[str, Any]) -> None:
    """Exports the encoder and marks the run as finished, in this order.  Called by every process."""
    source = {
        "objective": recipe.objective_name,
        "data": recipe.data.table,
        "steps": job.num_steps,
        "recipe": recipe.name,
        "seed": recipe.seed,
        "weights": "moving average" if job.average is not None else "last step",
    }

    def write(encoder: nn.Module) -> None:
        save_encoder(
            job.folder / "encoder",
            encoder,
            architecture=architecture_of(encoder),
            preprocess=job.objective.preprocess(),  # type: ignore[operator]
            source=source,
        )
        content = {"steps": job.num_steps, "metrics": dict(metrics)}
        write_atomically(job.folder / FINISHED, json.dumps(content, indent=2) + "\n")

    with job.average.in_place() if job.average is not None else contextlib.nullcontext():
        encoder = _whole_encoder(job)
        job.processes.on_main(lambda: write(encoder))


def _whole_encoder(job: Job) -> nn.Module:
    """The encoder; of a divided one a copy in one piece on the CPU."""
    encoder = job.objective.encoder
    assert isinstance(encoder, nn.Module)
    if not is_sharded(job.objective):
        return encoder
    weights = {name: whole(value).cpu() for name, value in encoder.state_dict().items()}
    copy: nn.Module = type(encoder)(encoder.config)
    copy.load_state_dict(weights, strict=True)
    return copy


def _finished(folder: Path) -> dict[str, Any] | None:
    """The content of finished.json where the encoder is there too; None if the run has work left."""
    try:
        content: dict[str, Any] = json.loads((folder / FINISHED).read_text(encoding="utf-8"))
        find_encoder(folder)
    except (OSError, ValueError):
        return None
    return content


def _last_metrics(folder: Path) -> dict[str, Any]:
    rows = read_metrics(folder / METRICS)
    return rows[-1] if rows else {}
