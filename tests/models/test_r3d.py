"""R3D and 3D ResNet-RS: published sizes, TensorFlow's padding, torch and flax twins, encoder folders of both.

The numbers of the reference are in tests/golden/test_r3d.py.
"""

import functools
import typing

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

import video_ssl
from video_ssl.models import encoders_flax, health, health_flax
from video_ssl.models.encoder_folder import EncoderError
from video_ssl.models.encoders import build_encoder, save_encoder
from video_ssl.models.networks import r3d, r3d_flax
from video_ssl.models.networks.bridges import BridgeError, shapes_of
from video_ssl.models.networks.maps_flax import clip_features, temporal_features
from video_ssl.models.networks.r3d_bridge import (
    to_flax_variables,
    to_torch_state,
)
from video_ssl.models.networks.r3d_config import PRESETS, R3D_PRESETS, R3DConfig, bottleneck_specs
from video_ssl.models.preprocess_config import VideoPreprocess
from video_ssl.objectives.supervised.config import Config
from video_ssl.recipes import ConfigError, build_config, to_plain

TINY = {
    "preset": None,
    "blocks": (1, 1, 1, 1),
    "filters": (2, 2, 3, 3),
    "stem_width": 4,
    "num_frames": 8,
}
#: Everything that a network of the family may have, in one.
RICH = {
    **TINY,
    "blocks": (2, 1, 1, 1),
    "stem": "v1",
    "se_ratio": 0.5,
    "self_gating": True,
    "second_branch": True,
    "endpoint": "5_1",
    "pool_time_stride": 2,
    "moving_variance": "unbiased",
}
SETTINGS = {"tiny": TINY, "rich": RICH}


def torch_encoder(seed=0, **settings):
    torch.manual_seed(seed)
    encoder = r3d.R3D(R3DConfig(**settings))
    for module in encoder.modules():  # no value stays at the one that everything starts with
        if isinstance(module, r3d.BatchNorm):
            for value in (module.weight, module.running_var):
                torch.nn.init.uniform_(value, 0.5, 1.5)
            for value in (module.bias, module.running_mean):
                torch.nn.init.normal_(value, std=0.1)
    return encoder.eval()


def arrays(encoder):
    return {k: v.detach().numpy() for k, v in encoder.state_dict().items()}


# Sizes --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("preset", "trainable", "total"),
    [
        ("r3d_50", 31_672_128, 31_725_248),
        ("r3d_rs_50", None, 47.4e6),
        ("r3d_rs_101", None, 84.3e6),
        ("r3d_rs_200", None, 120.7e6),
    ],
)
def test_published_networks_have_the_published_number_of_parameters(preset, trainable, total):
    # papers/cvrl.md section 3; the RS sizes are rounded there
    with torch.device("meta"):
        encoder = r3d.R3D(R3DConfig(preset=preset))
    if trainable:
        assert sum(p.numel() for p in encoder.parameters()) == trainable
    found = sum(v.numel() for k, v in encoder.state_dict().items() if "num_batches" not in k)
    assert found == pytest.approx(total, abs=0 if trainable else 0.051e6)


def test_second_branch_has_the_size_of_the_sheet():
    # papers/const_cl.md section 3.1
    with torch.device("meta"):
        one, two = (r3d.R3D(R3DConfig(second_branch=b)).state_dict() for b in (False, True))
    sizes = [sum(v.numel() for k, v in s.items() if "num_b" not in k) for s in (one, two)]
    assert sizes[1] == 51_955_392
    assert sizes[1] - sizes[0] == 20_230_144


@pytest.mark.parametrize("preset", ["r3d_50", "r3d_rs_50"])
def test_flax_and_torch_have_the_same_names_and_shapes(preset):
    config = R3DConfig(preset=preset)
    clip = jax.ShapeDtypeStruct((1, 4, 32, 32, 3), jnp.float32)
    wanted = jax.eval_shape(r3d_flax.R3D(config).init, jax.random.key(0), clip)
    with torch.device("meta"):
        state = r3d.R3D(config).state_dict()
    empty = {k: np.broadcast_to(np.float32(0), tuple(v.shape)) for k, v in state.items()}
    assert shapes_of(to_flax_variables(empty)) == shapes_of(wanted)


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("size", [(8, 32, 32), (5, 33, 47), (1, 20, 16)])
def test_the_grid_is_that_of_the_map_and_positions_fit_it(name, size):
    encoder = torch_encoder(**SETTINGS[name])
    video = torch.randn(1, 3, *size)
    with torch.no_grad():
        assert tuple(encoder(video).shape[2:]) == encoder.grid(video)
        clip, frames = encoder.features(video, cells=2)
    count = encoder.grid(video)[0]
    assert frames.shape == (1, count, encoder.output_dim("clip", cells=2))
    assert clip.shape == (1, encoder.output_dim("clip", cells=2))
    positions = encoder.frame_positions(size[0])
    # means of equal parts of the clip: symmetric in it
    assert len(positions) == count
    np.testing.assert_allclose(positions + positions[::-1], size[0] - 1)


def test_same_padding_is_tensorflows():
    assert r3d.same_padding((16, 224, 225), (5, 7, 7), (2, 2, 2)) == [(1, 2), (2, 3), (3, 3)]
    assert r3d.same_padding((8, 56, 57), (1, 3, 3), (1, 2, 2)) == [(0, 0), (0, 1), (1, 1)]
    assert r3d.same_padding((8, 7, 7), (1, 1, 1), (1, 2, 2)) == [(0, 0), (0, 0), (0, 0)]


@pytest.mark.parametrize(
    ("kernel", "stride"),
    [
        ((5, 7, 7), (2, 2, 2)),
        ((1, 3, 3), (1, 2, 2)),
        ((3, 1, 1), (1, 1, 1)),
        ((1, 1, 1), (1, 2, 2)),
    ],
)
def test_folded_convolutions_are_those_of_jax(kernel, stride):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, 7, 10, 11, 3), np.float32)
    weight = rng.standard_normal((*kernel, 3, 4), np.float32)
    layer = r3d_flax.SameConv(4, kernel, stride)
    expected = jax.lax.conv_general_dilated(
        x, weight, stride, "SAME", dimension_numbers=("NDHWC", "DHWIO", "NDHWC")
    )
    found = layer.apply({"params": {"kernel": weight}}, x)
    np.testing.assert_allclose(found, expected, atol=1e-4)
    ours = r3d.SameConv3d(3, 4, kernel, stride)
    ours.weight.data = torch.from_numpy(weight).permute(4, 3, 0, 1, 2).contiguous()
    found = ours(torch.from_numpy(x).permute(0, 4, 1, 2, 3)).permute(0, 2, 3, 4, 1)
    np.testing.assert_allclose(found.detach(), expected, atol=1e-4)


# Twins --------------------------------------------------------------------------------------------


def test_torch_and_flax_agree_in_a_step_of_training():
    encoder = torch_encoder(**RICH).train()
    variables = to_flax_variables(arrays(encoder))
    module = r3d_flax.R3D(encoder.config)
    video = np.random.default_rng(0).random((3, 7, 40, 37, 3), np.float32)

    @jax.jit
    @functools.partial(jax.value_and_grad, has_aux=True)
    def mean_square(params, x):
        maps, new = module.apply(
            {**variables, "params": params}, x, train=True, mutable=["batch_stats"]
        )
        return sum(jnp.square(m).mean() for m in maps.values()), (maps, new)

    (_, (maps, new)), gradients = mean_square(variables["params"], video)
    expected = encoder.endpoints(torch.from_numpy(video).permute(0, 4, 1, 2, 3))
    assert maps.keys() == expected.keys()
    for key, value in expected.items():
        wanted = value.detach().permute(0, 2, 3, 4, 1).numpy()
        np.testing.assert_allclose(maps[key], wanted, atol=1e-4 * np.abs(wanted).max())
    sum(value.square().mean() for value in expected.values()).backward()
    ours = to_torch_state({"params": gradients})
    largest = max(np.abs(p.grad.numpy()).max() for p in encoder.parameters())
    for key, parameter in encoder.named_parameters():
        np.testing.assert_allclose(ours[key], parameter.grad, atol=1e-3 * largest, err_msg=key)
    moved = to_torch_state(new)
    for key, value in arrays(encoder).items():
        if "running_" in key:
            np.testing.assert_allclose(moved[key], value, atol=1e-5, rtol=1e-4, err_msg=key)


def test_the_bridge_there_and_back_changes_no_bit():
    state = arrays(torch_encoder(**RICH))
    back = to_torch_state(to_flax_variables(state))
    assert back.keys() == state.keys()
    for key, value in state.items():
        if "num_batches" not in key:
            np.testing.assert_array_equal(back[key], value)
            assert not np.shares_memory(back[key], value)


def test_the_bridge_names_what_it_does_not_know():
    with pytest.raises(BridgeError, match=r"layer\.weight \(2, 2, 2\) has no counterpart"):
        to_flax_variables({"layer.weight": np.zeros((2, 2, 2))})
    with pytest.raises(BridgeError, match="params/layer/embedding"):
        to_torch_state({"params": {"layer": {"embedding": np.zeros((2, 2))}}})


@pytest.mark.parametrize("unbiased", [True, False])
def test_moving_variances_follow_their_law(unbiased):
    x = np.random.default_rng(0).standard_normal((2, 3, 2, 2, 4), np.float32)
    var = x.reshape(-1, 4).var(0, ddof=int(unbiased))
    torch_norm = r3d.BatchNorm(4, eps=1e-5, momentum=0.9, unbiased=unbiased).train()
    torch_norm(torch.from_numpy(x).permute(0, 4, 1, 2, 3)).sum().backward()
    np.testing.assert_allclose(torch_norm.running_var, 0.9 + 0.1 * var, rtol=1e-5)
    flax_norm = r3d_flax.BatchNorm(momentum=0.9, unbiased=unbiased)
    variables = flax_norm.init(jax.random.key(0), x, train=False)
    _, new = flax_norm.apply(variables, x, train=True, mutable=["batch_stats"])
    np.testing.assert_allclose(new["batch_stats"]["var"], 0.9 + 0.1 * var, rtol=1e-5)


def test_batch_norm_of_a_batch_over_devices_is_that_of_the_whole_batch():
    devices = jax.devices()[:4]
    if len(devices) < 4:
        pytest.skip("needs 4 devices: XLA_FLAGS=--xla_force_host_platform_device_count=8")
    mesh = jax.sharding.Mesh(np.array(devices), ("data",))
    placed = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    head = r3d_flax.ProjectionHead((6, 6), 5)
    x = np.random.default_rng(0).standard_normal((8, 3, 4), np.float32)
    variables = head.init(jax.random.key(0), x)
    run = jax.jit(lambda v, x: head.apply(v, x, train=True, mutable=["batch_stats"]))
    one, many = run(variables, x), run(variables, jax.device_put(x, placed))
    assert len(many[0].sharding.device_set) == 4
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), one, many)


@pytest.mark.parametrize("normalize", [False, True])
def test_heads_are_twins_in_training_too(normalize):
    torch.manual_seed(0)
    options = {"normalize_inputs": normalize}
    head = r3d.ProjectionHead(4, hidden_dims=(6, 5), out_dim=3, **options).train()
    variables = to_flax_variables(arrays(head))
    x = np.random.default_rng(0).standard_normal((4, 7, 4), np.float32)
    twin = r3d_flax.ProjectionHead((6, 5), 3, **options)
    # Of inputs that are normalised the length does not matter, of a zero one neither.
    longer = np.concatenate([3 * x[:1], x[1:]]) if normalize else x
    assert np.isfinite(np.asarray(twin.apply(variables, 0 * x))).all()
    np.testing.assert_allclose(twin.apply(variables, longer), twin.apply(variables, x), atol=1e-6)
    found, new = twin.apply(variables, x, train=True, mutable=["batch_stats"])
    np.testing.assert_allclose(found, head(torch.from_numpy(x)).detach(), atol=1e-5)
    moved = to_torch_state(new)
    assert moved
    for key, value in moved.items():
        if "running" in key:
            np.testing.assert_allclose(value, head.state_dict()[key], atol=1e-6)


@pytest.mark.parametrize("remat", [False, True])
def test_bottlenecks_are_recomputed_where_asked(remat):
    module = r3d_flax.R3D(R3DConfig(**TINY), remat=remat)
    clip = jax.ShapeDtypeStruct((1, 4, 32, 32, 3), jnp.float32)
    variables = jax.eval_shape(module.init, jax.random.key(0), clip)
    program = jax.make_jaxpr(lambda v, x: module.apply(v, x)["5"])(variables, clip)
    names = [equation.primitive.name for equation in program.eqns]
    assert sum("remat" in name or name == "checkpoint" for name in names) == (4 if remat else 0)


def test_stochastic_depth_keeps_the_expectation():
    settings = {**TINY, "blocks": (1, 1, 1, 1), "drop_path": 0.5}
    block_config = R3DConfig(**settings)
    spec = bottleneck_specs(block_config)["5"][0]
    assert spec.drop_path == 0.5 * 5 / 5
    assert [s[0].drop_path for s in bottleneck_specs(block_config).values()] == [
        0.2,
        0.3,
        0.4,
        0.5,
    ]
    x = np.random.default_rng(0).random((64, 1, 2, 2, spec.width_in), np.float32)
    block = r3d_flax.Bottleneck(spec, block_config)
    variables = block.init(jax.random.key(0), x, False)
    run = jax.jit(
        lambda key: block.apply(variables, x, True, mutable=["batch_stats"], rngs={"dropout": key})[
            0
        ]
    )
    shown = x[:, :, ::2, ::2]
    dropped = np.isclose(np.asarray(run(jax.random.key(1))), np.maximum(shown, 0)).all((1, 2, 3, 4))
    assert 0.25 < dropped.mean() < 0.75
    torch.manual_seed(0)
    twin = r3d.Bottleneck(spec, block_config).train()
    y = twin(torch.from_numpy(x).permute(0, 4, 1, 2, 3)).permute(0, 2, 3, 4, 1).detach().numpy()
    assert 0.25 < np.isclose(y, np.maximum(shown, 0)).all((1, 2, 3, 4)).mean() < 0.75


def test_activations_may_be_bfloat16_but_never_parameters_and_statistics():
    module = r3d_flax.R3D(R3DConfig(**RICH), dtype=jnp.bfloat16)
    clip = jax.ShapeDtypeStruct((1, 4, 32, 32, 3), jnp.float32)
    variables = jax.eval_shape(module.init, jax.random.key(0), clip)

    def run(variables, x):
        maps, new = module.apply(variables, x, train=True, mutable=["batch_stats"])
        return maps, new, clip_features(maps["5"]), temporal_features(maps["5"])

    maps, new, clips, frames = jax.eval_shape(run, variables, clip)
    assert {leaf.dtype for leaf in maps.values()} == {jnp.dtype("bfloat16")}
    kept = [*jax.tree.leaves(variables), *jax.tree.leaves(new), clips, frames]
    assert {leaf.dtype for leaf in kept} == {jnp.dtype("float32")}


# Folders ------------------------------------------------------------------------------------------

PRE = VideoPreprocess(
    num_frames=8, frame_stride=2, size=32, mean=(0.1, 0.2, 0.3), std=(1.0, 0.5, 0.25)
)


def test_flax_writes_what_torch_reads_and_the_other_way_round(tmp_path):
    config = R3DConfig(**RICH)
    made = encoders_flax.init_variables(r3d_flax.R3D(config), 1)
    source = {"objective": "teg"}
    encoders_flax.save_flax_encoder(
        tmp_path / "run/encoder",
        made,
        architecture="r3d",
        config=config,
        preprocess=PRE,
        source=source,
        beside={"heads.safetensors": {"params": {"head": {"dense": {"kernel": np.ones((2, 3))}}}}},
    )
    twin = video_ssl.load_encoder(tmp_path / "run")
    save_encoder(tmp_path / "again", twin, architecture="r3d", preprocess=PRE, source=source)
    first = video_ssl.load_flax_encoder(tmp_path / "run")
    second = video_ssl.load_flax_encoder(tmp_path / "again")
    assert first.fingerprint == second.fingerprint
    assert twin.preprocess == first.preprocess == PRE
    assert (first.embed_dim, first.source) == (twin.embed_dim, source)
    assert "jax" in (tmp_path / "run/encoder/README.md").read_text(encoding="utf-8")
    video = np.random.default_rng(0).integers(0, 256, (2, 8, 40, 33, 3), np.uint8)
    clip = torch.from_numpy((video / 255 - PRE.mean) / PRE.std).float().permute(0, 4, 1, 2, 3)
    for cells in (1, 2):
        found = first.outputs_of_arrays(video, ("clip", "moments"), cells=cells).values()
        for mine, other in zip(found, twin.features(clip, cells), strict=True):
            assert mine.shape == tuple(other.shape)
            np.testing.assert_allclose(mine, other, atol=1e-5)
    assert first.output_dim("clip", cells=2) == twin.output_dim("clip", cells=2)
    np.testing.assert_array_equal(first.frame_positions(9), twin.frame_positions(9))


def test_untrained_flax_encoders_differ_by_their_seed_only(tmp_path):
    save_encoder(tmp_path, torch_encoder(**TINY), architecture="r3d", preprocess=PRE, source={})
    specs = (f"untrained:{tmp_path}", f"untrained:{tmp_path}@3")
    a, b = (encoders_flax.load_flax_encoder(spec) for spec in specs)
    assert a.fingerprint != b.fingerprint
    again = encoders_flax.init_variables(b.module, 3)
    jax.tree.map(np.testing.assert_array_equal, again, b.variables)


def test_flax_refuses_what_does_not_fit(tmp_path):
    with pytest.raises(EncoderError, match="'resnet9000' is unknown"):
        encoders_flax.save_flax_encoder(
            tmp_path / "a", {}, architecture="resnet9000", config=None, preprocess=PRE, source={}
        )
    with pytest.raises(EncoderError, match="not finite"):
        encoders_flax.save_flax_encoder(
            tmp_path / "a",
            {"params": {"norm": {"scale": np.array([1.0, np.nan])}}},
            architecture="r3d",
            config=R3DConfig(**TINY),
            preprocess=PRE,
            source={},
        )
    save_encoder(
        tmp_path / "e", torch_encoder(**TINY), architecture="r3d", preprocess=PRE, source={}
    )
    text = (tmp_path / "e/config.json").read_text(encoding="utf-8")
    (tmp_path / "e/config.json").write_text(text.replace('"stem_width": 4', '"stem_width": 6'))
    with pytest.raises(EncoderError, match=r"7 mismatched: .* instead of"):
        encoders_flax.load_flax_encoder(tmp_path / "e")
    (tmp_path / "e/config.json").write_text(text.replace('"architecture": "r3d"', '"architecture": "vit"'))  # fmt: skip
    with pytest.raises(EncoderError, match="'vit' is for torch only"):
        encoders_flax.load_flax_encoder(tmp_path / "e")


def test_recipes_may_ask_for_it():
    config = build_config(
        Config,
        {"num_classes": 3, "encoder": {"architecture": "r3d", "preset": "r3d_rs_50"}},
        "objective",
    )
    assert config.encoder.self_gating
    again = build_config(R3DConfig, to_plain(config.encoder), "encoder")
    assert again == config.encoder
    assert isinstance(build_encoder(R3DConfig(**TINY)), r3d.R3D)
    with pytest.raises(ConfigError, match="preset"):
        build_config(Config, {"encoder": {"architecture": "r3d", "preset": "r3d_5"}}, "objective")
    assert typing.get_args(PRESETS) == tuple(R3D_PRESETS)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"blocks": (1, 0, 1, 1)}, "blocks"),
        ({"time_kernels": (1, 1, 2, 3)}, "must be odd"),
        ({"endpoint": "5_1"}, "second_branch"),
        ({"stem": "v1", "stem_width": 5}, "even"),
        ({"blocks": None}, "give a preset"),
        ({"drop_path": 1.0}, "drop_path"),
        ({"stem_time_stride": 3}, "must be 1 or 2"),
    ],
)
def test_settings_that_cannot_be_are_refused(change, text):
    with pytest.raises(ValueError, match=text):
        R3DConfig(**{**TINY, **change})


def test_collapse_figures_are_those_of_torch():
    x = np.random.default_rng(0).standard_normal((6, 9)).astype(np.float32)
    for name in ("feature_std", "effective_rank"):
        found = float(getattr(health_flax, name)(jnp.asarray(x)))
        assert found == pytest.approx(float(getattr(health, name)(torch.from_numpy(x))), rel=1e-5)
    assert float(health_flax.effective_rank(jnp.ones((4, 3)))) == pytest.approx(1)
