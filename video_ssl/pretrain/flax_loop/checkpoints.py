"""Checkpoints of flax runs: orbax writes the arrays, the folder is that of `checkpoint_folders`.

    RUN/checkpoints/step_N/state/      {"params", "batch_stats", "optimizer", "step", "failed"}

Every process writes and reads its part.  Arrays are read into the sharding of the run that resumes, so the number of
devices, that of processes and `training.sharding` may change in between.
"""

from __future__ import annotations

import contextlib
import logging
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from video_ssl.models.encoder_folder import fill_report
from video_ssl.pretrain.checkpoint_folders import (
    Checkpoint,
    begin_checkpoint,
    complete_checkpoint,
    save_failed,
)
from video_ssl.pretrain.errors import CheckpointError
from video_ssl.pretrain.flax_loop.devices import FlaxProcesses

STATE = "state"


def save_flax(
    folder: Path, step: int, state: Any, meta: dict[str, Any], processes: FlaxProcesses
) -> None:
    """Writes RUN/checkpoints/step_N; called by every process.

    Raises:
        CheckpointError: a process could not write; what was there before is untouched.
    """
    temporary = Path(processes.on_main(lambda: str(begin_checkpoint(folder, step))))
    try:
        write_state(temporary / STATE, state)
    except Exception as err:  # orbax has no error class of its own
        if processes.is_main:
            shutil.rmtree(temporary, ignore_errors=True)
        raise CheckpointError(save_failed(folder, step, err)) from err
    processes.on_main(lambda: complete_checkpoint(folder, step, temporary, meta))


def write_state(folder: Path, state: Any) -> None:
    """Writes a tree of arrays into a new folder and returns when it is there."""
    with _orbax() as checkpointer:
        checkpointer.save(folder.resolve(), args=ocp.args.StandardSave(state))


def load_flax(checkpoint: Checkpoint, wanted: Any) -> Any:
    """Returns the state of a checkpoint, with the structure, dtypes and shardings of `wanted`.

    Raises:
        CheckpointError: it cannot be read, or is of another architecture; names and shapes are listed.
    """
    folder = (checkpoint.folder / STATE).resolve()
    with _orbax() as checkpointer:
        try:
            found = checkpointer.metadata(folder).item_metadata.tree
        except Exception as err:
            raise CheckpointError(_unreadable(checkpoint, err)) from err
        problem = fill_report(_shapes(found), _shapes(wanted))
        if problem:
            raise CheckpointError(
                f"{checkpoint.folder} is of another architecture: {problem}.\nResume with the recipe it was made with, "
                "or give this run another folder: run=..."
            )
        abstract = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), wanted
        )
        try:
            return checkpointer.restore(folder, args=ocp.args.StandardRestore(abstract))
        except Exception as err:
            raise CheckpointError(_unreadable(checkpoint, err)) from err


@contextlib.contextmanager
def _orbax() -> Iterator[Any]:
    """A checkpointer of orbax, which otherwise logs a dozen lines about every save."""
    loggers = [logging.getLogger(name) for name in ("absl", "orbax")]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with ocp.Checkpointer(ocp.StandardCheckpointHandler()) as checkpointer:
            yield checkpointer
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {".".join(_key(k) for k in path): tuple(value.shape) for path, value in leaves}


def _key(entry: Any) -> str:
    """Names of attributes, indices and keys alike: orbax makes dictionaries and lists of tuples."""
    for name in ("key", "name", "idx"):
        if hasattr(entry, name):
            return str(getattr(entry, name))
    return str(entry)


def _unreadable(checkpoint: Checkpoint, err: Exception) -> str:
    first = str(err).splitlines()[0] if str(err) else type(err).__name__
    return (
        f"{checkpoint.folder / STATE} cannot be read ({first}). Remove {checkpoint.folder} to resume from the "
        "checkpoint before it."
    )
