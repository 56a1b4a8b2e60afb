"""How files are looked at and made fast to read: the settings of `video-ssl scan` and `video-ssl transcode`;
how a table is divided: those of `video-ssl split`; and which of its words are known: of `video-ssl data vocabulary`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class ScanConfig:
    """How files are looked at.

    Attributes:
        num_workers: processes; by default one per core.
        timeout_sec: time limit for one file; a decoder that does not return within twice of it loses its process.
        decode: frames to decode of each file: its ends (the first and the last), or all.
        exact: prove by decoding which optional decoders return the right frames, for the column `exact`.
        exact_frames: frames compared for it per file, in random order, besides first and last; 0 for all.
        retry: look again at what an earlier, unfinished scan has found broken.
    """

    num_workers: int | None = None
    timeout_sec: float = 60.0
    decode: Literal["ends", "all"] = "ends"
    exact: bool = False
    exact_frames: int = 16
    retry: bool = False

    def __post_init__(self) -> None:
        if self.decode not in ("ends", "all"):
            raise ValueError(f"decode={self.decode!r} is not one of ['ends', 'all'].")
        if self.timeout_sec <= 0:
            raise ValueError(f"timeout_sec={self.timeout_sec} must be positive.")


@dataclass(frozen=True, kw_only=True)
class SplitConfig:
    """How a table is divided into training and test videos.

    Attributes:
        test: share of the videos that are for the test, of every class alike.
        group: column whose equal values stay together (a person, a place); `group` by default, where there is one.
        seed: another one, another division.
        copies: look at the videos, and keep copies of one (other files, sizes, codecs) together.
        num_workers: processes that look at videos; by default one per core.
        timeout_sec: time limit for one video.
    """

    test: float = 0.2
    group: str | None = None
    seed: int = 0
    copies: bool = True
    num_workers: int | None = None
    timeout_sec: float = 60.0

    def __post_init__(self) -> None:
        if not 0 < self.test < 1:
            raise ValueError(f"test={self.test} must lie between 0 and 1: 0.2 is a fifth.")
        if self.timeout_sec <= 0:
            raise ValueError(f"timeout_sec={self.timeout_sec} must be positive.")


@dataclass(frozen=True, kw_only=True)
class DedupConfig:
    """How copies and copied stretches are looked for.

    Attributes:
        threshold: largest mean distance of what counts as the same, 0 to 1; by default 0.07 of the signs of
            fingerprints, 0.02 (1 - cosine) of features.
        min_sec: shortest stretch that is told; shorter videos are compared as a whole.
        fps: pictures of a second that are compared.
        num_workers: processes that look at videos; by default one per core.
        timeout_sec: longest time without a picture done; twice of it costs the process.
    """

    threshold: float | None = None
    min_sec: float = 2.0
    fps: float = 4.0
    num_workers: int | None = None
    timeout_sec: float = 60.0

    def __post_init__(self) -> None:
        if self.threshold is not None and not 0 < self.threshold < 1:
            raise ValueError(f"threshold={self.threshold} must lie between 0 and 1.")
        for name in ("min_sec", "fps", "timeout_sec"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name}={getattr(self, name)} must be more than 0.")


@dataclass(frozen=True, kw_only=True)
class TranscodeConfig:
    """How a table is transcoded.

    Attributes:
        cut: one file per record, of its segment only; times in captions and events are moved accordingly, and
            those outside of it left out.
        num_workers: processes; by default one per core.
        timeout_sec: longest time without a frame done; twice of it costs the process.
        retry: try again what could not be read before.
    """

    cut: bool = False
    num_workers: int | None = None
    timeout_sec: float = 60.0
    retry: bool = False


@dataclass(frozen=True, kw_only=True)
class VideoFormat:
    """What transcoding writes.

    Attributes:
        short_side: pixels; smaller videos keep their size.  Sizes are rounded to even numbers.
        gop: largest distance of key frames: random access decodes half of it on average.
        fps: frame rate: at every tick the frame that was shown then; by default every frame and its time is kept.
        crf: quality of x264, lower is better and larger.
        preset: speed of x264.
        audio: keep the sound, as mono AAC at 48 kHz.
    """

    short_side: int = 256
    gop: int = 12
    fps: float | None = None
    crf: int = 20
    preset: str = "veryfast"
    audio: bool = True

    def __post_init__(self) -> None:
        for name in ("short_side", "gop"):
            if getattr(self, name) < (2 if name == "short_side" else 1):
                raise ValueError(f"{name}={getattr(self, name)} is too small.")
        if self.fps is not None and not 0 < self.fps <= 1000:
            raise ValueError(f"fps={self.fps} must be in 0..1000, or left out to keep the frames.")
        if not 0 <= self.crf <= 51:
            raise ValueError(f"crf={self.crf} must be in 0..51.")


@dataclass(frozen=True, kw_only=True)
class VocabularyConfig:
    """Which words of captions make a vocabulary.

    Attributes:
        max_words: at most so many words, the most frequent, the four special ones among them.
        min_count: words that stand in the captions less often are left out.
    """

    max_words: int = 65536
    min_count: int = 1

    def __post_init__(self) -> None:
        if self.max_words < 5:
            raise ValueError(
                f"max_words={self.max_words} must be at least 5: four special words, and words of captions."
            )
        if self.min_count < 1:
            raise ValueError(f"min_count={self.min_count} must be at least 1.")
