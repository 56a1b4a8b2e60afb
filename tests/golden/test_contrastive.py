"""Losses of CVRL and TeG in jax against their numbers.  Tolerances are those of the files' README."""

import re

import jax
import numpy as np

from video_ssl.objectives.cvrl.loss_flax import contrastive_loss, contrastive_terms
from video_ssl.objectives.teg.loss_config import TegLossConfig
from video_ssl.objectives.teg.loss_flax import fine_terms, teg_loss


def groups(g, pattern):
    return sorted({m[1] for m in (re.fullmatch(pattern, name) for name in g.names) if m})


def value_and_grad(function, **options):
    return jax.jit(jax.value_and_grad(function, **options))


def close(found, expected, atol=1e-5):
    np.testing.assert_allclose(np.asarray(found), expected, rtol=0, atol=atol)


def test_contrastive_loss(global_loss):
    a = global_loss.arrays
    names = groups(global_loss, r"(\w+)/normalize")
    assert names
    for name in names:
        x = a[f"{name}/inputs"]
        half = len(x) // 2
        settings = {
            "temperature": float(a[f"{name}/temperature"]),
            "normalize": bool(a[f"{name}/normalize"]),
        }
        (loss, told), gradient = value_and_grad(
            lambda x, half=half, settings=settings: contrastive_loss(
                x[:half], x[half:], **settings
            ),
            has_aux=True,
        )(x)
        for found, key in ((loss, "loss"), *((told[k], k) for k in ("accuracy", "entropy"))):
            close(found, a[f"{name}/{key}"])
        close(gradient, a[f"{name}/grad_inputs"])


def test_contrastive_loss_of_several_replicas_is_one_over_the_joint_batch(global_loss):
    a = global_loss.arrays
    for name in groups(global_loss, r"(\w+)/grad_of_summed_loss"):
        x = a[f"{name}/inputs"]
        replicas, half, dim = x.shape[0], x.shape[1] // 2, x.shape[2]

        def losses(x, name=name, replicas=replicas, half=half, dim=dim):
            terms = contrastive_terms(
                x[:, :half].reshape(-1, dim),
                x[:, half:].reshape(-1, dim),
                temperature=float(a[f"{name}/temperature"]),
            )
            means = [part.reshape(replicas, half).mean(1) for part in terms]
            return means[0].sum(), means

        (_, means), gradient = value_and_grad(losses, has_aux=True)(x)
        for found, key in zip(means, ("loss", "accuracy", "entropy"), strict=True):
            close(found, a[f"{name}/{key}"])
        close(gradient, a[f"{name}/grad_of_summed_loss"])


def test_fine_loss(teg_fine):
    a = teg_fine.arrays
    cases = [
        (n, k) for n in groups(teg_fine, r"(\w+)/loss_intra") for k in ("intra", "inter", "both")
    ]
    assert cases
    for name, negatives in cases:
        loss, gradients = value_and_grad(
            lambda s, z, name=name, negatives=negatives: fine_terms(
                s,
                z,
                a[f"{name}/position"],
                temperature=float(a[f"{name}/temperature"]),
                negatives=negatives,
            ).mean(),
            argnums=(0, 1),
        )(a[f"{name}/z_short"], a[f"{name}/z_long"])
        close(loss, a[f"{name}/loss_{negatives}"])
        close(gradients[0], a[f"{name}/grad_short_{negatives}"])
        close(gradients[1], a[f"{name}/grad_long_{negatives}"])


def test_fine_loss_of_several_replicas_is_one_over_the_joint_batch(teg_fine):
    a = teg_fine.arrays
    for name in groups(teg_fine, r"(\w+)/grad_of_mean_loss_short"):
        short, long, position = (a[f"{name}/{k}"] for k in ("z_short", "z_long", "position"))

        def losses(short, long, name=name, position=position):
            joint = [x.reshape(-1, *x.shape[2:]) for x in (short, long, position)]
            terms = fine_terms(*joint, temperature=float(a[f"{name}/temperature"]))
            return terms.mean(), terms.reshape(len(short), -1).mean(1)

        (_, each), gradients = value_and_grad(losses, argnums=(0, 1), has_aux=True)(short, long)
        close(each, a[f"{name}/loss_both"])
        close(gradients[0], a[f"{name}/grad_of_mean_loss_short"])
        close(gradients[1], a[f"{name}/grad_of_mean_loss_long"])


def test_total_loss(teg_total):
    a = teg_total.arrays
    for name in groups(teg_total, r"(\w+)/omega"):
        arrays = [a[f"{name}/{k}"] for k in ("z_short", "z_long", "position", "g_short", "g_long")]
        t = float(a[f"{name}/temperature"])
        config = TegLossConfig(
            omega=float(a[f"{name}/omega"]), temperature=t, persistent_temperature=t
        )
        total, told = jax.jit(teg_loss, static_argnums=5)(*arrays, config)
        close(total, a[f"{name}/loss_total"])
        close(told["fine"], a[f"{name}/loss_fine"])
        close(told["persistent"], a[f"{name}/loss_persistent"])
