"""Checkpoints that every process writes its part of: N processes save, M processes load.

    RUN/checkpoints/step_N/shards/    torch.distributed.checkpoint; names objective/.., optimizer/../.., average/..
    RUN/checkpoints/step_N/meta.json  as of an undivided one (see `checkpoints.py`)

Either kind is read by a run of either kind, so `training.sharding` may change between a run and its continuation.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn

from video_ssl.pretrain.checkpoint_folders import (
    Checkpoint,
    begin_checkpoint,
    complete_checkpoint,
    save_failed,
)
from video_ssl.pretrain.checkpoints import load_state
from video_ssl.pretrain.errors import CheckpointError
from video_ssl.pretrain.processes import Processes
from video_ssl.pretrain.sharding import like

SHARDS = "shards"


def save_shards(
    folder: Path,
    step: int,
    state: Mapping[str, Any],
    meta: Mapping[str, Any],
    processes: Processes,
) -> None:
    """Writes RUN/checkpoints/step_N; called by every process with its part of the state.

    Raises:
        CheckpointError: a process could not write; what was there before is untouched.
    """
    temporary = Path(processes.on_main(lambda: str(begin_checkpoint(folder, step))))
    try:
        dcp.save(_flat(state), checkpoint_id=temporary / SHARDS)
    except Exception as err:  # of any process; every process gets the same
        raise CheckpointError(save_failed(folder, step, err)) from err
    processes.on_main(lambda: complete_checkpoint(folder, step, temporary, meta))


def load_for(checkpoint: Checkpoint, objective: nn.Module) -> dict[str, Any]:
    """Returns the tensors of a checkpoint of either kind, divided as the parameters of the objective are.

    Raises:
        CheckpointError: it cannot be read.
    """
    targets = dict(objective.named_parameters())
    if not (checkpoint.folder / SHARDS).is_dir():
        return _map(load_state(checkpoint), targets)
    try:
        reader = dcp.FileSystemReader(checkpoint.folder / SHARDS)
        known = reader.read_metadata().state_dict_metadata
        flat: dict[str, Any] = {
            key: _room(key, about.size, about.properties.dtype, targets)  # type: ignore[union-attr]
            for key, about in known.items()
        }
        dcp.load(flat, storage_reader=reader, no_dist=not dist.is_initialized())
    except Exception as err:  # torch.distributed.checkpoint has no error class for it
        raise CheckpointError(
            f"{checkpoint.folder / SHARDS} cannot be read ({err}). Remove {checkpoint.folder} to resume from the "
            "checkpoint before it."
        ) from err
    return _nested(flat)


def _room(key: str, size: torch.Size, dtype: torch.dtype, targets: Mapping[str, Tensor]) -> Tensor:
    """A tensor to read into."""
    empty = torch.empty(size, dtype=dtype)
    target = targets.get(key.split("/")[1])
    return like(empty, target) if target is not None and target.shape == size else empty


def _map(state: Mapping[str, Any], targets: Mapping[str, Tensor]) -> dict[str, Any]:
    """An undivided state, divided."""
    flat = _flat(state)
    for key, value in flat.items():
        target = targets.get(key.split("/")[1])
        if target is not None and target.shape == value.shape:
            flat[key] = like(value, target)
    return _nested(flat)


def _flat(state: Mapping[str, Any]) -> dict[str, Any]:
    flat = {}
    for part, content in state.items():
        for name, value in content.items():
            if isinstance(value, Mapping):
                flat.update({f"{part}/{name}/{slot}": tensor for slot, tensor in value.items()})
            else:
                flat[f"{part}/{name}"] = value
    return flat


def _nested(flat: Mapping[str, Any]) -> dict[str, Any]:
    state: dict[str, Any] = {"objective": {}, "optimizer": {}}
    for key, value in flat.items():
        part, name, *slot = key.split("/")
        place = state.setdefault(part, {})
        if slot:
            place.setdefault(name, {})[slot[0]] = value
        else:
            place[name] = value
    return state
