"""How clips must be made for an encoder, by what it sees: video, sound or text.  Free of torch and jax."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import InitVar, dataclass, field, replace
from functools import cached_property
from typing import Any, ClassVar, Literal, get_args

import numpy as np

from video_ssl.clips.config import Sampling
from video_ssl.clips.crops import Kernel
from video_ssl.clips.text import split_words
from video_ssl.models.config import CAME_LATER
from video_ssl.recipes import to_plain

Modality = Literal["video", "sound", "text"]
MODALITIES: tuple[Modality, ...] = get_args(Modality)

#: File of an encoder folder that holds the words of a text encoder, one a line.
VOCABULARY = "vocabulary.txt"
#: What the first word of a vocabulary stands for.
PADDING = 0
#: The word that stands for unknown ones; where a vocabulary has no such word, the one at this place does.
UNKNOWN_WORD, UNKNOWN = "<unk>", 1


@dataclass(frozen=True, kw_only=True)
class VideoPreprocess:
    """What an encoder expects of a clip: its sampling, its size, and the statistics of its pixels.

    Args:
        num_frames: frames of a clip.
        frame_stride: source frames from one sampled frame to the next.
        fps: rate at which source frames are counted (frames are chosen by time); None counts the
            frames of the file.
        size: side of the square frames in pixels.
        sampling: how training chose the frames, as in `ClipConfig`.
        shuffle_frames: clips are shown in a random order of their frames, as in `ClipConfig`.
        mean: RGB mean that is subtracted, in the range 0..1.
        std: RGB standard deviation to divide by, in the range 0..1.
        resize_to: short side in pixels that frames are scaled to before the central square of `size` is cut out; None =
            the central square of the short side is scaled to `size`.
        stretch: the whole frame is scaled to the square, whatever its aspect.
        kernel: filter that scales, one of Pillow's.
    """

    modality: ClassVar[Modality] = "video"

    num_frames: int = 16
    frame_stride: int = 4
    fps: float | None = None
    size: int = 224
    sampling: Sampling = "constant"
    shuffle_frames: bool = field(default=False, metadata=CAME_LATER)
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    resize_to: int | None = field(default=None, metadata=CAME_LATER)
    stretch: bool = field(default=False, metadata=CAME_LATER)
    kernel: Kernel = field(default="bilinear", metadata=CAME_LATER)

    def __post_init__(self) -> None:
        _check_positive(self, "num_frames", "frame_stride", "size")
        if self.resize_to is not None and (self.stretch or self.resize_to < self.size):
            raise ValueError(
                f"resize_to={self.resize_to} must be at least size={self.size}, and does not go with stretch."
            )
        if self.fps is not None and not 0 < self.fps < math.inf:
            raise ValueError(f"fps={self.fps} must be positive, or null to count frames.")
        for name in ("mean", "std"):
            if not all(map(math.isfinite, getattr(self, name))):
                raise ValueError(f"{name}={getattr(self, name)} must be finite numbers.")
        if min(self.std) <= 0:
            raise ValueError(f"std={self.std} must be positive: pixels are divided by it.")

    def with_sizes(self, size: int | None, num_frames: int | None) -> VideoPreprocess:
        """Returns the same for clips of other sizes; None leaves one as it is."""
        return replace(self, num_frames=num_frames or self.num_frames, **self.scaling(size))

    def scaling(self, size: int | None = None) -> dict[str, Any]:
        """Returns how frames become squares, as `WindowConfig` takes it.

        Args:
            size: side of the squares in place of the encoder's own; the short side before the cut follows.
        """
        side = self.size if size is None else size
        before = None if self.resize_to is None else round(self.resize_to * side / self.size)
        return {
            "size": side,
            "resize_to": before,
            "stretch": self.stretch,
            "kernel": self.kernel,
        }


@dataclass(frozen=True, kw_only=True)
class SoundPreprocess:
    """What an encoder expects of sound: so many samples of one channel, float32 in -1..1.

    Args:
        rate: samples a second.
        num_samples: of a clip.
        hop: samples from the beginning of one clip to that of the next where all of a recording is wanted; None =
            `num_samples`, so that they do not overlap.
    """

    modality: ClassVar[Modality] = "sound"

    rate: int
    num_samples: int
    hop: int | None = None

    def __post_init__(self) -> None:
        _check_positive(self, "rate", "num_samples")
        if self.hop is not None:
            _check_positive(self, "hop")

    @property
    def seconds(self) -> float:
        """Length of a clip."""
        return self.num_samples / self.rate


@dataclass(frozen=True, kw_only=True)
class TextPreprocess:
    """What an encoder expects of a text: the places of its words in a vocabulary.

    Args:
        vocabulary: the words; the first stands for the filling behind a short text, "<unk>" for unknown words, or where
            there is none the second.
        length: words of a text; the rest of a longer one is left out.
        lower_case: words are looked up in lower case.
    """

    modality: ClassVar[Modality] = "text"

    vocabulary: tuple[str, ...] = field(repr=False)
    length: int
    lower_case: bool = True

    def __post_init__(self) -> None:
        _check_positive(self, "length")
        words = self.vocabulary
        if len(words) < 2:
            raise ValueError(
                f"vocabulary={words}: it begins with a word for the filling and one for unknown words, such as "
                "'<pad>' and '<unk>'."
            )
        broken = next((i for i, word in enumerate(words) if word.split() != [word]), None)
        if broken is not None:
            raise ValueError(
                f"word {broken} of the vocabulary, {words[broken]!r}, is empty or has white space: give single words."
            )
        if len(self._places) < len(words):
            twice = next(word for i, word in enumerate(words) if self._places[word] != i)
            raise ValueError(f"the vocabulary has {twice!r} twice: every word has one place.")

    @cached_property
    def _places(self) -> dict[str, int]:
        return {word: place for place, word in enumerate(self.vocabulary)}

    @property
    def unknown(self) -> int:
        """The place that stands for unknown words."""
        return self._places.get(UNKNOWN_WORD, UNKNOWN)

    def has_words(self, text: str) -> bool:
        """Returns whether there is a word in a text, known or not."""
        return bool(split_words(text, lower_case=self.lower_case))

    def ids(self, texts: Sequence[str]) -> np.ndarray:
        """Returns int64 (B, length), the places of the words of each text.

        ASCII punctuation is taken out without a space for it, words are what white space divides.

        >>> words = TextPreprocess(vocabulary=("<pad>", "<unk>", "dont", "run"), length=4)
        >>> words.ids(["Don't run, Anna!"]).tolist()
        [[2, 3, 1, 0]]
        """
        found = np.full((len(texts), self.length), PADDING, np.int64)
        unknown = self.unknown
        for row, text in zip(found, texts, strict=True):
            words = split_words(text, lower_case=self.lower_case)[: self.length]
            row[: len(words)] = [self._places.get(word, unknown) for word in words]
        return found


@dataclass(frozen=True, kw_only=True)
class TokenizerPreprocess:
    """What an encoder with a tokenizer of its own expects of a text: tokens, filled up to a length by it.

    Args:
        tokenizer: of `transformers`, with a token to fill up with.
        length: tokens of a text; the rest of a longer one is left out.

    Attributes:
        num_words: of the tokenizer.
        vocabulary_digest: 16 hexadecimal digits that change with them.
    """

    modality: ClassVar[Modality] = "text"

    tokenizer: InitVar[Any]
    length: int
    num_words: int = field(init=False)
    vocabulary_digest: str = field(init=False)

    def __post_init__(self, tokenizer: Any) -> None:
        _check_positive(self, "length")
        # No field: it is no setting, and its text holds the path that it was read from.
        object.__setattr__(self, "_tokenizer", tokenizer)
        tokens = json.dumps(tokenizer.get_vocab(), sort_keys=True).encode()
        object.__setattr__(self, "num_words", len(tokenizer))
        digest = hashlib.sha256(tokens).hexdigest()[:16]
        object.__setattr__(self, "vocabulary_digest", digest)

    def has_words(self, text: str) -> bool:
        """Returns whether there is more than white space in a text: a tokenizer reads signs too."""
        return bool(text.strip())

    def ids(self, texts: Sequence[str]) -> np.ndarray:
        """Returns int64 (B, length), the tokens of each text."""
        found = self._of(texts, padding="max_length", truncation=True, max_length=self.length)
        return np.asarray(found, np.int64).reshape(-1, self.length)

    def num_tokens(self, text: str) -> int:
        """Returns how many tokens a text has, those that are left out included."""
        return len(self._of([text])[0])

    def _of(self, texts: Sequence[str], **settings: Any) -> list[list[int]]:
        tokenizer: Any = self._tokenizer  # type: ignore[attr-defined]
        found: list[list[int]] = tokenizer(list(texts), **settings)["input_ids"]
        return found


AnyText = TextPreprocess | TokenizerPreprocess
Preprocess = VideoPreprocess | SoundPreprocess | TextPreprocess | TokenizerPreprocess

PREPROCESS: dict[str, type[Any]] = {
    cls.modality: cls for cls in (VideoPreprocess, SoundPreprocess, TextPreprocess)
}


def described(preprocess: Preprocess) -> dict[str, Any]:
    """Returns the settings as JSON; in place of the words of a vocabulary the name of their file."""
    if isinstance(preprocess, TextPreprocess):
        return {
            "vocabulary": VOCABULARY,
            "num_words": len(preprocess.vocabulary),
            "unknown": preprocess.unknown,
            "length": preprocess.length,
            "lower_case": preprocess.lower_case,
        }
    plain: dict[str, Any] = to_plain(preprocess)
    return plain


def _check_positive(config: Any, *names: str) -> None:
    for name in names:
        if getattr(config, name) < 1:
            raise ValueError(f"{name}={getattr(config, name)} must be at least 1.")
