"""What the words of a tokenizer are worth on pictures that it has not seen: how many are used, and what they keep.

Source: papers/bevt.md section 11 (our own specification), which proposes to accept a tokenizer that uses at least 80 %
of its words, with a perplexity of at least 0.4 of their number, no word in 5 % of the cells, and the same words in at
least 90 % of the cells under noise of 2 grey levels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from video_ssl.clips.crops import ViewRequest, center_region
from video_ssl.clips.decoders.reader import BadVideo
from video_ssl.clips.views import read_views
from video_ssl.datasets.table import Record
from video_ssl.embed.features import FeatureError
from video_ssl.evaluate.context import Context
from video_ssl.evaluate.contract import Figure, Needs, Result
from video_ssl.evaluate.metrics import perplexity

if TYPE_CHECKING:
    from video_ssl.models.tokenizers.contract import Tokenizer

_NAMED = 3


@dataclass(frozen=True, kw_only=True)
class VisualWordsConfig:
    """Settings of the trial of visual words.

    Attributes:
        per_video: pictures of every test video, evenly spread, the central square of each.
        size: side of the pictures in pixels; null = as the tokenizer was trained.
        noise: standard deviation of the noise, in grey levels of 0..255.
    """

    per_video: int = 4
    size: int | None = None
    noise: float = 2.0

    def __post_init__(self) -> None:
        if self.per_video < 1 or (self.size is not None and self.size < 1):
            raise ValueError(
                f"per_video={self.per_video} must be at least 1, and size={self.size} too, or null."
            )
        if self.noise < 0:
            raise ValueError(f"noise={self.noise} must not be negative.")


class VisualWords:
    """The evaluator `visual_words`."""

    Config = VisualWordsConfig
    title = "visual words"
    figures: ClassVar[dict[str, Figure]] = {
        "words_used": Figure(title="words used"),
        "perplexity": Figure(title="perplexity / words"),
        "most_frequent": Figure(title="most frequent"),
        "noise_agreement": Figure(title="same under noise"),
        "psnr_db": Figure(title="pictures again", unit="dB"),
    }

    def __init__(self, config: VisualWordsConfig) -> None:
        self.config = config

    @property
    def needs(self) -> Needs:
        return Needs(labels=False, encoder=True, reader=True, visual_words=True)

    def evaluate(self, given: Context) -> Result:
        """Returns shares in 0..1, the perplexity as a share of the words, and, of a tokenizer that decodes, the peak
        signal-to-noise ratio of all pictures together in dB.

        Videos that cannot be read are left out, named and counted.

        Raises:
            FeatureError: not one picture could be read.
        """
        tokenizer, table = given.encoder, given.tables["test"]
        assert tokenizer is not None
        assert tokenizer.vocab_size is not None
        size = self.config.size or tokenizer.preprocess.size  # type: ignore[union-attr]
        counts = np.zeros(tokenizer.vocab_size, np.int64)
        rng = np.random.default_rng(given.seed)
        same = 0
        errors: list[float | None] = []
        lost: list[str] = []
        for row in range(len(table)):
            record = table.record(row)
            try:
                pictures = self._pictures(given, record, size)
            except (BadVideo, OSError) as error:
                lost.append(f"{record.id}: {error}")
                continue
            own, agree, squared = _tried(tokenizer, pictures, self.config.noise, rng)
            counts += own
            same += agree
            errors.append(squared)
        if not errors:
            raise FeatureError(f"none of the {len(table)} videos of test could be read.")
        return _result(counts, same, errors, lost)

    def _pictures(self, given: Context, record: Record, size: int) -> NDArray[np.uint8]:
        """uint8 (n, size, size, 3)."""
        with given.open(record) as reader:
            info, count = reader.info, self.config.per_video
            places = ((np.arange(count) + 0.5) * info.num_frames / count).astype(np.int64)
            out = np.empty((count, size, size, 3), np.uint8)
            region = center_region(info.height, info.width)
            read_views(reader, [ViewRequest(indices=places, region=region, out=out)])
        return out


def _tried(
    tokenizer: Any, pictures: NDArray[np.uint8], noise: float, rng: np.random.Generator
) -> tuple[NDArray[np.int64], int, float | None]:
    """How often each word stands somewhere, cells whose word stays under noise, mean squared error of the pictures."""
    import torch

    clean = pictures.astype(np.float32)
    noisy = (clean + noise * rng.standard_normal(clean.shape)).clip(0, 255)
    both = np.concatenate([clean, noisy]).astype(np.float32) / 255
    given = torch.from_numpy(both).movedim(-1, 1).to(tokenizer.device)
    words = tokenizer.encode(given)
    first, second = words.chunk(2)
    counts = torch.bincount(first.flatten(), minlength=tokenizer.vocab_size).cpu().numpy()
    return counts, int((first == second).sum()), _error(tokenizer, first, given[: len(first)])


def _error(tokenizer: Tokenizer, words: Any, pictures: Any) -> float | None:
    try:
        return float((tokenizer.decode(words) - pictures).square().mean())
    except NotImplementedError:
        return None


def _result(
    counts: NDArray[np.int64], same: int, errors: list[float | None], lost: list[str]
) -> Result:
    total = int(counts.sum())
    metrics: dict[str, float] = {
        "words_used": float((counts > 0).mean()),
        "perplexity": perplexity(counts) / len(counts),
        "most_frequent": float(counts.max() / total),
        "noise_agreement": same / total,
    }
    known = [error for error in errors if error is not None]
    notes = []
    if known:
        metrics["psnr_db"] = float(-10 * np.log10(max(float(np.mean(known)), 1e-10)))
    else:
        notes.append("it only encodes: there are no pictures to compare")
    if lost:
        notes.append(f"{len(lost)} videos could not be read: {'; '.join(lost[:_NAMED])}")
    share = f"{100 * metrics['words_used']:.1f} %"
    return Result(
        metrics=metrics,
        correct=0,
        total=len(errors),
        chance=float("nan"),
        statement=f"uses {share} of its {len(counts)} words on pictures of {len(errors)} videos",
        details={
            "headline": {"metric": "words_used", "found": share},
            "cells": total,
        },
        notes=notes,
    )
