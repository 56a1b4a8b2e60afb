"""How often an action is repeated, read from how frame features resemble themselves: nothing is trained.

The mean cosine of frames t apart, without the mean feature of the video, rises again after every period.  The period is
the first peak that is nearly as high as the highest; the count is the length of the video over the period.  Frames
that do not follow each other evenly are drawn anew at even times.

Source: ours, after the idea of RepNet's self-similarity (CVPR 2020) without its network; errors: `count_errors`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from video_ssl.embed.features import FeatureError
from video_ssl.evaluate.contract import Figure, Given, Needs, Result
from video_ssl.evaluate.frames.frame_sequences import frame_sequences
from video_ssl.evaluate.frames.segment_metrics import count_errors

__all__ = [
    "Repetitions",
    "RepetitionsConfig",
    "count_repetitions",
    "even_frames",
    "self_similarity",
]

#: Steps that differ from the median by a larger share are uneven; in milliseconds they do by 3 % at 30 a second.
_EVEN = 0.05
_MOST_DRAWN = 4  # times as many even frames as there are: a long gap must not fill the memory
_REACH = 0.55  # of the length of a video: as far as periods are looked for
_PAIRS = 3  # of frames: similarity that fewer tell is chance


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


def even_frames(embs: np.ndarray, times: ArrayLike) -> np.ndarray:
    """Returns frame features at even times: the same array where they are (to 5 % of a step), or where nobody knows.

    Otherwise features between two frames are interpolated, one for every step of the usual length (the median).

    Args:
        embs: (L, D), in order of time.
        times: seconds, (L,); NaN where unknown.
    """
    at = np.asarray(times, np.float64)
    steps = np.diff(at)
    if len(at) < 3 or not np.isfinite(at).all() or (steps < 0).any() or not at[-1] > at[0]:
        return embs
    step = float(np.median(steps)) or float(steps.mean())
    if (np.abs(steps - step) <= _EVEN * step).all():
        return embs
    count = 1 + min(round((at[-1] - at[0]) / step), _MOST_DRAWN * len(at))
    drawn = np.linspace(at[0], at[-1], count)
    right = np.clip(np.searchsorted(at, drawn, side="right"), 1, len(at) - 1)
    length = at[right] - at[right - 1]
    share = np.clip((drawn - at[right - 1]) / np.where(length > 0, length, 1.0), 0, 1)[:, None]
    between: np.ndarray = embs[right - 1] * (1 - share) + embs[right] * share
    return between


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
    # The peak of two repetitions is at half the length, behind it where the pace wanders; it needs a neighbour.
    last = min(int(_REACH * len(alike)) + 3, max(len(alike) // 2 + 1, len(alike) - _PAIRS + 1))
    half = alike[:last]
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
            FeatureError: no frame features, videos without a count, or classes with names instead of counts.
        """
        names = list(given.test.metadata.get("class_names") or ())
        if names:
            raise FeatureError(
                f"the labels are classes ({', '.join(map(str, names[:3]))}, ...), no counts: give a table whose "
                "label is how often the action is repeated, without class_names."
            )
        given.test.require_labels()
        videos = frame_sequences(given.test, labelled=False)
        config, true = self.config, videos.classes
        even = [even_frames(*both) for both in zip(videos.embs, videos.times, strict=True)]
        found = np.array([count_repetitions(e, near=config.near, least=config.least) for e in even])
        errors = count_errors(found, true, rule=config.rule)
        used = true > 0 if config.rule == "severe" else np.ones(len(true), bool)
        common = float(np.median(true[used])) if used.any() else float("nan")
        constant = np.full(len(true), common)
        right, total = int((np.abs(np.round(found) - true) <= 1)[used].sum()), int(used.sum())
        drawn = sum(new is not old for new, old in zip(even, videos.embs, strict=True))
        said = f"counts {right} of {total} videos to within one repetition"
        return Result(
            metrics={"obo": errors["obo"], "mae": errors["mae"]},
            correct=right,
            total=total,
            chance=float("nan"),
            statement=said if total else "has no result on these videos",
            details={
                "headline": {
                    "metric": "obo",
                    "found": f"{100 * errors['obo']:.1f} %" if total else "not defined",
                    "total": total,
                },
                "rule": config.rule,
                "constant": {"count": common} | count_errors(constant, true, rule=config.rule),
                "ids": videos.ids,
                "counts": found.tolist(),
                "true": true.tolist(),
            },
            notes=videos.notes + _notes(drawn, len(true) - total, len(true)),
        )


def _notes(drawn: int, zero: int, total: int) -> list[str]:
    notes = []
    if drawn:
        notes.append(
            f"the frames of {drawn} of {total} videos do not follow each other evenly: they are counted by their times"
        )
    if zero:
        notes.append(f"{zero} of {total} videos have the count 0 and are left out (rule=severe)")
    return notes
