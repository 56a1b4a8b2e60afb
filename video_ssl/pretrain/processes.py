"""The processes of one run: who this one is, and the few things they must agree on.

`torchrun --nproc-per-node=N` starts them; without it there is one process and every function here is a no-op.
"""

from __future__ import annotations

import contextlib
import gc
import os
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from video_ssl.pretrain.errors import RunError
from video_ssl.pretrain.run_processes import lost_after_sec
from video_ssl.pretrain.stop import StopSignals

T = TypeVar("T")


@dataclass(frozen=True)
class Processes:
    """Place of this process among those of the run; `device` is where it computes."""

    rank: int
    world_size: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    @property
    def on_cpu(self) -> bool:
        return self.device.type == "cpu"

    def on_main(self, act: Callable[[], T]) -> T:
        """Returns what `act` returned in process 0, in every process; its error too is raised in every process."""
        if self.world_size == 1:
            return act()
        box: list[Any] = [None, None]
        if self.is_main:
            try:
                box[0] = act()
            except Exception as err:
                box[1] = err
        dist.broadcast_object_list(box, src=0)
        if box[1] is not None:
            raise box[1]
        return box[0]

    def mean(self, values: torch.Tensor) -> torch.Tensor:
        """Returns the mean over processes of a tensor on the device."""
        if self.world_size > 1:
            dist.all_reduce(values)
            values /= self.world_size
        return values

    def largest(self, values: torch.Tensor) -> torch.Tensor:
        """Returns the element-wise maximum over processes of a tensor on the device."""
        if self.world_size > 1:
            dist.all_reduce(values, op=dist.ReduceOp.MAX)
        return values

    def wait(self) -> None:
        """Waits until every process has come here."""
        if self.world_size > 1:
            dist.all_reduce(torch.zeros(1))

    def gather(self, rows: torch.Tensor) -> torch.Tensor:
        """Returns the rows (B, D) of every process under each other, in the order of ranks."""
        if self.world_size == 1:
            return rows
        parts = [torch.empty_like(rows) for _ in range(self.world_size)]
        dist.all_gather(parts, rows.contiguous())
        return torch.cat(parts)


@contextlib.contextmanager
def join_processes(device: str, *, patience_sec: float | None = None) -> Iterator[Processes]:
    """Gives this process its place; starts the process group if torchrun's variables are set and nobody has yet.

    Args:
        device: auto, cuda or cpu.
        patience_sec: how long a process waits for the others; null: `lost_after_sec`.

    Raises:
        RunError: `cuda` requested where there is none, or more local processes than devices.
    """
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    rank = int(os.environ.get("RANK", "0")) if world_size > 1 else 0
    chosen = choose_device(device, int(os.environ.get("LOCAL_RANK", "0")) if world_size > 1 else 0)
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    starts = world_size > 1 and not dist.is_initialized()
    if starts:
        # CPU tensors (flags, objects) go through gloo also where the gradients go through nccl.
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if chosen.type == "cuda" else "gloo",
            timeout=timedelta(seconds=patience_sec or lost_after_sec()),
        )
    try:
        yield Processes(rank=rank, world_size=world_size, device=chosen)
    except BaseException as err:
        if starts:
            # The frames of the error would keep DDP, and with it threads of the group, until the interpreter is gone;
            # the process then aborts and its exit code is lost.
            traceback.clear_frames(err.__traceback__)
        raise
    finally:
        if starts:
            gc.collect()
            dist.destroy_process_group()


def choose_device(device: str, local_rank: int = 0) -> torch.device:
    """Returns the device of torch that a name means.

    Args:
        device: "auto" is CUDA where there is one; "cuda" the device of this process; "cpu", or any device that torch
            can name, is that one.
        local_rank: of this process among those of its machine.

    Raises:
        RunError: there is no such device.
    """
    if device == "tpu":
        raise RunError("device=tpu is for flax. Use auto, cuda or cpu.")
    if device not in ("auto", "cuda", "cpu"):
        return torch.device(device)
    available = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device == "cpu" or (device == "auto" and not available):
        return torch.device("cpu")
    if not available:
        raise RunError("device=cuda, but torch sees no CUDA device. Use device=auto or cpu.")
    if local_rank >= available:
        raise RunError(
            f"local process {local_rank} has no CUDA device: there are {available}. Start at most {available} "
            "processes per machine."
        )
    return torch.device("cuda", local_rank)


class StopRequest(StopSignals):
    """`StopSignals` of torch: processes agree by a collective on the CPU."""

    def __init__(self, processes: Processes) -> None:
        super().__init__(processes.world_size)
        self._flag = torch.zeros(1, dtype=torch.int64)
        self._work: Any = None

    def _begin(self, asked: int) -> None:
        self._flag = torch.tensor([asked], dtype=torch.int64)
        self._work = dist.all_reduce(self._flag, op=dist.ReduceOp.MAX, async_op=True)

    def _read(self) -> int:
        self._work.wait()
        self._work = None
        return int(self._flag.item())
