"""Losses of CVRL and TeG in jax: a slow version written out, symmetries, edges, one batch over devices.

The numbers of the reference are in tests/golden/test_contrastive.py.
"""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from video_ssl.models.networks.r3d_config import R3DConfig
from video_ssl.objectives.cvrl.loss_flax import contrastive_loss, contrastive_terms
from video_ssl.objectives.shared.contrastive_flax import kernel_penalty, l2_normalize
from video_ssl.objectives.teg.loss_config import TegHeadsConfig, TegLossConfig
from video_ssl.objectives.teg.loss_flax import (
    fine_terms,
    match_accuracy,
    match_weights,
    moment_cosine,
    teg_loss,
)
from video_ssl.objectives.teg.model_flax import TegModel

TINY = R3DConfig(preset=None, blocks=(1, 1, 1, 1), filters=(2, 2, 3, 3), stem_width=4, num_frames=8)


def embeddings(seed=0, batch=3, short=4, long=5, dim=6):
    rng = np.random.default_rng(seed)
    z_short, z_long = (
        rng.standard_normal((batch, n, dim)).astype(np.float32) for n in (short, long)
    )
    position = rng.uniform(0, long - 1, (batch, short)).round(2)
    position[0, 0], position[0, -1], position[-1, -1] = 0, 2, long - 1
    return z_short, z_long, position


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def slow_fine(z_short, z_long, position, t, negatives, match, intra_weight):
    z_short, z_long = z_short.astype(np.float64), z_long.astype(np.float64)
    batch, count = z_long.shape[:2]
    terms = np.empty(position.shape)
    for b, i in np.ndindex(*position.shape):
        p = position[b, i]
        if match == "nearest":
            used = [int(np.floor(p + 0.5))]
            wanted = z_long[b, used[0]]
        else:
            low = int(np.floor(p))
            high, w = min(low + 1, count - 1), p - low
            used = [j for j in range(count) if abs(j - p) < 1]
            wanted = (1 - w) * z_long[b, low] + w * z_long[b, high]
        anchor = unit(z_short[b, i])
        positive = anchor @ unit(wanted) / t
        total = np.exp(positive)
        for m, j in np.ndindex(batch, count):
            value = np.exp(anchor @ unit(z_long[m, j]) / t)
            if m == b and negatives != "inter" and j not in used:
                total += intra_weight * value
            if m != b and negatives != "intra":
                total += value
        terms[b, i] = np.log(total) - positive
    return terms


@pytest.mark.parametrize(
    ("negatives", "match", "weight"),
    [
        *itertools.product(("intra", "inter", "both"), ("interp", "nearest"), (1.0,)),
        ("both", "interp", 0.25),
        ("intra", "nearest", 3.0),
        ("both", "interp", 0.0),
    ],
)
def test_fine_loss_is_that_of_a_slow_version(negatives, match, weight):
    z_short, z_long, position = embeddings()
    found = jax.jit(
        lambda *x: fine_terms(
            *x, temperature=0.3, negatives=negatives, match=match, intra_weight=weight
        )
    )(z_short, z_long, position)
    wanted = slow_fine(z_short, z_long, position, 0.3, negatives, match, weight)
    np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_positions_that_are_whole_up_to_rounding_count_as_whole():
    weights = match_weights(np.array([[2 - 1e-6, 2 + 1e-6]]), 4)
    np.testing.assert_allclose(weights, [[[0, 0, 1, 0]] * 2], atol=1e-5)
    z_short, z_long, _ = embeddings(short=1)
    exact, near = (
        fine_terms(z_short, z_long, np.full((3, 1), p), negatives="intra") for p in (2, 2 - 1e-6)
    )
    np.testing.assert_allclose(exact, near, atol=1e-4)


def test_one_video_without_negatives_has_no_loss():
    z_short, z_long, position = embeddings(batch=1)
    assert (np.asarray(fine_terms(z_short, z_long, position, negatives="inter")) == 0).all()


@pytest.mark.parametrize("omega", [0.0, 0.3, 1.0])
def test_a_part_without_weight_gets_no_gradient(omega):
    z_short, z_long, position = embeddings()
    g = np.random.default_rng(1).standard_normal((2, 3, 6)).astype(np.float32)
    gradient = jax.jit(
        jax.grad(
            lambda z, g: teg_loss(z, z_long, position, *g, TegLossConfig(omega=omega))[0],
            argnums=(0, 1),
        )
    )(z_short, g)
    assert (np.abs(gradient[0]).max() > 0) == (omega > 0)
    assert (np.abs(gradient[1]).max() > 0) == (omega < 1)


def test_the_views_may_be_exchanged_and_lengths_do_not_matter():
    a, b = np.random.default_rng(0).standard_normal((2, 5, 7)).astype(np.float32)
    one, two = contrastive_terms(a, b).loss, contrastive_terms(b * 3, a).loss
    np.testing.assert_allclose(one, two, atol=1e-5)
    loss, told = contrastive_loss(jnp.asarray(a, jnp.bfloat16), b)
    assert loss.dtype == told["entropy"].dtype == jnp.float32
    assert float(contrastive_loss(a, a)[1]["accuracy"]) == 1


def test_match_accuracy_counts_what_it_says():
    # Long moments are unit vectors; each short one points at a chosen moment.
    z_long = np.eye(6, dtype=np.float32)[None]
    position = np.array([[0.0, 1.5, 2.5, 4.0, 5.0]])
    chosen = [1, 3, 3, 4, 0]  # right, wrong by more than 1, right, right, wrong
    accuracy = match_accuracy(np.eye(6, dtype=np.float32)[None, chosen], z_long, position)
    assert float(accuracy.everywhere) == pytest.approx(3 / 5)
    assert float(accuracy.interior) == pytest.approx(2 / 3)  # the middle three
    right = (np.abs(np.arange(6) - position[0][:, None]) <= 1).mean()
    assert float(accuracy.chance) == pytest.approx(right)
    assert float(match_accuracy(z_long[:, :2], z_long[:, :2], position[:, :2]).interior) == 0


def test_moment_cosine_of_what_never_changes_is_one():
    z = np.random.default_rng(0).standard_normal((3, 1, 6)).astype(np.float32)
    assert float(moment_cosine(np.repeat(z, 4, 1))) == pytest.approx(1)
    assert float(moment_cosine(z)) == 0
    assert float(moment_cosine(np.eye(4)[None])) == 0


def test_only_kernels_are_penalised():
    params = {
        "a": {"kernel": jnp.full((2, 3), 2.0), "bias": jnp.ones(3)},
        "n": {"scale": jnp.ones(9)},
    }
    assert float(kernel_penalty(params, 0.5)) == pytest.approx(0.5 * 0.5 * 24)


def test_a_vector_of_zeros_stays_one_and_has_a_gradient():
    assert (np.asarray(l2_normalize(jnp.zeros((2, 3)))) == 0).all()
    assert np.isfinite(jax.grad(lambda x: l2_normalize(x).sum())(jnp.zeros(3))).all()


def test_a_batch_over_devices_has_the_loss_of_the_whole_batch():
    devices = jax.devices()[:4]
    if len(devices) < 4:
        pytest.skip("needs 4 devices: XLA_FLAGS=--xla_force_host_platform_device_count=8")
    placed = jax.sharding.NamedSharding(
        jax.sharding.Mesh(np.array(devices), ("data",)), jax.sharding.PartitionSpec("data")
    )
    z_short, z_long, position = embeddings(batch=8)
    g = np.random.default_rng(1).standard_normal((2, 8, 6)).astype(np.float32)
    arrays = (z_short, z_long, position, g[0], g[1])
    run = jax.jit(jax.value_and_grad(lambda *x: teg_loss(*x, TegLossConfig()), has_aux=True))
    one = run(*arrays)
    many = run(*(jax.device_put(x, placed) for x in arrays))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6, rtol=1e-6), one, many)


# The model ----------------------------------------------------------------------------------------

CLIP = jax.ShapeDtypeStruct((2, 8, 32, 32, 3), jnp.float32)


@pytest.mark.parametrize(
    ("options", "heads"),
    [
        ({}, {"fine_head", "head"}),
        ({"share_heads": True}, {"fine_head"}),
        ({"global_from_dense": True}, {"fine_head"}),
    ],
)
def test_heads_are_those_of_the_settings(options, heads):
    model = TegModel(TINY, TegHeadsConfig(hidden_dims=(5,), out_dim=4, **options))
    variables = jax.eval_shape(model.init, jax.random.key(0), CLIP)
    assert set(variables["params"]) == heads | {"encoder"}
    out = jax.eval_shape(model.apply, variables, CLIP)
    assert (out.z.shape, out.g.shape, out.features.shape) == ((2, 4, 4), (2, 4), (2, 4, 12))
    longer = jax.ShapeDtypeStruct((2, 16, 32, 32, 3), jnp.float32)

    def both(variables, short, long):
        return model.apply(
            variables, short, long, train=True, method="both", mutable=["batch_stats"]
        )[0]

    for long, count in ((CLIP, 4), (longer, 8)):
        short, other = jax.eval_shape(both, variables, CLIP, long)
        assert short.z.shape == (2, 4, 4)
        assert other.z.shape == (2, count, 4)


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: TegLossConfig(omega=1.5), "omega=1.5"),
        (lambda: TegLossConfig(negatives="all"), "negatives='all' must be one of"),
        (lambda: TegLossConfig(match="best"), "match='best' must be one of"),
        (lambda: TegLossConfig(temperature=0), "temperature=0 must be positive"),
        (lambda: TegLossConfig(intra_weight=-1), "intra_weight=-1"),
        (lambda: TegHeadsConfig(share_heads=True, global_from_dense=True), "exclude each other"),
    ],
)
def test_settings_that_cannot_be_are_refused(make, text):
    with pytest.raises(ValueError, match=text):
        make()
