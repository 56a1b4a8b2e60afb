"""Settings of encoders and decoders, free of torch so that recipes and data workers can read them."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Literal

from video_ssl.limits import check_sizes, check_table
from video_ssl.recipes import to_plain

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

#: preset -> (embed_dim, depth, num_heads)
VIT_PRESETS: dict[str, tuple[int, int, int]] = {
    "Ti": (192, 12, 3),
    "S": (384, 12, 6),
    "B": (768, 12, 12),
    "L": (1024, 24, 16),
    "H": (1280, 32, 16),
    "g": (1408, 40, 16),
}


#: Marks a setting that encoders were written without: where it has its default, it is no part of their fingerprint.
CAME_LATER = {"came_later": True}


def settings_of(config: Any) -> Any:
    """Returns a config as plain values for a fingerprint, without the settings that came later and are not used:
    feature files of before still fit."""
    plain = to_plain(config)
    if dataclasses.is_dataclass(config):
        for field in dataclasses.fields(config):
            if "came_later" in field.metadata and getattr(config, field.name) == field.default:
                del plain[field.name]
    return plain


@dataclass(frozen=True, kw_only=True)
class Normalization:
    """Mean and standard deviation of the three colors, of pixels in [0, 1]."""

    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD

    def __post_init__(self) -> None:
        if any(value <= 0 for value in self.std):
            raise ValueError(f"std={self.std} must be positive for every color.")


#: Pixels in [-1, 1], as ConST-CL's and VATT's references have them.
CENTERED = Normalization(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))


@dataclass(frozen=True, kw_only=True)
class _TransformerConfig:
    """What a video ViT and an image ViT share.  See `ViTConfig`."""

    preset: Literal["Ti", "S", "B", "L", "H", "g"] | None = "B"
    embed_dim: int | None = None
    depth: int | None = None
    num_heads: int | None = None
    mlp_ratio: float = 4.0
    patch_size: int = 16
    image_size: int | None = None
    table_size: int | None = None
    cosine_attention: bool = False
    drop_path: float = 0.0
    layer_scale: float = 0.0
    final_norm: bool = True
    stem: Literal["linear", "conv"] = field(default="linear", metadata=CAME_LATER)

    def __post_init__(self) -> None:
        if self.preset is not None and self.preset not in VIT_PRESETS:
            raise ValueError(f"preset={self.preset!r} must be one of {list(VIT_PRESETS)} or null.")
        fill = VIT_PRESETS[self.preset] if self.preset else (None, None, None)
        for name, value in zip(("embed_dim", "depth", "num_heads"), fill, strict=True):
            if getattr(self, name) is None:
                if value is None:
                    raise ValueError(
                        f"{name} is not set: give a preset ({', '.join(VIT_PRESETS)}), or embed_dim, "
                        "depth and num_heads."
                    )
                object.__setattr__(self, name, value)
        check_sizes(self)
        _check_heads(self.width, self.heads)
        if not 0 <= self.drop_path < 1:
            raise ValueError(f"drop_path={self.drop_path} must lie in [0, 1).")
        if self.patch_size < 1 or self.layers < 1:
            raise ValueError(
                f"patch_size={self.patch_size} and depth={self.depth} must be at least 1."
            )
        if self.stem == "conv" and self.patch_size == 1:
            raise ValueError(
                "stem='conv' halves patches to one pixel, but patch_size=1 is that already: use stem='linear'."
            )
        for name, size in (("image_size", self.image_size), ("table_size", self.table_size)):
            if size is not None and (size < 1 or size % self.patch_size):
                raise ValueError(
                    f"{name}={size} is not divisible by patch_size={self.patch_size}: use "
                    f"{max(1, size // self.patch_size) * self.patch_size} or "
                    f"{max(2, size // self.patch_size + 1) * self.patch_size} pixels."
                )

    @property
    def width(self) -> int:
        assert self.embed_dim is not None
        return self.embed_dim

    @property
    def layers(self) -> int:
        assert self.depth is not None
        return self.depth

    @property
    def heads(self) -> int:
        assert self.num_heads is not None
        return self.num_heads

    @property
    def side(self) -> int:
        """Patches along one side of a frame."""
        if self.image_size is None:
            raise ValueError(
                "image_size is not set: an encoder on its own needs it; inside an objective it is crop.size."
            )
        return self.image_size // self.patch_size

    @property
    def table_side(self) -> int:
        """Patches along one side of the frames that the positions were made for."""
        return self.side if self.table_size is None else self.table_size // self.patch_size


@dataclass(frozen=True, kw_only=True)
class ViTConfig(_TransformerConfig):
    """A ViT over space-time cubes.

    `preset` fills `embed_dim`, `depth` and `num_heads`; a value given beside it wins.  `image_size` and `num_frames`
    left empty are taken from the objective's `crop.size` and `clip.num_frames`.

    Attributes:
        preset: "Ti", "S", "B", "L", "H", "g" or null.
        mlp_ratio: width of the MLP over `embed_dim`.
        patch_size, tubelet_size: a token is `tubelet_size` frames of `patch_size` x `patch_size` pixels.
        positions: fixed table: "sincos_3d" (MVD) or "sincos_1d" over the flat token index (VideoMAE); "learned" is a
            parameter.
        table_size, table_frames: size and length of clips that the positions were made for, empty = `image_size` and
            `num_frames`. Where they differ the table is interpolated, so that a pre-trained position keeps its meaning.
        cosine_attention: attention by the cosine of query and key with a learned temperature per head (an option of
            VideoMAE V2).
        cls_token: a class token in front, without a position.
        qkv_bias: "q_v" (VideoMAE, MVD), "full" (MAE) or "none".
        drop_path: stochastic depth of the last block; rises linearly from 0 at the first.
        layer_scale: initial value of the per-channel scale of both branches; 0 = absent.
        final_norm: a LayerNorm after the last block.
        stem: how the pixels of a token become its vector: "linear", one matrix product (all published ViTs here), or
            "conv", small convolutions within the token (`ConvStem`).
    """

    architecture: Literal["vit"] = "vit"
    num_frames: int | None = None
    table_frames: int | None = None
    tubelet_size: int = 2
    positions: Literal["sincos_1d", "sincos_3d", "learned"] = "sincos_3d"
    cls_token: bool = False
    qkv_bias: Literal["q_v", "full", "none"] = "q_v"

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_table(self.width, self.positions)
        if self.tubelet_size < 1:
            raise ValueError(f"tubelet_size={self.tubelet_size} must be at least 1.")
        for name in ("num_frames", "table_frames"):
            frames = getattr(self, name)
            if frames is not None and (frames < 1 or frames % self.tubelet_size):
                raise ValueError(
                    f"{name}={frames} must be a positive multiple of tubelet_size={self.tubelet_size}."
                )
        if self.num_frames is not None and self.image_size is not None:
            check_table(self.grid, self.width)
            check_table(self.table_grid, self.width)

    @property
    def grid(self) -> tuple[int, int, int]:
        """Tokens along time, rows and columns.

        >>> ViTConfig(preset="B", image_size=224, num_frames=16).grid
        (8, 14, 14)
        """
        if self.num_frames is None:
            raise ValueError(
                "num_frames is not set: an encoder on its own needs it; inside an objective it is clip.num_frames."
            )
        return self.num_frames // self.tubelet_size, self.side, self.side

    @property
    def table_grid(self) -> tuple[int, int, int]:
        """The grid that the positions were made for."""
        frames = (
            self.grid[0] if self.table_frames is None else self.table_frames // self.tubelet_size
        )
        return frames, self.table_side, self.table_side


@dataclass(frozen=True, kw_only=True)
class ImageViTConfig(_TransformerConfig):
    """MAE's ViT over the patches of single frames: 2-D sin-cos table, class token, full qkv bias.

    Attributes as in `ViTConfig`; a clip is encoded frame by frame.
    """

    positions: Literal["sincos_2d", "learned"] = "sincos_2d"
    cls_token: bool = True
    qkv_bias: Literal["q_v", "full", "none"] = "full"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.width % 4:
            raise ValueError(
                f"embed_dim={self.width} must be a multiple of 4 for a 2-D sin-cos table."
            )
        if self.image_size is not None:
            check_table(self.grid, self.width)
            check_table(self.table_grid, self.width)

    @property
    def grid(self) -> tuple[int, int, int]:
        """(1, rows, columns): the tokens of one frame."""
        return 1, self.side, self.side

    @property
    def table_grid(self) -> tuple[int, int, int]:
        """The grid that the positions were made for."""
        return 1, self.table_side, self.table_side


@dataclass(frozen=True, kw_only=True)
class DecoderConfig:
    """A small transformer that predicts something at hidden tokens.

    Attributes:
        embed_dim, num_heads: empty = those of the encoder.
        drop_path: stochastic depth; empty = that of the encoder.
        cosine_attention: as in `ViTConfig`.
    """

    embed_dim: int | None = None
    depth: int = 2
    num_heads: int | None = None
    mlp_ratio: float = 4.0
    drop_path: float | None = None
    cosine_attention: bool = False

    def __post_init__(self) -> None:
        check_sizes(self, "decoder")
        if self.depth < 1:
            raise ValueError(f"decoder depth={self.depth} must be at least 1.")
        if self.embed_dim is not None and self.num_heads is not None:
            _check_heads(self.embed_dim, self.num_heads)

    def resolve(self, encoder: ViTConfig | ImageViTConfig, table: str) -> DecoderConfig:
        """Returns this decoder with empty values taken from the encoder; `table` is the kind of its positions.

        Raises:
            ValueError: the width does not fit the heads or the table.
        """
        width = self.embed_dim if self.embed_dim is not None else encoder.width
        heads = self.num_heads if self.num_heads is not None else encoder.heads
        _check_heads(width, heads, "decoder ")
        _check_table(width, table, "decoder ")
        return DecoderConfig(
            embed_dim=width,
            depth=self.depth,
            num_heads=heads,
            mlp_ratio=self.mlp_ratio,
            drop_path=encoder.drop_path if self.drop_path is None else self.drop_path,
            cosine_attention=self.cosine_attention,
        )


def _check_heads(width: int, heads: int, where: str = "") -> None:
    if width < 1 or heads < 1 or width % heads:
        raise ValueError(
            f"{where}embed_dim={width} is not divisible by num_heads={heads}: choose a width that is a multiple of "
            "the number of heads."
        )


def _check_table(width: int, table: str, where: str = "") -> None:
    multiple = {"sincos_1d": 2, "sincos_2d": 4, "sincos_3d": 16, "learned": 2}[table]
    if width % multiple:
        raise ValueError(
            f"{where}embed_dim={width} must be a multiple of {multiple} for the position table {table!r}."
        )
