"""The table of optimizers, and what a recipe says about how the weights move.  Free of torch and jax."""

from __future__ import annotations

import difflib
import fnmatch
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

from video_ssl.pretrain.durations import parse_duration
from video_ssl.pretrain.schedules import SCHEDULES, scaled_lr
from video_ssl.recipes import ConfigError, nearest


@dataclass(frozen=True)
class Entry:
    """One optimizer: which settings it takes, and who makes it.

    Attributes:
        settings: settings of `OptimizerConfig` that not all optimizers take; they go to both makers by these names.
        torch: `module:class` of a torch.optim.Optimizer: (groups, lr=, **settings).
        flax: `module:function`: (schedule, decay, **settings) -> optax.GradientTransformation, see there.
    """

    settings: tuple[str, ...]
    torch: str
    flax: str


_FLAX = "video_ssl.pretrain.flax_loop.optimizers"
_LARS = ("momentum", "nesterov", "trust_coefficient", "adapt_all")
#: `optimizer.name` of a recipe -> its makers.
OPTIMIZERS: dict[str, Entry] = {
    "adamw": Entry(("betas", "eps"), "torch.optim:AdamW", f"{_FLAX}:adamw"),
    "adam": Entry(("betas", "eps"), "torch.optim:Adam", f"{_FLAX}:adam"),
    "sgd": Entry(("momentum",), "torch.optim:SGD", f"{_FLAX}:sgd"),
    "lars": Entry(_LARS, "video_ssl.pretrain.torch_loop.lars:Lars", f"{_FLAX}:lars"),
}


@dataclass(frozen=True, kw_only=True)
class ParameterGroup:
    """Other settings for the parameters of some names.

    Attributes:
        match: names of parameters; `*` stands for any text, `?` for one character: `head.*`, `*norm*`.
        lr_factor: their learning rate is that of the others times this.
        weight_decay: theirs, whatever else says who is decayed; empty = as without this group.
    """

    match: str
    lr_factor: float = 1.0
    weight_decay: float | None = None

    def __post_init__(self) -> None:
        if self.lr_factor == 1 and self.weight_decay is None:
            raise ValueError(
                f"match={self.match!r} changes nothing: give lr_factor or weight_decay, or remove the group."
            )
        for name in ("lr_factor", "weight_decay"):
            _check_amount(name, getattr(self, name) or 0)


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """How the weights move.  1-D tensors, biases and what the objective names are not decayed unless `decay_all`.

    Attributes:
        name: "adamw"; "adam", whose weight decay is added to the gradient; "sgd"; "lars".
        base_lr: peak learning rate before scaling.
        lr_scaling: "linear_256" multiplies base_lr, min_lr and warmup_lr by the batch / 256.
        batch_unit: what the batch is counted in for `lr_scaling`: "records", training.global_batch_size; "clips", that
            times the clips that a record gives.
        min_lr: rate that the cosine approaches, before scaling.
        warmup: duration of the linear ramp from `warmup_lr`.
        warmup_lr: rate of the first step of the ramp, before scaling.  The scripts of VideoMAE, its V2 and MVD have an
            option of this name too (1e-6), which none of them passes on to the schedule: their ramps start at 0.
        schedule: what follows the ramp.  "cosine" has the peak twice, as the last step of the ramp and the first of the
            cosine (VideoMAE, MVD), "cosine_once" only there (MAE, VATT).  "cosine_epochs" moves once per epoch e of E,
            without a ramp:
            min_lr + (base_lr - min_lr) / 2 * (1 + cos(pi * e / (E + 1))).
            "cosine_ramped" is a cosine over all steps to 0 whose beginning is the ramp (CVRL, TeG, HiCo);
            "cosine_damped" one whose beginning is multiplied by the ramp (BEVT), "cosine_damped_epochs" the same with a
            cosine that moves once per epoch (its fine-tuning); "cosine_quarter" ends where the cosine is steepest
            (text of VATT).
        betas, eps: of AdamW and Adam.
        momentum: of SGD and LARS.
        nesterov: of LARS: the step looks one step of momentum ahead.
        trust_coefficient: of LARS: length of a step as a share of the length of the tensor, at a rate of 1.
        adapt_all: of LARS: it adapts the steps of all tensors; otherwise only of those that are decayed, and the others
            move by plain momentum.
        decay_all: weight decay acts on every trained tensor.
        layer_decay: factor of the learning rate from each layer of the encoder to the one below it; empty = none.
        groups: other settings for some parameters; of several groups that match a name the first one counts.
    """

    name: str = "adamw"
    base_lr: float = 1.5e-4
    lr_scaling: Literal["linear_256", "none"] = "linear_256"
    batch_unit: Literal["records", "clips"] = "records"
    min_lr: float = 0.0
    warmup: str | int = 0
    warmup_lr: float = 0.0
    schedule: str = "cosine"
    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = 1e-8
    momentum: float = 0.9
    nesterov: bool = False
    trust_coefficient: float = 0.001
    adapt_all: bool = False
    weight_decay: float = 0.05
    decay_all: bool = False
    layer_decay: float | None = None
    groups: tuple[ParameterGroup, ...] = ()

    def __post_init__(self) -> None:
        _check_name("name", self.name, OPTIMIZERS)
        _check_name("schedule", self.schedule, SCHEDULES)
        self._check_taken()
        self._check_schedule()
        for name in ("base_lr", "min_lr", "warmup_lr", "weight_decay", "eps", "trust_coefficient"):
            _check_amount(name, getattr(self, name))
        # beyond these torch stops with a traceback, or steps grow without end
        for name, shares in (("momentum", (self.momentum,)), ("betas", self.betas)):
            if not all(0 <= share < 1 for share in shares):
                raise ValueError(f"{name}={getattr(self, name)} must lie in [0, 1).")
        if self.min_lr > self.base_lr:
            raise ValueError(f"min_lr={self.min_lr} is above base_lr={self.base_lr}.")
        if self.layer_decay is not None and not 0 < self.layer_decay <= 1:
            raise ValueError(f"layer_decay={self.layer_decay} must lie in (0, 1], or be null.")
        if self.batch_unit == "clips" and self.lr_scaling == "none":
            raise ValueError(
                "batch_unit='clips' says how the batch is counted for lr_scaling, which is 'none': set "
                "lr_scaling='linear_256', or leave batch_unit out."
            )

    def _check_taken(self) -> None:
        """Refuses settings of other optimizers; recipes that a run has written hold all of them, at their defaults."""
        taken = OPTIMIZERS[self.name].settings
        for name in dict.fromkeys(n for entry in OPTIMIZERS.values() for n in entry.settings):
            value, default = getattr(self, name), _DEFAULTS[name]
            if name not in taken and value != default:
                raise ValueError(
                    f"{name}={value} is no setting of name={self.name!r}, which takes {list(taken)}. Remove it, or "
                    f"where a base: sets it, write {name}: {_yaml(default)}, its default."
                )

    def _check_schedule(self) -> None:
        settings = SCHEDULES[self.schedule].settings
        ramp = parse_duration(self.warmup).amount
        if "warmup" not in settings and ramp:
            raise ValueError(
                f"warmup={self.warmup!r}: schedule={self.schedule!r} has no ramp. Use warmup=0 or schedule='cosine'."
            )
        if self.warmup_lr and not ramp:
            raise ValueError(
                f"warmup_lr={self.warmup_lr} is where the ramp starts, but warmup={self.warmup!r} with "
                f"schedule={self.schedule!r} has no such ramp. Set warmup and a schedule that has one, "
                f"{[n for n, s in SCHEDULES.items() if 'warmup_lr' in s.settings]}, or warmup_lr=0."
            )
        if self.min_lr and "min_lr" not in settings:
            raise ValueError(
                f"min_lr={self.min_lr}: schedule={self.schedule!r} does not approach it. Set min_lr=0, or one of "
                f"{[n for n, s in SCHEDULES.items() if 'min_lr' in s.settings]}."
            )

    def own_settings(self) -> dict[str, Any]:
        """Returns the settings that the optimizer of this name takes and not all do."""
        return {name: getattr(self, name) for name in OPTIMIZERS[self.name].settings}

    def rates(self, *, global_batch_size: int, clips_per_record: int) -> dict[str, float]:
        """Returns base_lr, min_lr and warmup_lr after scaling."""
        batch = global_batch_size * (clips_per_record if self.batch_unit == "clips" else 1)
        return {
            name: scaled_lr(getattr(self, name), scaling=self.lr_scaling, global_batch_size=batch)
            for name in ("base_lr", "min_lr", "warmup_lr")
        }


_DEFAULTS = {field.name: field.default for field in fields(OptimizerConfig)}


def groups_of(
    names: Sequence[str], groups: Sequence[ParameterGroup]
) -> dict[str, ParameterGroup | None]:
    """Returns the group of every trained parameter, None for those that no group matches.

    Raises:
        ConfigError: a group without a parameter; the names nearest to its pattern are listed.
    """
    found = {
        name: next((g for g in groups if fnmatch.fnmatchcase(name, g.match)), None)
        for name in names
    }
    for number, group in enumerate(groups):
        if not any(chosen is group for chosen in found.values()):
            raise ConfigError(_no_parameter(f"optimizer.groups.{number}.match", group.match, names))
    return found


def _no_parameter(key: str, pattern: str, names: Sequence[str]) -> str:
    if any(fnmatch.fnmatchcase(name, pattern) for name in names):
        return f"{key}={pattern!r}: groups before it take all that it matches. Put it before them, or remove it."
    near = difflib.get_close_matches(pattern, names, n=3, cutoff=0.0)
    return (
        f"{key}={pattern!r} matches none of the {len(names)} trained parameters; the nearest are {near}. `*` stands "
        "for any text."
    )


def _check_name(key: str, value: str, table: Mapping[str, Any]) -> None:
    if value not in table:
        raise ValueError(f"{key}={value!r}: allowed are {list(table)}.{nearest(value, table)}")


def _check_amount(name: str, value: float) -> None:
    if not 0 <= value < math.inf:
        raise ValueError(f"{name}={value} must be finite and not negative.")


def _yaml(value: Any) -> str:
    if isinstance(value, Collection) and not isinstance(value, str):
        return f"[{', '.join(map(str, value))}]"
    return str(value).lower() if isinstance(value, bool) else str(value)
