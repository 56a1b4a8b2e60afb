"""Weights of VATT's encoders between torch, flax and TensorFlow's checkpoints, as numpy arrays.

torch and flax use the same names, `transformer.blocks.0.norm1.weight` and `params/transformer/blocks_0/norm1/scale`:

| torch | flax | axes |
|---|---|---|
| linear `weight` | params `kernel` | (out, in) <-> (in, out) |
| conv `weight` of `patch_embed` | params `kernel` | (out, in, ...) <-> (..., in, out) |
| norm `weight`, any `bias` | params `scale`, `bias` | |
| `running_mean`, `running_var` | batch_stats `mean`, `var` | |
| `num_batches_tracked` | not there, 0 in torch | |
| `frozen_table` | frozen `frozen_table` | |
| tables and aggregation tokens | params, the same | |
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from video_ssl.models.networks.bridges import BridgeError, walk

Arrays = dict[str, NDArray[Any]]
_STATISTICS = {"mean": "running_mean", "var": "running_var"}
_OF_STATISTICS = {ours: theirs for theirs, ours in _STATISTICS.items()}
_AS_THEY_ARE = ("agg", "agg_position", "table", "temporal", "vertical", "horizontal")


def to_torch_state(variables: Mapping[str, Any]) -> Arrays:
    """Returns the torch state dict of flax variables {"params": .., "batch_stats": .., "frozen": ..}, arrays of its
    own.

    Raises:
        BridgeError: a name without a counterpart.
    """
    state: Arrays = {}
    for path, leaf in walk(variables):
        kind, *layers, name = path
        value = np.array(leaf)
        place = [re.sub(r"^blocks_(\d+)$", r"blocks.\1", layer) for layer in layers]
        if kind == "params" and name == "kernel":
            state[".".join([*place, "weight"])] = from_kernel(value)
        elif kind == "params" and name in ("scale", "bias"):
            state[".".join([*place, "weight" if name == "scale" else "bias"])] = value
        elif kind == "batch_stats" and name in _STATISTICS:
            state[".".join([*place, _STATISTICS[name]])] = value
            state[".".join([*place, "num_batches_tracked"])] = np.zeros((), np.int64)
        elif (kind == "params" and name in _AS_THEY_ARE) or (kind, name) == (
            "frozen",
            "frozen_table",
        ):
            state[".".join([*place, name])] = value
        else:
            raise BridgeError(f"{'/'.join(path)} {value.shape} has no counterpart in torch.")
    return state


def to_flax_variables(state: Mapping[str, NDArray[Any]]) -> dict[str, Any]:
    """Returns flax variables of a torch state dict of arrays.

    Raises:
        BridgeError: a name without a counterpart.
    """
    variables: dict[str, Any] = {"params": {}}
    for key, value in state.items():
        *layers, name = re.sub(r"\bblocks\.(\d+)", r"blocks_\1", key).split(".")
        if name == "num_batches_tracked":
            continue
        if name == "weight" and value.ndim > 1:
            _put(variables, ["params", *layers, "kernel"], to_kernel(value))
        elif name in ("weight", "bias"):
            leaf = "scale" if name == "weight" else "bias"
            _put(variables, ["params", *layers, leaf], value.copy())
        elif name in _OF_STATISTICS:
            _put(variables, ["batch_stats", *layers, _OF_STATISTICS[name]], value.copy())
        elif name in _AS_THEY_ARE or name == "frozen_table":
            kind = "frozen" if name == "frozen_table" else "params"
            _put(variables, [kind, *layers, name], value.copy())
        else:
            raise BridgeError(f"{key} {value.shape} has no counterpart in flax.")
    return variables


def from_kernel(value: NDArray[Any]) -> NDArray[Any]:
    """Returns (out, in, ...) of (..., in, out)."""
    axes = range(value.ndim)
    return np.ascontiguousarray(value.transpose(axes[-1], axes[-2], *axes[:-2]))


def to_kernel(value: NDArray[Any]) -> NDArray[Any]:
    """Returns (..., in, out) of (out, in, ...)."""
    axes = range(value.ndim)
    return np.ascontiguousarray(value.transpose(*axes[2:], 1, 0))


def _put(tree: dict[str, Any], path: list[str], value: NDArray[Any]) -> None:
    for name in path[:-1]:
        tree = tree.setdefault(name, {})
    tree[path[-1]] = value


# TensorFlow ---------------------------------------------------------------------------------------

SUFFIX = "/.ATTRIBUTES/VARIABLE_VALUE"
#: The encoders that leave a training.
ENCODERS = ("video", "sound", "text")
_PREFIX = "model/layer_with_weights-0/"
_SPECIFIC = {"vid_backbone/_base": "video", "aud_backbone/_base": "sound", "txt_backbone": "text"}
_SHORT = {
    "video": "video",
    "audio": "sound",
    "text": "text",
    "vid": "video",
    "aud": "sound",
    "txt": "text",
}
_LEAVES = {
    "kernel": "weight",
    "gamma": "weight",
    "weight": "weight",
    "beta": "bias",
    "bias": "bias",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
}
#: Layer below a backbone -> ours; `N` is the number of a block.
_LAYERS = {
    "voxel_to_patch": "patch_embed",
    "wave_to_patch": "patch_embed",
    "pre_proj": "pre_proj",
    "pos_embedding_lookup/layernorm": "positions.norm",
    "tx/layers/N/layer_norm": "transformer.blocks.N.norm1",
    "tx/layers/N/feed_forward/layer_norm": "transformer.blocks.N.norm2",
    "tx/layers/N/feed_forward/mlp/wi": "transformer.blocks.N.mlp.fc1",
    "tx/layers/N/feed_forward/mlp/wo": "transformer.blocks.N.mlp.fc2",
    "tx/final_layer_norm": "transformer.norm",
    "base_lm/layers/N/self_attention/layer_norm": "transformer.blocks.N.norm1",
    "base_lm/layers/N/feed_forward/layer_norm": "transformer.blocks.N.norm2",
    "base_lm/layers/N/feed_forward/mlp/wi": "transformer.blocks.N.mlp.fc1",
    "base_lm/layers/N/feed_forward/mlp/wo": "transformer.blocks.N.mlp.fc2",
    "base_lm/final_layer_norm": "transformer.norm",
    **{f"tx/layers/N/mha/{x}": f"transformer.blocks.N.attn.{x}" for x in "qkvo"},
    **{
        f"base_lm/layers/N/self_attention/attention/{x}": f"transformer.blocks.N.attn.{x}"
        for x in "qkvo"
    },
}
#: Variable below a backbone that no layer with a kernel has -> ours.
_VARIABLES = {
    "agg_embedding": "agg",
    "embedding/embeddings": "words.frozen_table",
    "base_lm/layers/0/self_attention/attention/relative_attention_bias/embeddings": "relative.table",
    **{
        f"pos_embedding_lookup/{axis}_position_embeddings/embeddings": f"positions.{axis}"
        for axis in ("temporal", "vertical", "horizontal")
    },
}
#: Layer of the heads -> encoder, ours.
_HEADS = {
    "vid_to_hid": ("video", "heads.hidden"),
    "hid_to_va/pre_bn": ("video", "heads.hidden_norm"),
    "hid_to_va/dense": ("video", "heads.sound"),
    "hid_to_va/bn": ("video", "heads.sound_norm"),
    "va_to_vat/dense": ("video", "heads.text"),
    "va_to_vat/bn": ("video", "heads.text_norm"),
    "aud_to_va": ("sound", "heads.dense"),
    "txt_to_vat": ("text", "heads.dense"),
}


def names_of_tf(key: str) -> list[tuple[str, str]]:
    """Returns the places of a variable of a checkpoint: encoder ("video", "sound", "text") and name in torch; none
    where it belongs to no encoder.  A variable of the shared transformer of a modality-agnostic model has three.

    Args:
        key: without the suffix of values.

    >>> names_of_tf("model/layer_with_weights-0/_base_layer/aud_backbone/_base/tx/layers/3/mha/q/kernel")
    [('sound', 'transformer.blocks.3.attn.q.weight')]
    """
    key = key.removeprefix(_PREFIX)
    heads = "_head_layer/_bridge_heads/0/"
    if key.startswith(heads):
        layer, _, leaf = key.removeprefix(heads).rpartition("/")
        if layer not in _HEADS or leaf not in _LEAVES:
            return []
        encoder, name = _HEADS[layer]
        return [(encoder, f"{name}.{_LEAVES[leaf]}")]
    key = key.removeprefix("_base_layer/")
    shared = "unified_backbone/unified_transformer/"
    if key.startswith(shared):
        return _of_shared(key.removeprefix(shared))
    for start, encoder in _SPECIFIC.items():
        if key.startswith(start + "/"):
            found = _below_backbone(key.removeprefix(start + "/"))
            return [(encoder, found)] if found else []
    return []


def _of_shared(key: str) -> list[tuple[str, str]]:
    """The places of a variable of the modality-agnostic model."""
    if key.startswith("tx/"):
        name = _below_backbone(key)
        return [(encoder, name) for encoder in ENCODERS] if name else []
    if match := re.fullmatch(r"(vid|aud|txt)_agg_embedding", key):
        return [(_SHORT[match[1]], "agg")]
    if key == "raw_to_embeddings/text/embeddings":
        return [("text", "words.frozen_table")]
    match = re.fullmatch(
        r"(raw_to_embeddings|pre_proj|post_proj|pos_embedding_lookup)/(video|audio|text)/(.+)", key
    )
    if match is None:
        return []
    part, encoder, rest = match[1], _SHORT[match[2]], match[3]
    if part == "pos_embedding_lookup":
        name = _below_backbone(f"{part}/{rest}")
    else:
        layer = "patch_embed" if part == "raw_to_embeddings" else part
        name = f"{layer}.{_LEAVES[rest]}" if rest in _LEAVES else None
    return [(encoder, name)] if name else []


def _below_backbone(key: str) -> str | None:
    """Our name of a variable below the backbone of one modality; None where there is no such."""
    if key in _VARIABLES:
        return _VARIABLES[key]
    layer, _, leaf = key.rpartition("/")
    number = re.search(r"layers/(\d+)/", layer)
    known = _LAYERS.get(re.sub(r"layers/\d+/", "layers/N/", layer))
    if known is None or leaf not in _LEAVES:
        return None
    return f"{known.replace('N', number[1]) if number else known}.{_LEAVES[leaf]}"


def from_tf(arrays: Mapping[str, NDArray[Any]]) -> tuple[dict[str, Arrays], list[str]]:
    """Returns the torch states of the encoders of a checkpoint, "video", "sound" and "text" where they are there, and
    the keys that belong to none.

    Args:
        arrays: by key, with or without the suffix of values; slots of optimizers are not among them.
    """
    states: dict[str, Arrays] = {}
    unused = []
    starts = _other_starts(arrays)
    for key, value in arrays.items():
        plain = key.removesuffix(SUFFIX)
        start = next((s for s in starts if plain.startswith(s)), "")
        places = names_of_tf(starts[start] + plain.removeprefix(start) if start else plain)
        if not places:
            unused.append(key)
        for encoder, name in places:
            _fill(states.setdefault(encoder, {}), name, np.asarray(value, np.float32))
    return states, unused


#: Where a backbone is found in a checkpoint with other names around it, such as a fine-tuned one -> its usual place.
_ANCHORS = {
    "voxel_to_patch/kernel": "_base_layer/vid_backbone/_base/",
    "wave_to_patch/kernel": "_base_layer/aud_backbone/_base/",
    "raw_to_embeddings/video/kernel": "_base_layer/unified_backbone/unified_transformer/",
}


def _other_starts(arrays: Mapping[str, NDArray[Any]]) -> dict[str, str]:
    """What stands before the names of a backbone -> what stands there in a pre-trained checkpoint."""
    plain = [key.removesuffix(SUFFIX) for key in arrays]
    return {
        key.removesuffix(anchor): usual
        for key in plain
        for anchor, usual in _ANCHORS.items()
        if key.endswith("/" + anchor)
    }


def _fill(state: Arrays, name: str, value: NDArray[Any]) -> None:
    layer, _, leaf = name.rpartition(".")
    state[name] = from_kernel(value) if leaf == "weight" and value.ndim > 1 else value.copy()
    if leaf == "running_var":
        state[f"{layer}.num_batches_tracked"] = np.zeros((), np.int64)
