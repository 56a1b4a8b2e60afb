"""Ways to share one training among processes, and to save memory: FSDP2, OSS, recomputation, synchronised batch norm.

    ddp    every process holds everything; gradients are averaged.  The default: simplest and fastest while it fits.
    fsdp   weights, gradients and optimizer state are divided (`fully_shard`); blocks are gathered when they are needed.
    oss    as ddp, but the optimizer state is divided (fairscale's OSS, needs video_ssl[sharded]).

Frozen networks (`TorchObjective.frozen`) are outside the module tree of an objective and so outside all of it; frozen
parameters inside the tree stay whole in every process.

What torch divides weights with is imported where something is divided: it brings sympy, and takes most of a second.
"""

from __future__ import annotations

import ctypes
import functools
import sys
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from video_ssl.pretrain.errors import RunError
from video_ssl.pretrain.processes import Processes
from video_ssl.pretrain.recipe import TrainingConfig

M = TypeVar("M", bound=nn.Module)


def prepare(objective: M, training: TrainingConfig, processes: Processes) -> M:
    """Returns the objective, on its device, ready for its optimizer: changed in place as the recipe says.

    Args:
        objective: its parameters may be replaced by sharded ones.
        training: `sharding`, `activation_checkpointing`, `sync_batch_norm`, `precision`.

    Raises:
        RunError: an optional package is missing, or the objective cannot be treated so.
    """
    if training.sync_batch_norm and processes.world_size > 1:
        objective = synchronise_batch_norm(objective, processes.device)
    if training.activation_checkpointing:
        recompute_blocks(objective)
    if training.sharding == "fsdp" and processes.world_size > 1:
        shard(objective, processes, precision=training.precision)
    return objective


#: Of mallopt in glibc's malloc.h; and a size below that of the weights of any block worth dividing.
_M_MMAP_THRESHOLD, _OWN_PAGES_FROM = -3, 2**20


def return_freed_memory(training: TrainingConfig, processes: Processes) -> None:
    """Makes large blocks that are freed leave this process, where the weights are divided and lie in its memory.

    Weights are gathered and freed again block by block.  glibc learns from such frees to serve blocks of up to 32 MiB
    from its heap, which it keeps and which fills with holes: FSDP2 then takes more memory than DDP.
    """
    if training.sharding != "fsdp" or processes.world_size == 1 or processes.device.type != "cpu":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # other C libraries have none
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _OWN_PAGES_FROM)


def blocks_of(module: nn.Module) -> list[tuple[str, nn.Module]]:
    """Returns names and modules of the repeated blocks that are trained: the members of lists and sequences whose
    members are all of one class and have parts of their own, and what a module calls its `block_names`; none lies
    inside another.
    """
    named = [(n, module.get_submodule(n)) for n in getattr(module, "block_names", ())]
    if named:
        return [(n, m) for n, m in named if _trained(m)]
    found: list[tuple[str, nn.Module]] = []
    for name, child in module.named_children():
        members = list(child.named_children())
        kinds = {type(member) for _, member in members}
        repeated = isinstance(child, (nn.ModuleList, nn.Sequential)) and len(kinds) == 1
        if repeated and any(True for _, m in members for _ in m.children()):
            found += [(f"{name}.{n}", m) for n, m in members if _trained(m)]
        else:
            found += [(f"{name}.{n}", m) for n, m in blocks_of(child)]
    return found


def _trained(module: nn.Module) -> bool:
    return any(p.requires_grad for p in module.parameters())


def recompute_blocks(objective: nn.Module) -> None:
    """Makes the blocks forget their activations in the forward pass and compute them again in the backward pass.

    Blocks with batch norm go through fairscale's wrapper, which counts a batch once in the running statistics;
    torch's own would count it twice.

    Raises:
        RunError: the objective has no blocks, or they have batch norm and fairscale is not installed.
    """
    blocks = blocks_of(objective)
    if not blocks:
        raise RunError(
            "training.activation_checkpointing=true: this objective has no repeated blocks. Set it to false."
        )
    for _, block in blocks:
        if any(isinstance(m, _BatchNorm) for m in block.modules()):
            _fairscale("checkpoint_wrapper", "nn.checkpoint")(block)
        else:
            block.forward = functools.partial(checkpoint, block.forward, use_reentrant=False)


def _fairscale(name: str, module: str) -> Any:
    try:
        return getattr(__import__(f"fairscale.{module}", fromlist=[name]), name)
    except ImportError as err:
        raise RunError(
            f"{name} needs fairscale: pip install 'video_ssl[sharded]', or choose another training.sharding and "
            "training.activation_checkpointing=false."
        ) from err


def synchronise_batch_norm(module: M, device: torch.device) -> M:
    """Returns the module with batch norms that take their statistics over all processes.

    On CUDA torch's own; on the CPU, where that refuses to work, pytorchvideo's NaiveSyncBatchNorm, whose running
    variance is the biased one.  Names of weights stay the same.
    """
    if device.type == "cuda":
        synchronised: M = nn.SyncBatchNorm.convert_sync_batchnorm(module)
        return synchronised
    try:
        from pytorchvideo.layers import batch_norm
    except ImportError as err:
        raise RunError(
            "training.sync_batch_norm=true on the CPU needs pytorchvideo: pip install 'video_ssl[zoo]', or set it to "
            "false."
        ) from err

    class OfVectors(batch_norm.NaiveSyncBatchNorm1d):
        """It expects (N, C, L); heads give (N, C)."""

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if x.ndim != 2:
                return super().forward(x)
            return super().forward(x[..., None])[..., 0]

    kinds: dict[type[nn.Module], Any] = {
        nn.BatchNorm1d: OfVectors,
        nn.BatchNorm2d: batch_norm.NaiveSyncBatchNorm2d,
        nn.BatchNorm3d: batch_norm.NaiveSyncBatchNorm3d,
    }
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if type(child) in kinds:
                new = kinds[type(child)](
                    num_features=child.num_features, eps=child.eps, momentum=child.momentum
                )
                new.load_state_dict(child.state_dict())
                new.train(child.training)
                for key, parameter in child.named_parameters():
                    getattr(new, key).requires_grad_(parameter.requires_grad)
                setattr(parent, name, new)
    return module


def shard(objective: nn.Module, processes: Processes, *, precision: str) -> None:
    """Divides the trained parameters of an objective among the processes, block by block (FSDP2).

    With bf16 the weights of blocks travel and compute in bfloat16; gradients are added up in float32.  What is not in
    a block (embeddings, heads, last norms) stays float32.
    """
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    mesh = init_device_mesh(processes.device.type, (processes.world_size,))
    half = MixedPrecisionPolicy(
        param_dtype=torch.bfloat16, reduce_dtype=torch.float32, cast_forward_inputs=False
    )
    frozen = {p for p in objective.parameters() if not p.requires_grad}
    for _, block in blocks_of(objective):
        policy = half if precision == "bf16" and not _has_batch_norm(block) else None
        inside = {p for p in block.parameters() if not p.requires_grad}
        fully_shard(
            block,
            mesh=mesh,
            mp_policy=policy or MixedPrecisionPolicy(),
            ignored_params=inside or None,
        )
    fully_shard(objective, mesh=mesh, ignored_params=frozen or None)


def _has_batch_norm(module: nn.Module) -> bool:
    return any(isinstance(m, _BatchNorm) for m in module.modules())


def sync_gradients(module: nn.Module, wanted: bool) -> None:
    """Sets whether the next backward pass of a sharded module reduces gradients over processes."""
    if is_sharded(module):
        module.set_requires_gradient_sync(wanted)  # type: ignore[operator]


def whole(tensor: Tensor) -> Tensor:
    """Returns a tensor in one piece; of a sharded one, gathered from all processes, which must all call this."""
    return tensor.full_tensor() if is_divided(tensor) else tensor  # type: ignore[attr-defined]


def like(tensor: Tensor, target: Tensor) -> Tensor:
    """Returns a whole tensor, divided as `target` is; the caller checks the shapes."""
    if not is_divided(target) or is_divided(tensor):
        return tensor
    from torch.distributed.tensor import DTensor, distribute_tensor

    assert isinstance(target, DTensor)
    return distribute_tensor(
        tensor.to(target.device), target.device_mesh, target.placements, src_data_rank=None
    )


def is_sharded(module: nn.Module) -> bool:
    return _is_one(module, "torch.distributed.fsdp", "FSDPModule")


def is_divided(tensor: Tensor) -> bool:
    """Returns whether a tensor is one of several parts that processes hold (a DTensor)."""
    return _is_one(tensor, "torch.distributed.tensor", "DTensor")


def _is_one(thing: object, module: str, name: str) -> bool:
    """Whether it is of a class; a module that nobody has imported cannot have made it."""
    cls = getattr(sys.modules.get(module), name, None)
    return cls is not None and isinstance(thing, cls)


def wrap_optimizer(
    kind: type[torch.optim.Optimizer], groups: list[dict[str, Any]], **settings: Any
) -> torch.optim.Optimizer:
    """Returns fairscale's OSS: every process steps and remembers its part of the parameters, then shares it."""
    oss: torch.optim.Optimizer = _fairscale("OSS", "optim")(params=groups, optim=kind, **settings)
    return oss


def inner_optimizer(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    """Returns the optimizer that does the arithmetic."""
    inner = getattr(optimizer, "optim", None)
    return inner if isinstance(inner, torch.optim.Optimizer) else optimizer
