"""Parameter groups and optimizers of torch: who is decayed, which parameter learns how fast."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import torch
from torch import nn

from video_ssl.models.layers import depth_by_names, layer_by_name
from video_ssl.models.torch_encoder import TorchEncoder
from video_ssl.objectives.shared.torch_objective import TorchObjective
from video_ssl.pretrain.optimizers import OPTIMIZERS, OptimizerConfig, ParameterGroup, groups_of
from video_ssl.pretrain.torch_loop.lars import Lars
from video_ssl.pretrain.torch_loop.sharding import inner_optimizer, is_divided, wrap_optimizer
from video_ssl.recipes import ConfigError

logger = logging.getLogger(__name__)


def is_decayed(name: str, parameter: torch.Tensor, no_decay: Collection[str] = ()) -> bool:
    """Returns whether weight decay acts on a parameter: not on 1-D tensors, biases and the names in `no_decay`.

    Source: optim_factory.get_parameter_groups of the VideoMAE and MVD reference code.
    """
    return parameter.ndim > 1 and not name.endswith(".bias") and name not in no_decay


@dataclass(frozen=True)
class Layers:
    """Depth of the encoder of an objective, and the layer of every parameter of the objective.

    What is not of the encoder comes after it, also blocks of decoders.
    """

    depth: int
    layer_of: Callable[[str], int]

    @staticmethod
    def of(encoder: object, names: Iterable[str]) -> Layers:
        """Returns what the encoder says; where it is none of ours, names are looked at.

        Args:
            encoder: `encoder` of the objective, whose parameters begin with that word.
            names: of the objective's parameters.

        >>> layers = Layers.of(None, ["encoder.blocks.11.norm1.bias"])
        >>> [layers.layer_of(n) for n in ("encoder.cls_token", "blocks.0.norm1.bias", "decoder.blocks.0.norm1.bias")]
        [0, 1, 13]
        """
        if isinstance(encoder, TorchEncoder):
            own, depth = encoder.layer_of, encoder.num_layers

            def layer_of(name: str) -> int:
                inside = name.startswith("encoder.")
                return own(name.removeprefix("encoder.")) if inside else depth + 1

            return Layers(depth, layer_of)
        depth = depth_by_names(name.removeprefix("encoder.") for name in names)
        return Layers(depth, lambda name: layer_by_name(name.removeprefix("encoder."), depth))


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
    groups: Sequence[ParameterGroup] = (),
    encoder: object = None,
) -> list[dict[str, Any]]:
    """Returns optimizer groups of the trainable parameters that are treated alike, in order of first use.

    With `decay_all` every parameter is decayed; the weight decay of a group in `groups` comes before that.  Each group
    has `params`, `names`, `weight_decay`, `decayed` (whether that is meant for it), `lr_scale` and `layer` (None
    without `layer_decay`; see `Layers.of` for `encoder`).

    Raises:
        ConfigError: a name in `no_decay` that does not exist; `layer_decay` for an encoder without blocks; a group
            without a parameter.
    """
    named = list(named_parameters)
    unknown = sorted(set(no_decay) - {name for name, _ in named})
    if unknown:
        raise ConfigError(f"no_weight_decay() names {unknown}, which the objective does not have.")
    layers = Layers.of(encoder, [name for name, _ in named])
    if layer_decay is not None and layers.depth == 0:
        raise ConfigError(
            f"optimizer.layer_decay={layer_decay} needs an encoder with `blocks.N.` parameters. Set it to null."
        )
    scales = layer_scales(layers.depth, layer_decay) if layer_decay is not None else []
    trained = {name: parameter for name, parameter in named if parameter.requires_grad}
    chosen = groups_of(list(trained), groups)
    found: dict[tuple[Any, ...], dict[str, Any]] = {}
    for name, parameter in trained.items():
        own = chosen[name]
        decay, decayed = weight_decay, decay_all or is_decayed(name, parameter, no_decay)
        if own is not None and own.weight_decay is not None:
            decay, decayed = own.weight_decay, own.weight_decay > 0
        layer = layers.layer_of(name) if scales else None
        factor = (1.0 if layer is None else scales[layer]) * (own.lr_factor if own else 1.0)
        settings = {
            "weight_decay": decay if decayed else 0.0,
            "decayed": decayed,
            "lr_scale": factor,
            "layer": layer,
        }
        group = found.setdefault(tuple(settings.values()), {"params": [], "names": [], **settings})
        group["params"].append(parameter)
        group["names"].append(name)
    return list(found.values())


def objective_optimizer(
    objective: TorchObjective, config: OptimizerConfig, *, divided: bool = False
) -> torch.optim.Optimizer:
    """Returns the optimizer of an objective, which says what is not decayed and which encoder has layers."""
    encoder, *_ = objective.encoders().values()
    return build_optimizer(
        objective,
        config,
        no_decay=objective.no_weight_decay(),
        encoder=encoder.module,
        divided=divided,
    )


def build_optimizer(
    module: nn.Module,
    config: OptimizerConfig,
    *,
    no_decay: Collection[str] = (),
    encoder: object = None,
    divided: bool = False,
) -> torch.optim.Optimizer:
    """Returns the optimizer of the trainable parameters of a module.

    It reads a `found_inf` flag on the device and then leaves weights and state alone: a step whose loss is not finite
    is stopped without waiting for the device.  Only SGD of sharded parameters, for which torch has no fused kind,
    must be prepared for it (`leaves_nonfinite_alone`).  With `divided`, several processes share its state among them
    (OSS).

    Raises:
        ConfigError: nothing to train; see also `parameter_groups`.
    """
    groups = parameter_groups(
        module.named_parameters(),
        weight_decay=config.weight_decay,
        layer_decay=config.layer_decay,
        no_decay=no_decay,
        decay_all=config.decay_all,
        groups=config.groups,
        encoder=encoder,
    )
    if not groups:
        raise ConfigError("the objective has no trainable parameter.")
    place, _, name = OPTIMIZERS[config.name].torch.partition(":")
    kind: Any = getattr(import_module(place), name)
    settings = {"lr": 0.0, **config.own_settings()}
    if "fused" in inspect.signature(kind).parameters:
        sharded = any(is_divided(p) for group in groups for p in group["params"])
        settings["fused"] = not (sharded and kind is torch.optim.SGD)
    if divided:
        return wrap_optimizer(kind, groups, **settings)
    optimizer: torch.optim.Optimizer = kind(groups, **settings)
    return optimizer


def leaves_nonfinite_alone(optimizer: torch.optim.Optimizer) -> bool:
    """Returns whether the optimizer heeds `found_inf`; otherwise a bad step must be found out before it acts."""
    inner = inner_optimizer(optimizer)
    return isinstance(inner, Lars) or bool(inner.defaults.get("fused"))


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


def kind_of(optimizer: torch.optim.Optimizer) -> str:
    """Returns what is said in a checkpoint of the optimizer that a state is of.

    Adam and AdamW remember the same; LARS has the learning rate in its momentum and SGD has not.
    """
    name = type(inner_optimizer(optimizer)).__name__.lower()
    return {"adamw": "adam"}.get(name, name)


def load_optimizer_state(
    optimizer: torch.optim.Optimizer,
    state: dict[str, dict[str, torch.Tensor]],
    *,
    kind: str | None = None,
) -> None:
    """Puts a state of `optimizer_state` back, moved to the device of each parameter.

    One of another optimizer is left out with a warning: the new one begins with an empty state.

    Args:
        optimizer: with an empty state.
        state: see above.
        kind: `kind_of` the optimizer that it is of; None = not known, then what it holds decides.
    """
    found = {slot for slots in state.values() for slot in slots}
    if found != _slots(optimizer) or kind not in (None, kind_of(optimizer)):
        logger.warning(
            "the checkpoint holds the state of another optimizer (%s%s): %s begins with an empty one",
            f"{kind}: " if kind else "",
            ", ".join(sorted(found)) or "nothing",
            kind_of(optimizer),
        )
        return
    positions: dict[int, dict[str, torch.Tensor]] = {}
    for position, (name, _) in enumerate(_named(optimizer)):
        if name in state:
            positions[position] = {k: v.clone() for k, v in state[name].items()}
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": positions, "param_groups": groups})


def _slots(optimizer: torch.optim.Optimizer) -> set[str]:
    """The names of what the optimizer remembers of a parameter, which it says by a step only."""
    inner: Any = inner_optimizer(optimizer)
    taken = inspect.signature(type(inner)).parameters
    parameter = nn.Parameter(torch.zeros(1))
    parameter.grad = torch.zeros(1)
    settings = {name: value for name, value in inner.defaults.items() if name in taken}
    trial = type(inner)([parameter], **settings)
    trial.step()
    return {k for k, v in trial.state[parameter].items() if isinstance(v, torch.Tensor)}


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
