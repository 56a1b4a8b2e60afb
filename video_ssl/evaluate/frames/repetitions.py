"""How often an action is repeated, read from how frame features resemble themselves: nothing is trained.

The mean cosine of frames t apart, without the mean feature of the video, rises again after every period.  The period is
the first peak that is nearly as high as the highest; the count is the length of the video over the period.

Source: ours, after the idea of RepNet's self-similarity (CVPR 2020) without its network; errors: `count_errors`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from video_ssl.embed.features import FeatureError
from video_ssl.evaluate.contract import Figure, Given, Needs, Result
from video_ssl.evaluate.frames.frame_sequences import frame_sequences
from video_ssl.evaluate.frames.segment_metrics import count_errors

__all__ = ["Repetitions", "RepetitionsConfig", "count_repetitions", "self_similarity"]


@dataclass(frozen=True, kw_only=True)
class RepetitionsConfig:
    """Settings of counting.  The label of a video is its true count.

    Attributes:
        rule: what errors are relative to: "transrac" c + 0.1, "severe" c (videos of count 0 are left out).
        near: a peak is taken that is at least this share of the highest.
        least: height of a peak, a cosine, below which nothing repeats itself: the count is 1.
    """

    rule: str = "transrac"
    near: float = 0.8
    least: float = 0.1

    def __post_init__(self) -> None:
        if self.rule not in ("transrac", "severe"):
            raise ValueError(f"rule={self.rule!r} must be transrac or severe.")
        if not 0 < self.near <= 1 or not 0 <= self.least < 1:
            raise ValueError(
                f"near={self.near} must be above 0 and at most 1, least={self.least} at least 0 and below 1."
            )


def self_similarity(embs: np.ndarray) -> NDArray[np.float64]:
    """Returns float64 (L,): the mean inner product of frames 0, 1, ... apart, as a share of that of 0 apart.

    Args:
        embs: frame features (L, D); their mean is taken away.  All 0 where all frames are alike.
    """
    x = np.asarray(embs, np.float64)
    x = x - x.mean(axis=0)
    size = 1 << (2 * len(x) - 1).bit_length()
    power = np.square(np.abs(np.fft.rfft(x, size, axis=0))).sum(axis=1)
    sums = np.fft.irfft(power, size)[: len(x)]
    means = sums / np.arange(len(x), 0, -1)
    energy = float(np.square(x).sum()) / max(1, len(x))
    return means / energy if energy > 1e-12 else np.zeros(len(x))


def count_repetitions(embs: np.ndarray, *, near: float = 0.8, least: float = 0.1) -> float:
    """Returns how often something is repeated in a video, not rounded: 0 where nothing changes, 1 without a period.

    Args:
        embs: frame features (L, D), evenly spaced.
        near, least: see `RepetitionsConfig`.

    >>> turn = np.arange(60) * 2 * np.pi / 12
    >>> count_repetitions(np.stack([np.cos(turn), np.sin(turn)], axis=1))
    5.0
    """
    alike = self_similarity(embs)
    if not alike.any():
        return 0.0
    half = alike[: len(alike) // 2 + 1]
    inner = half[1:-1]
    peaks = 1 + np.flatnonzero((inner > half[:-2]) & (inner >= half[2:]) & (inner >= least))
    if not len(peaks):
        return 1.0
    first = int(peaks[half[peaks] >= near * half[peaks].max()][0])
    before, top, after = alike[first - 1 : first + 2]
    bend = before - 2 * top + after
    period = first + (float((before - after) / (2 * bend)) if bend < 0 else 0.0)
    return round(len(alike) / period, 9)


class Repetitions:
    """The evaluator `repetitions`."""

    Config = RepetitionsConfig
    title: ClassVar[str] = "repetition counting"
    figures: ClassVar[Mapping[str, Figure]] = {
        "obo": Figure(title="off by at most one"),
        "mae": Figure(title="MAE", unit="", digits=2),
    }

    def __init__(self, config: RepetitionsConfig) -> None:
        self.config = config

    @property
    def needs(self) -> Needs:
        return Needs(outputs=("clip", "moments"), train=False)

    def evaluate(self, given: Given) -> Result:
        """Returns the errors of the counts, and those of the one count that fits all videos best.

        Raises:
            FeatureError: no frame features, or classes with names instead of counts.
        """
        names = list(given.test.metadata.get("class_names") or ())
        if names:
            raise FeatureError(
                f"the labels are classes ({', '.join(map(str, names[:3]))}, ...), no counts: give a table whose "
                "label is how often the action is repeated, without class_names."
            )
        videos = frame_sequences(given.test, labelled=False)
        config, true = self.config, videos.classes
        found = np.array(
            [count_repetitions(e, near=config.near, least=config.least) for e in videos.embs]
        )
        errors = count_errors(found, true, rule=config.rule)
        constant = np.full(len(true), np.median(true))
        right = int((np.abs(np.round(found) - true) <= 1).sum())
        return Result(
            metrics={"obo": errors["obo"], "mae": errors["mae"]},
            correct=right,
            total=len(true),
            chance=float("nan"),
            statement=f"counts {right} of {len(true)} videos to within one repetition",
            details={
                "rule": config.rule,
                "constant": {"count": float(constant[0])}
                | count_errors(constant, true, rule=config.rule),
                "ids": videos.ids,
                "counts": found.tolist(),
                "true": true.tolist(),
            },
            notes=videos.notes,
        )
