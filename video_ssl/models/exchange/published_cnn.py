"""Published checkpoints of convolutional encoders: CARL's frame encoder, HiCo's R(2+1)D and R2D3D, pytorchvideo's zoo.

Their other parts (projections, heads) are left out, and they have no other naming to be written in.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from video_ssl.models.exchange.carl_weights import load_carl
from video_ssl.models.exchange.sizes import Sizes
from video_ssl.models.networks.frame_transformer import FrameTransformer
from video_ssl.models.networks.r2plus1d import R2Plus1D, from_hico
from video_ssl.models.networks.r2plus1d_config import R2Plus1DConfig
from video_ssl.models.networks.zoo import ZooEncoder
from video_ssl.models.networks.zoo_config import ZOO, ZOO_MEAN, ZOO_STD, ZooConfig
from video_ssl.models.preprocess_config import VideoPreprocess
from video_ssl.models.weights import LoadReport, WeightsError, load_weights, read_container

CNN_FAMILIES = ("carl", "hico", "pytorchvideo")
_PROJECTION = "projection."
_ZOO_STEMS = ("blocks.0.conv.", "blocks.0.multipathway_blocks.")
# papers/hico.md sections 2 and 6: 16 frames, every fourth of 30 a second, 112 pixels, one mean and deviation.
_HICO = VideoPreprocess(
    num_frames=16, frame_stride=4, fps=30.0, size=112, mean=(0.45,) * 3, std=(0.225,) * 3
)


@dataclass(frozen=True, kw_only=True)
class PublishedCNN:
    """A checkpoint, read; the fields of `Published` that make sense for it.

    Attributes:
        encoder: on the CPU, in training mode.
        preprocess: how its clips are made.
        family: of `CNN_FAMILIES`.
        container: how the file wrapped its tensors.
        report: what became of every key.
        table: positions, in words.
    """

    encoder: FrameTransformer | R2Plus1D | ZooEncoder
    preprocess: VideoPreprocess
    family: str
    container: str
    report: LoadReport
    table: str
    layout: str = "original"
    form: str = "pretrained"
    num_classes: int = 0
    head: Mapping[str, Tensor] = field(default_factory=dict)
    decoders: Mapping[str, Tensor] = field(default_factory=dict)

    def state(self) -> dict[str, Tensor]:
        """Returns the encoder under our names."""
        return {f"encoder.{key}": value for key, value in self.encoder.state_dict().items()}


def family_of(state: Mapping[str, Tensor]) -> str | None:
    """Returns which of `CNN_FAMILIES` the keys are of, else None."""
    if "embed.video_emb.weight" in state and "res_finetune.0.conv1.weight" in state:
        return "carl"
    if any(key.startswith(_ZOO_STEMS) for key in state):
        return "pytorchvideo"
    return "hico" if "backbone.conv2.res_1.conv_branch.a1.weight" in state or (
        "backbone.conv2.res_1.conv_branch.a.weight" in state
    ) else None  # fmt: skip


def read_cnn(
    path: str | Path,
    *,
    family: str = "auto",
    sizes: Sizes | None = None,
    num_heads: int | None = None,
) -> PublishedCNN | None:
    """Returns the encoder of a checkpoint file of `CNN_FAMILIES`; None if `family` is "auto" and it is of none.

    Args:
        path: the file.
        family: "auto" or one of them.
        sizes: of its clips: `num_frames` and `image_size`; of CARL `trained_frames` are the frames of a training view,
            where the file does not say it.
        num_heads: of CARL's transformer; by default what the file says.

    Raises:
        WeightsError: unreadable, or not a whole checkpoint of the family.
    """
    sizes = sizes or Sizes()
    state, container = read_container(path)
    found = family_of(state)
    if family == "auto" and found is None:
        return None
    if family not in ("auto", found):
        raise WeightsError(f"{path} has not the keys of a checkpoint of {family}.")
    if found == "carl":
        read = _carl(path, sizes, num_heads)
    else:
        read = (_hico if found == "hico" else _zoo)(state, sizes, name=str(path))
    preprocess = replace(read.preprocess, size=sizes.image_size or read.preprocess.size)
    return replace(read, preprocess=preprocess, container=container)


def _carl(path: str | Path, sizes: Sizes, num_heads: int | None) -> PublishedCNN:
    frames = sizes.trained_frames or sizes.num_frames
    model, report = load_carl(path, num_frames=frames, num_heads=num_heads)
    config = model.encoder.config
    kept = tuple(key for key in report.matched if not key.startswith(_PROJECTION))
    left = tuple(key for key in report.matched if key.startswith(_PROJECTION))
    note = "the projection is left out: features are taken before it."
    return PublishedCNN(
        encoder=model.encoder,
        preprocess=VideoPreprocess(num_frames=config.length, frame_stride=1, size=224),
        family="carl",
        container="",
        report=replace(report, matched=kept, unused=left, notes=(*report.notes, note)),
        table=f"CARL's formula, stretched from {config.length} frames to any number",
    )


def _hico(state: Mapping[str, Tensor], sizes: Sizes, *, name: str) -> PublishedCNN:
    backbone = from_hico(state)
    config = hico_config(backbone, num_frames=sizes.num_frames or _HICO.num_frames)
    encoder = R2Plus1D(config)
    try:
        report = load_weights(encoder, backbone, min_share=1.0)
    except WeightsError as err:
        raise WeightsError(f"{name} is not a whole R(2+1)D or R2D3D of HiCo: {err}") from err
    if report.unused:
        raise WeightsError(f"{name} has {len(report.unused)} keys without a place: {report}.")
    others = tuple(key for key in state if not key.startswith("backbone."))
    notes = ["strides in time are not stored: HiCo's for this kind of block are taken."]
    if others:
        notes.append("the heads are left out.")
    return PublishedCNN(
        encoder=encoder,
        preprocess=replace(_HICO, num_frames=config.num_frames or _HICO.num_frames),
        family="hico",
        container="",
        report=replace(report, unused=others, notes=tuple(notes)),
        table="none",
    )


def _zoo(state: Mapping[str, Tensor], sizes: Sizes, *, name: str) -> PublishedCNN:
    """The network is the one that has just the weights of the file, but for the head.

    Source: the names of the files of pytorchvideo's model zoo for frames and distances, its builders for sizes, where
    x3d_xs, x3d_s and x3d_m are one network: `sizes.num_frames` tells them apart, x3d_m is the default.
    """
    chosen = next((n for n in _zoo_order(sizes.num_frames) if _fits(n, state)), None)
    if chosen is None:
        raise WeightsError(
            f"{name} holds none of pytorchvideo's networks as a whole: {', '.join(ZOO)}."
        )
    known = ZOO[chosen]
    frames = sizes.num_frames or known.num_frames
    encoder = ZooEncoder(ZooConfig(model=chosen, num_frames=frames))  # type: ignore[arg-type]
    report = load_weights(encoder, state, min_share=1.0)
    note = (
        "the head is left out; frames, their distance and size are those of the model zoo's table."
    )
    return PublishedCNN(
        encoder=encoder,
        preprocess=VideoPreprocess(
            num_frames=frames,
            frame_stride=known.frame_stride,
            fps=30.0,
            size=known.size,
            mean=ZOO_MEAN,
            std=ZOO_STD,
        ),
        family="pytorchvideo",
        container="",
        report=replace(report, notes=(*report.notes, note)),
        table="none",
    )


def _zoo_order(num_frames: int | None) -> list[str]:
    """The names, those with as many frames first, x3d_m before the same network for smaller clips."""
    names = sorted(ZOO, key=lambda n: n in ("x3d_xs", "x3d_s"))
    return sorted(names, key=lambda n: ZOO[n].num_frames != num_frames)


def _fits(name: str, state: Mapping[str, Tensor]) -> bool:
    with torch.device("meta"):
        encoder = ZooEncoder(ZooConfig(model=name))  # type: ignore[arg-type]
    trunk = tuple(f"blocks.{i}." for i in range(len(encoder.blocks)))
    found = {key: value.shape for key, value in state.items() if key.startswith(trunk)}
    return found == {key: value.shape for key, value in encoder.state_dict().items()}


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
