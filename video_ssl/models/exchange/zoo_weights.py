"""Encoders out of the published checkpoints of pytorchvideo's model zoo; their heads are left out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from video_ssl.models.exchange.published_model import CLIPS, Published, Source
from video_ssl.models.exchange.sizes import Sizes
from video_ssl.models.networks.zoo import ZooEncoder
from video_ssl.models.networks.zoo_config import ZOO, ZOO_MEAN, ZOO_STD, ZooConfig
from video_ssl.models.preprocess_config import VideoPreprocess
from video_ssl.models.weights import WeightsError, load_weights

_STEMS = ("blocks.0.conv.", "blocks.0.multipathway_blocks.")


def read(
    source: Source, *, family: str, sizes: Sizes, num_heads: int | None, min_share: float
) -> Published | None:
    """Returns the encoder of a checkpoint file of pytorchvideo, see `Reader`.

    The network is the one that has just the weights of the file, but for the head.

    Source: the names of the files of pytorchvideo's model zoo for frames and distances, its builders for sizes, where
    x3d_xs, x3d_s and x3d_m are one network: `sizes.num_frames` tells them apart, x3d_m is the default.
    """
    if not source.is_file or not any(key.startswith(_STEMS) for key in source.checkpoint.state):
        if family == "auto":
            return None
        raise WeightsError(f"{source.path} has not the keys of a checkpoint of {family}.")
    state = source.checkpoint.state
    chosen = next((n for n in _zoo_order(sizes.num_frames) if _fits(n, state)), None)
    if chosen is None:
        raise WeightsError(
            f"{source.path} holds none of pytorchvideo's networks as a whole: {', '.join(ZOO)}."
        )
    known = ZOO[chosen]
    frames = sizes.num_frames or known.num_frames
    encoder = ZooEncoder(ZooConfig(model=chosen, num_frames=frames))  # type: ignore[arg-type]
    report = load_weights(encoder, state, min_share=1.0)
    note = (
        "the head is left out; frames, their distance and size are those of the model zoo's table."
    )
    return Published(
        encoder=encoder,
        preprocess=VideoPreprocess(
            num_frames=frames,
            frame_stride=known.frame_stride,
            fps=30.0,
            size=sizes.image_size or known.size,
            mean=ZOO_MEAN,
            std=ZOO_STD,
        ),
        family="pytorchvideo",
        heeds=CLIPS,
        container=source.checkpoint.container,
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
