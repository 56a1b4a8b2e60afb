"""ConST-CL: boxes, regions, decoder, losses and the model as a whole, against the reference's numbers.

The reference has boxes as y, x, y, x; ours are x, y, x, y.
"""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from test_r3d import head_names, head_state, layers_below, network, video_of

from video_ssl.clips.box_transforms import Geometry
from video_ssl.clips.regions import random_boxes
from video_ssl.models.networks import regions as torch_regions
from video_ssl.models.networks import regions_flax
from video_ssl.models.networks.r3d_bridge import (
    tf_layer_names,
    to_flax_variables,
    to_torch_state,
)
from video_ssl.models.networks.region_config import DecoderConfig, memory_frames
from video_ssl.objectives.const_cl.config import LocalHeadConfig
from video_ssl.objectives.const_cl.loss_flax import (
    Regions,
    both_directions,
    replica_losses,
    similarities,
)
from video_ssl.objectives.const_cl.model_flax import ConstClModel, InstanceReconstructor
from video_ssl.objectives.cvrl.loss_flax import contrastive_loss
from video_ssl.objectives.shared.contrastive_flax import kernel_penalty

UNIT = {
    "layer_q": "query",
    "layer_k": "key",
    "layer_v": "value",
    "layer_norm": "norm",
    "ffn1": "ffn1",
    "ffn2": "ffn2",
}


def xyxy(boxes):
    return np.asarray(boxes)[..., [1, 0, 3, 2]]


# Boxes --------------------------------------------------------------------------------------------


@pytest.mark.golden("const_cl/random_boxes")
def test_random_boxes(golden):
    settings = golden.settings
    assert settings["max"] == 0.999
    uniforms = [golden[f"u_{name}"] for name in ("xmin", "ymin", "xdelta", "aspect")]
    boxes = random_boxes(
        np.stack(uniforms), width=tuple(settings["width"]), aspect=tuple(settings["aspect"])
    )
    golden.check("boxes_yxyx", xyxy(boxes))
    golden.check("mask", np.ones(boxes.shape[:-1], bool))


def geometry_of(image_info):
    original, target, scale, offset = (tuple(map(float, row)) for row in image_info)
    return Geometry(original=original, target=target, scale=scale, offset=offset)


@pytest.mark.golden("const_cl/box_transforms")
def test_boxes_follow_their_frames(golden_case):
    geometry = geometry_of(golden_case["image_info"])
    for flip in golden_case.settings["flips"]:
        boxes, valid = geometry.boxes(xyxy(golden_case["boxes"]), flip=bool(flip))
        golden_case.check(f"out_flip{flip}", xyxy(boxes))
        golden_case.check(f"valid_flip{flip}", valid)


@pytest.mark.golden("const_cl/box_transforms")
def test_steps_are_put_one_behind_another(golden):
    """`compose` of the settings says "A = B composed with C"."""
    names = re.fullmatch(r"(\S+) = (\S+) composed with (\S+)", golden.settings["compose"])
    expected, first, second = (geometry_of(golden[name]) for name in names.groups())
    both = first.then(second)
    for name in ("original", "target", "scale", "offset"):
        np.testing.assert_allclose(getattr(both, name), getattr(expected, name), atol=1e-5)


# Parts of the head --------------------------------------------------------------------------------


@pytest.mark.golden("const_cl/roi_align")
def test_roi_align(golden):
    assert golden.settings["sample_offset"] == 0.5
    assert golden.settings["samples_per_bin"] == 1
    features, boxes = golden["features"], xyxy(golden["boxes_normalized"])
    pairs = (torch.from_numpy(np.array(x, np.float32)) for x in (features, boxes))
    given = tuple(pairs)
    for size in golden.settings["crop_sizes"]:
        crops = regions_flax.roi_align(jnp.asarray(features), jnp.asarray(boxes), size)
        golden.check(f"crops{size}", crops)
        golden.check(f"max{size}", crops.max((2, 3)))
        golden.check(f"mean{size}", crops.mean((2, 3)))
        found = regions_flax.roi_mean(jnp.asarray(features), jnp.asarray(boxes), size)
        golden.check(f"mean{size}", found)
        golden.check(f"crops{size}", torch_regions.roi_align(*given, size))


def decoder_config(settings):
    return DecoderConfig(
        num_layers=settings["num_tx_layers" if "num_tx_layers" in settings else "num_layers"],
        num_heads=settings["num_tx_heads" if "num_tx_heads" in settings else "num_heads"],
        num_channels=settings[
            "num_tx_channels" if "num_tx_channels" in settings else "num_channels"
        ],
        norm_eps=settings["norm_eps"],
    )


def decoder_name(path):
    """`_layers/L/_mha_units/H/LAYER` in our words."""
    _, layer, _, head, part = path.split("/")
    return f"layer{layer}_unit{head}.{UNIT[part]}"


def local_names(path):
    """The name of a layer of the head of regions in our words."""
    if path.startswith("_attention_decoder/"):
        return f"decoder.{decoder_name(path.removeprefix('_attention_decoder/'))}"
    first, *number = path.split("/")
    if first == "_projection_layer":
        return "project"
    return f"positions.{first.removeprefix('_').removesuffix('_mlp')}{number[0]}"


def state_of_tf(arrays, name_of):
    """The torch state of dense layers and layer norms under our names."""
    state = {}
    for key, value in arrays.items():
        layer, _, leaf = key.rpartition("/")
        kind = {"kernel": "weight", "gamma": "weight", "beta": "bias", "bias": "bias"}[leaf]
        state[f"{name_of(layer)}.{kind}"] = np.array(value.T if leaf == "kernel" else value)
    return state


@pytest.mark.golden("const_cl/transformer_decoder")
def test_decoder_in_flax_and_torch(golden):
    assert golden.settings["activation"] == "gelu_erf"
    config = decoder_config(golden.settings)
    state = state_of_tf(golden.below("param/"), decoder_name)
    query, memory = golden["query"], golden["memory"]
    memory = memory.reshape(len(memory), -1, memory.shape[-1])
    found = regions_flax.RegionDecoder(config).apply(to_flax_variables(state), query, memory)
    twin = torch_regions.RegionDecoder(config, query.shape[-1], memory.shape[-1])
    twin.load_state_dict({k: torch.from_numpy(v) for k, v in state.items()}, strict=True)
    with torch.no_grad():
        same = twin(*(torch.from_numpy(np.array(x)) for x in (query, memory)))
    for hidden, attention in (found, same):
        golden.check("hidden_states", hidden)
        golden.check("attention_layer0", attention)


@pytest.mark.golden(
    "const_cl/instance_reconstructor",
    unsupported=[("normalize_features", False, "every published run normalises them")],
)
def test_instance_reconstructor(golden):
    settings = golden.settings
    level, moments = settings["context_level"], golden["features"].shape[1]
    assert memory_frames(moments, level) == settings["memory_frames"]
    assert settings["keyframe_feature_index"] == moments // 2
    middle = golden["instances_position"].shape[1] // 2
    assert settings["keyframe_box_index"] == middle
    config = LocalHeadConfig(
        context_level=level,
        crop_size=settings["roi_crop_size"],
        decoder=decoder_config(settings),
    )
    state = state_of_tf(golden.below("param/"), local_names)
    boxes, mask = golden["instances_position"][:, middle], golden["instances_mask"][:, middle]
    found = InstanceReconstructor(config).apply(
        to_flax_variables(state), golden["features"], xyxy(boxes), mask
    )
    check_regions(golden, found)


def check_regions(golden, found):
    for name in ("a", "b", "a2b", "b2a"):
        golden.check(f"out_inst_{name}", getattr(found, name))
    golden.check("out_masks_a", found.mask_a)
    golden.check("out_masks_b", found.mask_b)


# Losses -------------------------------------------------------------------------------------------

INPUTS = ("a", "b", "a2b", "b2a")


@pytest.mark.golden("const_cl/local_loss")
def test_local_loss(golden_case):
    """Of one replica, or of several, each of which averages over its own regions; with their gradients."""
    settings = golden_case.settings
    replicas, temperature = settings.get("replicas", 1), settings["temperature"]
    options = {"temperature": temperature, "normalize": settings["normalize"]}
    given = [golden_case[f"instances_{name}"] for name in INPUTS]
    masks = [golden_case[f"masks_{name}"] for name in "ab"]
    joint = [x.reshape(-1, *x.shape[-2:]) for x in given]
    masks = [m.reshape(-1, m.shape[-1]) for m in masks]

    def losses(joint):
        terms = both_directions(Regions(*joint, *masks), pad_as_regions=True, **options)
        each = replica_losses(terms, replicas)
        return each.sum(), (each, terms)

    (_, (each, terms)), gradients = jax.jit(jax.value_and_grad(losses, has_aux=True))(joint)
    golden_case.check("loss", each if "replicas" in settings else each[0])
    golden_case.check("out_loss", each[0])
    for name, value in similarities(terms, temperature).items():
        golden_case.check(f"out_{name}", value)
    for name, term in zip(("a2b", "b2a"), terms, strict=True):
        golden_case.check(f"match_{name}", term.match)
    for name, value, gradient in zip(INPUTS, given, gradients, strict=True):
        golden_case.check(f"grad_instances_{name}", gradient.reshape(value.shape))
        golden_case.check(f"grad_of_summed_loss_instances_{name}", gradient.reshape(value.shape))


# The model as a whole -----------------------------------------------------------------------------


@pytest.mark.golden("const_cl/const_cl_model")
def test_the_model_its_losses_and_gradients(golden):
    settings = golden.settings
    frames, moment = golden["frames_u8"], golden["instances_position"].shape[1] // 2
    config, state = network(golden, num_frames=frames.shape[1])
    layers = layers_below(golden, "layer_with_weights-1/_layers/")
    head, local = (
        head_state(layers),
        state_of_tf(golden.below("param/layer_with_weights-2/"), local_names),
    )
    assert (
        len([k for k in head if k.endswith("running_mean")])
        == (settings["global_head"]["hidden_layers"])
    )
    parts = {
        name: to_flax_variables(part)
        for name, part in (("encoder", state), ("head", head), ("local_head", local))
    }
    variables = {
        kind: {name: part[kind] for name, part in parts.items() if part[kind]}
        for kind in ("params", "batch_stats")
    }
    last = max(layers)
    hidden = tuple(
        layer["kernel"].shape[1] for n, layer in layers.items() if "kernel" in layer and n != last
    )
    model = ConstClModel(
        config,
        LocalHeadConfig(
            context_level=settings["context_level"],
            crop_size=settings["roi_crop_size"],
            decoder=decoder_config(settings),
        ),
        hidden,
        layers[last]["kernel"].shape[1],
    )
    boxes = xyxy(golden["instances_position"][:, moment])
    mask = golden["instances_mask"][:, moment]
    temperatures, weights = settings["temperature"], settings["loss_weights"]

    def total(params):
        out, _ = model.apply(
            {**variables, "params": params},
            video_of(golden),
            boxes,
            mask,
            train=True,
            mutable=["batch_stats"],
        )
        first, second = jnp.split(out.z, 2)
        clips, told = contrastive_loss(first, second, temperature=temperatures["global"])
        terms = both_directions(out.regions, temperature=temperatures["local"], pad_as_regions=True)
        regions = replica_losses(terms).mean()
        penalty = kernel_penalty(params, settings["weight_decay"])
        loss = weights["global"] * clips + weights["local"] * regions + penalty
        figures = {
            "regularization_loss": penalty,
            "global_loss.loss": clips,
            "global_loss.contrastive_accuracy": told["accuracy"],
            "global_loss.contrastive_entropy": told["entropy"],
            "local_loss.loss": regions,
            "total": loss,
        }
        similar = similarities(terms, temperatures["local"])
        figures |= {f"local_loss.{name}": value for name, value in similar.items()}
        return loss, (out, figures)

    (_, (out, figures)), gradients = jax.jit(jax.value_and_grad(total, has_aux=True))(
        variables["params"]
    )
    check_regions(golden, out.regions)
    golden.check("out_global_embeddings", out.z)
    golden.check_all({f"loss/{name}": value for name, value in figures.items()})
    found = to_torch_state({"params": gradients})
    for name in golden.given_below("grad/"):
        gradient = found[name_of_weight(name, config, layers)]
        axes = {1: (0,), 2: (1, 0), 5: (2, 3, 4, 1, 0)}[gradient.ndim]
        golden.check(f"grad/{name}", gradient.transpose(axes))


def name_of_weight(key, config, layers):
    """Our name, prefix and all, of a trained weight of the reference's model."""
    part, _, path = key.partition("/")
    layer, _, leaf = path.rpartition("/")
    kind = "bias" if leaf in ("beta", "bias") else "weight"
    if part == "layer_with_weights-0":
        return f"encoder.{tf_layer_names(config, True)[layer]}.{kind}"
    if part == "layer_with_weights-1":
        return f"head.{head_names(layers)[int(layer.rpartition('/')[2])]}.{kind}"
    return f"local_head.{local_names(layer)}.{kind}"
