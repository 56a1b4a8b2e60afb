"""Names of weights in published checkpoints, and ours: one pair of tables for both directions.

A whole model under our names has the parts `encoder.*` (the keys of `VideoViT` or `ImageViT`),
`decoder.*` (VideoMAE, MAE) or `decoders.image.*` and `decoders.video.*` (MVD), and `fc_norm.*`,
`head.*` (fine-tuned).  They are the keys of the objectives, too.  A stored position table is `PART.pos_embed`.

Sources: VideoMAE's and MVD's names are the project's golden key lists.  Hugging Face's are those of
`convert_videomae_to_pytorch.py`, `modeling_videomae.py` and `convert_vit_mae_to_pytorch.py` of transformers
(read); written and read models were compared with versions 4.57.1 and 5.23.0 (docs/weights.md).
(unverified): that of OpenGVLab's own files on the hub, which lie below `model.`; MAE's files with a decoder.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

#: form -> pairs (their prefix, our prefix); the first that fits counts.
ORIGINAL: dict[str, tuple[tuple[str, str], ...]] = {
    "videomae": (
        ("encoder_to_decoder.", "decoder.embed."),
        ("mask_token", "decoder.mask_token"),
        ("pos_embed", "decoder.pos_embed"),
        ("decoder.", "decoder."),
        ("encoder.", "encoder."),
    ),
    "mvd": (
        ("pos_embed_img", "decoders.image.pos_embed"),
        ("pos_embed_vid", "decoders.video.pos_embed"),
        ("mask_token_img", "decoders.image.mask_token"),
        ("mask_token_vid", "decoders.video.mask_token"),
        ("down_img.", "decoders.image.embed."),
        ("down_vid.", "decoders.video.embed."),
        ("decoder_img.", "decoders.image."),
        ("decoder_vid.", "decoders.video."),
        ("", "encoder."),
    ),
    "mae": (
        ("decoder_embed.", "decoder.embed."),
        ("decoder_pos_embed", "decoder.pos_embed"),
        ("decoder_blocks.", "decoder.blocks."),
        ("decoder_norm.", "decoder.norm."),
        ("decoder_pred.", "decoder.head."),
        ("mask_token", "decoder.mask_token"),
        ("fc_norm.", "fc_norm."),
        ("head.", "head."),
        ("", "encoder."),
    ),
    "finetuned": (("fc_norm.", "fc_norm."), ("head.", "head."), ("", "encoder.")),
    "ours": (("", ""),),
}

#: Pairs below the stem (`videomae.`, `vit.` or nothing) of Hugging Face's models.
HF_ENCODER = (
    ("embeddings.patch_embeddings.projection.", "encoder.patch_embed.proj."),
    ("embeddings.cls_token", "encoder.cls_token"),
    ("embeddings.position_embeddings", "encoder.pos_embed"),
    ("layernorm.", "encoder.norm."),
)
#: Pairs outside of it, of the video and the image models.
HF_AROUND = {
    "videomae.": (
        ("fc_norm.", "fc_norm."),
        ("classifier.", "head."),
        ("encoder_to_decoder.", "decoder.embed."),
        ("mask_token", "decoder.mask_token"),
        ("decoder.norm.", "decoder.norm."),
        ("decoder.head.", "decoder.head."),
    ),
    "vit.": (
        ("decoder.decoder_embed.", "decoder.embed."),
        ("decoder.decoder_pos_embed", "decoder.pos_embed"),
        ("decoder.decoder_norm.", "decoder.norm."),
        ("decoder.decoder_pred.", "decoder.head."),
        ("decoder.mask_token", "decoder.mask_token"),
    ),
}
#: Layer of a block there -> layer here.
HF_LAYERS = {
    "layernorm_before": "norm1",
    "layernorm_after": "norm2",
    "attention.output.dense": "attn.proj",
    "intermediate.dense": "mlp.fc1",
    "output.dense": "mlp.fc2",
}
HF_PATCHES = "embeddings.patch_embeddings.projection.weight"
#: The second name of a decoder's blocks is what transformers 5 writes for ViTMAE.
_HF_BLOCK = re.compile(
    r"^(encoder\.layer|decoder\.decoder_(?:layers|encoder\.layer))\.(\d+)\.(.+)\.(\w+)$"
)
_THIRDS = ("query", "key", "value")


@dataclass
class Named:
    """A checkpoint under our names.

    Attributes:
        layout: "original", "hugging_face" or "ours".
        form: a key of `ORIGINAL`; for Hugging Face's naming the stem of its keys.
        tensors: by our name.
        places: key of the file -> our name, None = no place.
    """

    layout: str
    form: str
    tensors: dict[str, Tensor]
    places: dict[str, str | None]


def name_keys(state: Mapping[str, Tensor]) -> Named | None:
    """Returns a state dict under our names, or None if it is no ViT of MAE, VideoMAE or MVD."""
    if any("layers." in key and key.endswith(".relative_position_bias_table") for key in state):
        return None  # the stages of a Swin, whose embedding has the same names
    for stem in ("videomae.", "vit.", ""):
        if stem + HF_PATCHES in state:
            return _from_hugging_face(state, stem)
    # OpenGVLab's models on the hub lie below `model.`, others' below `backbone.`.
    prefix = next(
        (p for p in ("model.", "backbone.") if p + "patch_embed.proj.weight" in state), ""
    )
    form = _form_of([key.removeprefix(prefix) for key in state], state, prefix)
    if form is None:
        return None
    places: dict[str, str | None] = {}
    for key in state:
        places[key] = _replace(key.removeprefix(prefix), ORIGINAL[form])
    tensors = {place: state[key] for key, place in places.items() if place is not None}
    return Named("ours" if form == "ours" else "original", form, tensors, places)


def _form_of(keys: list[str], state: Mapping[str, Tensor], prefix: str) -> str | None:
    if any(k in keys for k in ("decoder.embed.weight", "decoders.image.embed.weight")):
        return "ours"
    if "encoder.patch_embed.proj.weight" in keys:
        return "videomae"
    if "patch_embed.proj.weight" not in keys:
        return None
    if any(key.startswith(("decoder_img.", "decoder_vid.")) for key in keys):
        return "mvd"
    return "mae" if state[prefix + "patch_embed.proj.weight"].dim() == 4 else "finetuned"


def to_original(tensors: Mapping[str, Tensor], form: str) -> dict[str, Tensor]:
    """Returns tensors under our names in the naming of a form of `ORIGINAL`."""
    back = tuple((ours, theirs) for theirs, ours in ORIGINAL[form])
    found = {}
    for key, value in tensors.items():
        place = _replace(key, back)
        assert place is not None, f"{key} has no name in {form}"
        found[place] = value
    return found


def _replace(key: str, pairs: tuple[tuple[str, str], ...]) -> str | None:
    for old, new in pairs:
        if key.startswith(old):
            return new + key[len(old) :]
    return None


# Hugging Face --------------------------------------------------------------------------------------


def _from_hugging_face(state: Mapping[str, Tensor], stem: str) -> Named:
    image = state[stem + HF_PATCHES].dim() == 4
    around = HF_AROUND["vit." if image else "videomae."]
    places: dict[str, str | None] = {}
    tensors: dict[str, Tensor] = {}
    thirds: dict[str, dict[str, str]] = {}
    for key in state:
        inside = key.removeprefix(stem) if key.startswith(stem) else None
        block = _HF_BLOCK.match(inside or key)
        if block:
            part = "encoder" if block[1] == "encoder.layer" else "decoder"
            _name_block(key, f"{part}.blocks.{block[2]}", block[3], block[4], places, thirds)
        else:
            place = None if inside is None else _replace(inside, HF_ENCODER)
            places[key] = place or _replace(key, around)
        if (place := places.get(key)) is not None:
            tensors[place] = state[key]
    _join_thirds(state, thirds, tensors, places, image=image)
    return Named("hugging_face", stem or ("vit." if image else "videomae."), tensors, places)


def _name_block(
    key: str,
    block: str,
    layer: str,
    kind: str,
    places: dict[str, str | None],
    thirds: dict[str, dict[str, str]],
) -> None:
    """Names one weight of a block; those of query, key and value are only noted."""
    inner = layer.removeprefix("attention.attention.")
    if layer in HF_LAYERS:
        places[key] = f"{block}.{HF_LAYERS[layer]}.{kind}"
    elif layer == "attention.attention" and kind in ("q_bias", "v_bias"):
        places[key] = f"{block}.attn.{kind}"
    elif inner in _THIRDS and inner != layer:
        thirds.setdefault(f"{block}.attn.qkv.{kind}", {})[inner] = key
        places[key] = f"{block}.attn.{inner}.{kind}"
    else:
        places[key] = f"{block}.{layer}.{kind}"


def _join_thirds(
    state: Mapping[str, Tensor],
    thirds: Mapping[str, Mapping[str, str]],
    tensors: dict[str, Tensor],
    places: dict[str, str | None],
    *,
    image: bool,
) -> None:
    """Query, key and value become one weight; biases become two where the keys' is zero or absent, as
    it is in transformers 5."""
    for place, keys in thirds.items():
        if set(keys) == {"query", "value"} and place.endswith("bias"):
            for third, name in (("query", "q_bias"), ("value", "v_bias")):
                places[keys[third]] = place.removesuffix("qkv.bias") + name
                tensors[place.removesuffix("qkv.bias") + name] = state[keys[third]]
            continue
        if set(keys) != set(_THIRDS):
            continue
        q, k, v = (state[keys[third]] for third in _THIRDS)
        if place.endswith("bias") and not image and not k.is_meta and not k.any():
            stem = place.removesuffix("qkv.bias")
            tensors[f"{stem}q_bias"], tensors[f"{stem}v_bias"] = q, v
            places[keys["query"]], places[keys["value"]] = f"{stem}q_bias", f"{stem}v_bias"
            places[keys["key"]] = f"{stem}q_bias"
        else:
            tensors[place] = torch.cat([q, k, v])
            places.update(dict.fromkeys(keys.values(), place))


def to_hugging_face(tensors: Mapping[str, Tensor], stem: str, around: str) -> dict[str, Tensor]:
    """Returns tensors under our names in the naming of transformers.

    Args:
        tensors: a whole model.
        stem: before the keys of the encoder: "videomae.", "vit." or "".
        around: "videomae." or "vit.": how the parts around the encoder are named.
    """
    inside = tuple((ours, stem + theirs) for theirs, ours in HF_ENCODER)
    outside = tuple((ours, theirs) for theirs, ours in HF_AROUND[around])
    layers = {ours: theirs for theirs, ours in HF_LAYERS.items()}
    found: dict[str, Tensor] = {}
    for key, value in tensors.items():
        part, marker, rest = key.partition(".blocks.")
        if not marker:
            place = _replace(key, inside + outside)
            assert place is not None, f"{key} has no name in transformers"
            found[place] = value
            continue
        number, _, inner = rest.partition(".")
        layer, _, kind = inner.rpartition(".")
        block = "decoder.decoder_layers" if part == "decoder" else f"{stem}encoder.layer"
        block = f"{block}.{number}"
        if layer == "attn.qkv":
            for third, values in zip(_THIRDS, value.chunk(3), strict=True):
                found[f"{block}.attention.attention.{third}.{kind}"] = values.clone()
        elif layer == "attn":
            found[f"{block}.attention.attention.{kind}"] = value
        else:
            found[f"{block}.{layers[layer]}.{kind}"] = value
    return found
