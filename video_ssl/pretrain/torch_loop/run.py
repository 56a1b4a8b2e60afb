"""A pre-training run of a torch objective: what `pretrain.run.run` needs of torch."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from video_ssl.datasets import open_table
from video_ssl.datasets.opening import lacks_tables
from video_ssl.datasets.table import Table
from video_ssl.models import architecture_of
from video_ssl.models.classifier_folder import (
    CLASSIFIER_WEIGHTS,
    MERGES,
    MULTILABEL_MERGES,
    Protocol,
)
from video_ssl.models.encoder_folder import DECODER
from video_ssl.models.encoders import save_encoder
from video_ssl.objectives import OBJECTIVES
from video_ssl.objectives.shared.torch_objective import TorchObjective
from video_ssl.pretrain.checkpoint_folders import Checkpoint, read_meta
from video_ssl.pretrain.errors import RunError
from video_ssl.pretrain.lengths import Streams, check_batch
from video_ssl.pretrain.probe import open_probe
from video_ssl.pretrain.processes import Processes, join_processes
from video_ssl.pretrain.recipe import PretrainRecipe, ValidationConfig
from video_ssl.pretrain.run import Framework, RunResult, existing_stages, job_settings, run
from video_ssl.pretrain.run_folder import exported_folders
from video_ssl.pretrain.torch_loop.averages import WeightAverage
from video_ssl.pretrain.torch_loop.checkpoints import load_objective
from video_ssl.pretrain.torch_loop.loop import Job, train
from video_ssl.pretrain.torch_loop.optimizers import load_optimizer_state, objective_optimizer
from video_ssl.pretrain.torch_loop.sharded_checkpoints import load_for
from video_ssl.pretrain.torch_loop.sharding import is_sharded, prepare, return_freed_memory, whole
from video_ssl.pretrain.torch_loop.validation import NO_CLASSIFIER, check_labels, open_validation

logger = logging.getLogger(__name__)


def run_torch(recipe: PretrainRecipe, *, allow_changes: bool = False) -> RunResult:
    """Returns the result of a run of a torch objective, see `start.run_recipe`; every process calls it."""
    with join_processes(recipe.training.device) as processes:
        return _run(recipe, processes, allow_changes=allow_changes)


def _run(recipe: PretrainRecipe, processes: Processes, *, allow_changes: bool) -> RunResult:
    framework = Framework[Job](
        check=partial(_check, processes=processes),
        build=partial(build_job, processes=processes),
        load=_load,
        train=train,
        encoder_names=lambda job: list(job.objective.encoders()),
        export=_export,
        sizes=_sizes,
        weights=lambda job: "moving average" if job.average is not None else "last step",
    )
    return run(
        recipe,
        processes,
        framework,
        allow_changes=allow_changes,
        run_stage=lambda inner: _run(inner, processes, allow_changes=allow_changes),
    )


def _check(recipe: PretrainRecipe, *, processes: Processes) -> None:
    """Raises RunError for a batch that the processes cannot share, or a validation without a classifier or labels."""
    check_batch(recipe, processes.world_size)
    kind = OBJECTIVES[recipe.objective_name].objective()
    if recipe.validation is not None and kind.classifier is TorchObjective.classifier:
        raise RunError(NO_CLASSIFIER)
    if recipe.validation is not None and not lacks_tables(recipe.validation.table):
        check_labels(recipe.validation, multilabel=getattr(recipe.objective, "multilabel", False))


def build_objective(
    recipe: PretrainRecipe, stages: Mapping[str, Path] | None = None
) -> TorchObjective:
    """Returns the objective with weights drawn from the seed of the recipe.

    Args:
        stages: where what it needs is; None = where the run has it.
    """
    if stages is None:
        stages = existing_stages(recipe)
    torch.manual_seed(recipe.seed)
    objective: TorchObjective = OBJECTIVES[recipe.objective_name].objective()(
        recipe.objective, stages=stages
    )
    return objective


def build_job(
    recipe: PretrainRecipe,
    streams: Streams,
    stages: Mapping[str, Path],
    processes: Processes,
) -> Job:
    """Returns everything the loop needs to train from the start."""
    training = recipe.training
    check_batch(recipe, processes.world_size)
    settings = job_settings(recipe, streams, (processes.rank, processes.world_size))
    return_freed_memory(training, processes)
    objective = build_objective(recipe, stages).to(processes.device)
    objective = prepare(objective, training, processes)
    divided = training.sharding == "oss" and processes.world_size > 1
    (trained, _), *_ = next(iter(streams.values())).tables
    validation = None
    if recipe.validation is not None:
        validation = open_validation(
            recipe.validation,
            objective,
            trained,
            loader=recipe.loader,
            precision=training.precision,
            processes=processes,
        )
    probe = None
    if training.probe is not None:
        probe = open_probe(
            training.probe,
            next(iter(objective.encoders().values())).preprocess,
            loader=recipe.loader,
            whole=not is_sharded(objective),
        )
    return Job(
        **settings,
        probe=probe,
        processes=processes,
        objective=objective,
        optimizer=objective_optimizer(objective, recipe.optimizer, divided=divided),
        average=WeightAverage(objective, training.ema, num_steps=len(settings["lrs"]))
        if training.ema
        else None,
        validation=validation,
        protocol=_protocol(recipe, objective, trained),
    )


def _protocol(recipe: PretrainRecipe, objective: TorchObjective, trained: Table) -> Protocol | None:
    """What is told of the classifier of an objective, if it has one."""
    head = objective.classifier()
    if head is None:
        return None
    validation = recipe.validation
    return Protocol(
        class_names=trained.class_names,
        num_classes=head.out_features,
        clips=ValidationConfig.num_clips if validation is None else validation.num_clips,
        crops=1 if validation is None else validation.num_crops,
        size=None if validation is None else validation.size,
        center_share=1.0 if validation is None else validation.center_share,
        multilabel=objective.is_multilabel(),
        merge=(MULTILABEL_MERGES if objective.is_multilabel() else MERGES)[
            "softmax" if validation is None else validation.average
        ],
        pooling=objective.classifier_pooling(),
        unit_length=objective.classifier_unit_length(),
        labels=recipe.data.table,
    )


def _load(job: Job, checkpoint: Checkpoint) -> None:
    state = load_for(checkpoint, job.objective)
    load_objective(job.objective, state["objective"], str(checkpoint.folder))
    kind = read_meta(checkpoint).get("optimizer")
    load_optimizer_state(job.optimizer, state["optimizer"], kind=kind)
    if job.average is not None and "average" in state:
        job.average.load_state(state["average"])
    elif job.average is not None:
        logger.warning(
            "%s holds no average (training.ema): it starts at these weights", checkpoint.folder
        )
        job.average.restart()


def _sizes(job: Job) -> tuple[int, int]:
    sizes = {True: 0, False: 0}
    helpers = [network.module for network in job.objective.frozen.values()]
    for module in (job.objective, *helpers):
        for parameter in module.parameters():
            sizes[parameter.requires_grad] += parameter.numel()
    return sizes[True], sizes[False]


def _export(job: Job, folders: Mapping[str, Path], source: dict[str, Any]) -> None:
    protocol = job.protocol
    with job.exported_weights():
        if protocol is not None and job.validation is not None:
            tried = job.validation.found or job.validation.run()
            about = {"table": job.validation.config.table, **tried}
            protocol = dataclasses.replace(protocol, validation=about)
        _write_encoders(job.objective, folders, source, job.processes, protocol)


def _write_encoders(
    objective: TorchObjective,
    folders: Mapping[str, Path],
    source: dict[str, Any],
    processes: Processes,
    protocol: Protocol | None,
) -> None:
    for number, (name, trained) in enumerate(objective.encoders().items()):
        module = _in_one_piece(trained.module, divided=is_sharded(objective))
        beside = {} if number else {**_classifier(objective), **_parts(objective)}
        write = partial(
            save_encoder,
            folders[name],
            module,
            architecture=architecture_of(module),
            preprocess=trained.preprocess,
            source=source,
            beside=beside,
            protocol=protocol if CLASSIFIER_WEIGHTS in beside else None,
        )
        processes.on_main(write)


def trained_objective(
    recipe: PretrainRecipe, checkpoint: Checkpoint
) -> tuple[TorchObjective, Mapping[str, Tensor]]:
    """Returns the objective with the weights of a checkpoint, their moving average where there is one, and that average
    (empty without one)."""
    objective = build_objective(recipe)
    state = load_for(checkpoint, objective)
    load_objective(objective, state["objective"], str(checkpoint.folder))
    averages: Mapping[str, Tensor] = state.get("average", {})
    with torch.no_grad():
        for name, parameter in objective.named_parameters():
            if name in averages:
                parameter.copy_(averages[name])
    return objective, averages


def export_checkpoint(
    recipe: PretrainRecipe, checkpoint: Checkpoint, place: Path, source: dict[str, Any]
) -> dict[str, Path]:
    """Returns the folders into which the encoders of a checkpoint were written, see `export.export_encoders`.

    The moving average where the checkpoint has one, as at the end of a run.
    """
    objective, averages = trained_objective(recipe, checkpoint)
    folders = exported_folders(recipe.folder, place, list(objective.encoders()), source)
    source = {**source, "weights": "moving average" if averages else "of the step"}
    protocol = None
    if objective.classifier() is not None:
        protocol = _protocol(recipe, objective, open_table(recipe.data.table))
    _write_encoders(objective, folders, source, Processes(0, 1, torch.device("cpu")), protocol)
    return folders


def _classifier(objective: TorchObjective) -> dict[str, dict[str, Tensor]]:
    """The classifier as it lies beside the first encoder; called by every process."""
    head = objective.classifier()
    if head is None:
        return {}
    parts = {name: whole(value.detach()).float() for name, value in head.named_parameters()}
    return {CLASSIFIER_WEIGHTS: parts}


def _parts(objective: TorchObjective) -> dict[str, dict[str, Tensor]]:
    """What lies beside the first encoder for a later stage; called by every process."""
    parts = {
        name: whole(value.detach()).float() for name, value in objective.parts_beside().items()
    }
    return {DECODER: parts} if parts else {}


def _in_one_piece(encoder: nn.Module, *, divided: bool) -> nn.Module:
    """The encoder; of a divided one a copy on the CPU."""
    if not divided:
        return encoder
    weights = {name: whole(value).cpu() for name, value in encoder.state_dict().items()}
    copy: nn.Module = type(encoder)(encoder.config)
    copy.load_state_dict(weights, strict=True)
    return copy
