"""The encoders that an objective may choose from, by the `architecture` of their config.  Free of torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Discriminator, Tag

from video_ssl.models.config import ViTConfig
from video_ssl.models.networks.r2plus1d_config import R2Plus1DConfig
from video_ssl.models.networks.r3d_config import R3DConfig
from video_ssl.models.networks.zoo_config import ZooConfig


def _architecture(value: Any) -> str:
    if isinstance(value, Mapping):
        return str(value.get("architecture", "vit"))
    return str(value.architecture)


#: Type of a field that takes any of them; a recipe without `architecture:` means a ViT.
EncoderConfig = Annotated[
    Annotated[ViTConfig, Tag("vit")]
    | Annotated[R2Plus1DConfig, Tag("r2plus1d")]
    | Annotated[R3DConfig, Tag("r3d")]
    | Annotated[ZooConfig, Tag("zoo")],
    Discriminator(_architecture),
]
