"""Encoders out of published checkpoints of MAE, VideoMAE and MVD; sizes are read off the weights."""

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

    Weights may lie at the top (MAE, MVD, fine-tuned models), or below `encoder.` (VideoMAE) or
    `backbone.`.  Decoders, heads and stored position tables are left out; tables are computed.

    Args:
        path: the file.
        image_size, num_frames: what the position table is made for; not stored in such files.
        num_heads: not stored either; by default the number that goes with the width.

    Raises:
        WeightsError: unreadable, not such an encoder, or a width whose heads are not known.
    """
    state = read_state(path)
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
