"""Checkpoints that every process writes its part of: N processes save, M processes load.

    RUN/checkpoints/step_N/shards/    torch.distributed.checkpoint; names objective/.., optimizer/../.., average/..
    RUN/checkpoints/step_N/meta.json  as of an undivided one (see `checkpoints.py`)

Either kind is read by a run of either kind, so `training.sharding` may change between a run and its continuation.
torch.distributed.checkpoint is imported where one is divided: most runs do without what it brings.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from video_ssl.checksums import checksums
from video_ssl.pretrain.checkpoint_folders import (
    Checkpoint,
    begin_checkpoint,
    complete_checkpoint,
    save_failed,
)
from video_ssl.pretrain.errors import CheckpointError
from video_ssl.pretrain.processes import Processes
from video_ssl.pretrain.run_processes import lost_after_sec
from video_ssl.pretrain.torch_loop.checkpoints import load_state
from video_ssl.pretrain.torch_loop.sharding import like

SHARDS = "shards"


class ShardWriter:
    """Writes checkpoints of a divided run; made by every process, at the same time.

    Args:
        processes: of the run.  While they write they talk in a group of their own, beside the training.
    """

    def __init__(self, processes: Processes) -> None:
        self._processes = processes
        patience = timedelta(seconds=lost_after_sec())
        self._group = dist.new_group(backend="gloo", timeout=patience)

    def save(
        self, folder: Path, step: int, state: Mapping[str, Any], meta: Mapping[str, Any]
    ) -> Callable[[], None]:
        """Copies this process's part of a state, begins to write RUN/checkpoints/step_N and returns what waits for the
        end; called by every process.

        Raises:
            CheckpointError: a process could not write; what was there before is untouched.  Here and by the result.
        """
        import torch.distributed.checkpoint as dcp

        processes = self._processes
        temporary = Path(processes.on_main(lambda: str(begin_checkpoint(folder, step))))
        place = temporary / SHARDS
        begun = dcp.async_save(_flat(state), checkpoint_id=place, process_group=self._group)
        ended: Any = getattr(begun, "upload_completion", begun)

        def wait() -> None:
            try:
                ended.result()
                sums = self._sums(temporary)
            except Exception as err:  # of any process; every process gets the same
                raise CheckpointError(save_failed(folder, step, err)) from err
            if processes.is_main:
                complete_checkpoint(folder, step, temporary, meta, sums=sums)

        return wait

    def _sums(self, temporary: Path) -> dict[str, str]:
        """The checksums of every process's own files, which it still has in memory; called by every process."""
        own = (temporary / SHARDS).glob(f"__{self._processes.rank}_*")
        sums = checksums(temporary, [f"{SHARDS}/{path.name}" for path in own])
        gathered: list[Any] = [None] * self._processes.world_size
        dist.all_gather_object(gathered, sums, group=self._group)
        return {name: value for part in gathered for name, value in part.items()}


def load_for(checkpoint: Checkpoint, objective: nn.Module) -> dict[str, Any]:
    """Returns the tensors of a checkpoint of either kind, divided as the parameters of the objective are.

    Raises:
        CheckpointError: it cannot be read.
    """
    targets = dict(objective.named_parameters())
    if not (checkpoint.folder / SHARDS).is_dir():
        return _map(load_state(checkpoint), targets)
    import torch.distributed.checkpoint as dcp

    from video_ssl.pretrain.torch_loop.shard_reader import ShardReader

    try:
        reader = ShardReader(checkpoint.folder / SHARDS)
        known = reader.read_metadata().state_dict_metadata
        _refuse_more_than_there_is(checkpoint.folder / SHARDS, known)
        flat: dict[str, Any] = {
            key: _room(key, about.size, about.properties.dtype, targets)
            for key, about in known.items()
        }
        dcp.load(flat, storage_reader=reader, no_dist=not dist.is_initialized())
    except Exception as err:  # torch.distributed.checkpoint has no error class for it
        raise CheckpointError(
            f"{checkpoint.folder / SHARDS} cannot be read ({err}). Remove {checkpoint.folder} to resume from the "
            "checkpoint before it."
        ) from err
    return _nested(flat)


def _refuse_more_than_there_is(folder: Path, known: Mapping[str, Any]) -> None:
    """Room is taken as the description says, so it must not say more than the files can hold."""
    wanted = sum(about.size.numel() * about.properties.dtype.itemsize for about in known.values())
    there = sum(path.stat().st_size for path in folder.iterdir())
    if wanted > there:
        raise ValueError(f"it describes {wanted:,} bytes of tensors, its files have {there:,}")


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
