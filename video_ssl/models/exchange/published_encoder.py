"""The encoder of a published checkpoint: its sizes, read off the weights, and its positions."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

from torch import Tensor

from video_ssl.models.config import VIT_PRESETS, ImageViTConfig, ViTConfig
from video_ssl.models.exchange.published_names import Named
from video_ssl.models.exchange.sizes import Sizes
from video_ssl.models.exchange.stored_tables import (
    StoredTable,
    describe,
    grids_of,
    recognise,
    regrid,
)
from video_ssl.models.networks.image_vit import ImageViT
from video_ssl.models.networks.positions import Grid
from video_ssl.models.networks.vit import VideoViT
from video_ssl.models.weights import WeightsError

#: What the published models were trained on, where the file does not show it.
TRAINED_SIZE, TRAINED_FRAMES = 224, 16
#: Width and heads that the config.json of Hugging Face's small VideoMAE says: it was trained with 6.
WRONG_HEADS = (384, 16)


def build_published_encoder(
    named: Named,
    sizes: Sizes,
    family: str,
    num_heads: int | None,
    stated_heads: int | None = None,
) -> tuple[VideoViT | ImageViT, str, list[str], list[str]]:
    """Returns the module (weights not filled), its table in words, notes, and the names of tables
    that it computes.

    A learned table is put into `named.tensors` at the size of the module.
    """
    own = {
        key.removeprefix("encoder."): value
        for key, value in named.tensors.items()
        if key.startswith("encoder.") and key != "encoder.pos_embed"
    }
    if "fc_norm.weight" in named.tensors:
        own = {key: value for key, value in own.items() if not key.startswith("norm.")}
    weight = own["patch_embed.proj.weight"]
    patch, tubelet = weight.shape[-1], weight.shape[2] if weight.dim() == 5 else None
    trained = (
        (sizes.trained_frames or TRAINED_FRAMES) // tubelet if tubelet else 1,
        *((sizes.trained_size or TRAINED_SIZE) // patch,) * 2,
    )
    wanted = (
        (sizes.num_frames or TRAINED_FRAMES) // tubelet if tubelet else 1,
        *((sizes.image_size or TRAINED_SIZE) // patch,) * 2,
    )
    stored = _stored_table(named, weight.dim(), "cls_token" in own, [trained, wanted])
    if "positions.table" in own:
        stored = StoredTable("learned", trained, own["positions.table"][0], weight.new_empty(0))
    made_for = stored.grid if stored else trained
    trained_size = made_for[1] * patch
    config = infer_config(
        own,
        image_size=sizes.image_size or trained_size,
        num_frames=sizes.num_frames or made_for[0] * (tubelet or 1),
        num_heads=num_heads,
        stated_heads=stated_heads,
    )
    kind = stored.kind if stored else ("sincos_2d" if tubelet is None else "sincos_1d")
    # Of the three codes only MVD's has class tokens in models of clips.
    if stored is None and tubelet is not None and (family == "mvd" or "cls_token" in own):
        kind = "sincos_3d"
    keep = sizes.keeps(kind)
    changed: dict[str, Any] = {"positions": kind}
    if keep and kind != "learned":
        changed["table_size"] = trained_size if trained_size != config.image_size else None
        if isinstance(config, ViTConfig):
            frames = made_for[0] * config.tubelet_size
            changed["table_frames"] = frames if frames != config.num_frames else None
    config = replace(config, **changed)
    module = VideoViT(config) if isinstance(config, ViTConfig) else ImageViT(config)
    text = table_text(kind, made_for, config, keep=keep)
    notes = _table_notes(kind, stored)
    if stored is not None and kind == "learned":
        _place_learned(named, stored, config)
    computed = [key for key in named.tensors if key.endswith("pos_embed")]
    return module, text, notes, computed


def _stored_table(
    named: Named, patch_dim: int, prefix: bool, grids: list[Grid]
) -> StoredTable | None:
    table = named.tensors.get("encoder.pos_embed")
    if table is None:
        return None
    rows = math.prod(table.shape[:-1])
    first = _prefix_rows(rows, patch_dim, grids) if prefix else 0
    return recognise(table, patch_dim=patch_dim, num_prefix=first, expected=grids)


def _prefix_rows(rows: int, patch_dim: int, grids: list[Grid]) -> int:
    """Rows of the class token in a table of so many: MAE's code has one, MVD's none, timm's one or none."""
    likely = (1, 0) if patch_dim == 4 else (0, 1)
    whole = {math.prod(grid) for grid in grids}
    for first in sorted(likely, key=lambda n: rows - n not in whole):
        try:
            grids_of(rows - first, patch_dim=patch_dim, expected=grids)
        except WeightsError:
            continue
        return first
    return likely[0]


def _place_learned(named: Named, stored: StoredTable, config: ViTConfig | ImageViTConfig) -> None:
    """Moves a learned table to its place here; what it adds to the class token joins the token."""
    values = regrid(stored.values, stored.grid, config.grid)
    named.tensors["encoder.positions.table"] = values[None]
    for key, place in named.places.items():
        if place == "encoder.pos_embed":
            named.places[key] = "encoder.positions.table"
    named.tensors.pop("encoder.pos_embed", None)
    if len(stored.prefix) and not stored.prefix.is_meta:
        token = named.tensors["encoder.cls_token"]
        named.tensors["encoder.cls_token"] = token + stored.prefix.to(token.dtype)[None]


def table_text(kind: str, made_for: Any, config: ViTConfig | ImageViTConfig, *, keep: bool) -> str:
    tubelet = config.tubelet_size if isinstance(config, ViTConfig) else None
    new = describe(config.grid, config.patch_size, tubelet)
    if config.grid == made_for:
        return f"{kind}, {new}, as trained"
    old = describe(made_for, config.patch_size, tubelet)
    if keep:
        return f"{kind}, interpolated from {old} to {new}: rows and columns cubic, time linear"
    return f"{kind}, computed anew for {new}; it was trained on {old}"


def _table_notes(kind: str, stored: StoredTable | None) -> list[str]:
    if stored is not None and kind == "learned":
        return ["the position table is no known formula: it is kept as a learned one."]
    return []


def infer_config(
    own: Mapping[str, Tensor],
    *,
    image_size: int,
    num_frames: int,
    num_heads: int | None = None,
    stated_heads: int | None = None,
) -> ViTConfig | ImageViTConfig:
    """Returns the config that fits the weights of an encoder (keys of `VideoViT` or `ImageViT`).

    `stated_heads` is what a `config.json` says, of which one published is known to err.

    Raises:
        WeightsError: blocks are missing, or the heads of the width are not known.
    """
    weight = own["patch_embed.proj.weight"]
    width = weight.shape[0]
    numbers = {int(key.split(".")[1]) for key in own if key.startswith("blocks.")}
    if not numbers or "blocks.0.mlp.fc1.weight" not in own:
        raise WeightsError("there are no whole transformer blocks among the weights.")
    if len(numbers) != 1 + max(numbers):
        gone = next(n for n in range(1 + max(numbers)) if n not in numbers)
        raise WeightsError(
            f"the weights have transformer blocks up to number {max(numbers)}, but none of number {gone}."
        )
    scale = own.get("blocks.0.attn.scale")
    if (width, stated_heads) == WRONG_HEADS and weight.dim() == 5:
        stated_heads = None
    heads = num_heads or (len(scale) if scale is not None else stated_heads or usual_heads(width))
    if heads is None:
        raise WeightsError(
            f"the number of heads does not show in the weights and embed_dim={width} has no usual "
            "one: give num_heads (--num-heads)."
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
        depth=1 + max(numbers),
        num_heads=heads,
        mlp_ratio=own["blocks.0.mlp.fc1.weight"].shape[0] / width,
        patch_size=weight.shape[-1],
        image_size=image_size,
        layer_scale=0.0 if gamma is None else _mean(gamma) or 1.0,
        final_norm="norm.weight" in own,
        cls_token="cls_token" in own,
        qkv_bias=bias,
        cosine_attention=scale is not None,
        **clip,
    )


def usual_heads(width: int) -> int | None:
    """Returns the heads of the published ViTs of a width; None where there are none."""
    return {dim: heads for dim, _, heads in VIT_PRESETS.values()}.get(width)


def _mean(value: Tensor) -> float:
    return 0.0 if value.is_meta else float(value.abs().mean())
