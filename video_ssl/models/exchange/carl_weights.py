"""Encoders out of CARL's published checkpoints (`checkpoint_epoch_%05d.pth`): read without unpickling foreign classes.

A checkpoint is {epoch, model_state, optimizer_state, cfg}, cfg an EasyDict.  Sizes are read off the weights, the length
of the training off cfg; the number of heads is not stored in the weights either.

Source: papers/carl.md section 8.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from video_ssl.models import architecture_of
from video_ssl.models.checkpoint_files import read_content
from video_ssl.models.encoders import save_encoder
from video_ssl.models.exchange.published_model import CLIPS, Published, Source
from video_ssl.models.exchange.sizes import Sizes
from video_ssl.models.networks.frame_config import FrameTransformerConfig
from video_ssl.models.networks.frame_transformer import FrameTransformer, ProjectionHead
from video_ssl.models.preprocess_config import VideoPreprocess
from video_ssl.models.weights import (
    LoadReport,
    Renames,
    WeightsError,
    load_weights,
    read_state,
)

#: Keys of CARL -> keys of {encoder, projection}.
CARL_KEYS: Renames = (
    ("backbone.0.", "encoder.backbone.conv1."),
    ("backbone.1.", "encoder.backbone.bn1."),
    ("backbone.4.", "encoder.backbone.layer1."),
    ("backbone.5.", "encoder.backbone.layer2."),
    ("backbone.6.", "encoder.backbone.layer3."),
    ("res_finetune.", "encoder.backbone.layer4."),
    ("embed.", "encoder.head."),
    ("ssl_projection.", "projection."),
)
PAPER_HEADS = 8
_LAYER = "embed.video_encoder.enc_layers."
_PROJECTION = "projection."
_MARKS = ("embed.video_emb.weight", "res_finetune.0.conv1.weight")


class CarlModel(nn.Module):
    """What a checkpoint holds: encoder and projection."""

    def __init__(self, config: FrameTransformerConfig, projection_dim: int) -> None:
        super().__init__()
        self.encoder = FrameTransformer(config)
        self.projection = ProjectionHead(config.embed_dim, projection_dim)


def load_carl(
    path: str | Path, *, num_frames: int | None = None, num_heads: int | None = None
) -> tuple[CarlModel, LoadReport]:
    """Returns the model of a checkpoint of CARL's transformer configurations, on the CPU, and the report of its keys.

    Every key of the file has a place and every place a key, or an error is raised.

    Args:
        path: the file.
        num_frames: T of the training, for the range of positions; by default what the stored cfg says.
        num_heads: of the transformer; by default what the stored cfg says, else the paper's 8.

    Raises:
        WeightsError: unreadable; not such a checkpoint; `num_frames` neither given nor stored.

    >>> model, report = load_carl("checkpoint_epoch_00299.pth")
    >>> model.encoder.config.num_frames, report.unused
    (80, ())
    """
    state = read_state(path)
    cfg = read_content(path).get("cfg")
    if num_frames is None:
        num_frames = _setting(cfg, "TRAIN", "NUM_FRAMES")
    if num_frames is None:
        raise WeightsError(
            f"{path} does not say how many frames a training view had: give num_frames, of convert --trained-frames "
            "(240 for Pouring and FineGym, 80 for Penn Action and Kinetics-400)."
        )
    if num_heads is None:
        num_heads = _setting(cfg, "MODEL", "EMBEDDER_MODEL", "NUM_HEADS") or PAPER_HEADS
    config = config_of(state, num_frames=num_frames, num_heads=num_heads, name=str(path))
    model = CarlModel(config, state["ssl_projection.net.0.weight"].shape[0])
    report = load_weights(model, state, rename=CARL_KEYS, min_share=1.0)
    if report.unused:
        raise WeightsError(f"{path} has {len(report.unused)} keys without a place: {report}.")
    return model, report


def read(
    source: Source, *, family: str, sizes: Sizes, num_heads: int | None, min_share: float
) -> Published | None:
    """Returns the encoder of a checkpoint file of CARL, see `Reader`; the projection is left out.

    `sizes.trained_frames` are the frames of a training view, where the file does not say it.
    """
    if not source.is_file or any(key not in source.checkpoint.state for key in _MARKS):
        if family == "auto":
            return None
        raise WeightsError(f"{source.path} has not the keys of a checkpoint of {family}.")
    model, report = load_carl(source.path, num_frames=sizes.trained_frames, num_heads=num_heads)
    config = model.encoder.config
    kept = tuple(key for key in report.matched if not key.startswith(_PROJECTION))
    left = tuple(key for key in report.matched if key.startswith(_PROJECTION))
    note = "the projection is left out: features are taken before it."
    return Published(
        encoder=model.encoder,
        preprocess=VideoPreprocess(
            num_frames=sizes.num_frames or config.length,
            frame_stride=1,
            size=sizes.image_size or 224,
        ),
        family="carl",
        heeds=(*CLIPS, "trained_frames", "num_heads"),
        container=source.checkpoint.container,
        report=replace(report, matched=kept, unused=left, notes=(*report.notes, note)),
        table=f"CARL's formula, stretched from {config.length} frames to any number",
    )


def import_carl(
    path: str | Path,
    folder: str | Path,
    *,
    num_frames: int | None = None,
    num_heads: int | None = None,
    size: int = 224,
) -> Path:
    """Returns the encoder folder into which the encoder of a checkpoint was written; the projection is left out.

    Args:
        path, num_frames, num_heads: see `load_carl`.
        folder: where to; `video_ssl.load_encoder` reads it.
        size: of the frames, 224 in all of CARL.

    Raises:
        WeightsError: see `load_carl`.
        EncoderError: a place that is taken by something else.

    >>> import_carl("checkpoint_epoch_00299.pth", "encoders/carl")
    PosixPath('encoders/carl')
    """
    model, _ = load_carl(path, num_frames=num_frames, num_heads=num_heads)
    config = model.encoder.config
    return save_encoder(
        folder,
        model.encoder,
        architecture=architecture_of(model.encoder),
        preprocess=VideoPreprocess(num_frames=config.length, frame_stride=1, size=size),
        source={"objective": "carl", "converted from": Path(path).name},
    )


def config_of(
    state: Mapping[str, Tensor], *, num_frames: int, num_heads: int = PAPER_HEADS, name: str = ""
) -> FrameTransformerConfig:
    """Returns the config of CARL's transformer model whose weights are `state`, in CARL's keys.

    Raises:
        WeightsError: not such a model.
    """
    needed = (
        "embed.video_emb.weight",
        "ssl_projection.net.0.weight",
        "res_finetune.0.conv1.weight",
    )
    lacking = [key for key in needed if key not in state]
    if lacking:
        raise WeightsError(
            f"{name or 'the file'} has no {', '.join(lacking)}: it is no checkpoint of CARL's transformer model "
            "(its conv-embedder models are not read)."
        )
    layers = {key[len(_LAYER) :].split(".")[0] for key in state if key.startswith(_LAYER)}
    widths = [
        state[key].shape[0]
        for key in sorted(
            k for k in state if k.startswith("embed.fc_layers.") and state[k].dim() == 2
        )
    ]
    return FrameTransformerConfig(
        num_frames=num_frames,
        fc_dims=tuple(widths),
        hidden_dim=state["embed.video_emb.weight"].shape[0],
        num_layers=len(layers),
        num_heads=num_heads,
        ffn_dim=state[f"{_LAYER}0.feed_forward.fc1.weight"].shape[0],
        embed_dim=state["embed.embedding_layer.weight"].shape[0],
    )


def _setting(cfg: Any, *path: str) -> int | None:
    """A number in nested settings, or None."""
    for name in path:
        if not isinstance(cfg, Mapping):
            return None
        cfg = cfg.get(name)
    return cfg if isinstance(cfg, int) and not isinstance(cfg, bool) else None
