"""Parameter groups and optimizers: who is decayed, which layer learns how fast."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from typing import Any

import torch
from torch import nn
from torch.distributed.tensor import DTensor

from video_ssl.pretrain.recipe import OptimizerConfig
from video_ssl.pretrain.torch_loop.sharding import inner_optimizer, wrap_optimizer
from video_ssl.recipes import ConfigError

_BLOCK = re.compile(r"blocks\.(\d+)\.")
_STEM = ("patch_embed", "cls_token", "pos_embed", "mask_token")


def is_decayed(name: str, parameter: torch.Tensor, no_decay: Collection[str] = ()) -> bool:
    """Returns whether weight decay acts on a parameter: not on 1-D tensors, biases and the names in `no_decay`.

    Source: optim_factory.get_parameter_groups of the VideoMAE and MVD reference code.
    """
    return parameter.ndim > 1 and not name.endswith(".bias") and name not in no_decay


def layer_id(name: str, depth: int) -> int:
    """Returns the layer of an encoder's parameter: 0 the embedding, i + 1 block i, depth + 1 everything after them.

    A leading `encoder.` is not looked at.  Blocks of decoders and other heads count as "after".

    >>> [layer_id(n, 12) for n in ("encoder.patch_embed.proj.weight", "blocks.0.norm1.bias", "head.weight")]
    [0, 1, 13]
    """
    name = name.removeprefix("encoder.")
    if name.split(".")[0] in _STEM:
        return 0
    block = _BLOCK.match(name)
    return int(block[1]) + 1 if block else depth + 1


def layer_scales(depth: int, decay: float) -> list[float]:
    """Returns the factor of the learning rate of each layer: decay ** (depth + 1 - i) for i = 0 .. depth + 1."""
    return [decay ** (depth + 1 - i) for i in range(depth + 2)]


def parameter_groups(
    named_parameters: Iterable[tuple[str, nn.Parameter]],
    *,
    weight_decay: float,
    layer_decay: float | None = None,
    no_decay: Collection[str] = (),
    decay_all: bool = False,
) -> list[dict[str, Any]]:
    """Returns optimizer groups of the trainable parameters, one per (layer, decayed or not), in order of first use.

    With `decay_all` every parameter is decayed.  Each group has `params`, `names`, `weight_decay`, `lr_scale` and
    `layer` (None without `layer_decay`).

    Raises:
        ConfigError: a name in `no_decay` that does not exist; `layer_decay` for an encoder without blocks.
    """
    named = list(named_parameters)
    unknown = sorted(set(no_decay) - {name for name, _ in named})
    if unknown:
        raise ConfigError(f"no_weight_decay() names {unknown}, which the objective does not have.")
    depth = 1 + max(
        (int(m[1]) for n, _ in named if (m := _BLOCK.match(n.removeprefix("encoder.")))), default=-1
    )
    if layer_decay is not None and depth == 0:
        raise ConfigError(
            f"optimizer.layer_decay={layer_decay} needs an encoder with `blocks.N.` parameters. Set it to null."
        )
    scales = layer_scales(depth, layer_decay) if layer_decay is not None else []
    groups: dict[tuple[int | None, bool], dict[str, Any]] = {}
    for name, parameter in named:
        if not parameter.requires_grad:
            continue
        layer = layer_id(name, depth) if scales else None
        decayed = decay_all or is_decayed(name, parameter, no_decay)
        group = groups.setdefault(
            (layer, decayed),
            {
                "params": [],
                "names": [],
                "weight_decay": weight_decay if decayed else 0.0,
                "lr_scale": 1.0 if layer is None else scales[layer],
                "layer": layer,
            },
        )
        group["params"].append(parameter)
        group["names"].append(name)
    return list(groups.values())


def build_optimizer(
    module: nn.Module, config: OptimizerConfig, *, divided: bool = False
) -> torch.optim.Optimizer:
    """Returns the optimizer of the trainable parameters of an objective.

    It is the fused kind, which takes a `found_inf` flag on the device and then leaves weights and state alone: that is
    how a step whose loss is not finite is stopped without asking the device for its opinion; only SGD of sharded
    parameters, for which torch has no fused kind, needs that question (`leaves_nonfinite_alone`).  With `divided`,
    several processes share its state among them (OSS).

    Raises:
        ConfigError: nothing to train; see also `parameter_groups`.
    """
    if config.name == "lars":
        raise ConfigError("optimizer.name=lars is for the objectives of flax. Use sgd or adamw.")
    names = getattr(module, "no_weight_decay", None)
    no_decay = names() if names is not None else ()
    groups = parameter_groups(
        module.named_parameters(),
        weight_decay=config.weight_decay,
        layer_decay=config.layer_decay,
        no_decay=no_decay,
        decay_all=config.decay_all,
    )
    if not groups:
        raise ConfigError("the objective has no trainable parameter.")
    sharded = any(isinstance(p, DTensor) for group in groups for p in group["params"])
    settings: dict[str, Any] = {"lr": 0.0, "fused": not (sharded and config.name == "sgd")}
    if config.name == "sgd":
        settings["momentum"] = config.momentum
    else:
        settings.update(betas=config.betas, eps=config.eps)
    kinds = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam, "sgd": torch.optim.SGD}
    kind: Any = kinds[config.name]
    if divided:
        return wrap_optimizer(kind, groups, **settings)
    optimizer: torch.optim.Optimizer = kind(groups, **settings)
    return optimizer


def leaves_nonfinite_alone(optimizer: torch.optim.Optimizer) -> bool:
    """Returns whether the optimizer heeds `found_inf`; otherwise a bad step must be found out before it acts."""
    return bool(inner_optimizer(optimizer).defaults.get("fused"))


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Writes the learning rate of a step into every group, times the group's `lr_scale`."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_scale"]


def optimizer_state(optimizer: torch.optim.Optimizer) -> dict[str, dict[str, torch.Tensor]]:
    """Returns the optimizer's state by the name of the parameter, independent of groups and their order.

    If it is divided among processes, all must call this; process 0 then has it and the others get nothing.
    """
    if inner_optimizer(optimizer) is not optimizer:
        return _gathered_state(optimizer)
    return {
        name: {k: v for k, v in optimizer.state[p].items() if isinstance(v, torch.Tensor)}
        for name, p in _named(optimizer)
        if p in optimizer.state
    }


def load_optimizer_state(
    optimizer: torch.optim.Optimizer, state: dict[str, dict[str, torch.Tensor]]
) -> None:
    """Puts a state of `optimizer_state` back, moved to the device of each parameter."""
    positions: dict[int, dict[str, torch.Tensor]] = {}
    for position, (name, _) in enumerate(_named(optimizer)):
        if name in state:
            positions[position] = {k: v.clone() for k, v in state[name].items()}
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": positions, "param_groups": groups})


def _gathered_state(optimizer: Any) -> dict[str, dict[str, torch.Tensor]]:
    """The whole state of an OSS in process 0."""
    optimizer.consolidate_state_dict(0)
    if optimizer.rank != 0:
        return {}
    found = optimizer.state_dict()["state"]
    names = [name for name, _ in _named(optimizer)]
    return {
        name: {k: v for k, v in found[position].items() if isinstance(v, torch.Tensor)}
        for position, name in enumerate(names)
        if position in found
    }


def _named(optimizer: torch.optim.Optimizer) -> list[tuple[str, nn.Parameter]]:
    return [
        (name, parameter)
        for group in optimizer.param_groups
        for name, parameter in zip(group["names"], group["params"], strict=True)
    ]
