"""Encoders out of published checkpoints of MAE, VideoMAE (also VideoMAE V2 and the files on the
Hugging Face hub) and MVD; sizes are read off the weights."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch import Tensor

from video_ssl.models.config import VIT_PRESETS, ImageViTConfig, ViTConfig
from video_ssl.models.encoders import load_encoder
from video_ssl.models.image_vit import ImageViT
from video_ssl.models.vit import VideoViT
from video_ssl.models.weights import WeightsError, load_weights, read_state

#: What an encoder owns in a checkpoint of a whole model.
PARTS = ("patch_embed.", "blocks.", "norm.", "cls_token")


def load_published(
    path: str | Path,
    *,
    image_size: int = 224,
    num_frames: int = 16,
    num_heads: int | None = None,
) -> VideoViT | ImageViT:
    """Returns the encoder of a checkpoint, on the CPU: an `ImageViT` if patches are 2-D, else a
    `VideoViT`.

    Weights may lie at the top (MAE, MVD, fine-tuned models), below `encoder.` (VideoMAE) or `backbone.`, or be those
    of `VideoMAEModel` of Hugging Face.  Decoders, heads and stored position tables are left out; tables are computed.

    Args:
        path: the file.
        image_size, num_frames: what the position table is made for; not stored in such files.
        num_heads: not stored either; by default the number that goes with the width.

    Raises:
        WeightsError: unreadable, not such an encoder, or a width whose heads are not known.
    """
    state = from_hugging_face(read_state(path))
    own = encoder_part(state)
    if "patch_embed.proj.weight" not in own:
        raise WeightsError(
            f"{path} has no patch_embed.proj.weight, bare or below encoder. or backbone.: it is not "
            "a checkpoint of MAE, VideoMAE or MVD."
        )
    config = infer_config(own, image_size=image_size, num_frames=num_frames, num_heads=num_heads)
    if isinstance(config, ViTConfig) and any("pos_embed" in key for key in state):
        # Of the three only MVD's students store tables of their clips: the 3-D ones.
        config = ViTConfig(**{**vars(config), "positions": "sincos_3d"})
    module = VideoViT(config) if isinstance(config, ViTConfig) else ImageViT(config)
    load_weights(module, own)
    return module


#: Layer of a Hugging Face block -> layer here.  LayerNorm eps there is 1e-12 by its config, but
#: the weights were trained with the 1e-6 used here.
HUGGING_FACE_LAYERS = {
    "layernorm_before": "norm1",
    "layernorm_after": "norm2",
    "attention.output.dense": "attn.proj",
    "intermediate.dense": "mlp.fc1",
    "output.dense": "mlp.fc2",
}


def from_hugging_face(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns the encoder of a Hugging Face VideoMAE under the keys of `VideoViT`; any other state
    dict comes back as it is.

    Separate weights of query, key and value become one; heads, decoders and tables are left out.
    """
    stem = "videomae."
    if not any(f"{stem}embeddings.patch_embeddings.projection.weight" == key for key in state):
        return dict(state)
    own = {k.removeprefix(stem): v for k, v in state.items() if k.startswith(stem)}
    found = {}
    for key, value in own.items():
        head, _, kind = key.rpartition(".")
        if head == "embeddings.patch_embeddings.projection":
            found[f"patch_embed.proj.{kind}"] = value
        elif head == "layernorm":
            found[f"norm.{kind}"] = value
        elif head.startswith("encoder.layer."):
            number, _, layer = head.removeprefix("encoder.layer.").partition(".")
            block = f"blocks.{number}"
            if layer in HUGGING_FACE_LAYERS:
                found[f"{block}.{HUGGING_FACE_LAYERS[layer]}.{kind}"] = value
            elif kind in ("q_bias", "v_bias"):
                found[f"{block}.attn.{kind}"] = value
            elif layer == "attention.attention.query":
                parts = [own[key.replace("query", part)] for part in ("query", "key", "value")]
                found[f"{block}.attn.qkv.{kind}"] = torch.cat(parts)
    return found


def encoder_part(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns what belongs to the encoder, under the keys of `VideoViT` and `ImageViT`."""
    for prefix in ("encoder.", "backbone.", ""):
        own = {k[len(prefix) :]: v for k, v in state.items() if k.startswith(prefix)}
        if "patch_embed.proj.weight" in own:
            break
    return {key: value for key, value in own.items() if key.startswith(PARTS)}


def infer_config(
    own: Mapping[str, Tensor], *, image_size: int, num_frames: int, num_heads: int | None = None
) -> ViTConfig | ImageViTConfig:
    """Returns the config that fits the weights of an encoder; see `load_published`."""
    weight = own["patch_embed.proj.weight"]
    width = weight.shape[0]
    heads = num_heads or {dim: heads for dim, _, heads in VIT_PRESETS.values()}.get(width)
    if heads is None:
        raise WeightsError(
            f"the number of heads does not show in the weights and embed_dim={width} has no usual "
            "one: give num_heads."
        )
    bias: Literal["q_v", "full", "none"] = "none"
    if "blocks.0.attn.q_bias" in own:
        bias = "q_v"
    elif "blocks.0.attn.qkv.bias" in own:
        bias = "full"
    gamma = own.get("blocks.0.gamma_1")
    kind = ViTConfig if weight.dim() == 5 else ImageViTConfig
    clip: dict[str, Any] = (
        {"tubelet_size": weight.shape[2], "num_frames": num_frames, "positions": "sincos_1d"}
        if kind is ViTConfig
        else {}
    )
    return kind(
        preset=None,
        embed_dim=width,
        depth=1 + max(int(key.split(".")[1]) for key in own if key.startswith("blocks.")),
        num_heads=heads,
        mlp_ratio=own["blocks.0.mlp.fc1.weight"].shape[0] / width,
        patch_size=weight.shape[-1],
        image_size=image_size,
        layer_scale=0.0 if gamma is None else float(gamma.abs().mean()) or 1.0,
        final_norm="norm.weight" in own,
        cls_token="cls_token" in own,
        qkv_bias=bias,
        **clip,
    )


def load_teacher(
    path: str | Path, *, image_size: int, num_frames: int, num_heads: int | None = None
) -> torch.nn.Module:
    """Returns a frozen encoder in evaluation mode from an encoder folder (or run) or from a file.

    Raises:
        WeightsError, EncoderError: nothing there, or nothing that can be read as an encoder.
    """
    if Path(path).is_file():
        module: torch.nn.Module = load_published(
            path, image_size=image_size, num_frames=num_frames, num_heads=num_heads
        )
        return module.requires_grad_(False).eval()
    return cast(torch.nn.Module, load_encoder(path))
