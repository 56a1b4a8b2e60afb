"""Durations: `400 epochs`, `2000 steps`, `5M examples` or a bare number of steps, and their one conversion to steps."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

Unit = Literal["steps", "epochs", "examples"]

_PATTERN = re.compile(
    r"\s*(?P<amount>\d+(?:\.\d+)?|\.\d+)\s*(?P<factor>[kKMB]?)\s*(?P<unit>[a-z]*)\s*"
)
_FACTORS = {"": 1, "k": 10**3, "K": 10**3, "M": 10**6, "B": 10**9}
_UNITS: dict[str, Unit] = {
    "": "steps",
    "step": "steps",
    "steps": "steps",
    "epoch": "epochs",
    "epochs": "epochs",
    "example": "examples",
    "examples": "examples",
}


@dataclass(frozen=True)
class Duration:
    """An exact amount of training in one unit."""

    amount: Fraction
    unit: Unit


def parse_duration(text: str | int) -> Duration:
    """Returns the duration written as `400 epochs`, `2k steps`, `5M examples`, `1 epoch` or a bare number of steps.

    Raises:
        ValueError: not of that form, negative, or a fraction of a step.

    >>> parse_duration("5M examples")
    Duration(amount=Fraction(5000000, 1), unit='examples')
    >>> parse_duration(20).unit
    'steps'
    """
    match = _PATTERN.fullmatch(str(text))
    if isinstance(text, bool) or match is None or match["unit"] not in _UNITS:
        raise ValueError(
            f"{text!r} is not a duration: write '400 epochs', '2000 steps', '5M examples' "
            "or a number of steps (k, M and B stand for thousand, million and billion)."
        )
    duration = Duration(
        Fraction(match["amount"]) * _FACTORS[match["factor"]], _UNITS[match["unit"]]
    )
    if duration.unit == "steps" and duration.amount.denominator != 1:
        raise ValueError(f"{text!r}: a step cannot be divided. Write a whole number of steps.")
    return duration


def to_steps(
    text: str | int, *, num_examples: int, global_batch_size: int, scale: float = 1.0
) -> int:
    """Returns the number of optimizer steps of a duration; part of a step counts as a whole one.

    Args:
        text: see `parse_duration`.
        num_examples: records of the training table: one epoch.
        global_batch_size: records of one optimizer step, over all processes and accumulated micro-batches.
        scale: share of the steps that is meant, see `TrainingConfig.scale`.

    >>> to_steps("2 epochs", num_examples=100, global_batch_size=16)
    13
    >>> to_steps("2 epochs", num_examples=100, global_batch_size=16, scale=0.1)
    2
    """
    if num_examples < 1 or global_batch_size < 1:
        raise ValueError(
            f"num_examples={num_examples} and global_batch_size={global_batch_size} must both be at least 1."
        )
    duration = parse_duration(text)
    if duration.unit == "steps":
        steps = int(duration.amount)
    else:
        examples = duration.amount * (num_examples if duration.unit == "epochs" else 1)
        steps = math.ceil(examples / global_batch_size)
    return scaled_steps(steps, scale)


def scaled_steps(steps: int, scale: float) -> int:
    """Returns that share of a number of steps, rounded up: something stays something, and what was longer stays so.

    >>> scaled_steps(700, 0.01), scaled_steps(20, 0.01), scaled_steps(0, 0.01)
    (7, 1, 0)
    """
    return math.ceil(steps * Fraction(str(scale)))  # as it was written: 700 * 0.01 is more than 7
