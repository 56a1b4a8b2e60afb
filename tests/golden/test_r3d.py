"""R3D, 3D ResNet-RS and their heads, in torch and in flax, against TensorFlow.  Tolerances: the files' README."""

import jax
import numpy as np
import pytest
import torch

from video_ssl.models.exchange.tf_checkpoint import read_tf_checkpoint
from video_ssl.models.networks import r3d, r3d_flax
from video_ssl.models.networks.r3d_bridge import (
    backbone_of_tf,
    from_tf,
    infer_config,
    to_flax_variables,
    to_torch_state,
)
from video_ssl.objectives.contrastive_flax import kernel_penalty
from video_ssl.objectives.cvrl.loss_flax import contrastive_loss
from video_ssl.objectives.cvrl.model_flax import CvrlModel

#: Of the largest value of a reference; training statistics add rounding of their own.
TOLERANCE = {"eval": 1e-5, "train": 5e-5}


def network(g, **settings):
    """Config and torch state of the backbone of a file, before and after one step of training."""
    before = {k.removeprefix("param/"): v for k, v in g.arrays.items() if k.startswith("param/")}
    after = {
        k.removeprefix("after_train/"): v
        for k, v in g.arrays.items()
        if k.startswith("after_train/")
    }
    backbone = backbone_of_tf(before)
    blocks = tuple(g.arrays["block_repeats"].tolist())
    config = infer_config(backbone, blocks=blocks, moving_variance="unbiased", **settings)
    assert config.filters == tuple(g.arrays["block_filters"].tolist())
    assert config.time_kernels == tuple(g.arrays["temporal_kernels"].tolist())
    return config, from_tf(backbone, config), from_tf(backbone_of_tf({**before, **after}), config)


def close(found, expected, share):
    found, expected = np.asarray(found), np.asarray(expected)
    np.testing.assert_allclose(found, expected, rtol=0, atol=share * np.abs(expected).max())


def same_statistics(found, expected):
    names = [name for name in expected if "running_" in name]
    assert names
    for name in names:
        np.testing.assert_allclose(np.asarray(found[name]), expected[name], rtol=1e-5, atol=1e-5)


def maps_of(g, mode):
    return {k.removeprefix(f"{mode}/"): v for k, v in g.arrays.items() if k.startswith(f"{mode}/")}


def video_of(g):
    return g.arrays["frames_u8"].astype(np.float32) * np.float32(2 / 255) - 1


def test_networks_in_torch(tf_r3d):
    g = tf_r3d
    config, state, after = network(g)
    encoder = r3d.R3D(config)
    encoder.load_state_dict({k: torch.from_numpy(v) for k, v in state.items()}, strict=True)
    video = torch.from_numpy(video_of(g)).permute(0, 4, 1, 2, 3)
    for mode in ("eval", "train"):
        with torch.no_grad():
            found = encoder.train(mode == "train").endpoints(video)
        expected = maps_of(g, mode)
        assert found.keys() == expected.keys()
        for name, feature_map in found.items():
            close(feature_map.permute(0, 2, 3, 4, 1), expected[name], TOLERANCE[mode])
    same_statistics(encoder.state_dict(), after)


def test_networks_in_flax(tf_r3d):
    g = tf_r3d
    config, state, after = network(g)
    module, variables = r3d_flax.R3D(config), to_flax_variables(state)
    for mode in ("eval", "train"):
        run = jax.jit(
            lambda v, x, train=mode == "train": module.apply(
                v, x, train=train, mutable=["batch_stats"]
            )
        )
        found, changed = run(variables, video_of(g))
        expected = maps_of(g, mode)
        assert found.keys() == expected.keys()
        for name, feature_map in found.items():
            close(feature_map, expected[name], TOLERANCE[mode])
    same_statistics(to_torch_state(changed), after)


# Heads --------------------------------------------------------------------------------------------

_KINDS = {
    "gamma": "weight",
    "beta": "bias",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
}


def head_state(layers):
    """The torch state of a head from its layers in order, each {TensorFlow's name: array}."""
    state, count = {}, 0
    for number, layer in enumerate(layers):
        if "gamma" in layer:
            state |= {f"norm{count}.{_KINDS[k]}": v for k, v in layer.items()}
            state[f"norm{count}.num_batches_tracked"] = np.zeros((), np.int64)
            count += 1
        else:
            name = "dense_out" if number == len(layers) - 1 else f"dense{count}"
            state[f"{name}.weight"] = np.ascontiguousarray(layer["kernel"].T)
            if "bias" in layer:
                state[f"{name}.bias"] = layer["bias"]
    return state


def head_layers(g, prefix, numbers):
    starts = [f"param/{prefix}{n}/" for n in numbers]
    return [
        {k.rpartition("/")[2]: v for k, v in g.arrays.items() if k.startswith(start)}
        for start in starts
    ]


def numbers_of(g, prefix):
    return sorted(
        {int(k.removeprefix(prefix).split("/")[0]) for k in g.arrays if k.startswith(prefix)}
    )


def test_heads(mlp_head):
    g = mlp_head
    assert not g.arrays["normalize_inputs"]
    numbers = numbers_of(g, "param/_layers/")
    layers = head_layers(g, "_layers/", numbers)
    state, momentum = head_state(layers), float(g.arrays["norm_momentum"])
    after = {n: dict(layer) for n, layer in zip(numbers, layers, strict=True)}
    for key, value in g.arrays.items():
        if key.startswith("after_train/_layers/"):
            after[int(key.split("/")[2])][key.rpartition("/")[2]] = value
    expected = head_state(list(after.values()))
    dims = tuple(layer["kernel"].shape[1] for layer in layers if "kernel" in layer)
    settings = {
        "hidden_dims": dims[:-1],
        "out_dim": dims[-1],
        "hidden_bias": "dense0.bias" in state,
        "norm_momentum": momentum,
        "norm_eps": float(g.arrays["norm_epsilon"]),
    }
    inputs = g.arrays["inputs"]
    torch_head = r3d.ProjectionHead(inputs.shape[1], **settings)
    torch_head.load_state_dict({k: torch.from_numpy(v) for k, v in state.items()}, strict=True)
    flax_head = r3d_flax.ProjectionHead(**settings)
    for mode in ("eval", "train"):
        torch_head.train(mode == "train")
        with torch.no_grad():
            close(torch_head(torch.from_numpy(inputs)), g.arrays[f"out_{mode}"], 1e-5)
        found, changed = flax_head.apply(
            to_flax_variables(state), inputs, train=mode == "train", mutable=["batch_stats"]
        )
        close(found, g.arrays[f"out_{mode}"], 1e-5)
    same_statistics(torch_head.state_dict(), expected)
    same_statistics(to_torch_state(changed), expected)


# CVRL as a whole ----------------------------------------------------------------------------------


def test_the_model_of_cvrl_and_its_loss(cvrl_model):
    g = cvrl_model
    config, state, _ = network(g, num_frames=g.arrays["frames_u8"].shape[1])
    numbers = [n for n in numbers_of(g, "param/layer_with_weights-") if n > 0]
    layers = head_layers(g, "layer_with_weights-", numbers)
    encoder, head = to_flax_variables(state), to_flax_variables(head_state(layers))
    variables = {part: {"encoder": encoder[part], "head": head[part]} for part in encoder}
    hidden = (int(g.arrays["hidden_dim"]),) * (len([n for n in layers if "kernel" in n]) - 1)
    model = CvrlModel(config, hidden, int(g.arrays["projection_dim"]))
    video = g.arrays["frames_u8"].astype(np.float32) / 255
    for mode in ("eval", "train"):
        run = jax.jit(
            lambda v, x, train=mode == "train": model.apply(
                v, x, train=train, mutable=["batch_stats"]
            )[0]
        )
        z, _ = run(variables, video)
        close(z, g.arrays[f"out_{mode}"], 1e-4)
    count = len(z) // 2
    loss, told = contrastive_loss(z[:count], z[count:], temperature=float(g.arrays["temperature"]))
    penalty = kernel_penalty(variables["params"], float(g.arrays["weight_decay"]))
    for found, name in (
        (loss, "contrastive_loss"),
        (penalty, "reg_loss"),
        (loss + penalty, "total_loss"),
        (told["accuracy"], "contrast_acc"),
        (told["entropy"], "contrast_entropy"),
    ):
        assert float(found) == pytest.approx(float(g.arrays[f"loss/{name}"]), rel=5e-4, abs=1e-6)


# TensorFlow's files -------------------------------------------------------------------------------


def test_a_checkpoint_is_read_to_the_bit(tf_checkpoint, tmp_path):
    g = tf_checkpoint.arrays
    (tmp_path / "ckpt-10.index").write_bytes(g["file/index"].tobytes())
    (tmp_path / "ckpt-10.data-00000-of-00001").write_bytes(g["file/data"].tobytes())
    found = read_tf_checkpoint(tmp_path)
    expected = {k.removeprefix("var/"): v for k, v in g.items() if k.startswith("var/")}
    assert expected
    for name, value in expected.items():
        assert found[name].dtype == value.dtype
        np.testing.assert_array_equal(found[name], value)
    assert found.keys() <= set(g["names"].tolist())
