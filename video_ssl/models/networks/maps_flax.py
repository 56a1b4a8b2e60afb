"""Features out of the feature maps of flax networks, (B, T', h, w, D)."""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array


def temporal_features(feature_map: Array) -> Array:
    """Returns the dense temporal features, float32 (B, T', D): the mean over height and width of (B, T', h, w, D)."""
    return feature_map.astype(jnp.float32).mean((2, 3))


def clip_features(feature_map: Array) -> Array:
    """Returns float32 (B, D), the mean over time, height and width of (B, T', h, w, D).

    Frame by frame first, so that CVRL and TeG add in the same order.
    """
    return temporal_features(feature_map).mean(1)


def spatial_cells(feature_map: Array, cells: int) -> Array:
    """Returns the means of `cells` x `cells` parts of every moment, side by side: (B, T', h, w, D) -> (B, T', cells²D).

    Parts share a row or column where the size does not divide, as in torch's adaptive pooling.
    """
    if cells == 1:
        return temporal_features(feature_map)
    h, w = feature_map.shape[2:4]
    parts = [
        feature_map[
            :,
            :,
            i * h // cells : -(-(i + 1) * h // cells),
            j * w // cells : -(-(j + 1) * w // cells),
        ]
        for i in range(cells)
        for j in range(cells)
    ]
    return jnp.concatenate([part.mean((2, 3)) for part in parts], -1)
