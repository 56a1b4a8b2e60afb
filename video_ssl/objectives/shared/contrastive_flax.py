"""What contrastive objectives of flax share: lengths, the penalty on kernels, similarities.

Under `jax.jit` over a sharded batch arrays are global: negatives come from the whole batch and gradients flow to all of
it, without a gather in the code.  Everything here is float32, and products are not rounded to bfloat16.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from video_ssl.models.networks.r3d_flax import l2_normalize

#: A logit that leaves nothing of its entry; in float32 only.
NEVER = -1e9


def products(equation: str, *operands: Array) -> Array:
    """Returns an einsum in full float32, also where products are bfloat16 by default (TPUs)."""
    return jnp.einsum(equation, *operands, precision=jax.lax.Precision.HIGHEST)


def kernel_penalty(params: Any, weight: float) -> Array:
    """Returns weight * sum of 0.5 * ||w||² over the kernels of convolutions and dense layers; no biases, no norms.

    Source: papers/cvrl.md section 4, where weight is 1e-6.
    """
    leaves = jax.tree_util.tree_flatten_with_path(params)[0]
    squares = [
        jnp.sum(jnp.square(value.astype(jnp.float32)))
        for path, value in leaves
        if getattr(path[-1], "key", "") == "kernel"
    ]
    return 0.5 * weight * sum(squares, jnp.float32(0))


__all__ = ["NEVER", "kernel_penalty", "l2_normalize", "products"]
