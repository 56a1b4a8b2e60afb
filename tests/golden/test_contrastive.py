"""Losses of CVRL and TeG in jax against their numbers."""

import jax
import numpy as np
import pytest

from video_ssl.objectives.cvrl.loss_flax import contrastive_loss, contrastive_terms
from video_ssl.objectives.teg.loss_config import TegLossConfig
from video_ssl.objectives.teg.loss_flax import fine_terms, teg_loss


def value_and_grad(function, **options):
    return jax.jit(jax.value_and_grad(function, **options))


@pytest.mark.golden("const_cl/global_loss")
def test_contrastive_loss(golden_case):
    """Of one replica, or of several at once: theirs is one loss over the joint batch."""
    settings, x = golden_case.settings, golden_case["inputs"]
    replicas = settings.get("replicas", 1)
    joint = x.reshape(replicas, -1, x.shape[-1])
    half = joint.shape[1] // 2
    options = {name: settings[name] for name in ("temperature", "normalize")}

    def losses(x):
        pairs = (x[:, :half], x[:, half:])
        terms = contrastive_terms(*(p.reshape(-1, x.shape[-1]) for p in pairs), **options)
        means = [part.reshape(replicas, half).mean(1) for part in terms]
        return means[0].sum(), means

    (_, means), gradient = value_and_grad(losses, has_aux=True)(joint)
    for name, found in zip(("loss", "accuracy", "entropy"), means, strict=True):
        golden_case.check(name, found if "replicas" in settings else found[0])
    for name in ("grad_inputs", "grad_of_summed_loss"):
        golden_case.check(name, gradient.reshape(x.shape))


@pytest.mark.golden("const_cl/global_loss", cases=lambda settings: "replicas" not in settings)
def test_contrastive_loss_of_one_batch(golden_case):
    """The function that the objective calls is the mean of these terms."""
    x, settings = golden_case["inputs"], golden_case.settings
    half = len(x) // 2
    options = {name: settings[name] for name in ("temperature", "normalize")}
    loss, told = contrastive_loss(x[:half], x[half:], **options)
    golden_case.check("loss", loss)
    for name in ("accuracy", "entropy"):
        golden_case.check(name, told[name])


@pytest.mark.golden("teg/fine_loss")
def test_fine_loss(golden_case):
    """With every kind of negatives; several replicas are one loss over the joint batch."""
    settings = golden_case.settings
    inputs = [golden_case[name] for name in ("z_short", "z_long", "position")]
    replicas = settings.get("replicas", 1)

    for negatives in settings["negatives"]:

        def losses(short, long, negatives=negatives):
            arrays = (short, long, inputs[2])
            joint = [x.reshape(-1, *x.shape[-2:]) for x in arrays[:2]]
            joint.append(inputs[2].reshape(-1, inputs[2].shape[-1]))
            terms = fine_terms(*joint, temperature=settings["temperature"], negatives=negatives)
            return terms.mean(), terms.reshape(replicas, -1).mean(1)

        (_, each), gradients = value_and_grad(losses, argnums=(0, 1), has_aux=True)(*inputs[:2])
        golden_case.check(f"loss_{negatives}", each if "replicas" in settings else each[0])
        for part, gradient in zip(("short", "long"), gradients, strict=True):
            golden_case.check(f"grad_{part}_{negatives}", gradient)
            golden_case.check(f"grad_of_mean_loss_{part}", gradient)


@pytest.mark.golden("teg/total_loss")
def test_total_loss(golden_case):
    settings = golden_case.settings
    names = ("z_short", "z_long", "position", "g_short", "g_long")
    config = TegLossConfig(
        omega=settings["omega"],
        temperature=settings["temperature"],
        persistent_temperature=settings["temperature"],
        negatives=settings["negatives"],
    )
    arrays = [np.asarray(golden_case[name]) for name in names]
    total, told = jax.jit(teg_loss, static_argnums=5)(*arrays, config)
    golden_case.check("loss_total", total)
    golden_case.check("loss_fine", told["fine"])
    golden_case.check("loss_persistent", told["persistent"])
