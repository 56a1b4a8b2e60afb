"""Weights of R3D and 3D ResNet-RS between torch, flax and TensorFlow's checkpoints, as numpy arrays.

torch and flax use the same names, `res2_block0.norm1.weight` and `params/res2_block0/norm1/scale`; only the last part
and the order of axes differ:

| torch | flax | axes |
|---|---|---|
| conv `weight` | params `kernel` | (out, in, t, h, w) <-> (t, h, w, in, out) |
| linear `weight` | params `kernel` | (out, in) <-> (in, out) |
| norm `weight`, any `bias` | params `scale`, `bias` | |
| `running_mean`, `running_var` | batch_stats `mean`, `var` | |
| `num_batches_tracked` | not there, 0 in torch | |

Heads (`ProjectionHead`) follow the same rules.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from video_ssl.models.networks.bridges import BridgeError, walk
from video_ssl.models.networks.r3d_config import R3DConfig, bottleneck_specs, stem_specs

Arrays = dict[str, NDArray[Any]]
_STATISTICS = {"mean": "running_mean", "var": "running_var"}


def to_torch_state(variables: Mapping[str, Any]) -> Arrays:
    """Returns the torch state dict of flax variables {"params": ..., "batch_stats": ...}, float32 arrays of its own.

    Raises:
        BridgeError: a name without a counterpart.
    """
    state: Arrays = {}
    for path, value in _leaves(variables.get("params", {})):
        *layer, leaf = path
        if leaf == "kernel" and value.ndim in (2, 5):
            state[".".join([*layer, "weight"])] = _from_kernel(value)
        elif leaf in ("scale", "bias"):
            state[".".join([*layer, "weight" if leaf == "scale" else "bias"])] = value.copy()
        else:
            raise BridgeError(f"params/{'/'.join(path)} {value.shape} has no counterpart in torch.")
    for path, value in _leaves(variables.get("batch_stats", {})):
        *layer, leaf = path
        if leaf not in _STATISTICS:
            raise BridgeError(f"batch_stats/{'/'.join(path)} has no counterpart in torch.")
        state[".".join([*layer, _STATISTICS[leaf]])] = value.copy()
        state[".".join([*layer, "num_batches_tracked"])] = np.zeros((), np.int64)
    return state


def to_flax_variables(state: Mapping[str, NDArray[Any]]) -> dict[str, Any]:
    """Returns flax variables {"params": ..., "batch_stats": ...} of a torch state dict of arrays.

    Raises:
        BridgeError: a name without a counterpart.
    """
    variables: dict[str, Any] = {"params": {}, "batch_stats": {}}
    for key, value in state.items():
        *layer, leaf = key.split(".")
        if leaf == "num_batches_tracked":
            continue
        if leaf == "weight" and value.ndim in (2, 5):
            _put(variables["params"], [*layer, "kernel"], _to_kernel(value))
        elif leaf in ("weight", "bias") and value.ndim == 1:
            _put(
                variables["params"], [*layer, "scale" if leaf == "weight" else "bias"], value.copy()
            )
        elif leaf in ("running_mean", "running_var"):
            _put(variables["batch_stats"], [*layer, leaf.removeprefix("running_")], value.copy())
        else:
            raise BridgeError(f"{key} {value.shape} has no counterpart in flax.")
    return variables


def _from_kernel(value: NDArray[Any]) -> NDArray[Any]:
    axes = (1, 0) if value.ndim == 2 else (4, 3, 0, 1, 2)
    return np.ascontiguousarray(value.transpose(axes))


def _to_kernel(value: NDArray[Any]) -> NDArray[Any]:
    axes = (1, 0) if value.ndim == 2 else (2, 3, 4, 1, 0)
    return np.ascontiguousarray(value.transpose(axes))


def _leaves(tree: Mapping[str, Any]) -> Iterator[tuple[tuple[str, ...], NDArray[Any]]]:
    return ((path, np.asarray(value)) for path, value in walk(tree))


def _put(tree: dict[str, Any], path: list[str], value: NDArray[Any]) -> None:
    for name in path[:-1]:
        tree = tree.setdefault(name, {})
    tree[path[-1]] = value


# TensorFlow ---------------------------------------------------------------------------------------

_SUFFIX = "/.ATTRIBUTES/VARIABLE_VALUE"
_NORM = {
    "gamma": "weight",
    "beta": "bias",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
}
_BLOCK_LAYERS = {
    "_shortcut_conv": "shortcut_conv",
    "_temporal_conv": "temporal_conv",
    "_spatial_conv": "spatial_conv",
    "_expand_conv": "expand_conv",
    "_self_gating/_transformer_w": "self_gating",
    "_squeeze_excitation/_se_reduce": "se_reduce",
    "_squeeze_excitation/_se_expand": "se_expand",
    **{f"_norm{i}": f"norm{i}" for i in range(4)},
}


def backbone_of_tf(arrays: Mapping[str, NDArray[Any]]) -> Arrays:
    """Returns the backbone of a checkpoint's arrays under keys without what stands before and behind them.

    Known places, by what follows them: `layer_with_weights-0/kernel` (ResNet3D) or `_stem_conv/kernel` (ConST-CL's
    ResNet3DY), both 5-D.  Slots of optimizers and everything outside the backbone are left out.

    Raises:
        BridgeError: no such place.
    """
    plain = {k.removesuffix(_SUFFIX): v for k, v in arrays.items() if ".OPTIMIZER_SLOT" not in k}
    start = _start_of_tf(plain)
    inside = {k[len(start) :]: v for k, v in plain.items() if k.startswith(start)}
    return {k: v for k, v in inside.items() if "/" in k}  # without save_counter and the like


def outside_backbone_of_tf(arrays: Mapping[str, NDArray[Any]]) -> list[str]:
    """Returns the keys of a checkpoint's arrays that are not of the backbone; errors as `backbone_of_tf`."""
    start = _start_of_tf({k.removesuffix(_SUFFIX): v for k, v in arrays.items()})
    return [key for key in arrays if not key.startswith(start)]


def _start_of_tf(plain: Mapping[str, NDArray[Any]]) -> str:
    """What stands before the keys of the backbone."""
    starts = [
        key[: -len(end)]
        for key, value in plain.items()
        for end in ("layer_with_weights-0/kernel", "_stem_conv/kernel")
        if (key == end or key.endswith("/" + end)) and value.ndim == 5
    ]
    if not starts:
        names = ", ".join(sorted(plain)[:5])
        raise BridgeError(
            "there is no backbone of the family R3D / 3D ResNet-RS: no layer_with_weights-0/kernel or "
            f"_stem_conv/kernel with five axes. The first names are {names or 'none'}."
        )
    return min(starts, key=len)


def tf_layer_names(config: R3DConfig, named: bool) -> dict[str, str]:
    """Returns TensorFlow's name of each layer -> ours, for layers with a kernel and for norms.

    Args:
        config: of the network.
        named: names of ConST-CL's ResNet3DY (`_blocks/res_2/cell_0`); else Keras counts the layers in order.
    """
    names: dict[str, str] = {}
    stems = stem_specs(config)
    if named and len(stems) > 1:
        raise BridgeError(
            "the names of a ResNet3DY with stem 'v1' are not known (papers/const_cl.md section 8)."
        )
    for i, stem in enumerate(stems):
        pair = (
            ("_stem_conv", "_stem_bn")
            if named
            else (f"layer_with_weights-{2 * i}", f"layer_with_weights-{2 * i + 1}")
        )
        names |= dict(zip(pair, (stem.name, stem.norm), strict=True))
    count = 2 * len(stems)
    for endpoint, specs in bottleneck_specs(config).items():
        if endpoint == "5_1" and not named:
            raise BridgeError(
                "a second branch has names, not numbers, in TensorFlow's checkpoints."
            )
        for i, spec in enumerate(specs):
            group = "_res_5_1_layers" if endpoint == "5_1" else f"_blocks/res_{endpoint}"
            block = f"{group}/cell_{i}" if named else f"layer_with_weights-{count}"
            count += 1
            names |= {f"{block}/{old}": f"{spec.name}.{new}" for old, new in _BLOCK_LAYERS.items()}
    return names


def from_tf(backbone: Mapping[str, NDArray[Any]], config: R3DConfig) -> Arrays:
    """Returns the torch state dict of a backbone as `backbone_of_tf` gives it.

    Raises:
        BridgeError: a key without a place; missing ones are found when the state is loaded.
    """
    layers = tf_layer_names(config, named="_stem_conv/kernel" in backbone)
    state: Arrays = {}
    for key, value in backbone.items():
        layer, _, leaf = key.rpartition("/")
        if layer not in layers or leaf not in (*_NORM, "kernel", "bias"):
            raise BridgeError(
                f"{key} {value.shape} has no place in the network: do blocks and stem fit?"
            )
        name, array = layers[layer], np.asarray(value, np.float32)
        if leaf == "kernel":
            # Dense layers on pooled features are 1x1(x1) convolutions there.
            is_conv = name.rpartition(".")[2].endswith("conv") or name.startswith("stem_conv")
            state[f"{name}.weight"] = _from_kernel(
                array if is_conv else array.reshape(array.shape[-2:])
            )
        elif leaf == "bias":
            state[f"{name}.bias"] = array.copy()
        else:
            state[f"{name}.{_NORM[leaf]}"] = array.copy()
            state.setdefault(f"{name}.num_batches_tracked", np.zeros((), np.int64))
    return state


def infer_config(
    backbone: Mapping[str, NDArray[Any]],
    *,
    blocks: tuple[int, int, int, int] | None = None,
    **settings: Any,
) -> R3DConfig:
    """Returns the config of the backbone of a checkpoint, read off its names and shapes.

    Args:
        backbone: as `backbone_of_tf` gives it.
        blocks: bottlenecks of the four groups; by default a group ends where the filters change.
        settings: of `R3DConfig` that weights do not show (`drop_path`, `num_frames`, ...).

    Raises:
        BridgeError: not four groups.
    """
    named = "_stem_conv/kernel" in backbone
    spatial = {
        k.rpartition("/_spatial_conv/")[0]: v.shape[-1]
        for k, v in backbone.items()
        if "/_spatial_conv/" in k
    }
    main = {block: width for block, width in spatial.items() if not block.startswith("_res_5_1")}
    order = sorted(main, key=_numbers)
    filters = [main[block] for block in order]
    if blocks is None:
        if named:
            groups = [[b for b in order if b.startswith(f"_blocks/res_{g}/")] for g in range(2, 6)]
            sizes = [len(group) for group in groups]
        else:
            starts = [i for i, width in enumerate(filters) if i == 0 or filters[i - 1] != width]
            sizes = [b - a for a, b in zip(starts, [*starts[1:], len(filters)], strict=True)]
        if len(sizes) != 4 or 0 in sizes:
            raise BridgeError(
                f"{len(filters)} bottlenecks of filters {filters} are not four groups: give blocks=(n2, n3, n4, n5)."
            )
        blocks = (sizes[0], sizes[1], sizes[2], sizes[3])
    if sum(blocks) != len(order):
        raise BridgeError(
            f"blocks={blocks} are {sum(blocks)} bottlenecks, the checkpoint has {len(order)}."
        )
    firsts = [order[sum(blocks[:g])] for g in range(4)]
    widths = [main[block] for block in firsts]
    reduce = backbone.get(f"{firsts[0]}/_squeeze_excitation/_se_reduce/kernel")
    stem = backbone["_stem_conv/kernel" if named else "layer_with_weights-0/kernel"]
    deep = stem.shape[1] == 3
    return R3DConfig(
        preset=None,
        blocks=blocks,
        filters=(widths[0], widths[1], widths[2], widths[3]),
        time_kernels=_time_kernels(backbone, firsts),
        stem="v1" if deep else "v0",
        stem_width=stem.shape[-1] * (2 if deep else 1),
        se_ratio=0.0 if reduce is None else reduce.shape[-1] / (4 * widths[0]),
        self_gating=any("/_self_gating/" in key for key in backbone),
        second_branch=any(key.startswith("_res_5_1") for key in backbone),
        **settings,
    )


def _time_kernels(
    backbone: Mapping[str, NDArray[Any]], firsts: list[str]
) -> tuple[int, int, int, int]:
    a, b, c, d = (int(backbone[f"{block}/_temporal_conv/kernel"].shape[0]) for block in firsts)
    return a, b, c, d


def _numbers(key: str) -> list[int]:
    """The numbers in a key, so that block 10 comes behind block 9."""
    return [
        int(part) for part in key.replace("_", "/").replace("-", "/").split("/") if part.isdigit()
    ]
