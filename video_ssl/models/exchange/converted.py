"""Folders of converted models: an encoder folder with the head or the decoders kept beside it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from video_ssl.models import NETWORKS, architecture_of
from video_ssl.models.classifier import VideoClassifier, readout_of
from video_ssl.models.classifier_folder import CLASSIFIER_WEIGHTS, Protocol
from video_ssl.models.classifier_folder import load_classifier as load_stored_classifier
from video_ssl.models.config import ViTConfig
from video_ssl.models.encoder_folder import DECODER, HEAD
from video_ssl.models.encoders import (
    EncoderError,
    build_encoder,
    find_encoder,
    load_encoder,
    read_beside,
    save_encoder,
)
from video_ssl.models.exchange.export_names import reader_of_others
from video_ssl.models.exchange.published import PublishedViT
from video_ssl.models.exchange.published_encoder import table_text
from video_ssl.models.exchange.published_model import CLIPS, Published
from video_ssl.models.exchange.sizes import Sizes, fitted
from video_ssl.models.exchange.stored_tables import regrid
from video_ssl.models.networks.image_vit import ImageViT
from video_ssl.models.networks.vit import VideoViT
from video_ssl.models.preprocess_config import VideoPreprocess
from video_ssl.models.weights import LoadReport, WeightsError, load_weights

#: Of a video whose class is asked, where the file does not say: as BEVT and Video Swin are tested on Kinetics.
_CLIPS = 4


def write_folder(folder: str | Path, model: Published, *, source: Mapping[str, Any]) -> Path:
    """Returns the encoder folder that was written: `model.safetensors` (the encoder), and
    `head.safetensors`, `decoder.safetensors` or `classifier.safetensors` where the model has such parts.

    Raises:
        EncoderError: as `save_encoder`.
    """
    beside = {HEAD: model.head, DECODER: model.decoders, CLASSIFIER_WEIGHTS: model.classifier}
    protocol = model.protocol or Protocol(
        class_names=(), num_classes=model.num_classes, clips=_CLIPS, labels=model.family
    )
    given = {
        "objective": model.family,
        **source,
        **model.about,  # behind: what a folder of ours says of its training stays true
        "form": model.form,
        "container": model.container,
        "num_classes": model.num_classes,
        "positions": model.table,
    }
    return save_encoder(
        folder,
        model.encoder,
        architecture=architecture_of(model.encoder),
        preprocess=model.preprocess,
        source=given,
        beside={name: tensors for name, tensors in beside.items() if tensors},
        protocol=protocol if model.classifier else None,
    )


def read_folder(path: str | Path, *, sizes: Sizes | None = None) -> Published:
    """Returns the model of an encoder folder (or run) of ours.

    Args:
        path: RUN, RUN/encoder, RUN/encoders/NAME, or a converted folder.
        sizes: other clips than those it is for; the position table of a ViT follows, and of no other network.

    Raises:
        EncoderError: as `load_encoder`.
        WeightsError: an encoder that no code of others can read.
    """
    folder = find_encoder(path)
    encoder = load_encoder(folder)
    if not isinstance(encoder, VideoViT | ImageViT):
        return _read_other(folder, encoder, sizes or Sizes())
    preprocess, source = encoder.preprocess, encoder.source
    assert isinstance(preprocess, VideoPreprocess)
    module, text = resize(encoder, sizes or Sizes())
    head, decoders = read_beside(folder, HEAD), read_beside(folder, DECODER)
    parts = _classifier(folder)
    classifier = [f"classifier.{key}" for key in parts.get("classifier", ())]
    keys = [*(f"encoder.{key}" for key in module.state_dict()), *head, *decoders, *classifier]
    config = module.config
    frames = config.num_frames if isinstance(config, ViTConfig) else None
    frames = frames or (sizes and sizes.num_frames) or preprocess.num_frames
    size = config.image_size or preprocess.size
    model = PublishedViT(
        encoder=module,
        preprocess=preprocess,
        head=head,
        decoders=decoders,
        about=_about(source),
        heeds=(*CLIPS, "table"),
        **parts,
        family=_family(module, str(source.get("objective", ""))),
        layout="ours",
        form=str(source.get("form", "ours")),
        container=str(source.get("container", "")),
        report=LoadReport(matched=tuple(keys)),
        table=text,
    )
    return model.with_clips(preprocess.with_sizes(size, frames))


def _read_other(folder: Path, encoder: Any, sizes: Sizes) -> Published:
    """An encoder that is no ViT, where a code of others can read it."""
    if reader_of_others(encoder) is None:
        raise WeightsError(
            f"{folder} holds a {encoder.architecture!r} encoder; only the ViTs of MAE, VideoMAE and MVD, HiCo's "
            "networks and Swins have another naming."
        )
    source, decoders = encoder.source, read_beside(folder, DECODER)
    parts = _classifier(folder)
    classifier = [f"classifier.{key}" for key in parts.get("classifier", ())]
    keys = [*encoder.state_dict(), *decoders, *classifier]
    preprocess = encoder.preprocess
    frames = sizes.num_frames or preprocess.num_frames
    if frames != encoder.config.num_frames:
        weights = encoder.state_dict()
        encoder = build_encoder(replace(encoder.config, num_frames=frames))
        encoder.load_state_dict(weights)
    wanted = fitted(encoder, preprocess, sizes)
    model = Published(
        encoder=encoder,
        preprocess=preprocess,
        family=next(iter(NETWORKS[architecture_of(encoder)].published)),
        layout="ours",
        form=str(source.get("form", "ours")),
        container=str(source.get("container", "")),
        decoders=decoders,
        about=_about(source),
        heeds=CLIPS,
        **parts,
        report=LoadReport(matched=tuple(keys)),
    )
    return model.with_clips(wanted)


def _classifier(folder: Path) -> dict[str, Any]:
    """`classifier` and `protocol` of a `Published`, where a folder has them."""
    classifier = read_beside(folder, CLASSIFIER_WEIGHTS)
    if not classifier:
        return {}
    return {"classifier": classifier, "protocol": load_stored_classifier(folder).protocol}


def _about(source: Mapping[str, Any]) -> dict[str, Any]:
    """What a folder says of its training, which no name of a family is to stand for."""
    return {"objective": "not recorded", **source}


def load_classifier(path: str | Path) -> VideoClassifier:
    """Returns the classifier of a converted folder that kept its head, in evaluation mode.

    Raises:
        EncoderError: no encoder there, or one without a head.

    >>> import torch
    >>> classifier = load_classifier("encoders/k400")
    >>> classifier(torch.zeros(2, 3, 4, 16, 16)).shape
    torch.Size([2, 400])
    """
    folder = find_encoder(path)
    head = read_beside(folder, HEAD)
    if not head:
        raise EncoderError(
            f"{folder} keeps no head: it was not converted from a fine-tuned model. load_encoder gives its encoder."
        )
    encoder = load_encoder(folder)
    classes = len(head["head.weight"]) if "head.weight" in head else 0
    model = VideoClassifier(encoder.config, num_classes=classes, readout=readout_of(head))
    load_weights(model, {**{f"encoder.{k}": v for k, v in encoder.state_dict().items()}, **head})
    return model.requires_grad_(False).eval()


def resize(encoder: VideoViT | ImageViT, sizes: Sizes) -> tuple[VideoViT | ImageViT, str]:
    """Returns the encoder for other clips, and its position table in words.

    A fixed table stays that of the clips it was made for and is interpolated, as the encoder itself does with other
    clips (or computed anew for `Sizes.table` "recompute"); a learned one is interpolated and stored.
    """
    config = encoder.config
    made_for = config.table_grid
    changes: dict[str, Any] = {"image_size": sizes.image_size or config.image_size}
    keep = sizes.table != "recompute" or config.positions == "learned"
    side = made_for[1] * config.patch_size
    if config.positions != "learned":
        changes["table_size"] = side if keep and side != changes["image_size"] else None
    if isinstance(config, ViTConfig):
        changes["num_frames"] = sizes.num_frames or config.num_frames
        frames = made_for[0] * config.tubelet_size
        if config.positions != "learned":
            changes["table_frames"] = frames if keep and frames != changes["num_frames"] else None
    new = replace(config, **changes)
    text = table_text(config.positions, made_for, new, keep=keep)
    if new == config:
        return encoder, text
    module = VideoViT(new) if isinstance(new, ViTConfig) else ImageViT(new)
    state = encoder.state_dict()
    if config.positions == "learned":
        table = regrid(state["positions.table"][0], config.grid, new.grid)
        state = {**state, "positions.table": table[None]}
    module.load_state_dict(state)
    return module, text


def _family(encoder: VideoViT | ImageViT, objective: str) -> str:
    if objective in ("mae", "videomae", "videomae_v2", "mvd"):
        return objective
    if isinstance(encoder, ImageViT):
        return "mae"
    return "mvd" if encoder.config.positions == "sincos_3d" else "videomae"
