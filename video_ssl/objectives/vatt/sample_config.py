"""What a sample of VATT is made of: frames, their sound, and words about them.  Free of torch and jax."""

from __future__ import annotations

import functools
import hashlib
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Self

from video_ssl.clips.captions import caption_texts, late_captions
from video_ssl.clips.config import ClipLength, ColorConfig, CropConfig
from video_ssl.clips.sampling.one_clip import clip_span
from video_ssl.clips.vocabulary import (
    MOST_IN_A_RECIPE,
    SPECIAL_WORDS,
    check_vocabulary,
    read_vocabulary,
    vocabulary_of,
)
from video_ssl.datasets.paths import at_home
from video_ssl.datasets.table import Table
from video_ssl.models.config import CENTERED, Normalization
from video_ssl.models.preprocess_config import TextPreprocess
from video_ssl.recipes import nearest

logger = logging.getLogger(__name__)


def vatt_crop() -> CropConfig:
    """Returns the paper's crop.  Source: papers/vatt.md section 2."""
    return CropConfig(
        kind="height_first",
        area=(0.08, 1.0),
        aspect=(0.5, 2.0),
        flip_probability=0.5,
        resize="tensorflow",
    )


@dataclass(frozen=True, kw_only=True)
class TableRate:
    """How fast the frames of one of several tables are taken.

    Attributes:
        frame_stride: frames from one of a clip to the next; null = that of the objective.
        fps: rate at which they are counted; null = frames of the file.
    """

    frame_stride: int | None = None
    fps: float | None = None

    def __post_init__(self) -> None:
        _check_rate(self.frame_stride, self.fps)


@dataclass(frozen=True, kw_only=True)
class SampleConfig:
    """Which frames, which sound and which words make a sample of VATT.

    Attributes:
        num_frames, frame_stride: of a clip; in short videos it loops.
        fps: rate at which frames are counted (they are chosen by time); null = frames of the file.
        table_rates: table as the recipe names it (`data.table` or one of `data.mix`) -> its own stride and rate.
        crop: the same for all frames of a clip.
        color: changes of color, applied on the device; null = none.
        normalization: of pixels; the reference's lie in [-1, 1].
        rate: samples of sound a second; files of other rates are resampled.
        num_samples: of the sound, which begins with the first frame and loops where it ends.
        noise: standard deviation of the noise that is added to the sound in shares of its largest magnitude.  The
            code's 0.01; the paper has none (0).
        num_captions: captions of a clip, those nearest in time; where there are fewer the rest is padding.
        num_words: of a caption; the rest of a longer one is left out.
        vocabulary: file of the words, one a line, which holds <pad> (the first), <bos>, <eos> and <unk>; null = the
            words of the captions of the training, the most frequent first.
        max_vocabulary: places of a vocabulary that is made of the captions, the four special words among them.
        words: the vocabulary, where it was made of the captions; filled when a run begins, so leave it out.
        vocabulary_digest: of the file, so that a run does not go on with another one; filled when a run begins.
    """

    num_frames: int = 32
    frame_stride: int = 1
    fps: float | None = 10.0
    table_rates: dict[str, TableRate] = field(default_factory=dict)
    crop: CropConfig = field(default_factory=vatt_crop)
    color: ColorConfig | None = field(default_factory=lambda: ColorConfig(law="vatt"))
    normalization: Normalization = CENTERED
    rate: int = 48_000
    num_samples: int = 153_600
    noise: float = 0.01
    num_captions: int = 5
    num_words: int = 16
    vocabulary: str | None = None
    max_vocabulary: int = 4096
    words: tuple[str, ...] | None = None
    vocabulary_digest: str | None = None

    def __post_init__(self) -> None:
        for name in ("num_frames", "rate", "num_samples", "num_captions", "num_words"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1.")
        _check_rate(self.frame_stride, self.fps)
        if not 0 <= self.noise < math.inf:
            raise ValueError(f"noise={self.noise} must not be negative; 0 = no noise.")
        if not len(SPECIAL_WORDS) < self.max_vocabulary <= MOST_IN_A_RECIPE:
            raise ValueError(
                f"max_vocabulary={self.max_vocabulary} must be more than the {len(SPECIAL_WORDS)} special words and at "
                f"most {MOST_IN_A_RECIPE:,}, which the recipe of a run keeps. Of more words make a file with "
                "`video-ssl data vocabulary`, and name it: objective.vocabulary=FILE."
            )
        if self.words is not None:
            if self.vocabulary is not None:
                raise ValueError(
                    f"vocabulary={self.vocabulary!r} and {len(self.words)} words are given together: leave words out."
                )
            check_vocabulary(self.words, "words")

    def rate_of(self, table: str) -> tuple[int, float | None]:
        """Returns (frame_stride, fps) for the records of a table, by what the recipe calls it."""
        own = self.table_rates.get(table)
        if own is None:
            return self.frame_stride, self.fps
        return self.frame_stride if own.frame_stride is None else own.frame_stride, own.fps

    @property
    def is_settled(self) -> bool:
        return self.words is not None or self.vocabulary_digest is not None

    def settled(self, tables: Sequence[Table]) -> Self:
        """Returns the settings with the vocabulary of the run: made of the captions of its tables, or the digest of the
        file; and says in the log what of the captions is odd.

        Args:
            tables: that the training takes its records from, by the names that the recipe has for them.

        Raises:
            ValueError: `table_rates` of a table that there is not; a file that is no vocabulary, or another one than
                when the run began.
        """
        self._refuse_unknown_tables([table.name for table in tables])
        for table in tables:
            _tell_late_captions(table)
        if self.vocabulary is not None:
            digest = _digest(read_vocabulary(at_home(self.vocabulary)))
            if self.vocabulary_digest not in (None, digest):
                raise ValueError(
                    f"the words of {self.vocabulary} are others than when this run began: restore the file, or begin a "
                    "new run with run=..."
                )
            return replace(self, vocabulary_digest=digest)
        if self.words is not None:
            return self
        found = vocabulary_of(caption_texts(tables), max_words=self.max_vocabulary)
        if not found.texts:
            logger.warning(
                "no record has a caption: nothing is learned about words. Captions come from a column `captions`, or "
                "from subtitles beside the videos (docs/data.md)"
            )
        else:
            logger.info(
                "vocabulary: %d of %d different words of %d captions, which are %.1f %% of all (objective.vocabulary "
                "names a file, objective.max_vocabulary the size)",
                len(found.words) - len(SPECIAL_WORDS),
                found.different,
                found.texts,
                100 * found.known / found.total,
            )
        return replace(self, words=found.words)

    def _refuse_unknown_tables(self, names: Sequence[str]) -> None:
        for name in self.table_rates:
            if name not in names:
                raise ValueError(
                    f"table_rates names {name!r}, but the tables of this run are {list(names)}: write it as the recipe "
                    f"writes data.table or data.mix.{nearest(name, names)}"
                )

    @property
    def text_preprocess(self) -> TextPreprocess:
        """How texts become places in the vocabulary.

        Raises:
            ValueError: the vocabulary is made of captions when a run begins, see `settled`; or its file is none.
        """
        if self.words is not None:
            return _preprocess(self.words, self.num_words)
        if self.vocabulary is None:
            raise ValueError(
                "the vocabulary is made of captions when a run begins (config.settled(tables)): name a file, "
                "objective.vocabulary=FILE, where there is no run."
            )
        return _preprocess(_words_of(at_home(self.vocabulary)), self.num_words)

    @property
    def clip_length(self) -> ClipLength:
        span = clip_span(self.num_frames, self.frame_stride)
        return ClipLength(span) if self.fps is None else ClipLength(seconds=span / self.fps)

    @property
    def clips_per_record(self) -> int:
        return 1


def _check_rate(frame_stride: int | None, fps: float | None) -> None:
    if frame_stride is not None and frame_stride < 1:
        raise ValueError(f"frame_stride={frame_stride} must be at least 1.")
    if fps is not None and not 0 < fps < math.inf:
        raise ValueError(f"fps={fps} must be positive, or null to count frames of the file.")


@functools.lru_cache(maxsize=4)
def _words_of(path: str) -> tuple[str, ...]:
    return read_vocabulary(path)


@functools.lru_cache(maxsize=4)
def _preprocess(words: tuple[str, ...], length: int) -> TextPreprocess:
    return TextPreprocess(vocabulary=words, length=length)


def _digest(words: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(words).encode()).hexdigest()[:16]


def _tell_late_captions(table: Table) -> None:
    count, first = late_captions(table)
    if count:
        logger.warning(
            "%s: %d captions lie outside their videos and are not used; the first is of record %r",
            table.name or "the table",
            count,
            first,
        )
