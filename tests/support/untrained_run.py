"""The folder of a run whose encoder was never trained: small enough to embed a video in milliseconds."""

from __future__ import annotations

from pathlib import Path

import torch

from video_ssl.models.config import ViTConfig
from video_ssl.models.encoders import save_encoder
from video_ssl.models.networks.vit import VideoViT
from video_ssl.models.preprocess_config import VideoPreprocess


def untrained_run(folder: Path, *, width: int = 32, depth: int = 1) -> Path:
    """`folder` with an encoder of `depth` blocks and `width` features, for 4 frames of 16 px; the same every time."""
    torch.manual_seed(0)
    config = ViTConfig(
        preset=None,
        embed_dim=width,
        depth=depth,
        num_heads=2,
        image_size=16,
        num_frames=4,
        patch_size=8,
    )
    save_encoder(
        folder / "encoder",
        VideoViT(config),
        architecture="vit",
        preprocess=VideoPreprocess(num_frames=4, frame_stride=2, size=16),
        source={"objective": "toy"},
    )
    return folder
