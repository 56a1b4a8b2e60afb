"""Models in the naming of the original codes and of Hugging Face."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from video_ssl.files import folder_aside, write_json, written_aside
from video_ssl.models import NETWORKS, architecture_of
from video_ssl.models.config import ImageViTConfig, ViTConfig
from video_ssl.models.contract import CLIP
from video_ssl.models.exchange.published import PublishedViT
from video_ssl.models.exchange.published_names import to_hugging_face, to_original
from video_ssl.models.exchange.stored_tables import describe
from video_ssl.models.hub.processing import KERNELS
from video_ssl.models.networks.layers import LAYER_NORM_EPS, hidden_width
from video_ssl.models.networks.positions import position_table
from video_ssl.models.preprocess_config import VideoPreprocess
from video_ssl.models.weights import WeightsError

#: Width of a decoder -> its heads in VideoMAE's and MAE's code; they do not show in the weights.
DECODER_HEADS = {"videomae": {192: 3, 384: 6, 512: 8, 640: 8}, "mae": {512: 16}}


# The original naming -------------------------------------------------------------------------------


def original_state(model: PublishedViT) -> dict[str, Tensor]:
    """Returns the weights under the names of VideoMAE's, MVD's or MAE's code, with the tables that
    those files carry.

    Raises:
        WeightsError: that code has no such model; the text says why.
    """
    form = original_form(model)
    config = model.encoder.config
    tensors = {k: v for k, v in model.state().items() if not k.startswith(lost_parts(model, form))}
    table = tensors.pop("encoder.positions.table", None)
    _check_original(config, form, learned=table is not None)
    if table is not None or form in ("mae", "mvd"):
        tensors["encoder.pos_embed"] = _stored(model, table)
    if form in ("mae", "mvd"):
        kind = "sincos_2d" if form == "mae" else _decoder_table(config)
        prefixes = {
            key.removesuffix("embed.weight") for key in tensors if key.endswith(".embed.weight")
        }
        for prefix in prefixes:
            width = len(tensors[f"{prefix}embed.weight"])
            decoder = torch.from_numpy(position_table(kind, width, config.grid))[None]
            tensors[f"{prefix}pos_embed"] = _behind_class_token(decoder, config)
    return to_original({k: v.detach().clone().contiguous() for k, v in tensors.items()}, form)


def original_form(model: PublishedViT) -> str:
    """Returns whose naming a model gets: a key of `published_names.ORIGINAL`."""
    config = model.encoder.config
    if isinstance(config, ImageViTConfig):
        return "mae"
    if model.head or not config.final_norm:
        return "finetuned"
    many = any(key.startswith("decoders.") for key in model.decoders)
    return "mvd" if many or config.positions == "sincos_3d" else "videomae"


def with_head(model: PublishedViT) -> PublishedViT:
    """Returns the model with a classifier of ours as the head of these codes, where they have one that gives the same:
    on the mean of the tokens behind a norm of its own, or on the class token behind the final norm."""
    protocol, own, config = model.protocol, model.classifier, model.encoder.config
    if protocol is None or model.head or protocol.unit_length or protocol.feature != CLIP:
        return model
    mean = protocol.pooling == "mean" and "norm.weight" in own and not config.final_norm
    first = protocol.pooling == "cls" and "norm.weight" not in own
    if not (mean or (first and config.final_norm and config.cls_token)):
        return model
    names = {"weight": "head.weight", "bias": "head.bias"}
    names |= {f"norm.{key}": f"fc_norm.{key}" for key in names}
    head = {names[key]: value for key, value in own.items()}
    return replace(model, head=head, classifier={})


def lost_parts(model: PublishedViT, form: str) -> tuple[str, ...]:
    """Returns the prefixes of parts that a naming (a key of `ORIGINAL`, or "huggingface") has no place for;
    ("-",), which fits no key, if there is none."""
    image = isinstance(model.encoder.config, ImageViTConfig)
    lost = {
        "finetuned": ("decoder.", "decoders."),
        "mvd": ("decoder.",),
        "videomae": ("decoders.",),
        "mae": ("decoders.",),
        "huggingface": ("decoder.", "decoders.", "head.", "fc_norm.") if image else ("decoders.",),
    }[form]
    if form == "huggingface" and any(".attn.scale" in key for key in model.decoders):
        lost += ("decoder.",)  # cosine attention
    if model.classifier:
        lost += ("classifier.",)
    parts = (*model.decoders, *model.head, *(f"classifier.{key}" for key in model.classifier))
    there = {key.split(".")[0] + "." for key in parts}
    return tuple(prefix for prefix in lost if prefix in there) or ("-",)


def _decoder_table(config: ViTConfig | ImageViTConfig) -> str:
    """Decoders have the encoder's formula, or VideoMAE's where it learns its positions."""
    return "sincos_1d" if config.positions == "learned" else config.positions


def write_original(path: Path, model: PublishedViT, *, container: str = "model") -> Path:
    """Returns the file that was written: plain tensors in a container, as torch.save writes them.

    Raises:
        WeightsError: as `original_state`.
    """
    return write_tensors(path, original_state(model), container=container)


def reader_of_others(encoder: Any) -> Any:
    """Returns the reader (`published_model.py`) whose code can read weights of such an encoder back; None for networks
    that have none."""
    network = NETWORKS[architecture_of(encoder)]
    readers = [import_module(place) for place in dict.fromkeys(network.published.values())]
    return next((reader for reader in readers if hasattr(reader, "CONTAINER")), None)


def write_tensors(path: Path, state: Mapping[str, Tensor], *, container: str) -> Path:
    """Returns the file that was written: plain tensors in a container, as torch.save writes them."""
    with written_aside(path) as aside, open(aside, "wb") as file:
        torch.save({container: dict(state)}, file)
    return path


def _stored(model: PublishedViT, learned: Tensor | None) -> Tensor:
    table = model.encoder.positions()[None] if learned is None else learned
    return _behind_class_token(table, model.encoder.config)


def _behind_class_token(table: Tensor, config: ViTConfig | ImageViTConfig) -> Tensor:
    if not (config.cls_token and isinstance(config, ImageViTConfig)):
        return table
    return torch.cat([torch.zeros_like(table[:, :1]), table], dim=1)


def _check_original(config: ViTConfig | ImageViTConfig, form: str, *, learned: bool) -> None:
    if config.stem != "linear":
        raise WeightsError(
            f"no original code has a stem of convolutions (stem={config.stem!r}): keep our format."
        )
    if form == "mae":
        if config.qkv_bias != "full":
            raise WeightsError(
                f"MAE's code has a full qkv bias, this encoder qkv_bias={config.qkv_bias!r}."
            )
        return
    assert isinstance(config, ViTConfig)
    if config.qkv_bias == "full":
        raise WeightsError(
            "VideoMAE's and MVD's code learns biases of queries and values alone, this encoder also those of keys "
            "(qkv_bias='full'): it has no original naming. Keep our format."
        )
    if config.cls_token and form != "mvd":
        raise WeightsError(
            "VideoMAE's code has no class token, this encoder has one: keep our format."
        )
    if form != "mvd" and not learned and config.table_grid != config.grid:
        grids = [
            describe(g, config.patch_size, config.tubelet_size)
            for g in (config.table_grid, config.grid)
        ]
        raise WeightsError(
            f"the positions are interpolated from {grids[0]} to {grids[1]}, but such files carry no table and the "
            "original code would compute another one: convert at the trained size, or keep our format."
        )


# Hugging Face --------------------------------------------------------------------------------------


def write_hugging_face(folder: Path, model: PublishedViT, preprocess: VideoPreprocess) -> Path:
    """Returns the folder that was written: `model.safetensors` and `config.json` of a
    `VideoMAEForPreTraining`, `VideoMAEForVideoClassification` or `VideoMAEModel`, or for images of a `ViTModel`, and
    `preprocessor_config.json`.

    Names and settings follow the sources named in `published_names`.  transformers computes VideoMAE's table
    itself and keeps fixed epsilons of 1e-5 in `fc_norm` and the decoder's norm, where the original has 1e-6.

    Raises:
        WeightsError: those classes cannot hold the model; the text says why.
    """
    config = model.encoder.config
    _check_hugging_face(model)
    lost = lost_parts(model, "huggingface")
    tensors = {k: v for k, v in model.state().items() if not k.startswith(lost)}
    learned = tensors.pop("encoder.positions.table", None)
    if isinstance(config, ViTConfig):
        whole = any(not key.startswith("encoder.") for key in tensors)
        state = to_hugging_face(tensors, "videomae." if whole else "", "videomae.")
        settings = _videomae_settings(model, config)
    else:
        tensors["encoder.pos_embed"] = _stored(model, learned)
        state = to_hugging_face(tensors, "", "vit.")
        settings = _vit_settings(config)
    plain = {key: value.detach().clone().contiguous() for key, value in state.items()}
    with folder_aside(folder) as aside:
        write_json(aside / "config.json", {**settings, "torch_dtype": "float32"})
        write_json(aside / "preprocessor_config.json", _processor(config, preprocess))
        save_file(plain, aside / "model.safetensors", metadata={"format": "pt"})
        (aside / "model.safetensors").chmod((aside / "config.json").stat().st_mode)
    return folder


def _check_hugging_face(model: PublishedViT) -> None:
    config = model.encoder.config
    why = None
    if config.stem != "linear":
        why = "it has a stem of convolutions"
    elif config.layer_scale:
        why = "it has layer scale (gamma_1, gamma_2)"
    elif config.cosine_attention:
        why = "it has cosine attention"
    elif isinstance(config, ImageViTConfig):
        if config.qkv_bias != "full" or not config.cls_token or not config.final_norm:
            why = "it lacks the qkv bias, the class token or the final norm that ViTModel has"
    elif config.positions != "sincos_1d":
        why = f"its positions are {config.positions}, and transformers computes VideoMAE's 1-D table itself"
    elif config.table_grid != config.grid:
        why = "its positions are interpolated, and transformers computes the table itself"
    elif config.cls_token or config.qkv_bias == "full":
        why = "it has a class token or a bias of keys"
    elif model.decoders and not config.final_norm:
        why = "it has a decoder, but no final norm"
    if why:
        raise WeightsError(
            f"the classes of transformers cannot hold this model: {why}. Use --to original or keep our format."
        )


def _videomae_settings(model: PublishedViT, config: ViTConfig) -> dict[str, Any]:
    if model.head:
        name = "VideoMAEForVideoClassification"
    else:
        name = (
            "VideoMAEForPreTraining"
            if "decoder.embed.weight" in model.decoders
            else "VideoMAEModel"
        )
    settings: dict[str, Any] = {
        "architectures": [name],
        "model_type": "videomae",
        **_shared_settings(config),
        "num_frames": config.num_frames,
        "tubelet_size": config.tubelet_size,
        "qkv_bias": config.qkv_bias == "q_v",
        "use_mean_pooling": not config.final_norm,
    }
    if model.head and model.num_classes:
        names = _class_names(model)
        settings["id2label"] = {str(i): name for i, name in enumerate(names)}
        settings["label2id"] = {name: i for i, name in enumerate(names)}
    if "decoder.embed.weight" in model.decoders:
        own = model.decoders
        width = len(own["decoder.embed.weight"])
        blocks = {int(k.split(".")[2]) for k in own if k.startswith("decoder.blocks.")}
        settings |= {
            "decoder_hidden_size": width,
            "decoder_num_hidden_layers": 1 + max(blocks),
            "decoder_num_attention_heads": DECODER_HEADS["videomae"].get(
                width, max(1, width // 64)
            ),
            "decoder_intermediate_size": len(own["decoder.blocks.0.mlp.fc1.weight"]),
            "norm_pix_loss": True,
        }
    return settings


def _class_names(model: PublishedViT) -> list[str]:
    """Of every output of the head; as transformers names those that have none, or share one with another."""
    known = () if model.protocol is None else model.protocol.class_names
    names = [name or f"LABEL_{i}" for i, name in enumerate(known)]
    names += [f"LABEL_{i}" for i in range(len(names), model.num_classes)]
    # label2id has one class per name.
    return [f"LABEL_{i}" if names.count(name) > 1 else name for i, name in enumerate(names)]


def _vit_settings(config: ImageViTConfig) -> dict[str, Any]:
    return {
        "architectures": ["ViTModel"],
        "model_type": "vit",
        **_shared_settings(config),
        "qkv_bias": True,
    }


def _shared_settings(config: ViTConfig | ImageViTConfig) -> dict[str, Any]:
    return {
        "image_size": config.image_size,
        "patch_size": config.patch_size,
        "num_channels": 3,
        "hidden_size": config.width,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "intermediate_size": hidden_width(config.width, config.mlp_ratio),
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "layer_norm_eps": LAYER_NORM_EPS,
    }


def _processor(config: ViTConfig | ImageViTConfig, preprocess: VideoPreprocess) -> dict[str, Any]:
    square = {"height": preprocess.size, "width": preprocess.size}
    # ViTImageProcessor only stretches, BitImageProcessor is that of DINOv2.
    pictures = "ViTImageProcessor" if preprocess.stretch else "BitImageProcessor"
    return {
        "image_processor_type": "VideoMAEImageProcessor"
        if isinstance(config, ViTConfig)
        else pictures,
        "do_resize": True,
        "size": square
        if preprocess.stretch
        else {"shortest_edge": preprocess.resize_to or preprocess.size},
        "resample": KERNELS.index(preprocess.kernel),
        "do_center_crop": not preprocess.stretch,
        "crop_size": square,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(preprocess.mean),
        "image_std": list(preprocess.std),
    }
