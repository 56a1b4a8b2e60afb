"""Processes and devices of a flax run: who this process is, how arrays lie on the devices.

One process drives all devices of a machine.  Several are started by whatever launches them and find each other by

    JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES, JAX_PROCESS_ID          set by hand
    MASTER_ADDR, MASTER_PORT, WORLD_SIZE, RANK (LOCAL_RANK)             torchrun and our launcher
    SLURM with several tasks, TPU pods                                  jax finds its settings itself

Under `jax.jit` arrays are global: there is no gather and no all-reduce in our code.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import pickle
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from video_ssl.pretrain.errors import Interrupted, RunError
from video_ssl.pretrain.run_processes import lost_after_sec
from video_ssl.pretrain.stop import StopSignals

T = TypeVar("T")
AXIS = "data"
#: Arrays of fewer elements are not divided: sending them around costs more than keeping them.
SMALLEST_SHARDED = 2**14


@dataclass(frozen=True)
class FlaxProcesses:
    """Place of this process among those of the run, and the mesh of all devices."""

    rank: int
    world_size: int
    mesh: Mesh

    @property
    def device(self) -> str:
        return f"{self.mesh.devices.size} {self.mesh.devices.flat[0].device_kind} (jax)"

    @property
    def platform(self) -> str:
        return str(self.mesh.devices.flat[0].platform)

    @property
    def num_devices(self) -> int:
        return int(self.mesh.devices.size)

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    @property
    def on_cpu(self) -> bool:
        return self.platform == "cpu"

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
        box = pickle.loads(_broadcast(pickle.dumps(box)))
        if box[1] is not None:
            raise box[1]
        result: T = box[0]
        return result

    @property
    def whole(self) -> NamedSharding:
        """Every device has all of an array."""
        return NamedSharding(self.mesh, PartitionSpec())

    @property
    def rows(self) -> NamedSharding:
        """Every device has its part of the first axis."""
        return NamedSharding(self.mesh, PartitionSpec(AXIS))


def _broadcast(content: bytes) -> bytes:
    """Returns what process 0 gave."""
    size = int(multihost_utils.broadcast_one_to_all(np.int32(len(content))))
    padded = np.zeros(size, np.uint8)
    padded[: min(size, len(content))] = np.frombuffer(content, np.uint8)[:size]
    return np.asarray(multihost_utils.broadcast_one_to_all(padded)).astype(np.uint8).tobytes()


@contextlib.contextmanager
def join_flax_processes(
    device: str, devices: Sequence[Any] | None = None
) -> Iterator[FlaxProcesses]:
    """Gives this process its place and a mesh of one axis over all devices.

    Args:
        device: "auto" or a platform: `training.device`.
        devices: those to use instead of all; for one process.

    Raises:
        RunError: a platform that jax does not see.
    """
    # jax logs at INFO every platform that this machine does not have, and it reads like an error.
    logging.getLogger("jax._src.xla_bridge").setLevel(logging.WARNING)
    starts = _start_distributed(device)
    try:
        found = list(devices) if devices is not None else _devices(device)
        mesh = mesh_of(found)
        yield FlaxProcesses(rank=jax.process_index(), world_size=jax.process_count(), mesh=mesh)
    except Interrupted:
        raise
    except BaseException:
        starts = False  # the others may never come to its barrier, and jax then aborts before the error is shown
        raise
    finally:
        if starts:
            gc.collect()
            jax.distributed.shutdown()


def mesh_of(devices: Sequence[Any]) -> Mesh:
    """Returns the mesh of one axis over some devices."""
    # Axes of type Explicit, the default of jax.make_mesh, break ordinary code.
    return Mesh(np.array(devices), (AXIS,), axis_types=(AxisType.Auto,))


def _devices(device: str) -> list[Any]:
    try:
        return list(jax.devices() if device == "auto" else jax.devices(device))
    except RuntimeError as err:
        raise RunError(
            f"training.device={device}, but jax sees no such device ({str(err).splitlines()[0]}). Use device=auto, or "
            "install the jax of that platform: pip install 'jax[cuda12]' or 'jax[tpu]'."
        ) from err


def _start_distributed(device: str) -> bool:
    """Starts jax.distributed where the environment names several processes and nobody has yet."""
    found = _distributed_settings(dict(os.environ))
    if found is None or jax.distributed.is_initialized():
        return False
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(**found, **_patience())
    if jax.default_backend() == "cpu":
        # A step read from JAX_COMPILATION_CACHE_DIR waits for the other process for ever here (jax 0.10).
        jax.config.update("jax_enable_compilation_cache", False)
    return True


def _patience() -> dict[str, int]:
    """How long the processes of jax wait for each other: as those of torch, but not longer than jax would."""
    seconds = max(1, round(lost_after_sec()))
    return {
        "heartbeat_timeout_seconds": min(seconds, 100),
        "shutdown_timeout_seconds": min(
            seconds, 30
        ),  # all end together; after an error jax waits in vain
    }


def _distributed_settings(env: dict[str, str]) -> dict[str, Any] | None:
    """The arguments of jax.distributed.initialize; None for a single process.

    >>> _distributed_settings({"WORLD_SIZE": "1"})
    """
    if int(env.get("JAX_NUM_PROCESSES", "1")) > 1:
        return {
            "coordinator_address": env.get("JAX_COORDINATOR_ADDRESS"),
            "num_processes": int(env["JAX_NUM_PROCESSES"]),
            "process_id": int(env["JAX_PROCESS_ID"]) if "JAX_PROCESS_ID" in env else None,
        }
    if int(env.get("WORLD_SIZE", "1")) > 1:
        lacking = [n for n in ("MASTER_ADDR", "MASTER_PORT", "RANK") if n not in env]
        if lacking:
            raise RunError(
                f"WORLD_SIZE={env['WORLD_SIZE']}, but {', '.join(lacking)} not set: start with torchrun or "
                "`video-ssl launch`, or set JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID."
            )
        # torchrun itself listens on MASTER_PORT.
        port = int(env["MASTER_PORT"]) + ("TORCHELASTIC_RUN_ID" in env)
        settings: dict[str, Any] = {
            "coordinator_address": f"{env['MASTER_ADDR']}:{port}",
            "num_processes": int(env["WORLD_SIZE"]),
            "process_id": int(env["RANK"]),
        }
        if int(env.get("LOCAL_WORLD_SIZE", "1")) > 1 and "LOCAL_RANK" in env:
            settings["local_device_ids"] = [int(env["LOCAL_RANK"])]
        return settings
    hosts = env.get("TPU_WORKER_HOSTNAMES", "")
    if "," in hosts or ("SLURM_PROCID" in env and int(env.get("SLURM_STEP_NUM_TASKS", "1")) > 1):
        return {}
    return None


def state_sharding(shapes: Any, processes: FlaxProcesses, *, sharding: str) -> Any:
    """Returns how every array of a state lies on the devices.

    "fsdp" divides the largest axis that the number of devices divides, of arrays of at least SMALLEST_SHARDED elements;
    everything else, and every array with "ddp", is whole on every device.
    """
    count = processes.num_devices

    def place(shape: Any) -> NamedSharding:
        sizes = [(size, axis) for axis, size in enumerate(shape.shape) if size % count == 0]
        if sharding != "fsdp" or count == 1 or not sizes or shape.size < SMALLEST_SHARDED:
            return processes.whole
        axis = max(sizes, key=lambda pair: pair[0])[1]
        return NamedSharding(processes.mesh, PartitionSpec(*[None] * axis, AXIS))

    return jax.tree.map(place, shapes)


def put_batch(batch: dict[str, np.ndarray], processes: FlaxProcesses) -> dict[str, jax.Array]:
    """Returns the numeric arrays of this process's part of a batch as global arrays, their rows divided among devices.

    Texts and objects stay behind.
    """
    return {
        name: jax.make_array_from_process_local_data(processes.rows, np.ascontiguousarray(value))
        for name, value in batch.items()
        if value.dtype.kind in "biuf"
    }


class FlaxStop(StopSignals):
    """`StopSignals` of jax: processes agree by a maximum over a global array."""

    def __init__(self, processes: FlaxProcesses) -> None:
        super().__init__(processes.world_size)
        self._processes = processes
        self._largest = jax.jit(jnp.max, out_shardings=processes.whole)
        self._found: Any = None

    def _begin(self, asked: int) -> None:
        here = self._processes.num_devices // self._processes.world_size
        flags = np.full(here, asked, np.int32)
        self._found = self._largest(put_batch({"flags": flags}, self._processes)["flags"])

    def _read(self) -> int:
        return int(self._found)
