"""Values that change over training, as numpy arrays with one value per optimizer step, and the table of schedules."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np


def cosine_schedule(
    base: float,
    final: float,
    num_steps: int,
    *,
    warmup_steps: int = 0,
    start: float = 0.0,
    ramp_reaches_peak: bool = True,
) -> np.ndarray:
    """Returns a linear warm-up from `start` to `base` and then half a cosine from `base` towards `final`.

        value[i] = start + (base - start) * i / (warmup_steps - 1)                      for i < warmup_steps
        value[warmup_steps + j] = final + (base - final) / 2 * (1 + cos(pi * j / n)),   n = num_steps - warmup_steps

    Args:
        base: the peak; with a warm-up it occurs twice, at the end of the ramp and at the start of the cosine.
        final: approached, not reached: the last step is one n-th of the half wave short of it.
        num_steps: length of the result.
        warmup_steps: steps of the ramp; 1 gives a single value `start`, 0 no ramp.
        start: first value of the ramp.
        ramp_reaches_peak: False divides by `warmup_steps` instead, so that the peak occurs once, where the cosine
            starts (MAE).

    Returns:
        float64 (num_steps,).

    Raises:
        ValueError: a warm-up longer than the whole.

    Source: utils.cosine_scheduler of the VideoMAE and MVD reference code, which evaluates it at every optimizer step;
    util/lr_sched.py of MAE.
    """
    _check(num_steps, warmup_steps)
    rest = num_steps - warmup_steps
    wave = final + 0.5 * (base - final) * (1 + np.cos(np.pi * np.arange(rest) / max(rest, 1)))
    ramp = np.linspace(start, base, warmup_steps, endpoint=ramp_reaches_peak)
    return np.concatenate([ramp, wave])


def epoch_cosine_schedule(
    base: float, final: float, num_steps: int, *, steps_per_epoch: float
) -> np.ndarray:
    """Returns half a cosine from `base` towards `final` that moves once per epoch; float64 (num_steps,).

        value of epoch e = final + (base - final) / 2 * (1 + cos(pi * e / (E + 1))),   e = 0 .. E - 1

    Args:
        base, final: the last epoch stays above `final`.
        num_steps: length of the result; E is the number of epochs begun in it.
        steps_per_epoch: may be a fraction; a step belongs to the epoch it begins in.

    Source: papers/carl.md section 5 (CARL's optimizer; the reference restarts it at resume, this one does not).
    """
    epoch = np.floor(np.arange(num_steps) / steps_per_epoch)
    total = epoch[-1] + 1 if num_steps else 1
    return final + 0.5 * (base - final) * (1 + np.cos(np.pi * epoch / (total + 1)))


def ramped_cosine_schedule(
    base: float, num_steps: int, *, warmup_steps: int = 0, start: float = 0.0
) -> np.ndarray:
    """Returns half a cosine from `base` to 0 whose beginning is a linear ramp; float64 (num_steps,).

        cosine(t) = base / 2 * (1 + cos(pi * t / num_steps))
        value[t]  = start + t / warmup_steps * (cosine(warmup_steps) - start)   for t < warmup_steps
        value[t]  = cosine(t)                                                   after it

    The ramp ends on the cosine, which began with it: `base` itself is not reached.

    Source: papers/cvrl.md section 5 (CVRL, ConST-CL, TeG; TensorFlow's LinearWarmup over CosineDecay); get_lr_at_epoch
    of HiCo, which starts above 0.
    """
    _check(num_steps, warmup_steps)
    wave = 0.5 * base * (1 + np.cos(np.pi * np.arange(num_steps + 1) / max(num_steps, 1)))
    rise = wave[warmup_steps] - start
    wave[:warmup_steps] = start + rise * np.arange(warmup_steps) / max(warmup_steps, 1)
    return wave[:num_steps]


def damped_cosine_schedule(
    base: float,
    final: float,
    num_steps: int,
    *,
    warmup_steps: int = 0,
    start: float = 0.0,
    steps_per_epoch: float | None = None,
) -> np.ndarray:
    """Returns half a cosine from `base` towards `final` that a growing factor damps at first; float64 (num_steps,).

        cosine(t) = final + (base - final) / 2 * (1 + cos(pi * t / num_steps))
        value[t]  = cosine(t) * (start + (base - start) * t / warmup_steps) / base   for t < warmup_steps
        value[t]  = cosine(t)                                                        after it

    Args:
        steps_per_epoch: the cosine moves once per epoch, epoch e of E taking cosine(e / E); the factor moves with every
            step all the same. May be a fraction; a step belongs to the epoch it begins in. None: moves with every step.

    Source: CosineAnnealingLrUpdaterHook of mmcv 1.4.8 with a linear warm-up (BEVT: per step in its pretraining, per
    epoch in its fine-tuning).
    """
    _check(num_steps, warmup_steps)
    step = np.arange(num_steps)
    passed = step / max(num_steps, 1)
    if steps_per_epoch is not None:
        passed = np.floor(step / steps_per_epoch) / max(math.ceil(num_steps / steps_per_epoch), 1)
    wave = final + 0.5 * (base - final) * (1 + np.cos(np.pi * passed))
    first = start / base if base else 0.0
    wave[:warmup_steps] *= first + (1 - first) * step[:warmup_steps] / max(warmup_steps, 1)
    return wave


def quarter_cosine_schedule(
    base: float, final: float, num_steps: int, *, warmup_steps: int = 0, start: float = 0.0
) -> np.ndarray:
    """Returns a linear ramp from `start` and then a quarter of a cosine from `base` towards `final`.

        value[t] = start + (base - start) * t / warmup_steps                        for t < warmup_steps
        value[warmup_steps + j] = final + (base - final) * cos(pi / 2 * j / n),     n = num_steps - warmup_steps

    Returns:
        float64 (num_steps,); steepest at its end, where the half wave of `cosine_schedule` is flat.

    Source: papers/vatt.md section 5 (the schedule that the text of VATT names; its code has the half wave).
    """
    _check(num_steps, warmup_steps)
    rest = num_steps - warmup_steps
    wave = final + (base - final) * np.cos(0.5 * np.pi * np.arange(rest) / max(rest, 1))
    return np.concatenate([np.linspace(start, base, warmup_steps, endpoint=False), wave])


def constant_schedule(
    base: float, num_steps: int, *, warmup_steps: int = 0, start: float = 0.0
) -> np.ndarray:
    """Returns a linear warm-up from `start` to `base` and then `base`; float64 (num_steps,)."""
    _check(num_steps, warmup_steps)
    return np.concatenate(
        [np.linspace(start, base, warmup_steps), np.full(num_steps - warmup_steps, float(base))]
    )


@dataclass(frozen=True)
class Schedule:
    """How the learning rate of every step is laid out.

    Attributes:
        function: (base, ..., num_steps, ...) -> float64 (num_steps,).
        settings: settings of a recipe's optimizer that it takes beside `base_lr`.
        per_epoch: it moves with the epochs, and so takes `steps_per_epoch`.
    """

    function: Callable[..., np.ndarray]
    settings: tuple[str, ...]
    per_epoch: bool = False

    def rates(
        self,
        num_steps: int,
        *,
        base_lr: float,
        min_lr: float,
        warmup_lr: float,
        warmup_steps: int,
        steps_per_epoch: float,
    ) -> np.ndarray:
        """Returns float64 (num_steps,); what the schedule does not take is not looked at.

        Raises:
            ValueError: a warm-up longer than the whole.
        """
        given: dict[str, float] = {}
        if "min_lr" in self.settings:
            given["final"] = min_lr
        if "warmup" in self.settings:
            given["warmup_steps"] = warmup_steps
        if "warmup_lr" in self.settings:
            given["start"] = warmup_lr
        if self.per_epoch:
            given["steps_per_epoch"] = steps_per_epoch
        return self.function(base=base_lr, num_steps=num_steps, **given)


_RAMP = ("warmup", "warmup_lr")
#: `optimizer.schedule` of a recipe -> how it is laid out.
SCHEDULES: dict[str, Schedule] = {
    "cosine": Schedule(cosine_schedule, ("min_lr", *_RAMP)),
    "cosine_once": Schedule(partial(cosine_schedule, ramp_reaches_peak=False), ("min_lr", *_RAMP)),
    "cosine_epochs": Schedule(epoch_cosine_schedule, ("min_lr",), per_epoch=True),
    "cosine_ramped": Schedule(ramped_cosine_schedule, _RAMP),
    "cosine_damped": Schedule(damped_cosine_schedule, ("min_lr", *_RAMP)),
    "cosine_damped_epochs": Schedule(damped_cosine_schedule, ("min_lr", *_RAMP), per_epoch=True),
    "cosine_quarter": Schedule(quarter_cosine_schedule, ("min_lr", *_RAMP)),
    "constant": Schedule(constant_schedule, _RAMP),
}


def scaled_lr(base_lr: float, *, scaling: str, global_batch_size: int) -> float:
    """Returns the learning rate in effect: `linear_256` is base_lr * global_batch_size / 256, `none` is base_lr.

    >>> scaled_lr(1.5e-4, scaling="linear_256", global_batch_size=1024)
    0.0006
    """
    if scaling == "none":
        return base_lr
    if scaling == "linear_256":
        return base_lr * global_batch_size / 256
    raise ValueError(f"lr_scaling={scaling!r}: allowed are 'linear_256' and 'none'.")


def _check(num_steps: int, warmup_steps: int) -> None:
    if not 0 <= warmup_steps <= num_steps:
        raise ValueError(
            f"warmup of {warmup_steps} steps does not fit into {num_steps} steps. Shorten optimizer.warmup "
            "or lengthen training.duration; for a short trial leave both: training.scale=0.01 shortens all."
        )
