"""TeG's losses: moments of a short clip find theirs in the long clip around it, and the clips find each other.

Source: papers/teg.md section 4; the formulas are our specification of what the paper's abstract says.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from video_ssl.objectives.cvrl.loss_flax import contrastive_loss
from video_ssl.objectives.shared.contrastive_flax import NEVER, l2_normalize, products
from video_ssl.objectives.teg.loss_config import Match, Negatives, TegLossConfig

#: Positions are float32: one that should be whole may be a little off.
_CLOSE = 1e-4


def match_weights(position: Array, num_long: int, match: Match = "interp") -> Array:
    """Returns float32 (B, Ts, Tl): how much of each moment of the long clip makes the positive of a short one.

    Linear interpolation: the weight of moment j is max(0, 1 - |j - p|), so at most two are not 0; "nearest" has a
    single 1 at floor(p + 0.5).  `position` is p, float (B, Ts) in [0, Tl - 1].
    """
    p = position.astype(jnp.float32)[..., None]
    moments = jnp.arange(num_long, dtype=jnp.float32)
    if match == "nearest":
        return (moments == jnp.floor(p + 0.5)).astype(jnp.float32)
    return jnp.maximum(0.0, 1.0 - jnp.abs(moments - p))


def fine_terms(
    z_short: Array,
    z_long: Array,
    position: Array,
    *,
    temperature: float = 0.1,
    negatives: Negatives = "both",
    match: Match = "interp",
    intra_weight: float = 1.0,
) -> Array:
    """Returns the fine-grained loss of every short moment, float32 (B, Ts).

        l_i = log(e^{s+} + intra_weight * sum_intra e^s + sum_inter e^s) - s+,   s = cosine / temperature

    The positive is interpolated first and normalised then; moments that take part in it are no negatives.  Gradients
    flow through everything.  With one video and negatives "inter" the loss is exactly 0.

    Args:
        z_short, z_long: dense embeddings (B, Ts, D) and (B, Tl, D), not normalised; B is the global batch.
        position: p (B, Ts), where each short moment lies among the long ones.
        temperature, negatives, match, intra_weight: see `TegLossConfig`.
    """
    batch, num_long = z_long.shape[:2]
    weights = match_weights(position, num_long, match)
    anchor, every = l2_normalize(z_short), l2_normalize(z_long)
    wanted = l2_normalize(products("bij,bjd->bid", weights, z_long.astype(jnp.float32)))
    positive = products("bid,bid->bi", anchor, wanted) / temperature
    logits = products("bid,mjd->bimj", anchor, every) / temperature
    own = jnp.eye(batch, dtype=bool)[:, None, :, None]
    intra = own & (weights <= _CLOSE)[:, :, None, :]
    inter = jnp.broadcast_to(~own, intra.shape)
    if negatives == "inter" or intra_weight == 0:
        intra = jnp.zeros_like(intra)
    if negatives == "intra":
        inter = jnp.zeros_like(inter)
    if intra_weight not in (0, 1):
        logits = logits + jnp.where(own, jnp.log(jnp.float32(intra_weight)), 0.0)
    logits = jnp.where(intra | inter, logits, NEVER).reshape(*positive.shape, -1)
    everything = jnp.concatenate([positive[..., None], logits], -1)
    return jax.nn.logsumexp(everything, axis=-1) - positive


class MatchAccuracy(NamedTuple):
    """How well the long moment most alike to a short one is the right one, shares in [0, 1], float32 scalars.

    Attributes:
        everywhere: of all short moments, those whose best long moment lies within 1 of p.
        interior: the same of those that are neither first nor last and whose p lies within [1, Tl - 2]: padding at the
            ends of a clip shows a network where they are.  0 where there is none.
        chance: what a random choice would reach everywhere.
    """

    everywhere: Array
    interior: Array
    chance: Array


def match_accuracy(z_short: Array, z_long: Array, position: Array) -> MatchAccuracy:
    """Returns the temporal match accuracy of dense embeddings (B, Ts, D), (B, Tl, D) with positions (B, Ts).

    Source: papers/teg.md sections 7 and 9.
    """
    num_short, num_long = z_short.shape[1], z_long.shape[1]
    p = position.astype(jnp.float32)
    alike = products("bid,bjd->bij", l2_normalize(z_short), l2_normalize(z_long))
    right = jnp.abs(jnp.arange(num_long) - p[..., None]) <= 1 + _CLOSE
    hit = jnp.take_along_axis(right, jnp.argmax(alike, -1, keepdims=True), -1)[..., 0]
    place = jnp.arange(num_short)
    inside = (place > 0) & (place < num_short - 1) & (p >= 1) & (p <= num_long - 2)
    return MatchAccuracy(
        everywhere=hit.mean(dtype=jnp.float32),
        interior=jnp.sum(hit & inside) / jnp.maximum(jnp.sum(inside), 1),
        chance=right.mean(dtype=jnp.float32),
    )


def moment_cosine(z: Array) -> Array:
    """Returns the mean cosine between different moments of one clip, of (B, T', D); 1 means that nothing changes.

    It should fall as omega grows.  With a single moment it is 0.
    """
    x, count = l2_normalize(z), z.shape[1]
    alike = products("bid,bjd->bij", x, x) * (1 - jnp.eye(count))
    return jnp.sum(alike) / (len(z) * max(count * (count - 1), 1))


def teg_loss(
    z_short: Array,
    z_long: Array,
    position: Array,
    g_short: Array,
    g_long: Array,
    config: TegLossConfig,
) -> tuple[Array, dict[str, Array]]:
    """Returns omega * fine + (1 - omega) * persistent, without the penalty on kernels, and what to log beside it.

    Both parts are computed and logged whatever omega is; a part with weight 0 gets no gradient.

    Args:
        z_short, z_long: dense embeddings (B, Ts, D), (B, Tl, D).
        position: p (B, Ts).
        g_short, g_long: embeddings of the whole clips (B, D); the short clip is the first view.
        config: see there.
    """
    fine = fine_terms(
        z_short,
        z_long,
        position,
        temperature=config.temperature,
        negatives=config.negatives,
        match=config.match,
        intra_weight=config.intra_weight,
    ).mean()
    persistent, numbers = contrastive_loss(
        g_short, g_long, temperature=config.persistent_temperature
    )
    total = jnp.float32(0)
    for share, part in ((config.omega, fine), (1 - config.omega, persistent)):
        total = total + share * part if share else total
    match = match_accuracy(z_short, z_long, position)
    return total, {
        "fine": fine,
        "persistent": persistent,
        "persistent_accuracy": numbers["accuracy"],
        "persistent_entropy": numbers["entropy"],
        "match_accuracy": match.everywhere,
        "match_accuracy_interior": match.interior,
        "match_chance": match.chance,
        "moment_cosine": moment_cosine(z_long),
    }
