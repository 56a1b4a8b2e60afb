"""ConST-CL: regions of its samples, its losses at their edges, over devices, and what leaves the training.

The numbers of the reference are in tests/golden/test_const_cl.py.
"""

import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from raw_batches_flax import PAIR, NoiseReader, raw_batch

from video_ssl.datasets.table import Record
from video_ssl.models.networks import r3d, r3d_flax
from video_ssl.models.networks.r3d_bridge import to_torch_state
from video_ssl.objectives.const_cl.config import Config, LocalLossConfig
from video_ssl.objectives.const_cl.loss_flax import Regions, local_loss, local_terms
from video_ssl.objectives.const_cl.objective_flax import Objective, branch_of
from video_ssl.objectives.const_cl.plan import Plan
from video_ssl.pretrain.errors import RunError
from video_ssl.pretrain.packages import refuse_missing_packages
from video_ssl.pretrain.recipe import load_pretrain_recipe
from video_ssl.recipes import build_config

SMALL = {
    **PAIR,
    "num_frames": 4,
    "hidden_dims": [5],
    "out_dim": 4,
    "regions": {"count": 3},
    "local": {
        "context_level": 1,
        "decoder": {"num_layers": 1, "num_heads": 1, "num_channels": 4},
    },
}


LOSS = jax.jit(local_loss, static_argnames=("pad_as_regions", "replicas"))
TERMS = jax.jit(local_terms)


def config(**changes):
    return build_config(Config, {**SMALL, **changes})


def regions(batch=4, count=3, width=6, seed=0):
    rng = np.random.default_rng(seed)
    parts = rng.standard_normal((4, batch, count, width)).astype(np.float32)
    return Regions(*parts, *(rng.random((2, batch, count)) < 0.7))


# Samples ------------------------------------------------------------------------------------------


class PaintedReader(NoiseReader):
    """Black, with a white box at `box` pixels (x_min, y_min, x_max, y_max)."""

    box = (6, 4, 18, 16)

    def frames(self, indices, size=None):
        left, top, right, bottom = self.box
        out = np.zeros((len(indices), 20, 24, 3), np.uint8)
        out[:, top:bottom, left:right] = 255
        return out


@pytest.mark.parametrize("seed", range(4))
def test_boxes_of_the_table_follow_crop_scale_and_mirror(seed):
    box = np.float32([PaintedReader.box]) / [24, 20, 24, 20]
    record = Record(index=0, id="a", source="a.mp4", boxes=np.tile(box, (30, 1, 1)))
    crop = {"size": 32, "flip_probability": 0.5, "area": [0.6, 1.0], "kind": "random_resized"}
    plan = Plan(
        config(crop=crop, color=None, second_color=None, regions={"kind": "table", "count": 2})
    )
    sample = plan(record, PaintedReader(0), np.random.default_rng(seed), 0.0)
    assert sample["regions"].tolist() == [[True, False]] * 2
    for video, found in zip(sample["video"], sample["boxes"][:, 0], strict=True):
        rows, columns = np.nonzero(video[2, :, :, 0] > 127)
        shown = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        np.testing.assert_allclose(found * 32, shown, atol=1.5)


def test_samples_are_as_the_settings_say():
    sample = raw_batch("const_cl", config())
    assert {k: (v.shape, v.dtype.name) for k, v in sample.items()} == {
        "video": ((3, 2, 4, 16, 16, 3), "uint8"),
        "boxes": ((3, 2, 3, 4), "float32"),
        "regions": ((3, 2, 3), "bool"),
        "color": ((3, 2, sample["color"].shape[2]), "float32"),
    }
    assert not np.array_equal(sample["boxes"][:, 0], sample["boxes"][:, 1])


def test_clips_and_colors_are_those_of_cvrl():
    """The same draws in the same order: what differs between the two methods is not their views."""
    from video_ssl.objectives.cvrl.config import Config as CvrlConfig

    mine = raw_batch("const_cl", config())
    cvrl = build_config(CvrlConfig, {**PAIR, "num_frames": 4, "hidden_dims": [5], "out_dim": 4})
    theirs = raw_batch("cvrl", cvrl)
    for name in ("video", "color"):
        np.testing.assert_array_equal(mine[name], theirs[name])


def test_segments_without_their_library_are_refused_before_anything_is_read(monkeypatch):
    recipe = load_pretrain_recipe("const_cl/demo", ["objective.regions.kind=segments"])
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(
        RunError, match=r"regions.kind=segments needs skimage: .*video_ssl\[segments\]"
    ):
        refuse_missing_packages(recipe)


def test_segments_are_of_the_whole_frame():
    pytest.importorskip("skimage", reason="needs scikit-image: pip install 'video_ssl[segments]'")
    kind = {"kind": "segments", "count": 4, "fill": "random"}
    sample = raw_batch("const_cl", config(regions=kind))
    assert sample["regions"].mean() > 0.9


# Losses -------------------------------------------------------------------------------------------


def test_what_is_no_region_is_neither_looked_for_nor_a_negative():
    given = regions()
    changed = given._replace(
        **{
            name: np.where(mask[..., None], getattr(given, name), 9.0)
            for name, mask in (("a", given.mask_a), ("b", given.mask_b))
        }
    )
    for pad, same in ((False, True), (True, False)):
        one, two = (float(LOSS(x, pad_as_regions=pad)[0]) for x in (given, changed))
        assert (one == pytest.approx(two, abs=1e-6)) == same


def test_a_region_without_any_in_the_other_clip_takes_no_part():
    given = regions()
    given.mask_b[1] = False
    terms = TERMS(given.a2b, given.a, given.b, given.mask_a, given.mask_b)
    assert not np.asarray(terms.counts)[1].any()
    others = np.asarray(terms.counts)[[0, 2, 3]]
    np.testing.assert_array_equal(others, given.mask_a[[0, 2, 3]])


def test_without_any_region_the_loss_and_its_gradient_are_zero():
    given = regions()
    empty = given._replace(mask_a=np.zeros((4, 3), bool), mask_b=np.zeros((4, 3), bool))

    def loss(parts):
        return local_loss(Regions(*parts, empty.mask_a, empty.mask_b))

    run = jax.jit(jax.value_and_grad(loss, has_aux=True))
    (value, figures), gradient = run(list(empty[:4]))
    assert float(value) == 0
    assert all(np.isfinite(x) for x in figures.values())
    assert not any(np.any(g) for g in gradient)


def test_one_video_alone_has_no_loss():
    given = regions(batch=1)
    value, figures = LOSS(given._replace(mask_a=np.ones((1, 3), bool)))
    assert float(value) == 0
    assert float(figures["negative_similarity_mean"]) == 0


def test_replicas_average_over_their_own_regions():
    given = regions(batch=6)
    given.mask_a[:3, 1:] = False
    terms = TERMS(given.a2b, given.a, given.b, given.mask_a, given.mask_b)
    back = TERMS(given.b2a, given.b, given.a, given.mask_b, given.mask_a)
    by_hand = np.mean(
        [
            np.asarray(x.loss)[part][np.asarray(x.counts)[part]].mean()
            for x in (terms, back)
            for part in (slice(0, 3), slice(3, 6))
        ]
    )
    one, two = (float(LOSS(given, replicas=n)[0]) for n in (1, 2))
    assert two == pytest.approx(by_hand, rel=1e-5)
    assert one != pytest.approx(two, rel=1e-3)
    with pytest.raises(ValueError, match="replicas=4 does not divide the 6 videos"):
        local_loss(given, replicas=4)


@pytest.mark.parametrize("count", [1, 2, 8])
def test_a_batch_over_devices_has_the_loss_of_the_whole_batch(count):
    devices = jax.devices()[:count]
    if len(devices) < count:
        pytest.skip("needs 8 devices: XLA_FLAGS=--xla_force_host_platform_device_count=8")
    placed = jax.sharding.NamedSharding(
        jax.sharding.Mesh(np.array(devices), ("data",)), jax.sharding.PartitionSpec("data")
    )
    given = regions(batch=8)

    def loss(parts, masks):
        return local_loss(Regions(*parts, *masks))

    run = jax.jit(jax.value_and_grad(loss, has_aux=True))
    one = run(list(given[:4]), list(given[4:]))
    many = run(*jax.device_put((list(given[:4]), list(given[4:])), placed))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6, rtol=1e-6), one, many)


# The objective ------------------------------------------------------------------------------------


def test_a_batch_of_one_video_is_told(caplog):
    settings = config()
    objective, batch = Objective(settings), raw_batch("const_cl", settings)
    variables = jax.eval_shape(lambda: objective.init(0))
    one = {key: value[:1] for key, value in batch.items()}
    with caplog.at_level(logging.WARNING):
        jax.eval_shape(objective.forward, variables, one, jax.random.key(0))
    assert "a batch of one video has no others to be told from" in caplog.text


@pytest.mark.slow
def test_both_branches_leave_the_training_for_flax_and_torch():
    settings = config(branch="local")
    objective = Objective(settings)
    assert list(objective.encoders()) == ["local", "global"]
    shapes = jax.eval_shape(lambda: objective.init(0))
    rng = np.random.default_rng(0)
    variables = jax.tree.map(lambda x: (0.1 + 0.3 * rng.random(x.shape)).astype(np.float32), shapes)
    video = rng.standard_normal((2, 4, 32, 32, 3)).astype(np.float32)
    trunk = {kind: tree["encoder"] for kind, tree in variables.items() if "encoder" in tree}
    maps = r3d_flax.R3D(settings.trunk).apply(trunk, video)
    found = {}
    for name, endpoint in (("global", "5"), ("local", "5_1")):
        module, pick, _ = objective.encoders()[name]
        own = pick(variables)
        assert module.config == settings.encoder
        assert jax.tree.structure(own) == jax.tree.structure(
            dict(jax.eval_shape(module.init, jax.random.key(0), module.smallest_input()))
        )
        found[name] = np.asarray(module.apply(own, video, method="feature_map"))
        np.testing.assert_allclose(found[name], maps[endpoint], rtol=1e-5, atol=1e-5)
        twin = r3d.R3D(settings.encoder).eval()
        state = to_torch_state(own)
        twin.load_state_dict({k: torch.from_numpy(v) for k, v in state.items()}, strict=True)
        with torch.no_grad():
            same = twin(torch.from_numpy(video).permute(0, 4, 1, 2, 3)).permute(0, 2, 3, 4, 1)
        scale = np.abs(found[name]).max()
        np.testing.assert_allclose(same.numpy(), found[name], rtol=1e-4, atol=1e-5 * scale)
    assert np.abs(found["global"] - found["local"]).max() > 1e-3


def test_branches_share_what_lies_below_them():
    tree = {"params": {"encoder": {"stem_conv0": 1, "res5_block0": 2, "res5_1_block0": 3}}}
    assert branch_of("global", tree)["params"] == {"stem_conv0": 1, "res5_block0": 2}
    assert branch_of("local", tree)["params"] == {"stem_conv0": 1, "res5_block0": 3}


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"branch": "both"}, "branch='both'.*'global' or 'local'"),
        (
            {"encoder": {**PAIR["encoder"], "second_branch": True}},
            "second_branch is the objective's own",
        ),
        ({"local": {"context_level": 2}}, "context_level=2 must be odd"),
        (
            {"local": {"context_level": 3}},
            "context_level=3 needs as many moments, but a clip has 2",
        ),
        ({"local": {"context_level": 1, "crop_size": 0}}, "crop_size=0"),
        ({"local_loss": {"weight": -1}}, "weight=-1.0 must not be negative"),
        ({"local_loss": {"temperature": 0}}, "temperature=0.0 must be positive"),
        ({"local_loss": {"replicas": 0}}, "replicas=0 must be at least 1"),
        ({"temperature": 0}, "temperature=0.0 must be positive"),
        ({"regions": {"count": 0}}, "take the objective cvrl"),
    ],
)
def test_settings_that_cannot_be_are_refused(changes, text):
    with pytest.raises(ValueError, match=text):
        config(**changes)


def test_the_published_settings_are_the_defaults():
    loss = LocalLossConfig()
    assert (loss.weight, loss.temperature) == (0.001, 0.2)
    assert jnp.allclose(jnp.array(Config().normalization.mean), 0.5)
