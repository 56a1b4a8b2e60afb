"""A pre-training run of a flax objective: what `pretrain.run.run` needs of flax."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

from video_ssl.models import architecture_of
from video_ssl.models.encoders_flax import save_flax_encoder
from video_ssl.objectives import OBJECTIVES
from video_ssl.objectives.shared.flax_objective import FlaxObjective
from video_ssl.pretrain.checkpoint_folders import Checkpoint
from video_ssl.pretrain.errors import RunError
from video_ssl.pretrain.flax_loop.checkpoints import load_flax
from video_ssl.pretrain.flax_loop.devices import (
    FlaxProcesses,
    join_flax_processes,
    mesh_of,
    state_sharding,
)
from video_ssl.pretrain.flax_loop.loop import FlaxJob, State, train, variables_of
from video_ssl.pretrain.flax_loop.optimizers import build_optimizer
from video_ssl.pretrain.lengths import Streams, check_batch
from video_ssl.pretrain.probe import open_probe
from video_ssl.pretrain.recipe import PretrainRecipe
from video_ssl.pretrain.run import Framework, RunResult, existing_stages, job_settings, run
from video_ssl.pretrain.run_folder import exported_folders


def run_flax(
    recipe: PretrainRecipe, *, allow_changes: bool = False, devices: Sequence[Any] | None = None
) -> RunResult:
    """Returns the result of a run of a flax objective, see `start.run_recipe`; every process calls it.

    Args:
        recipe, allow_changes: see there.
        devices: those to use instead of all.
    """
    check_supported(recipe)
    with join_flax_processes(recipe.training.device, devices) as processes:
        return _run(recipe, processes, allow_changes=allow_changes)


def _run(recipe: PretrainRecipe, processes: FlaxProcesses, *, allow_changes: bool) -> RunResult:
    framework = Framework[FlaxJob](
        check=partial(_check, processes=processes),
        build=partial(build_job, processes=processes),
        load=_load,
        train=train,
        encoder_names=lambda job: list(job.objective.encoders()),
        export=_export,
        sizes=lambda job: (sum(x.size for x in jax.tree.leaves(job.state["params"])), 0),
        weights=lambda job: "last step",
    )
    return run(
        recipe,
        processes,
        framework,
        allow_changes=allow_changes,
        run_stage=lambda inner: _run(inner, processes, allow_changes=allow_changes),
    )


def check_supported(recipe: PretrainRecipe) -> None:
    """Raises RunError for settings that only torch objectives know."""
    training = recipe.training
    for wrong, text in (
        (training.ema is not None, "training.ema is set: set it to null"),
        (training.sharding == "oss", "training.sharding=oss: use ddp or fsdp"),
        (
            recipe.validation is not None,
            "validation is set: set it to null, and evaluate the encoder after the training (evaluate=probe)",
        ),
    ):
        if wrong:
            raise RunError(
                f"{text}. objective.name={recipe.objective_name} is trained by flax, whose loop does not have it."
            )


def _check(recipe: PretrainRecipe, *, processes: FlaxProcesses) -> None:
    """Raises RunError for settings that only torch knows, or a batch that processes or devices cannot share."""
    check_supported(recipe)
    check_batch(recipe, processes.world_size)
    check_batch(recipe, processes.num_devices, "devices")


def build_objective(
    recipe: PretrainRecipe, stages: Mapping[str, Path] | None = None
) -> FlaxObjective:
    """Returns the objective; its weights are made by `init`."""
    training = recipe.training
    objective: FlaxObjective = OBJECTIVES[recipe.objective_name].objective()(
        recipe.objective,
        stages=existing_stages(recipe) if stages is None else stages,
        dtype=jnp.bfloat16 if training.precision == "bf16" else jnp.float32,
        remat=training.activation_checkpointing,
    )
    return objective


def build_job(
    recipe: PretrainRecipe,
    streams: Streams,
    stages: Mapping[str, Path],
    processes: FlaxProcesses,
) -> FlaxJob:
    """Returns everything the loop needs to train from the start."""
    settings = job_settings(recipe, streams, (processes.rank, processes.world_size))
    parts = trained_parts(recipe, stages, processes, settings["lrs"])
    probe = None
    if recipe.training.probe is not None:
        probe = open_probe(
            recipe.training.probe,
            next(iter(parts["objective"].encoders().values())).preprocess,
            loader=recipe.loader,
            whole=processes.world_size == 1,
        )
    return FlaxJob(**settings, **parts, probe=probe)


def trained_parts(
    recipe: PretrainRecipe,
    stages: Mapping[str, Path] | None,
    processes: FlaxProcesses,
    lrs: np.ndarray,
) -> dict[str, Any]:
    """Returns the fields of `FlaxJob` that do not depend on the data; the state is new and lies on the devices.

    Raises:
        RunError: the batch cannot be shared equally by the processes or the devices.
    """
    training = recipe.training
    _check(recipe, processes=processes)
    objective = build_objective(recipe, stages)
    optimizer = build_optimizer(recipe.optimizer, lrs, grad_clip=training.grad_clip)
    # Every process makes the same weights on one device; they are divided afterwards.
    state = jax.device_get(objective.init(recipe.seed))
    state |= {
        "optimizer": jax.device_get(optimizer.init(state["params"])),
        "step": np.int32(0),
        "failed": np.int32(-1),
    }
    shardings = state_sharding(state, processes, sharding=training.sharding)
    return {
        "processes": processes,
        "objective": objective,
        "optimizer": optimizer,
        "state": jax.tree.map(_place, state, shardings),
        "shardings": shardings,
    }


def _place(value: np.ndarray, sharding: Any) -> jax.Array:
    """A global array of which every process has the whole."""
    value = np.asarray(value)
    return jax.make_array_from_callback(value.shape, sharding, lambda index: value[index])


def _load(job: FlaxJob, checkpoint: Checkpoint) -> None:
    job.state = load_flax(checkpoint, job.state)


def _export(job: FlaxJob, folders: Mapping[str, Path], source: dict[str, Any]) -> None:
    _write_encoders(job.objective, job.variables(), folders, source, job.processes)


def _write_encoders(
    objective: FlaxObjective,
    variables: State,
    folders: Mapping[str, Path],
    source: dict[str, Any],
    processes: FlaxProcesses,
) -> None:
    for name, trained in objective.encoders().items():
        write = partial(
            save_flax_encoder,
            folders[name],
            _on_host(trained.variables(variables), processes),
            architecture=architecture_of(trained.module),
            config=trained.module.config,
            preprocess=trained.preprocess,
            source=source,
        )
        processes.on_main(write)


def export_checkpoint(
    recipe: PretrainRecipe, checkpoint: Checkpoint, place: Path, source: dict[str, Any]
) -> dict[str, Path]:
    """Returns the folders into which the encoders of a checkpoint were written, see `export.export_encoders`."""
    cpu = jax.devices("cpu")[:1]
    processes = FlaxProcesses(rank=0, world_size=1, mesh=mesh_of(cpu))
    # The rates are no part of the state of the optimizer, which is read with it.
    parts = trained_parts(recipe, None, processes, np.zeros(1))
    variables = variables_of(load_flax(checkpoint, parts["state"]))
    names = list(parts["objective"].encoders())
    folders = exported_folders(recipe.folder, place, names, source)
    source = {**source, "weights": "of the step"}
    _write_encoders(parts["objective"], variables, folders, source, processes)
    return folders


def _on_host(variables: Any, processes: FlaxProcesses) -> Any:
    """The whole arrays; called by every process."""
    if processes.world_size == 1:
        return jax.device_get(variables)
    return multihost_utils.process_allgather(variables, tiled=True)
