"""Settings of VATT's transformers over video, sound and words, free of torch and jax."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from video_ssl.limits import check_sizes, check_table
from video_ssl.models.contract import CLIP, COMMON_SOUND, COMMON_TEXT, MOMENTS, TOKENS

#: preset -> (embed_dim, depth, ffn_dim, num_heads)
VATT_PRESETS: dict[str, tuple[int, int, int, int]] = {
    "S": (512, 6, 2048, 8),
    "B": (768, 12, 3072, 12),
    "M": (1024, 12, 4096, 16),
    "L": (1024, 24, 4096, 16),
}
VattPreset = Literal["S", "B", "M", "L"]


@dataclass(frozen=True, kw_only=True)
class VattHeadsConfig:
    """The layers from the clip feature of each modality into the common spaces.

    Attributes:
        sound_dim: width of the space of video and sound.
        text_dim: width of the space of video and words.
        relu_before_text: video comes from the first space into the second through a ReLU, as in the code; the paper has
            none there.
        norm_all: a batch norm behind the heads of sound and words too, as in the paper; the code has them behind those
            of video alone.

    Source: papers/vatt.md section 3.
    """

    sound_dim: int = 512
    text_dim: int = 256
    relu_before_text: bool = True
    norm_all: bool = False

    def __post_init__(self) -> None:
        _check_positive(self, "sound_dim", "text_dim")


@dataclass(frozen=True, kw_only=True)
class _TransformerConfig:
    """What all share: `preset` fills `embed_dim`, `depth`, `ffn_dim` and `num_heads`; a value beside it wins."""

    preset: VattPreset | None = "M"
    embed_dim: int | None = None
    depth: int | None = None
    ffn_dim: int | None = None
    num_heads: int | None = None
    dropout: float = 0.1

    def __post_init__(self) -> None:
        if self.preset is not None and self.preset not in VATT_PRESETS:
            raise ValueError(f"preset={self.preset!r} must be one of {list(VATT_PRESETS)} or null.")
        names = ("embed_dim", "depth", "ffn_dim", "num_heads")
        fill = VATT_PRESETS[self.preset] if self.preset else (None,) * 4
        for name, value in zip(names, fill, strict=True):
            if getattr(self, name) is None:
                if value is None:
                    raise ValueError(
                        f"{name} is not set: give a preset ({', '.join(VATT_PRESETS)}), or {', '.join(names)}."
                    )
                object.__setattr__(self, name, value)
        check_sizes(self)
        _check_positive(self, *names)
        if self.inner % self.heads_of_attention:
            raise ValueError(
                f"embed_dim={self.embed_dim} is not divisible by num_heads={self.num_heads}: choose a width that is a "
                "multiple of the number of heads."
            )
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout={self.dropout} must lie in [0, 1).")

    @property
    def inner(self) -> int:
        """Width inside the transformer."""
        assert self.embed_dim is not None
        return self.embed_dim

    @property
    def heads_of_attention(self) -> int:
        assert self.num_heads is not None
        return self.num_heads

    @property
    def layers(self) -> int:
        assert self.depth is not None
        return self.depth

    @property
    def hidden(self) -> int:
        """Width inside the feed-forward layers."""
        assert self.ffn_dim is not None
        return self.ffn_dim


@dataclass(frozen=True, kw_only=True)
class _EncoderConfig(_TransformerConfig):
    """What the encoders share beside a transformer.

    Attributes:
        projection_dim: width of a dense layer with GELU behind the transformer; one of width `embed_dim` then stands
            before it too (the modality-agnostic models).  Null = neither.
        aggregation_position: the aggregation token has a position of its own, as in the paper; the code has none.
        heads: the layers into the common spaces; null = none, and no such outputs.
    """

    #: Fine-tuning has no use for it.
    only_pretraining: ClassVar[tuple[str, ...]] = ("heads",)

    projection_dim: int | None = None
    aggregation_position: bool = False
    heads: VattHeadsConfig | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.projection_dim is not None:
            _check_positive(self, "projection_dim")

    @property
    def width(self) -> int:
        """Width of the features."""
        return self.projection_dim or self.inner

    def common_widths(self) -> dict[str, int]:
        """Returns the widths of the outputs in common spaces."""
        raise NotImplementedError

    @property
    def output_widths(self) -> Mapping[str, int]:
        """Width of every output, by name; "clip" is the aggregation token."""
        own = dict.fromkeys((CLIP, MOMENTS, TOKENS), self.width)
        return own | (self.common_widths() if self.heads else {})

    def grid(self, *shape: int) -> tuple[int, int, int]:
        """Returns the (t, h, w) of the tokens of a clip of this shape, colors left out."""
        raise NotImplementedError

    def check_input(self, shape: tuple[int, ...], *, largest: int | None = None) -> None:
        """Raises ValueError for a batch whose clips do not fill one token.

        Args:
            shape: of the batch, (B, T, H, W, 3), (B, N) or (B, L).
            largest: number in a batch of words, where it is known.
        """
        axes = 5 if isinstance(self, VattVideoConfig) else 2
        if len(shape) != axes:
            raise ValueError(
                f"a batch has the axes {shape}, but must have {axes}, a clip in each row."
            )
        if 0 in self.grid(*shape[1:4]):
            raise ValueError(
                f"clips of the shape {shape[1:]} do not fill one token: give longer or larger ones."
            )


@dataclass(frozen=True, kw_only=True)
class VattVideoConfig(_EncoderConfig):
    """A transformer over cubes of a clip, with an aggregation token in front.

    Frames and pixels that do not fill a cube are left out at the end.  `image_size` and `num_frames` left empty are
    taken from the objective's crop and clip.

    Attributes:
        preset: "S", "B", "M" or "L", or null.
        embed_dim, depth, ffn_dim, num_heads: sizes of the transformer.
        dropout: in training, of tokens, attention weights and both layers of a block.
        tubelet_size, patch_size: a token is `tubelet_size` frames of `patch_size` x `patch_size` pixels.
        num_frames, image_size: of the clips that it is made for.
        table_frames, table_size: of the clips that the position tables were made for, empty = the same; they are
            resampled by a spline wherever a clip has another grid.

    Source: papers/vatt.md section 3 (arXiv:2104.11178).
    """

    architecture: Literal["vatt_video"] = "vatt_video"
    tubelet_size: int = 4
    patch_size: int = 16
    num_frames: int | None = None
    image_size: int | None = None
    table_frames: int | None = None
    table_size: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_positive(self, "tubelet_size", "patch_size")
        for sizes, part in (
            (("num_frames", "table_frames"), "tubelet_size"),
            (("image_size", "table_size"), "patch_size"),
        ):
            for name in sizes:
                _check_fills(self, name, part)
        if self.num_frames is not None and self.image_size is not None:
            check_table(self.table_grid, self.inner)

    @property
    def table_grid(self) -> tuple[int, int, int]:
        """Rows of the three position tables: time, vertical, horizontal."""
        frames = self.table_frames or _needed(self, "num_frames")
        size = self.table_size or _needed(self, "image_size")
        return self.grid(frames, size, size)

    def grid(self, *shape: int) -> tuple[int, int, int]:
        """Returns the tokens of a clip along time, rows and columns.

        >>> VattVideoConfig(preset="B").grid(32, 224, 224)
        (8, 14, 14)
        """
        (frames, height, width), p = shape, self.patch_size
        return frames // self.tubelet_size, height // p, width // p

    def frame_positions(self, num_frames: int) -> np.ndarray:
        """Returns float64 (T',): the middle of every cube in time, in frames."""
        return _middles(num_frames // self.tubelet_size, self.tubelet_size)

    def common_widths(self) -> dict[str, int]:
        assert self.heads is not None
        return {COMMON_SOUND: self.heads.sound_dim, COMMON_TEXT: self.heads.text_dim}


@dataclass(frozen=True, kw_only=True)
class VattAudioConfig(_EncoderConfig):
    """A transformer over pieces of a waveform, with an aggregation token in front.

    Samples that do not fill a piece are left out at the end.

    Attributes:
        preset, embed_dim, depth, ffn_dim, num_heads, dropout: as in `VattVideoConfig`.
        patch_samples: a token is so many samples.
        num_samples: of the sounds that it is made for; empty = those of the objective.
        table_samples: of the sounds that the position table was made for, empty = the same.

    Source: papers/vatt.md section 3.
    """

    architecture: Literal["vatt_audio"] = "vatt_audio"
    preset: VattPreset | None = "B"
    patch_samples: int = 128
    num_samples: int | None = None
    table_samples: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_positive(self, "patch_samples")
        for name in ("num_samples", "table_samples"):
            _check_fills(self, name, "patch_samples")
        if self.num_samples is not None:
            check_table(self.table_grid, self.inner)

    @property
    def table_grid(self) -> tuple[int]:
        """Rows of the position table."""
        return ((self.table_samples or _needed(self, "num_samples")) // self.patch_samples,)

    def grid(self, *shape: int) -> tuple[int, int, int]:
        """Returns (tokens, 1, 1) of a sound of so many samples."""
        return shape[0] // self.patch_samples, 1, 1

    def frame_positions(self, num_samples: int) -> np.ndarray:
        """Returns float64 (T',): the middle of every piece, in samples."""
        return _middles(num_samples // self.patch_samples, self.patch_samples)

    def common_widths(self) -> dict[str, int]:
        assert self.heads is not None
        return {COMMON_SOUND: self.heads.sound_dim}


@dataclass(frozen=True, kw_only=True)
class _WordsConfig(_EncoderConfig):
    """What the encoders of words share.

    Attributes:
        vocab_size: places of the vocabulary; empty = that of the objective.
        word_dim: width of the vectors of words.
        freeze_words: these vectors are not trained, as in the code; the paper describes trained ones.
    """

    vocab_size: int | None = None
    word_dim: int = 300
    freeze_words: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_positive(self, "word_dim")
        if self.vocab_size is not None:
            _check_positive(self, "vocab_size")
            check_table((self.vocab_size,), self.word_dim)

    @property
    def places(self) -> int:
        """Places of the vocabulary."""
        return _needed(self, "vocab_size")

    def grid(self, *shape: int) -> tuple[int, int, int]:
        """Returns (words, 1, 1)."""
        return shape[0], 1, 1

    def check_input(self, shape: tuple[int, ...], *, largest: int | None = None) -> None:
        """Raises ValueError for places that the vocabulary does not have, or a batch of another shape."""
        super().check_input(shape)
        if largest is not None and largest >= self.places:
            raise ValueError(
                f"word {largest} of a vocabulary of {self.places}: make words with encoder.preprocess.ids."
            )

    def frame_positions(self, num_words: int) -> np.ndarray:
        """Returns float64 (L,): the words."""
        return np.arange(num_words, dtype=np.float64)

    def common_widths(self) -> dict[str, int]:
        assert self.heads is not None
        return {COMMON_TEXT: self.heads.text_dim}


@dataclass(frozen=True, kw_only=True)
class VattTextConfig(_WordsConfig):
    """A T5 encoder over the words of a text, with an aggregation token in front.

    Attributes:
        preset, embed_dim, depth, ffn_dim, num_heads, dropout: as in `VattVideoConfig`; "S" is T5-small.
        num_buckets, max_distance: of the relative positions.

    Source: papers/vatt.md section 3.
    """

    architecture: Literal["vatt_text"] = "vatt_text"
    preset: VattPreset | None = "S"
    num_buckets: int = 32
    max_distance: int = 64

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.projection_dim is not None or self.aggregation_position:
            raise ValueError(
                "projection_dim and aggregation_position are settings of the transformers with absolute positions: a "
                "T5 encoder has neither. Leave them out."
            )
        if self.num_buckets < 4 or self.num_buckets % 4:
            raise ValueError(f"num_buckets={self.num_buckets} must be a multiple of 4.")
        if self.max_distance <= self.num_buckets // 4:
            raise ValueError(
                f"max_distance={self.max_distance} must be above num_buckets / 4 = {self.num_buckets // 4}, the first "
                "distance that shares a bucket."
            )


@dataclass(frozen=True, kw_only=True)
class VattWordsConfig(_WordsConfig):
    """The transformer of the modality-agnostic model over the words of a text: absolute positions, pre-norm blocks.

    Attributes:
        preset, embed_dim, depth, ffn_dim, num_heads, dropout: as in `VattVideoConfig`.
        num_words: of a text; others are not taken.

    Source: papers/vatt.md section 3.
    """

    architecture: Literal["vatt_words"] = "vatt_words"
    num_words: int = 16

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_positive(self, "num_words")

    @property
    def table_grid(self) -> tuple[int]:
        """Rows of the position table."""
        return (self.num_words,)

    def check_input(self, shape: tuple[int, ...], *, largest: int | None = None) -> None:
        """Raises ValueError, as of all texts, and for another number of words than the table has."""
        super().check_input(shape, largest=largest)
        if shape[1] != self.num_words:
            raise ValueError(
                f"texts have {shape[1]} words, but the encoder has positions for {self.num_words}: cut or pad them to "
                "that, as encoder.preprocess.ids does."
            )


@dataclass(frozen=True, kw_only=True)
class VattSharedConfig(_TransformerConfig):
    """One transformer for video, sound and words (modality-agnostic), with a way in and out for each.

    Attributes:
        preset, embed_dim, depth, ffn_dim, num_heads, dropout: of the transformer.
        tubelet_size, patch_size, patch_samples, word_dim: of the tokens, as in the configs of the encoders.
        projection_dim: width of the features of all modalities.
        freeze_words, aggregation_position: as there.

    Source: papers/vatt.md section 3, "MA backbone".
    """

    tubelet_size: int = 4
    patch_size: int = 16
    patch_samples: int = 128
    word_dim: int = 300
    projection_dim: int = 1024
    freeze_words: bool = True
    aggregation_position: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_positive(self, "projection_dim", "word_dim", "patch_samples")
        _check_positive(self, "tubelet_size", "patch_size")

    def encoders(self) -> tuple[VattVideoConfig, VattAudioConfig, VattWordsConfig]:
        """Returns the encoders of the three modalities, whose transformer is the same one."""
        same: dict[str, Any] = {
            name: getattr(self, name)
            for name in ("embed_dim", "depth", "ffn_dim", "num_heads", "dropout")
        }
        same |= {"preset": None, "projection_dim": self.projection_dim}
        same["aggregation_position"] = self.aggregation_position
        return (
            VattVideoConfig(tubelet_size=self.tubelet_size, patch_size=self.patch_size, **same),
            VattAudioConfig(patch_samples=self.patch_samples, **same),
            VattWordsConfig(word_dim=self.word_dim, freeze_words=self.freeze_words, **same),
        )


def _middles(count: int, size: int) -> np.ndarray:
    return np.arange(count, dtype=np.float64) * size + (size - 1) / 2


def _needed(config: Any, name: str) -> int:
    value = getattr(config, name)
    if value is None:
        raise ValueError(
            f"{name} is not set: an encoder on its own needs it; inside an objective it is that of the objective."
        )
    return int(value)


def _check_fills(config: Any, name: str, part: str) -> None:
    """Raises ValueError for a length that does not fill one token."""
    value, least = getattr(config, name), getattr(config, part)
    if value is not None and value < least:
        raise ValueError(f"{name}={value} is less than one token of {part}={least}.")


def _check_positive(config: Any, *names: str) -> None:
    for name in names:
        if getattr(config, name) < 1:
            raise ValueError(f"{name}={getattr(config, name)} must be at least 1.")
