"""The arrays of `schedules` as schedules of optax, so that both loops follow the same numbers."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike


def schedule_of(values: np.ndarray) -> Callable[[ArrayLike], jax.Array]:
    """Returns a schedule that gives `values[step]`, float32; steps beyond the end give the last value.

    Args:
        values: one for each optimizer step, (num_steps,).

    Raises:
        ValueError: no values.

    >>> float(schedule_of(np.array([0.0, 0.5, 1.0]))(1))
    0.5
    """
    if values.ndim != 1 or not values.size:
        raise ValueError(
            f"a schedule needs one value for each step, got an array of shape {values.shape}."
        )
    table = jnp.asarray(values, jnp.float32)
    return lambda step: table[jnp.clip(jnp.asarray(step), 0, len(values) - 1)]
