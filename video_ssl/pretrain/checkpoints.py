"""Checkpoints: written completely or not at all, found again by themselves.

    RUN/checkpoints/step_N/state.pt    tensors only: {"objective": .., "optimizer": .., "average": ..}
    RUN/checkpoints/step_N/meta.json   step, versions, sizes of the files

Process 0 writes (the state is the same in all of them), every process reads, so their number may change in between.
A folder is filled under a temporary name, synced to the disk and renamed; what a crash leaves under a temporary name is
never read and swept away by the next start.  No state of a random number generator is kept: every step seeds its own.
"""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import torch
from torch import nn

from video_ssl.pretrain.errors import CheckpointError

logger = logging.getLogger(__name__)

STATE, META = "state.pt", "meta.json"
_NAME = re.compile(r"step_(\d+)")


@dataclass(frozen=True)
class Checkpoint:
    """A complete checkpoint on disk."""

    step: int
    folder: Path


def list_checkpoints(folder: Path) -> list[Checkpoint]:
    """Returns the complete checkpoints below RUN/checkpoints, oldest first; damaged ones are logged."""
    found = []
    for path in folder.iterdir() if folder.is_dir() else ():
        match = _NAME.fullmatch(path.name)
        if match is None:
            continue
        problem = _problem(path)
        if problem:
            logger.warning("checkpoint %s is not complete (%s) and is not used", path, problem)
        else:
            found.append(Checkpoint(int(match[1]), path))
    return sorted(found, key=lambda c: c.step)


def newest_checkpoint(folder: Path) -> Checkpoint | None:
    """Returns the complete checkpoint of the highest step, or None."""
    return max(list_checkpoints(folder), key=lambda c: c.step, default=None)


def save_checkpoint(
    folder: Path, step: int, state: Mapping[str, Any], meta: Mapping[str, Any]
) -> Checkpoint:
    """Writes RUN/checkpoints/step_N and returns it once it is safely on the disk.

    Raises:
        CheckpointError: the disk is full or refuses; what was there before is untouched.
    """
    temporary = begin_checkpoint(folder, step)
    try:
        _write_state(temporary / STATE, state)
    except (OSError, RuntimeError) as err:
        shutil.rmtree(temporary, ignore_errors=True)
        raise CheckpointError(save_failed(folder, step, err)) from err
    return complete_checkpoint(folder, step, temporary, meta)


def begin_checkpoint(folder: Path, step: int) -> Path:
    """Returns a new folder under a temporary name, for the tensors of a checkpoint.

    Raises:
        CheckpointError: the disk is full or refuses.
    """
    temporary = folder / f".step_{step}.{os.getpid()}.tmp"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
    except OSError as err:
        raise CheckpointError(save_failed(folder, step, err)) from err
    return temporary


def complete_checkpoint(
    folder: Path, step: int, temporary: Path, meta: Mapping[str, Any]
) -> Checkpoint:
    """Returns the checkpoint that a folder with all its tensors becomes: described, synced and renamed.

    Raises:
        CheckpointError: the disk is full or refuses; what was there before is untouched.
    """
    target = folder / f"step_{step}"
    try:
        sizes = {
            str(p.relative_to(temporary)): p.stat().st_size
            for p in sorted(temporary.rglob("*"))
            if p.is_file()
        }
        content = {"step": step, **meta, "bytes": sizes}
        with open(temporary / META, "w", encoding="utf-8") as file:
            file.write(json.dumps(content, indent=2) + "\n")
            _to_disk(file)
        _sync_folder(temporary)
        if target.exists():  # only after a resume from an earlier step; both would be complete
            os.replace(target, folder / f".step_{step}.{os.getpid()}.old")
        os.replace(temporary, target)
        _sync_folder(folder)
    except (OSError, RuntimeError) as err:
        shutil.rmtree(temporary, ignore_errors=True)
        raise CheckpointError(save_failed(folder, step, err)) from err
    shutil.rmtree(folder / f".step_{step}.{os.getpid()}.old", ignore_errors=True)
    return Checkpoint(step, target)


def load_state(checkpoint: Checkpoint) -> dict[str, Any]:
    """Returns the tensors of a checkpoint on the CPU, mapped from the file; nothing is unpickled but tensors.

    Raises:
        CheckpointError: the file cannot be read.
    """
    path = checkpoint.folder / STATE
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as err:  # torch.load has no error class of its own
        raise CheckpointError(
            f"{path} cannot be read ({err}). Remove {checkpoint.folder} to resume from the checkpoint before it."
        ) from err


def read_meta(checkpoint: Checkpoint) -> dict[str, Any]:
    """Returns what was written about a checkpoint beside its tensors."""
    content: dict[str, Any] = json.loads((checkpoint.folder / META).read_text(encoding="utf-8"))
    return content


def load_objective(module: nn.Module, state: Mapping[str, torch.Tensor], where: str) -> None:
    """Fills a module with a state dict of exactly its names and shapes.

    Raises:
        CheckpointError: another architecture; missing, unexpected and mismatched names are listed.
    """
    wanted = module.state_dict()
    told = []
    missing = [name for name in wanted if name not in state]
    unexpected = [name for name in state if name not in wanted]
    mismatched = [
        f"{name} {tuple(state[name].shape)} in the file, {tuple(value.shape)} in the model"
        for name, value in wanted.items()
        if name in state and state[name].shape != value.shape
    ]
    for word, names in (
        ("missing", missing),
        ("unexpected", unexpected),
        ("mismatched", mismatched),
    ):
        if names:
            more = f" and {len(names) - 8} more" if len(names) > 8 else ""
            told.append(f"  {word} ({len(names)}): {', '.join(names[:8])}{more}")
    if told:
        raise CheckpointError(
            f"{where} is of another architecture:\n" + "\n".join(told) + "\n"
            "Resume with the recipe it was made with, or give this run another folder: run=..."
        )
    module.load_state_dict(dict(state), strict=True)


def sweep(folder: Path, *, keep: int, keep_every: int | None = None) -> None:
    """Removes all but the `keep` newest checkpoints and those whose step is a multiple of `keep_every`."""
    for checkpoint in list_checkpoints(folder)[:-keep]:
        if not (keep_every and checkpoint.step % keep_every == 0):
            shutil.rmtree(checkpoint.folder, ignore_errors=True)


def sweep_unfinished(folder: Path) -> None:
    """Removes what crashes have left under temporary names.  Only for the holder of the run folder.

    A complete checkpoint that was moved aside by a crash between two renames is put back first.
    """
    if not folder.is_dir():
        return
    for path in folder.glob(".step_*.old"):
        target = folder / path.name.split(".")[1]
        if not target.exists():
            os.replace(path, target)
    for path in [*folder.glob(".step_*.tmp"), *folder.glob(".step_*.old")]:
        shutil.rmtree(path, ignore_errors=True)


def _problem(folder: Path) -> str | None:
    try:
        sizes = json.loads((folder / META).read_text(encoding="utf-8"))["bytes"]
        for name, size in sizes.items():
            if (folder / name).stat().st_size != size:
                return f"{name} has {(folder / name).stat().st_size} bytes instead of {size}"
    except (OSError, ValueError, KeyError, AttributeError) as err:
        return f"{type(err).__name__}: {err}"
    return None


def _write_state(path: Path, state: Mapping[str, Any]) -> None:
    with open(path, "wb") as file:
        torch.save(dict(state), file)
        _to_disk(file)


def _to_disk(file: IO[Any]) -> None:
    file.flush()
    os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def save_failed(folder: Path, step: int, err: Exception) -> str:
    """Returns the text of the error of a checkpoint that could not be written."""
    last = newest_checkpoint(folder)
    rest = (
        f"The checkpoint of step {last.step} is untouched: make room and start the same command again to resume there."
        if last
        else "There is no earlier checkpoint: make room and start again."
    )
    free = shutil.disk_usage(folder).free / 2**30 if folder.is_dir() else float("nan")
    return f"the checkpoint of step {step} could not be written to {folder} ({err}; {free:.1f} GiB free). {rest}"
