"""R3D, 3D ResNet-RS and their heads, in torch and in flax, against TensorFlow."""

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
    tf_layer_names,
    to_flax_variables,
    to_torch_state,
)
from video_ssl.objectives.cvrl.loss_flax import contrastive_loss
from video_ssl.objectives.cvrl.model_flax import CvrlModel
from video_ssl.objectives.shared.contrastive_flax import kernel_penalty

LEAVES = {"moving_mean": "running_mean", "moving_variance": "running_var"}


def network(g, **settings):
    """Config of the backbone of a file, its torch state, and where TensorFlow's names lie in it."""
    backbone = backbone_of_tf(g.below("param/"))
    blocks = tuple(g.settings["block_repeats"])
    norm = g.settings["batch_norm"]
    config = infer_config(
        backbone,
        blocks=blocks,
        moving_variance=norm.get("moving_variance", "unbiased").split()[0],
        norm_eps=norm["eps"],
        norm_momentum=norm.get("tf_momentum", norm.get("backbone_tf_momentum")),
        drop_path=g.settings.get("stochastic_depth", 0.0),
        **settings,
    )
    assert config.filters == tuple(g.settings["block_filters"])
    assert config.time_kernels == tuple(g.settings["temporal_kernels"])
    assert config.stem == g.settings["stem"]
    assert config.second_branch == g.settings.get("two_res5_branches", False)
    return config, from_tf(backbone, config)


def check_statistics(g, state, config):
    """Moving statistics after a step of training, under TensorFlow's names."""
    named = any("_stem_conv/kernel" in name for name in g.arrays)
    layers = tf_layer_names(config, named)
    for name in g.given_below("after_train/"):
        layer, _, leaf = name.rpartition("/")
        g.check(f"after_train/{name}", state[f"{layers[layer]}.{LEAVES[leaf]}"])


#: `input` of a file -> what is done with its frames.
INPUTS = {
    "frames_u8 * 2 / 255 - 1": lambda frames: frames * np.float32(2 / 255) - 1,
    "frames_u8 / 255": lambda frames: frames / 255,
}


def video_of(g):
    return INPUTS[g.settings["input"]](g["frames_u8"].astype(np.float32))


@pytest.mark.golden("const_cl/r3d")
def test_networks_in_torch(golden):
    config, state = network(golden)
    encoder = r3d.R3D(config)
    encoder.load_state_dict({k: torch.from_numpy(v) for k, v in state.items()}, strict=True)
    video = torch.from_numpy(video_of(golden)).permute(0, 4, 1, 2, 3)
    for mode in ("eval", "train"):
        with torch.no_grad():
            found = encoder.train(mode == "train").endpoints(video)
        assert sorted(found) == sorted(golden.settings["endpoints"])
        for name, feature_map in found.items():
            golden.check(f"{mode}/{name}", feature_map.permute(0, 2, 3, 4, 1))
    check_statistics(golden, encoder.state_dict(), config)


@pytest.mark.golden("const_cl/r3d")
def test_networks_in_flax(golden):
    config, state = network(golden)
    module, variables = r3d_flax.R3D(config), to_flax_variables(state)
    for mode in ("eval", "train"):
        run = jax.jit(
            lambda v, x, train=mode == "train": module.apply(
                v, x, train=train, mutable=["batch_stats"]
            )
        )
        found, changed = run(variables, video_of(golden))
        assert sorted(found) == sorted(golden.settings["endpoints"])
        for name, feature_map in found.items():
            golden.check(f"{mode}/{name}", feature_map)
    check_statistics(golden, to_torch_state(changed), config)


# Heads --------------------------------------------------------------------------------------------

_KINDS = {"gamma": "weight", "beta": "bias", **LEAVES}


def layers_below(g, prefix):
    """number -> {TensorFlow's name: array} of the numbered layers below a prefix of param/."""
    layers = {}
    for key, value in g.below(f"param/{prefix}").items():
        number, _, leaf = key.partition("/")
        if number.isdigit() and "/" not in leaf:
            layers.setdefault(int(number), {})[leaf] = value
    return dict(sorted(layers.items()))


def head_names(layers):
    """number -> the name of our layer."""
    names, count = {}, 0
    for place, (number, layer) in enumerate(layers.items()):
        if "gamma" in layer:
            names[number] = f"norm{count}"
            count += 1
        else:
            names[number] = "dense_out" if place == len(layers) - 1 else f"dense{count}"
    return names


def head_state(layers):
    """The torch state of a head from its numbered layers."""
    state = {}
    for number, name in head_names(layers).items():
        layer = layers[number]
        if "gamma" in layer:
            state |= {f"{name}.{_KINDS[k]}": v for k, v in layer.items()}
            state[f"{name}.num_batches_tracked"] = np.zeros((), np.int64)
        else:
            state[f"{name}.weight"] = np.ascontiguousarray(layer["kernel"].T)
            if "bias" in layer:
                state[f"{name}.bias"] = layer["bias"]
    return {k: np.array(v) for k, v in state.items()}


@pytest.mark.golden("const_cl/mlp_head")
def test_heads(golden):
    settings, layers = golden.settings, layers_below(golden, "_layers/")
    state, names = head_state(layers), head_names(layers)
    options = {
        "hidden_dims": (settings["hidden_dim"],) * settings["hidden_layers"],
        "out_dim": settings["out_dim"],
        "hidden_bias": settings["hidden_bias"],
        "norm_momentum": settings["batch_norm"]["tf_momentum"],
        "norm_eps": settings["batch_norm"]["eps"],
        "normalize_inputs": settings["normalize_inputs"],
    }
    assert settings["normalize_eps"] == 1e-12
    inputs = golden["inputs"].copy()
    torch_head = r3d.ProjectionHead(inputs.shape[1], **options)
    torch_head.load_state_dict({k: torch.from_numpy(v) for k, v in state.items()}, strict=True)
    flax_head = r3d_flax.ProjectionHead(**options)
    for mode in ("eval", "train"):
        torch_head.train(mode == "train")
        with torch.no_grad():
            golden.check(f"out_{mode}", torch_head(torch.from_numpy(inputs)))
        found, changed = flax_head.apply(
            to_flax_variables(state), inputs, train=mode == "train", mutable=["batch_stats"]
        )
        golden.check(f"out_{mode}", found)
    for after in (torch_head.state_dict(), to_torch_state(changed)):
        for name in golden.given_below("after_train/_layers/"):
            number, _, leaf = name.partition("/")
            place = f"{names[int(number)]}.{LEAVES[leaf]}"
            golden.check(f"after_train/_layers/{name}", after[place])


# CVRL as a whole ----------------------------------------------------------------------------------


@pytest.mark.golden("const_cl/cvrl_model")
def test_the_model_of_cvrl_and_its_loss(golden):
    settings = golden.settings
    config, state = network(golden, num_frames=golden["frames_u8"].shape[1])
    layers = layers_below(golden, "layer_with_weights-")
    head = head_state({n: layer for n, layer in layers.items() if n > 0})
    own = settings["head"]
    assert ("dense0.bias" in head) == own["hidden_bias"]
    parts = {"encoder": to_flax_variables(state), "head": to_flax_variables(head)}
    variables = {
        group: {name: part[group] for name, part in parts.items()}
        for group in ("params", "batch_stats")
    }
    model = CvrlModel(config, tuple(own["hidden_dims"]), own["out_dim"])
    video = video_of(golden)
    found = {}
    for mode in ("eval", "train"):
        run = jax.jit(
            lambda v, x, train=mode == "train": model.apply(
                v, x, train=train, mutable=["batch_stats"]
            )[0]
        )
        found[f"out_{mode}"], _ = run(variables, video)
    golden.check_all(found)
    z = found[settings["loss_on"]]
    count = len(z) // 2
    loss, told = contrastive_loss(z[:count], z[count:], temperature=settings["temperature"])
    penalty = kernel_penalty(variables["params"], settings["weight_decay"])
    figures = {
        "contrastive_loss": loss,
        "reg_loss": penalty,
        "total_loss": loss + penalty,
        "contrast_acc": told["accuracy"],
        "contrast_entropy": told["entropy"],
    }
    golden.check_all({f"loss/{name}": value for name, value in figures.items()})


# TensorFlow's files -------------------------------------------------------------------------------


@pytest.mark.golden("vatt/tf_checkpoint")
def test_a_checkpoint_is_read_to_the_bit(golden, tmp_path):
    for array, name in golden.settings["file_names"].items():
        (tmp_path / name).write_bytes(golden[array].tobytes())
    found = read_tf_checkpoint(tmp_path)
    if golden.gives("names"):
        order = {name: place for place, name in enumerate(golden["names"].tolist())}
        golden.check("names", sorted(found, key=lambda name: order.get(name, len(order))))
    for name in golden.given_below("var/"):
        assert found[name].dtype == golden[f"var/{name}"].dtype
        golden.check(f"var/{name}", found[name])
