"""Steps that the configs of several objectives share.  Free of torch."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any, TypeVar

from video_ssl.models.config import ImageViTConfig
from video_ssl.models.encoder_config import EncoderSettings

C = TypeVar("C", bound=EncoderSettings | ImageViTConfig)


def fit_encoder(encoder: C, *, size: int, num_frames: int | None = None) -> C:
    """Returns the encoder config with empty `image_size` and `num_frames` filled from the crop and the clip, where it
    has such fields: a convolution takes frames of any size, an encoder of images any number of them.

    Raises:
        ValueError: a value that is set differs from the crop or the clip, or does not divide into tokens, or nothing is
            left of such a clip.
    """
    known = {field.name for field in fields(encoder)}
    filled: dict[str, Any] = {"image_size": size, "num_frames": num_frames}
    filled = {name: v for name, v in filled.items() if name in known and v is not None}
    for name, value in filled.items():
        here = getattr(encoder, name)
        if here is not None and here != value:
            source = "crop.size" if name == "image_size" else "clip.num_frames"
            raise ValueError(
                f"encoder.{name}={here}, but {source}={value}: leave encoder.{name} empty, or make them equal."
            )
    refuse_small = getattr(encoder, "refuse_small", None)
    if refuse_small is not None and num_frames is not None:
        refuse_small(num_frames=num_frames, height=size, width=size)
    return replace(encoder, **filled)
