"""Encoders out of TensorFlow's published checkpoints of R3D and 3D ResNet-RS, without TensorFlow.

Names are those of the current reference code (papers/cvrl.md section 8, const_cl.md section 8); the published files
themselves (`r3d_1x_k600_800ep_backbone-1` and the like) were not opened: unverified.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from video_ssl.models.exchange.published_model import CLIPS, Published, Source
from video_ssl.models.exchange.sizes import Sizes
from video_ssl.models.exchange.tf_checkpoint import is_bookkeeping, read_tf_checkpoint
from video_ssl.models.networks.bridges import BridgeError
from video_ssl.models.networks.r3d import R3D
from video_ssl.models.networks.r3d_bridge import (
    backbone_of_tf,
    from_tf,
    infer_config,
    outside_backbone_of_tf,
)
from video_ssl.models.preprocess_config import VideoPreprocess
from video_ssl.models.weights import LoadReport, WeightsError, load_weights

Four = tuple[int, int, int, int]


def load_tf_r3d(
    path: str | Path, *, num_frames: int = 16, blocks: Four | None = None
) -> tuple[R3D, LoadReport]:
    """Returns the encoder of a TensorFlow checkpoint, and the report of its keys; heads and optimizers are left out.

    Args:
        path: prefix of the checkpoint, one of its files, or a folder with exactly one.
        num_frames: of the clips it is for.
        blocks: bottlenecks of the four groups; by default a group ends where the filters change.

    Raises:
        TFCheckpointError: not there, cut or damaged.
        WeightsError: no network of this family, or one whose weights are not complete.
    """
    arrays = read_tf_checkpoint(path, wanted=lambda name: not is_bookkeeping(name))
    try:
        backbone = backbone_of_tf(arrays)
        config = infer_config(backbone, blocks=blocks, num_frames=num_frames)
        state: dict[str, Tensor] = {
            key: torch.from_numpy(value) for key, value in from_tf(backbone, config).items()
        }
    except BridgeError as err:
        raise WeightsError(f"{path}: {err}") from err
    encoder = R3D(config)
    report = load_weights(encoder, state, min_share=1.0)
    others = (*report.unused, *outside_backbone_of_tf(arrays))
    return encoder, replace(report, unused=others)


def read(
    source: Source, *, family: str, sizes: Sizes, num_heads: int | None, min_share: float
) -> Published | None:
    """Returns the encoder of a checkpoint of CVRL or ConST-CL, see `Reader`; `family` says the range of pixels, which
    nothing in the files tells."""
    if family == "auto":
        return None
    num_frames = sizes.num_frames or 16
    encoder, report = load_tf_r3d(source.path, num_frames=num_frames)
    return Published(
        encoder=encoder,
        preprocess=_clips(num_frames, 2, sizes.image_size or 224, family == "const_cl"),
        family=family,
        heeds=CLIPS,
        layout="TensorFlow",
        report=report,
    )


def _clips(num_frames: int, frame_stride: int, size: int, zero_centered: bool) -> VideoPreprocess:
    middle = (0.5, 0.5, 0.5) if zero_centered else (0.0, 0.0, 0.0)
    scale = (0.5, 0.5, 0.5) if zero_centered else (1.0, 1.0, 1.0)
    return VideoPreprocess(
        num_frames=num_frames, frame_stride=frame_stride, size=size, mean=middle, std=scale
    )
