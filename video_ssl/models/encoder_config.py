"""The encoders that an objective may choose from, by the `architecture` of their config.  Free of torch and jax."""

from __future__ import annotations

import dataclasses
import functools
import operator
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Protocol

from pydantic import Discriminator, GetCoreSchemaHandler, Tag
from pydantic_core import CoreSchema

from video_ssl.models import NETWORKS
from video_ssl.overrides import Choice


class EncoderSettings(Protocol):
    """What the config of every such network has; `image_size` too, where frames of one size are asked for."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def architecture(self) -> str: ...

    @property
    def num_frames(self) -> int | None:
        """Of the clips that it is made for; None = the clip of the objective."""

    @property
    def width(self) -> int:
        """Width of the features."""


def choosable() -> dict[str, Any]:
    """Returns the configs of the networks that recipes may choose, by architecture: those with a field of that name
    whose only value it is."""
    found = {}
    for name, network in NETWORKS.items():
        config = network.config_class()
        if any(field.name == "architecture" for field in dataclasses.fields(config)):
            found[name] = config
    return found


if TYPE_CHECKING:
    EncoderConfig = EncoderSettings
else:

    class EncoderConfig(Choice):
        """Type of a field that takes the config of any of them; a recipe without `architecture:` means a ViT.

        The table is asked when a recipe is read, so that a network may be added to it at any time before.
        """

        @classmethod
        def classes(cls) -> list[type]:
            return list(choosable().values())

        @classmethod
        def __get_pydantic_core_schema__(
            cls, source: Any, handler: GetCoreSchemaHandler
        ) -> CoreSchema:
            tagged = [Annotated[config, Tag(name)] for name, config in choosable().items()]
            union = functools.reduce(operator.or_, tagged)
            return handler.generate_schema(Annotated[union, Discriminator(_architecture)])


def _architecture(value: Any) -> str:
    if isinstance(value, Mapping):
        return str(value.get("architecture", "vit"))
    return str(value.architecture)
