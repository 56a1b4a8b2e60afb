"""Settings of towers of `transformers`, free of torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from video_ssl.models.hub.families import (
    FAMILIES,
    TEXT_FAMILIES,
    Family,
    check_settings,
    side_of,
    supported,
)
from video_ssl.recipes import nearest


@dataclass(frozen=True, kw_only=True)
class HubConfig:
    """A tower of `transformers` that sees frames or clips; needs `video_ssl[hub]`.

    Attributes:
        model_type: of the tower, as its own configuration calls it.
        settings: its own configuration, complete.
        projected: CLIP: the layer that leads into the space of the texts is there.
    """

    model_type: str
    settings: dict[str, Any] = field(default_factory=dict)
    projected: bool = False

    def __post_init__(self) -> None:
        if self.model_type not in FAMILIES:
            raise ValueError(
                f"model_type={self.model_type!r} is no encoder that is known here: {supported()}."
                f"{nearest(self.model_type, FAMILIES)}"
            )
        check_settings(self.settings)
        for name in ("hidden_size", "patch_size"):
            if name not in self.settings:
                raise ValueError(f"settings of {self.model_type} must say {name}.")
        self.side_px  # noqa: B018

    @property
    def family(self) -> Family:
        """What is known of the tower."""
        return FAMILIES[self.model_type]

    @property
    def width(self) -> int:
        """Width of the features."""
        return int(self.settings["hidden_size"])

    @property
    def patch_px(self) -> int:
        """Side of a patch."""
        return side_of(self.settings["patch_size"], "patch_size")

    @property
    def side_px(self) -> int:
        """Side of the frames that the network was made for."""
        if self.model_type == "siglip2_vision_model":
            patches = int(self.settings.get("num_patches", 0))
            side = int(patches**0.5)
            if side < 1 or side * side != patches:
                raise ValueError(f"num_patches={patches} must be a square number.")
            return side * self.patch_px
        name = "crop_size" if "crop_size" in self.settings else "image_size"
        if name not in self.settings:
            raise ValueError(f"settings of {self.model_type} must say {name}.")
        return side_of(self.settings[name], name)

    @property
    def tubelet_size(self) -> int:
        """Frames of a token."""
        return int(self.settings.get("tubelet_size", 1)) if self.family.sees == "clips" else 1

    @property
    def num_frames(self) -> int | None:
        """Frames of the clips that the network was made for; None = it sees single frames."""
        if self.family.sees == "frames":
            return None
        return int(self.settings.get("frames_per_clip", self.settings.get("num_frames", 16)))

    @property
    def num_first(self) -> int:
        """Tokens before those of the patches: class, distillation, registers."""
        return self.family.first + int(self.settings.get("num_register_tokens", 0))

    @property
    def common_width(self) -> int | None:
        """Width of the space shared with texts; None = there is none."""
        if self.family.common == "projected":
            return int(self.settings["projection_dim"]) if self.projected else None
        if self.family.common == "text" and self.settings.get("vision_use_head", True):
            return self.width
        return None


@dataclass(frozen=True, kw_only=True)
class HubTextConfig:
    """A tower of `transformers` that reads texts; needs `video_ssl[hub]`.

    Attributes:
        model_type: of the tower, as its own configuration calls it.
        settings: its own configuration, complete.
    """

    model_type: str
    settings: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.model_type not in TEXT_FAMILIES:
            raise ValueError(
                f"model_type={self.model_type!r} is no tower of text that is known here: {', '.join(TEXT_FAMILIES)}."
            )
        check_settings(self.settings)

    @property
    def family(self) -> Family:
        """What is known of the tower."""
        return TEXT_FAMILIES[self.model_type]

    @property
    def width(self) -> int:
        """Width of the shared space."""
        name = {"clip_text_model": "projection_dim"}.get(self.model_type, "projection_size")
        return int(self.settings.get(name) or self.settings["hidden_size"])

    @property
    def length(self) -> int:
        """Places of a text."""
        return int(self.settings["max_position_embeddings"])
