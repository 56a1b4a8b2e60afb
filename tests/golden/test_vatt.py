"""VATT against the numbers of its reference: losses, tokens, both families of models, rates."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from video_ssl.objectives.vatt.loss_config import LossConfig
from video_ssl.objectives.vatt.loss_flax import pair_losses
from video_ssl.pretrain.schedules import SCHEDULES


@pytest.mark.golden("vatt/misc", cases=lambda settings: "peak" in settings)
def test_learning_rates(golden_case):
    settings = golden_case.settings
    rates = SCHEDULES["cosine_once"].rates(
        settings["total_steps"],
        base_lr=settings["peak"],
        min_lr=settings["end"],
        warmup_lr=0.0,
        warmup_steps=settings["warmup_steps"],
        steps_per_epoch=1.0,
    )
    # The reference is asked for its end too, which no step has.
    golden_case.check("lr", np.append(rates, settings["end"])[golden_case["step"]])


# Losses -------------------------------------------------------------------------------------------


@pytest.mark.golden("vatt/losses")
@pytest.mark.parametrize(("kind", "short"), [("asymmetric", "asym"), ("symmetric", "sym")])
def test_losses_and_their_gradients(golden_case, kind, short):
    settings = golden_case.settings
    config = LossConfig(
        kind=kind, temperature=settings["temperature"], replicas=settings["num_replicas"]
    )
    video, other = golden_case["video"], golden_case["other"]
    mask = golden_case["mask"] > 0 if settings["masked"] else np.ones(len(video), bool)

    def mean(video, other):
        each = pair_losses(video, other, jnp.asarray(mask), config)
        return each.mean(), each

    (loss, each), gradients = jax.jit(jax.value_and_grad(mean, argnums=(0, 1), has_aux=True))(
        video, other
    )
    golden_case.check(f"{short}_per_replica", each)
    golden_case.check(short, loss)
    golden_case.check(f"{short}_f64", loss)
    golden_case.check(f"{short}_grad_video", gradients[0])
    golden_case.check(f"{short}_grad_other", gradients[1])
