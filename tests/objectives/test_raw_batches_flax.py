"""CVRL, TeG and ConST-CL from raw batches: samples of their plans (uint8) in, loss and gradients out.

See test_raw_batches.py.  VATT's, which has one clip of a record and no penalty, is in test_vatt_flax.py.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from raw_batches_flax import MEAN, PAIR, STD, raw_batch

from video_ssl.models.color_changes_flax import apply_color
from video_ssl.objectives import OBJECTIVES
from video_ssl.recipes import build_config

SETTINGS = {
    "cvrl": {
        **PAIR,
        "num_frames": 4,
        "hidden_dims": [5],
        "out_dim": 4,
        "temperature": 0.3,
    },
    "teg": {
        **PAIR,
        "long_frames": 8,
        "long_stride": 2,
        "short_frames": 8,
        "short_stride": 1,
        "heads": {"hidden_dims": [5], "out_dim": 4},
        "loss": {"omega": 0.25, "temperature": 0.4, "persistent_temperature": 0.3},
    },
    "const_cl": {
        **PAIR,
        # The last map has 4 x 4 cells: on one of a single cell all boxes are alike.
        "crop": {"size": 64, "flip_probability": 0.5},
        "num_frames": 4,
        "hidden_dims": [5],
        "out_dim": 4,
        "temperature": 0.3,
        "regions": {"count": 3},
        "local": {
            "context_level": 1,
            "decoder": {"num_layers": 1, "num_heads": 2, "num_channels": 4},
        },
        "local_loss": {"weight": 0.5, "temperature": 0.4},
    },
}


@pytest.fixture(
    params=[n for n, entry in OBJECTIVES.items() if entry.framework == "flax" and n != "vatt"]
)
def name(request):
    if request.param not in SETTINGS:
        pytest.fail(f"write a slow {request.param} from its sheet and add it to SETTINGS and SLOW")
    return request.param


# The second implementation ------------------------------------------------------------------------


@jax.jit
def colored(video, color):
    return apply_color(video[None] / 255.0, color[None], "cvrl")[0]


def view_of(videos, colors):
    """One clip of every record, (B, T, S, S, 3), colored and normalised record by record."""
    pixels = [np.asarray(colored(*pair)) for pair in zip(videos, colors, strict=True)]
    return (np.stack(pixels) - MEAN) / STD


def views_of(name, batch):
    """The clips of a batch, first views first, (2B, T, S, S, 3)."""
    videos = (batch["short"], batch["long"]) if name == "teg" else batch["video"].swapaxes(0, 1)
    return np.concatenate([view_of(video, batch["color"][:, v]) for v, video in enumerate(videos)])


def unit(x):
    return x / jnp.linalg.norm(x, axis=-1, keepdims=True)


def slow_contrast(a, b, t):
    """Both directions added: against all other views and the other clips of the own kind (papers/cvrl.md section 4)."""
    others, total = 1.0 - np.eye(len(a)), 0.0
    for own, other in ((unit(a), unit(b)), (unit(b), unit(a))):
        across, within = jnp.exp(own @ other.T / t), jnp.exp(own @ own.T / t) * others
        total -= jnp.log(jnp.diag(across) / (across.sum(1) + within.sum(1))).mean()
    return total


def slow_fine(short, long, position, t):
    """Moments of the short clips among all of the long ones, linear between two (papers/teg.md section 4)."""
    batch, count = position.shape
    weights, negative = (
        np.zeros((batch, count, batch, count)),
        np.ones((batch, count, batch, count)),
    )
    for b, i in np.ndindex(batch, count):
        p = float(position[b, i])
        low = min(int(p), count - 2)
        weights[b, i, b, [low, low + 1]] = 1 - (p - low), p - low
        negative[b, i, b] = weights[b, i, b] < 1e-4
    wanted = unit(jnp.tensordot(jnp.asarray(weights), long, 2))
    positive = jnp.exp((unit(short) * wanted).sum(-1) / t)
    others = jnp.exp(jnp.tensordot(unit(short), unit(long), (2, 2)) / t) * negative
    return -jnp.log(positive / (positive + others.sum((2, 3)))).mean()


def slow_penalty(params):
    paths = jax.tree_util.tree_flatten_with_path(params)[0]
    kernels = [value for path, value in paths if path[-1].key == "kernel"]
    assert kernels
    return 0.01 * sum((value**2).sum() for value in kernels) / 2


def slow_cvrl(out, position):
    z = out[0]
    return slow_contrast(z[:3], z[3:], 0.3)


def slow_teg(out, position):
    fine = slow_fine(out.z[:3], out.z[3:], position, 0.4)
    return 0.25 * fine + 0.75 * slow_contrast(out.g[:3], out.g[3:], 0.3)


def slow_regions(found, own, other, masks, t):
    """Every region of one clip finds the region of the other that it looks like (papers/const_cl.md section 4)."""
    mask_own, mask_other = masks
    total = 0.0
    for i in range(len(own)):
        alike = unit(own[i]) @ unit(other[i]).T
        match = jnp.argmax(jnp.where(mask_other[i], alike, -9.0), axis=1)
        positive = jnp.exp((unit(found[i]) * unit(other[i][match])).sum(1) / t)
        rest = [j for j in range(len(own)) if j != i]
        others, there = (jnp.concatenate([x[j] for j in rest]) for x in (other, mask_other))
        negatives = (jnp.exp(unit(found[i]) @ unit(others).T / t) * there).sum(1)
        total -= (mask_own[i] * jnp.log(positive / (positive + negatives))).sum()
    return total / mask_own.sum()


def slow_const_cl(out, position):
    a, b, a2b, b2a, mask_a, mask_b = out.regions
    local = slow_regions(a2b, a, b, (mask_a, mask_b), 0.4)
    local += slow_regions(b2a, b, a, (mask_b, mask_a), 0.4)
    return slow_contrast(out.z[:3], out.z[3:], 0.3) + 0.5 * local / 2


SLOW = {"cvrl": slow_cvrl, "teg": slow_teg, "const_cl": slow_const_cl}


def spread(shapes):
    """Variables that are far from the start, where biases are 0 and a clip may leave nothing to compare."""
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda x: 0.3 * rng.standard_normal(x.shape).astype(np.float32), shapes)


@pytest.mark.slow
def test_loss_and_gradients_of_raw_batches_are_those_of_a_slow_version(name):
    config = build_config(OBJECTIVES[name].config(), SETTINGS[name])
    objective, batch = OBJECTIVES[name].objective()(config), raw_batch(name, config)
    variables = spread(jax.eval_shape(lambda: objective.init(0)))
    params = variables.pop("params")
    videos = [v for k, v in batch.items() if k in ("video", "short", "long")]
    assert {v.dtype for v in videos} == {np.dtype(np.uint8)}
    clips = views_of(name, batch).astype(np.float32)
    if name == "const_cl":
        batch["regions"][0, 0, 1] = batch["regions"][1, 1, 0] = False
    names = [key for key in ("boxes", "regions") if key in batch]
    beside = [np.concatenate([batch[key][:, 0], batch[key][:, 1]]) for key in names]

    def found(params):
        return objective.forward({"params": params, **variables}, batch, jax.random.key(0))[0].loss

    def wanted(params):
        out, _ = objective.model.apply(
            {"params": params, **variables}, clips, *beside, train=True, mutable=["batch_stats"]
        )
        return SLOW[name](out, batch.get("position")) + slow_penalty(params)

    loss, gradients = jax.jit(jax.value_and_grad(found))(params)
    expected, slow = jax.jit(jax.value_and_grad(wanted))(params)
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    scale = max(float(jnp.abs(g).max()) for g in jax.tree.leaves(slow))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4 * scale), gradients, slow
    )
