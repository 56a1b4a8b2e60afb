"""Encoders out of HiCo's checkpoints of S3D-G, R(2+1)D and R2D3D, and back; their heads are left out."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor

from video_ssl.models.exchange.published_model import CLIPS, Published, Source
from video_ssl.models.exchange.sizes import Sizes
from video_ssl.models.networks import r2plus1d, s3dg
from video_ssl.models.networks.r2plus1d_config import R2Plus1DConfig
from video_ssl.models.networks.s3dg_config import STEM, S3DGConfig
from video_ssl.models.preprocess_config import VideoPreprocess
from video_ssl.models.weights import LoadReport, WeightsError, load_weights

Read = tuple[Any, LoadReport]

# papers/hico.md sections 2 and 6: 16 frames, every fourth of 30 a second, 112 pixels, one mean and deviation.
_CLIPS = VideoPreprocess(
    num_frames=16, frame_stride=4, fps=30.0, size=112, mean=(0.45,) * 3, std=(0.225,) * 3
)
CONTAINER = "model_state"
_S3DG_MARKS = ("backbone.Conv_1a.conv1.weight", "backbone.block1.0.conv1.weight")
_MARKS = tuple(f"backbone.conv2.res_1.conv_branch.{layer}.weight" for layer in ("a1", "a"))


def read(
    source: Source, *, family: str, sizes: Sizes, num_heads: int | None, min_share: float
) -> Published | None:
    """Returns the encoder of a checkpoint file of HiCo, see `Reader`."""
    state = source.checkpoint.state if source.is_file else {}
    if any(mark in state for mark in _S3DG_MARKS):
        encoder, report = _read_s3dg(source, state, sizes)
        notes = []
    elif any(mark in state for mark in _MARKS):
        encoder, report = _read_resnet(source, state, sizes)
        notes = ["strides in time are not stored: HiCo's for this kind of block are taken."]
    elif family == "auto":
        return None
    else:
        raise WeightsError(f"{source.path} has not the keys of a checkpoint of {family}.")
    num_frames = sizes.num_frames or _CLIPS.num_frames
    others = tuple(key for key in state if not key.startswith("backbone."))
    if others:
        notes.append("the heads are left out.")
    return Published(
        encoder=encoder,
        preprocess=replace(
            _CLIPS,
            num_frames=num_frames,
            size=sizes.image_size or _CLIPS.size,
        ),
        family="hico",
        heeds=CLIPS,
        container=source.checkpoint.container,
        report=replace(report, unused=others, notes=tuple(notes)),
        table="none",
    )


def original_state(model: Published) -> dict[str, Tensor]:
    """Returns the weights of an S3DG or R2Plus1D under the names of HiCo's code."""
    encoder = model.encoder
    names = s3dg.to_hico if isinstance(encoder, s3dg.S3DG) else r2plus1d.to_hico
    return names(encoder.state_dict())


def lost_parts(model: Published) -> tuple[str, ...]:
    """Returns what `original_state` leaves out: HiCo's heads are of another make."""
    return ("classifier",) if model.classifier else ()


def _read_s3dg(source: Source, state: Mapping[str, Tensor], sizes: Sizes) -> Read:
    """The S3D-G of a file, each of whose tensors stands there under one or both of two names."""
    try:
        backbone = s3dg.from_hico(state)
    except ValueError as err:
        raise WeightsError(f"{source.path}: {err}") from err
    width = backbone.get("layers.conv_1a.space.weight", state[next(iter(state))]).shape[0]
    config = S3DGConfig(
        width_divisor=max(1, STEM[0] // max(1, width)),
        num_frames=sizes.num_frames or _CLIPS.num_frames,
    )
    return _filled(source, s3dg.S3DG(config), backbone, "S3D-G")


def _read_resnet(source: Source, state: Mapping[str, Tensor], sizes: Sizes) -> Read:
    backbone = r2plus1d.from_hico(state)
    config = hico_config(backbone, num_frames=sizes.num_frames or _CLIPS.num_frames)
    return _filled(source, r2plus1d.R2Plus1D(config), backbone, "R(2+1)D or R2D3D")


def _filled(source: Source, encoder: Any, backbone: Mapping[str, Tensor], name: str) -> Read:
    try:
        report = load_weights(encoder, backbone, min_share=1.0)
    except WeightsError as err:
        raise WeightsError(f"{source.path} is not a whole {name} of HiCo: {err}") from err
    if report.unused:
        raise WeightsError(
            f"{source.path} has {len(report.unused)} keys without a place: {report}."
        )
    return encoder, report


def hico_config(backbone: Mapping[str, Tensor], *, num_frames: int) -> R2Plus1DConfig:
    """Returns the config of the network whose weights, under our names, are `backbone`."""
    factored = "stem.layers.time.conv.weight" in backbone
    last = "time.conv.weight" if factored else "conv.weight"
    blocks = {key.split(".")[2] for key in backbone if re.match(r"stages\.0\.\d+\.", key)}
    wholes = [backbone.get(f"stages.{stage}.0.b.{last}") for stage in range(4)]
    stem = backbone.get(f"stem.layers.{last}")
    if stem is None or len(blocks) not in (1, 2):
        raise WeightsError(
            "the file has no whole R(2+1)D or R2D3D of HiCo: its stem or blocks are missing."
        )
    convolutions = [weight for weight in (stem, *wholes) if weight is not None]
    if len(convolutions) != 5:
        raise WeightsError("the file has no whole R(2+1)D or R2D3D of HiCo: a stage is missing.")
    widths = tuple(weight.shape[0] for weight in convolutions)
    kernels = tuple(weight.shape[2] for weight in convolutions[1:])
    return R2Plus1DConfig(
        preset="r2plus1d_10" if factored else "r2d3d_18",
        depth=18 if len(blocks) == 2 else 10,
        widths=(widths[0], widths[1], widths[2], widths[3], widths[4]),
        time_kernels=(kernels[0], kernels[1], kernels[2], kernels[3]),
        num_frames=num_frames,
    )
