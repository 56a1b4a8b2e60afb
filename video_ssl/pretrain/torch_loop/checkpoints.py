"""Checkpoints: written completely or not at all, found again by themselves.

    RUN/checkpoints/step_N/state.pt    tensors only: {"objective": .., "optimizer": .., "average": ..}
    RUN/checkpoints/step_N/meta.json   step, versions, sizes and checksums of the files

Process 0 writes (the state is the same in all of them), every process reads, so their number may change in between.
A folder is filled under a temporary name, synced to the disk and renamed; what a crash leaves under a temporary name is
never read and swept away by the next start.  No state of a random number generator is kept: every step seeds its own.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from video_ssl.checksums import SummedFile
from video_ssl.limits import archive_problem
from video_ssl.pretrain.checkpoint_folders import (
    Checkpoint,
    begin_checkpoint,
    complete_checkpoint,
    save_failed,
    to_disk,
)
from video_ssl.pretrain.errors import CheckpointError

STATE = "state.pt"


def save_checkpoint(
    folder: Path, step: int, state: Mapping[str, Any], meta: Mapping[str, Any]
) -> Checkpoint:
    """Writes RUN/checkpoints/step_N and returns it once it is safely on the disk.

    Raises:
        CheckpointError: the disk is full or refuses; what was there before is untouched.
    """
    temporary = begin_checkpoint(folder, step)
    try:
        sums = {STATE: _write_state(temporary / STATE, state)}
    except (OSError, RuntimeError) as err:
        shutil.rmtree(temporary, ignore_errors=True)
        raise CheckpointError(save_failed(folder, step, err)) from err
    return complete_checkpoint(folder, step, temporary, meta, sums=sums)


class HostCopy:
    """Copies nested tensors into the memory of the host.

    For tensors of a device the memory is taken once, page-locked, and used again by the next copy: fresh memory is what
    takes most of the time of such a copy.  Copies of tensors that are on the host already are new each time.
    """

    def __init__(self) -> None:
        self._kept: dict[str, torch.Tensor] = {}

    def take(self, state: Mapping[str, Any]) -> dict[str, Any]:
        """Returns a copy that later steps do not change; what it returned before may be overwritten."""
        copy = self._take(state, "")
        if self._kept:
            torch.accelerator.synchronize()
        return copy

    def _take(self, state: Mapping[str, Any], path: str) -> dict[str, Any]:
        copy: dict[str, Any] = {}
        for name, value in state.items():
            place = f"{path}/{name}"
            if not isinstance(value, torch.Tensor):
                copy[name] = self._take(value, place)
            elif value.device.type == "cpu":
                copy[name] = value.detach().clone()
            else:
                room = self._kept.get(place)
                if room is None or room.shape != value.shape or room.dtype != value.dtype:
                    room = self._kept[place] = _locked_room(value)
                copy[name] = room.copy_(value.detach(), non_blocking=True)
        return copy


def _locked_room(like: torch.Tensor) -> torch.Tensor:
    """Page-locked memory, or ordinary memory where the system gives none."""
    try:
        return torch.empty(like.shape, dtype=like.dtype, pin_memory=True)
    except RuntimeError:
        return torch.empty(like.shape, dtype=like.dtype)


def load_state(checkpoint: Checkpoint) -> dict[str, Any]:
    """Returns the tensors of a checkpoint on the CPU, mapped from the file; nothing is unpickled but tensors.

    Raises:
        CheckpointError: the file cannot be read.
    """
    path = checkpoint.folder / STATE
    try:
        with open(path, "rb") as file:
            problem = (
                archive_problem(path) if file.read(2) == b"PK" else "it is no archive of PyTorch"
            )
        if problem:
            raise ValueError(problem)
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as err:  # torch.load has no error class of its own
        raise CheckpointError(
            f"{path} cannot be read ({err}). Remove {checkpoint.folder} to resume from the checkpoint before it."
        ) from err


def load_objective(module: nn.Module, state: Mapping[str, torch.Tensor], where: str) -> None:
    """Fills a module with a state dict of exactly its names and shapes.

    Raises:
        CheckpointError: another architecture; missing, unexpected and mismatched names are listed.
    """
    wanted = module.state_dict()
    lines = []
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
            lines.append(f"  {word} ({len(names)}): {', '.join(names[:8])}{more}")
    if lines:
        raise CheckpointError(
            f"{where} is of another architecture:\n" + "\n".join(lines) + "\n"
            "Resume with the recipe it was made with, or give this run another folder: run=..."
        )
    module.load_state_dict(dict(state), strict=True)


def _write_state(path: Path, state: Mapping[str, Any]) -> str:
    """Writes tensors and returns the checksum of what was written."""
    with open(path, "wb") as file:
        summed = SummedFile(file)
        torch.save(dict(state), summed)  # type: ignore[arg-type]
        to_disk(file)
    return summed.checksum
