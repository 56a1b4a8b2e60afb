"""Steps that the configs of several objectives share.  Free of torch."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, TypeVar

from video_ssl.models.config import ImageViTConfig, ViTConfig
from video_ssl.models.networks.r2plus1d_config import R2Plus1DConfig
from video_ssl.models.networks.r3d_config import R3DConfig
from video_ssl.models.networks.zoo_config import ZooConfig

C = TypeVar("C", bound=ViTConfig | ImageViTConfig | R2Plus1DConfig | R3DConfig | ZooConfig)


def fit_encoder(encoder: C, *, size: int, num_frames: int | None = None) -> C:
    """Returns the encoder config with empty `image_size` and `num_frames` filled from the crop and the clip.

    Raises:
        ValueError: a value that is set differs from the crop or the clip, or does not divide into tokens.
    """
    fields: dict[str, Any] = {}
    if hasattr(encoder, "image_size"):  # a convolution takes frames of any size
        fields["image_size"] = size
    if not isinstance(encoder, ImageViTConfig) and num_frames is not None:
        fields["num_frames"] = num_frames
    for name, value in fields.items():
        here = getattr(encoder, name)
        if here is not None and here != value:
            source = "crop.size" if name == "image_size" else "clip.num_frames"
            raise ValueError(
                f"encoder.{name}={here}, but {source}={value}: leave encoder.{name} empty, or make them equal."
            )
    return replace(encoder, **fields)
