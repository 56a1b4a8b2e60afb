"""VATT's losses: NCE of a clip and its sound, MIL-NCE of a clip and the captions near it in time.

Source: papers/vatt.md section 4 (arXiv:2104.11178), whose numbers come from the reference code.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array

from video_ssl.objectives.shared.contrastive_flax import NEVER, l2_normalize, products
from video_ssl.objectives.vatt.loss_config import LossConfig


def similarities(video: Array, other: Array, temperature: float) -> Array:
    """Returns float32 (B, B, L): v_i . o_jl / t of embeddings of length 1.

    Args:
        video: (B, D), not normalised.
        other: (B, L, D), the candidates of every video, not normalised.
        temperature: t.
    """
    v, o = l2_normalize(video), l2_normalize(other)
    return products("id,jld->ijl", v, o) / temperature


def asymmetric_terms(logits: Array, mask: Array, *, positives_twice: bool = True) -> Array:
    """Returns what every video contributes, float32 (B,).

        pos_i = {s_i,il over l},   all_i = {s_i,jl over j, l} and {s_j,il over j, l}
        loss_i = logsumexp(all_i) - logsumexp(pos_i)

    The positives are in both parts of all_i, so that loss_i is at least log 2; with `positives_twice` false the second
    part leaves them out, and it is at least 0.  Videos whose partner is missing remain among the s_j,il.

    Args:
        logits: s (B, B, L), see `similarities`.
        mask: bool (B,), True = the partners of a video are there.  Terms where it is False mean nothing.
        positives_twice: see above.
    """
    own = jnp.eye(len(logits), dtype=bool)[:, :, None]
    there = jnp.where(mask[None, :, None], logits, NEVER)
    rest = logits if positives_twice else jnp.where(own, NEVER, logits)
    candidates = jnp.concatenate([_rows(there), _rows(rest.swapaxes(0, 1))], axis=1)
    return jax.nn.logsumexp(candidates, axis=1) - jax.nn.logsumexp(_positives(logits), axis=1)


def symmetric_terms(logits: Array, mask: Array) -> Array:
    """Returns what every video contributes, float32 (B,): the sum of both directions.

        video to other: logsumexp over all j, l of s_i,jl  -  logsumexp over l of s_i,il
        other to video: logsumexp over all j, l of s_j,il  -  logsumexp over l of s_i,il

    Args:
        logits, mask: as in `asymmetric_terms`.
    """
    there = jnp.where(mask[None, :, None], logits, NEVER)
    positive = jax.nn.logsumexp(_positives(logits), axis=1)
    to_other = jax.nn.logsumexp(_rows(there), axis=1) - positive
    to_video = jax.nn.logsumexp(_rows(logits.swapaxes(0, 1)), axis=1) - positive
    return to_other + to_video


def _rows(logits: Array) -> Array:
    return logits.reshape(len(logits), -1)


def _positives(logits: Array) -> Array:
    """(B, L), the candidates of every video's own."""
    return jnp.diagonal(logits, axis1=0, axis2=1).T


def replica_means(terms: Array, mask: Array, replicas: int = 1) -> Array:
    """Returns float32 (replicas,): the mean of the terms of each part of the batch over those that the mask has; 0
    where it has none.

    Raises:
        ValueError: the batch does not divide into the replicas.
    """
    if len(terms) % replicas:
        raise ValueError(
            f"replicas={replicas} does not divide the {len(terms)} videos of the batch: set another number, or 1."
        )
    terms, mask = terms.reshape(replicas, -1), mask.reshape(replicas, -1)
    total = jnp.where(mask, terms, 0.0).sum(1)
    return total / jnp.maximum(mask.sum(1), 1)


def pair_losses(
    video: Array,
    other: Array,
    mask: Array,
    config: LossConfig,
    candidates: Array | None = None,
) -> Array:
    """Returns the loss of video with one other modality of each part of the batch, float32 (replicas,).

    Args:
        video: (B, D), not normalised; B is the global batch.
        other: (B, L, D), L = 1 for sound, the captions for words.
        mask: bool (B,), True = the other modality is there.
        config: `kind`, `temperature`, `positives_twice` and `replicas` count.
        candidates: bool (B, L), False = no candidate at all; every video that the mask has must have one.  None = all.
    """
    logits, mask = similarities(video, other, config.temperature), mask.astype(bool)
    if candidates is not None:
        logits = jnp.where(candidates[None], logits, NEVER)
    if config.kind == "symmetric":
        terms = symmetric_terms(logits, mask)
    else:
        terms = asymmetric_terms(logits, mask, positives_twice=config.positives_twice)
    return replica_means(terms, mask, config.replicas)


def total_loss(sound: Array, text: Array, config: LossConfig) -> Array:
    """Returns the loss of both pairs, a scalar, by the weights and the rule of the settings."""
    weights = config.sound_weight + config.text_weight
    total = config.sound_weight * sound + config.text_weight * text
    return total / weights if config.combine == "average" else total


def found_share(video: Array, other: Array, mask: Array) -> Array:
    """Returns the share of videos, among those with a partner, for which the most similar candidate of the batch is one
    of their own; 0 where no video has one."""
    logits = jnp.where(mask[None, :, None], similarities(video, other, 1.0), NEVER).max(2)
    right = jnp.argmax(logits, axis=1) == jnp.arange(len(logits))
    return jnp.where(mask, right, False).sum() / jnp.maximum(mask.sum(), 1)
