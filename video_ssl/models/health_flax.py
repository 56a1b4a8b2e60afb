"""Figures that show whether features have collapsed, in jax; torch's are in `health.py`, by the same formulas."""

from __future__ import annotations

import jax
import jax.numpy as jnp


def feature_std(features: jax.Array) -> jax.Array:
    """Returns the standard deviation over the batch, averaged over channels, of features of length 1; (B, D) -> scalar.

    A collapsed encoder gives 0; directions spread evenly give about D^-0.5.
    """
    x = jax.lax.stop_gradient(features).astype(jnp.float32)
    x = x / jnp.maximum(jnp.linalg.norm(x, axis=1, keepdims=True), 1e-12)
    return x.std(axis=0).mean()


def effective_rank(features: jax.Array) -> jax.Array:
    """Returns exp(entropy of the normalised singular values) of the centred features (B, D), a scalar of at least 1.

    Source: Roy and Vetterli, "The effective rank", EUSIPCO 2007.
    """
    x = jax.lax.stop_gradient(features).astype(jnp.float32)
    values = jnp.linalg.svd(x - x.mean(axis=0), compute_uv=False)
    share = values / jnp.maximum(values.sum(), jnp.finfo(jnp.float32).tiny)
    return jnp.exp(jax.scipy.special.entr(share).sum())
