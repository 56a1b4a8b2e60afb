"""Tiny models with every weight random, and their checkpoints in the naming of others, written out
independently of the library's tables of names."""

import re

import torch

from video_ssl.models.config import DecoderConfig, ImageViTConfig, ViTConfig
from video_ssl.models.networks.decoder import MaskedDecoder
from video_ssl.models.networks.image_vit import ImageViT
from video_ssl.models.networks.vit import VideoViT

SIZE = {"preset": None, "embed_dim": 32, "depth": 2, "num_heads": 2, "patch_size": 4}
CLIP = {"num_frames": 4, "tubelet_size": 2}
#: What `Sizes` must know about the tiny models, which no file tells.
TRAINED = {"trained_size": 12, "trained_frames": 4}


def shake(module, seed=0):
    """Random values everywhere, so that no weight can hide behind its initial value."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator))
    return module.eval()


def video_vit(**changes):
    options = {**SIZE, **CLIP, "image_size": 12, "positions": "sincos_1d", **changes}
    return shake(VideoViT(ViTConfig(**options)))


def image_vit(**changes):
    return shake(ImageViT(ImageViTConfig(**{**SIZE, "image_size": 12, **changes})))


def decoder(table, out_dim, *, embed_bias, qkv_bias="q_v", seed=1, grid=(2, 3, 3), **changes):
    config = DecoderConfig(embed_dim=16, depth=1, num_heads=2, drop_path=0.0, **changes)
    module = MaskedDecoder(
        config,
        in_dim=32,
        out_dim=out_dim,
        table=table,
        grid=grid,
        embed_bias=embed_bias,
        qkv_bias=qkv_bias,
    )
    return shake(module, seed)


def head(classes=5, dim=32):
    generator = torch.Generator().manual_seed(2)
    shapes = {"fc_norm.weight": (dim,), "fc_norm.bias": (dim,)}
    shapes |= {"head.weight": (classes, dim), "head.bias": (classes,)}
    return {key: torch.randn(shape, generator=generator) for key, shape in shapes.items()}


def prefixed(prefix, module):
    return {prefix + key: value.clone() for key, value in module.state_dict().items()}


def videomae_file(encoder, pixels=None):
    """A pre-training checkpoint of VideoMAE's code."""
    pixels = pixels or decoder("sincos_1d", 96, embed_bias=False)
    own = prefixed("decoder.", pixels)
    own["mask_token"] = own.pop("decoder.mask_token")
    own["encoder_to_decoder.weight"] = own.pop("decoder.embed.weight")
    return {**prefixed("encoder.", encoder), **own}


def mvd_file(encoder):
    """A student of MVD's code: two decoders, three stored tables."""
    state = prefixed("", encoder)
    state["pos_embed"] = encoder.positions()[None].clone()
    for seed, (short, width) in enumerate((("img", 24), ("vid", 20)), start=3):
        module = decoder("sincos_3d", width, embed_bias=True, seed=seed)
        for key, value in module.state_dict().items():
            if key == "mask_token":
                state[f"mask_token_{short}"] = value
            elif key.startswith("embed."):
                state[key.replace("embed", f"down_{short}")] = value
            else:
                state[f"decoder_{short}.{key}"] = value
        state[f"pos_embed_{short}"] = module.positions()[None].clone()
    return state


def mae_file(encoder, *, with_decoder=False):
    """A checkpoint of MAE's code: the table has a row of zeros for the class token."""
    table = encoder.positions()[None]
    state = {**prefixed("", encoder), "pos_embed": torch.cat([0 * table[:, :1], table], dim=1)}
    if with_decoder:
        module = decoder("sincos_2d", 48, embed_bias=True, qkv_bias="full", grid=(1, 3, 3))
        table = module.positions()[None]
        state["decoder_pos_embed"] = torch.cat([0 * table[:, :1], table], dim=1)
        names = (("embed.", "decoder_embed."), ("blocks.", "decoder_blocks."))
        names += (("norm.", "decoder_norm."), ("head.", "decoder_pred."), ("mask_", "mask_"))
        for key, value in module.state_dict().items():
            old, new = next(pair for pair in names if key.startswith(pair[0]))
            state[new + key.removeprefix(old)] = value
    return state


def hugging_face_block(key, value, bias="separate"):
    """The keys of transformers for `blocks.N.X` of ours, below `layer.`.

    bias: "separate" is q_bias and v_bias (transformers 4), "pair" the same as biases of the linear
        layers (transformers 5), "linear" one for each of the three.
    """
    _, number, rest = key.split(".", 2)
    layer, kind = rest.rsplit(".", 1)
    names = {
        "norm1": "layernorm_before",
        "norm2": "layernorm_after",
        "attn.proj": "attention.output.dense",
        "mlp.fc1": "intermediate.dense",
        "mlp.fc2": "output.dense",
    }
    inner = f"{number}.attention.attention"
    if layer == "attn.qkv":
        thirds = zip(("query", "key", "value"), value.chunk(3), strict=True)
        return {f"{inner}.{part}.{kind}": third.clone() for part, third in thirds}
    if layer == "attn" and bias == "separate":
        return {f"{inner}.{kind}": value}
    if layer == "attn":
        part = {"q_bias": "query", "v_bias": "value"}[kind]
        with_key = part == "query" and bias == "linear"
        extra = {f"{inner}.key.bias": torch.zeros_like(value)} if with_key else {}
        return {f"{inner}.{part}.bias": value, **extra}
    return {f"{number}.{names[layer]}.{kind}": value}


def hugging_face_file(encoder, stem="videomae.", bias="separate", pixels=None, classifier=None):
    """A VideoMAEModel (stem ""), ForPreTraining (`pixels`) or ForVideoClassification."""
    state = {}
    for key, value in encoder.state_dict().items():
        if key.startswith("blocks."):
            inner = hugging_face_block(key, value, bias)
            state |= {f"{stem}encoder.layer.{k}": v for k, v in inner.items()}
        else:
            place = key.replace("patch_embed.proj", "embeddings.patch_embeddings.projection")
            place = re.sub("^norm", "layernorm", place).replace("cls_token", "embeddings.cls_token")
            state[stem + place] = value
    for key, value in (pixels.state_dict() if pixels else {}).items():
        if key.startswith("blocks."):
            inner = hugging_face_block(key, value, bias)
            state |= {f"decoder.decoder_layers.{k}": v for k, v in inner.items()}
        elif key == "mask_token":
            state[key] = value
        elif key == "embed.weight":
            state["encoder_to_decoder.weight"] = value
        else:
            state[f"decoder.{key}"] = value
    for key, value in (classifier or {}).items():
        state[key.replace("head.", "classifier.")] = value
    return {key: value.clone().contiguous() for key, value in state.items()}


def video(batch=2, frames=4, size=12):
    return torch.randn(batch, 3, frames, size, size, generator=torch.Generator().manual_seed(9))
