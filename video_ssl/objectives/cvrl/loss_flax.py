"""CVRL's loss: two views of a video find each other among all views of the batch.

Source: papers/cvrl.md section 4 (arXiv:2008.03800), whose numbers come from the reference code.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from video_ssl.objectives.shared.contrastive_flax import NEVER, l2_normalize, products


class ContrastiveTerms(NamedTuple):
    """What each video of the batch contributes, float32 (B,).

    Attributes:
        loss: the sum of both directions.
        correct: 1 where the first view is nearest to its own second view among all second views (first and second views
            of others do not count, so this is optimistic).
        entropy: of the softmax over the second views, in nats.
    """

    loss: Array
    correct: Array
    entropy: Array


def contrastive_terms(
    first: Array, second: Array, *, temperature: float = 0.1, normalize: bool = True
) -> ContrastiveTerms:
    """Returns the terms of every video.

        L_a[i] = log(sum_j exp(a_i.b_j / t) + sum_{j != i} exp(a_i.a_j / t)) - a_i.b_i / t,   L_b with a and b exchanged

    Args:
        first, second: embeddings of the views (B, D), B the global batch; any float dtype.
        temperature: t.
        normalize: to length 1.
    """
    a, b = (l2_normalize(x) if normalize else x.astype(jnp.float32) for x in (first, second))
    own = jnp.eye(len(a), dtype=bool)
    ab = products("id,jd->ij", a, b) / temperature
    aa, bb = (products("id,jd->ij", x, x) / temperature for x in (a, b))
    positive = jnp.diagonal(ab)
    loss = sum(
        jax.nn.logsumexp(jnp.concatenate([across, jnp.where(own, NEVER, within)], 1), axis=1)
        - positive
        for across, within in ((ab, aa), (ab.T, bb))
    )
    share = jax.nn.softmax(ab, axis=1)
    return ContrastiveTerms(
        loss=loss,
        correct=(jnp.argmax(ab, axis=1) == jnp.arange(len(a))).astype(jnp.float32),
        entropy=-jnp.sum(share * jnp.log(share + 1e-8), axis=1),
    )


def contrastive_loss(
    first: Array, second: Array, *, temperature: float = 0.1, normalize: bool = True
) -> tuple[Array, dict[str, Array]]:
    """Returns the mean over the videos of the loss (SUM of both directions), and {"accuracy", "entropy"}; scalars."""
    terms = contrastive_terms(first, second, temperature=temperature, normalize=normalize)
    numbers = {"accuracy": terms.correct.mean(), "entropy": terms.entropy.mean()}
    return terms.loss.mean(), numbers
