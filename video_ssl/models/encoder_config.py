"""The encoders that an objective may choose from, by the `architecture` of their config.  Free of torch and jax.

A field of the type `EncoderConfig` takes the config of any network of `NETWORKS` that sees video, one of the type
`SoundEncoderConfig` or `TextEncoderConfig` any that sees those.
"""

from __future__ import annotations

import dataclasses
import functools
import operator
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Protocol

from pydantic import Discriminator, GetCoreSchemaHandler, Tag
from pydantic_core import CoreSchema

from video_ssl.models import NETWORKS
from video_ssl.models.preprocess_config import Modality
from video_ssl.overrides import Choice


class NetworkSettings(Protocol):
    """What the config of every network has that recipes may choose."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def architecture(self) -> str:
        """Its name in `NETWORKS`, the only value of the field."""

    @property
    def width(self) -> int:
        """Width of the features."""


class EncoderSettings(NetworkSettings, Protocol):
    """The same of one that sees video; it has a field `image_size` too, where frames must have one size.

    One whose layers leave nothing of small clips has a method `refuse_small(num_frames=, height=, width=)`, which
    raises a ValueError for them: objectives ask it when the recipe is read, and the network when it is given a clip.
    """

    @property
    def num_frames(self) -> int | None:
        """Of the clips that it is made for; None = the clip of the objective."""


def choosable(modality: Modality) -> dict[str, Any]:
    """Returns the configs of the networks that recipes may choose, by architecture: those with a field of that name."""
    seeing = {name: net for name, net in NETWORKS.items() if net.modality == modality}
    configs = {name: network.config_class() for name, network in seeing.items()}
    return {
        name: config
        for name, config in configs.items()
        if any(field.name == "architecture" for field in dataclasses.fields(config))
    }


if TYPE_CHECKING:
    EncoderConfig = EncoderSettings
    SoundEncoderConfig = NetworkSettings
    TextEncoderConfig = NetworkSettings
else:

    class EncoderConfig(Choice):
        """Where a recipe says no `architecture:`, the first is meant, a ViT.

        The table is asked when a recipe is read, so that a network may be added to it at any time before.
        """

        modality = "video"

        @classmethod
        def known(cls) -> dict[str, type]:
            """Returns the configs that may stand here, by architecture."""
            return choosable(cls.modality)

        @classmethod
        def classes(cls) -> list[type]:
            return list(cls.known().values())

        @classmethod
        def __get_pydantic_core_schema__(
            cls, source: Any, handler: GetCoreSchemaHandler
        ) -> CoreSchema:
            known = cls.known()
            union = functools.reduce(
                operator.or_, (Annotated[config, Tag(name)] for name, config in known.items())
            )

            def architecture(value: Any) -> str:
                if isinstance(value, Mapping):
                    return str(value.get("architecture", next(iter(known))))
                return str(value.architecture)

            return handler.generate_schema(Annotated[union, Discriminator(architecture)])

    class SoundEncoderConfig(EncoderConfig):
        """The same for sound."""

        modality = "sound"

    class TextEncoderConfig(EncoderConfig):
        """The same for text."""

        modality = "text"
