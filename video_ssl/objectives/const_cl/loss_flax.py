"""ConST-CL's loss of regions: what one clip foretells of the other finds the region that it looks most like.

Source: papers/const_cl.md section 4 (arXiv:2112.05181), whose numbers come from the reference code.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from video_ssl.objectives.shared.contrastive_flax import NEVER, l2_normalize, products


class Regions(NamedTuple):
    """Features of N regions of B videos, (B, N, D) each, not normalised, and which of them are regions, bool (B, N).

    Attributes:
        a, b: of both clips, as they are.
        a2b, b2a: what regions of one clip foretell of the other.
        mask_a, mask_b: regions of the clips.
    """

    a: Array
    b: Array
    a2b: Array
    b2a: Array
    mask_a: Array
    mask_b: Array


class LocalTerms(NamedTuple):
    """What every region of one clip contributes.

    Attributes:
        loss: float32 (B, N).
        match: int32 (B, N), the region of the other clip that is its positive.
        counts: bool (B, N), those that take part.
        positive: its logit, float32 (B, N).
        negatives: of all regions, float32 (B, N, B * N); what is no negative is `NEVER`.
        is_negative: bool (B, 1 or N, B * N).
    """

    loss: Array
    match: Array
    counts: Array
    positive: Array
    negatives: Array
    is_negative: Array


def local_terms(
    found: Array,
    own: Array,
    other: Array,
    mask_own: Array,
    mask_other: Array,
    *,
    temperature: float = 0.2,
    normalize: bool = True,
    pad_as_regions: bool = False,
) -> LocalTerms:
    """Returns the terms of one direction.

        match(i, n) = argmax_k own_in . other_ik,     positive = found_in . other_i,match / t
        l_in = log(e^positive + sum over j != i and all k of e^{found_in . other_jk / t}) - positive

    Gradients flow through everything but the choice of the match.  Other regions of the own video are neither
    positives nor negatives.  With one video alone the loss is exactly 0.

    Args:
        found: (B, N, D), what is foretold; B is the global batch.
        own, other: (B, N, D) regions of its clip and of the other one, as they are.
        mask_own, mask_other: bool (B, N).
        temperature: t.
        normalize: to length 1.
        pad_as_regions: see `LocalLossConfig`.  If false, a region without any in the other clip does not take part.
    """
    q, a, b = (l2_normalize(x) if normalize else x.astype(jnp.float32) for x in (found, own, other))
    batch, count = mask_own.shape
    candidates = jnp.ones_like(mask_other) if pad_as_regions else mask_other.astype(bool)
    alike = jnp.where(candidates[:, None], products("ind,ikd->ink", a, b), NEVER)
    match = jnp.argmax(alike, -1)
    matched = jnp.take_along_axis(b, match[..., None], 1)
    positive = products("ind,ind->in", q, matched) / temperature
    logits = products("ind,jkd->injk", q, b) / temperature
    others = ~jnp.eye(batch, dtype=bool)[:, None, :, None] & candidates[None, None]
    negatives = jnp.where(others, logits, NEVER).reshape(batch, count, -1)
    everything = jnp.concatenate([positive[..., None], negatives], -1)
    return LocalTerms(
        loss=jax.nn.logsumexp(everything, -1) - positive,
        match=match,
        counts=mask_own.astype(bool) & candidates.any(1, keepdims=True),
        positive=positive,
        negatives=negatives,
        is_negative=others.reshape(batch, 1, -1),
    )


def both_directions(
    regions: Regions,
    *,
    temperature: float = 0.2,
    normalize: bool = True,
    pad_as_regions: bool = False,
) -> tuple[LocalTerms, LocalTerms]:
    """Returns the terms of a to b and of b to a."""
    options = {
        "temperature": temperature,
        "normalize": normalize,
        "pad_as_regions": pad_as_regions,
    }
    a, b, a2b, b2a, mask_a, mask_b = regions
    return (
        local_terms(a2b, a, b, mask_a, mask_b, **options),  # type: ignore[arg-type]
        local_terms(b2a, b, a, mask_b, mask_a, **options),  # type: ignore[arg-type]
    )


def replica_losses(terms: tuple[LocalTerms, LocalTerms], replicas: int = 1) -> Array:
    """Returns the loss of every part of the batch, float32 (replicas,): the mean of both directions.

    A part is B / replicas videos in order; each averages over its own regions, and one without any has loss 0.
    """
    means = []
    for part in terms:
        loss, counts = (x.reshape(replicas, -1) for x in (part.loss, part.counts))
        means.append(masked_mean(loss, counts, axis=1))
    return (means[0] + means[1]) / 2


def local_loss(
    regions: Regions,
    *,
    temperature: float = 0.2,
    normalize: bool = True,
    pad_as_regions: bool = False,
    replicas: int = 1,
) -> tuple[Array, dict[str, Array]]:
    """Returns the loss of regions, half of both directions, and what to log beside it; scalars.

    Args:
        regions: of the global batch.
        temperature, pad_as_regions, replicas: see `LocalLossConfig`.
        normalize: features to length 1.

    Raises:
        ValueError: the batch does not divide into the replicas.
    """
    batch = len(regions.a)
    if batch % replicas:
        raise ValueError(
            f"local_loss.replicas={replicas} does not divide the {batch} videos of the batch: set another number, or 1."
        )
    terms = both_directions(
        regions,
        temperature=temperature,
        normalize=normalize,
        pad_as_regions=pad_as_regions,
    )
    return replica_losses(terms, replicas).mean(), similarities(terms, temperature)


def similarities(terms: tuple[LocalTerms, LocalTerms], temperature: float) -> dict[str, Array]:
    """Returns six statistics of similarities (logits times temperature), the means of both directions.

    Mean, smallest and largest positive, over all regions that take part; mean over all their negatives; and the
    smallest and largest negative of a region, averaged over regions.  0 where there is none.
    """
    each = [_of_one_direction(part, temperature) for part in terms]
    return {name: (each[0][name] + each[1][name]) / 2 for name in each[0]}


def _of_one_direction(terms: LocalTerms, temperature: float) -> dict[str, Array]:
    counts, positive = terms.counts, terms.positive * temperature
    negatives = terms.negatives * temperature
    here = jnp.broadcast_to(terms.is_negative, negatives.shape)
    with_negatives = counts & here.any(-1)
    extremes = {
        "negative_similarity_min": _least(negatives, here, -1),
        "negative_similarity_max": -_least(-negatives, here, -1),
    }
    return {
        "positive_similarity_mean": masked_mean(positive, counts),
        "positive_similarity_min": _least(positive, counts, None),
        "positive_similarity_max": -_least(-positive, counts, None),
        "negative_similarity_mean": masked_mean(negatives, here & counts[..., None]),
        **{name: masked_mean(value, with_negatives) for name, value in extremes.items()},
    }


def masked_mean(values: Array, mask: Array, axis: int | None = None) -> Array:
    """Returns the mean of the values where the mask is true; 0 where it is nowhere."""
    total = jnp.sum(jnp.where(mask, values, 0.0), axis)
    return total / jnp.maximum(jnp.sum(mask, axis), 1)


def _least(values: Array, mask: Array, axis: int | None) -> Array:
    least = jnp.min(jnp.where(mask, values, jnp.inf), axis)
    return jnp.where(jnp.isfinite(least), least, 0.0)
