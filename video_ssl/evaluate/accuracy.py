"""How often a head is right about videos whose class is known; numpy only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from video_ssl.datasets.class_names import numbers_by_name, used_names


@dataclass(frozen=True, kw_only=True)
class Accuracy:
    """Shares of videos, 0..1.

    Attributes:
        videos: whose class is known and that could be read; all count the same.
        top1, top5: the class is the surest one, or among the five surest.  Of equally sure ones the first counts.
        mean_class: the mean over classes of the share of their videos that are named right (papers/bevt.md section 6).
            Classes without a video are left out of it; the reference counts them as 0.
        strange: videos of classes that the head does not know: it cannot be right about them, and they count.
    """

    videos: int
    top1: float
    top5: float
    mean_class: float
    strange: int = 0

    def __str__(self) -> str:
        told = (
            f"of {self.videos} videos whose class is known, right: {100 * self.top1:.1f} % (top-1), "
            f"{100 * self.top5:.1f} % (top-5), {100 * self.mean_class:.1f} % (mean over classes)"
        )
        if self.strange:
            told += f"; {self.strange} of them are of classes that the head does not know"
        return told


def accuracy(
    shares: Mapping[str, np.ndarray],
    labels: Mapping[str, int],
    *,
    ours: Sequence[str],
    theirs: Sequence[str],
) -> Accuracy | None:
    """Returns how often the surest class is the right one; None where no class is known, or none is one of the head's.

    Classes are compared by their names where both sides have some, otherwise by their numbers.

    Args:
        shares: id -> float (K,), what the head says.
        labels: id -> class, -1 = not known.
        ours: names of the head's classes.
        theirs: those of the labels.

    >>> shares = {"a": np.array([0.9, 0.1]), "b": np.array([0.8, 0.2])}
    >>> found = accuracy(shares, {"a": 1, "b": 0}, ours=["run", "sit"], theirs=["sit", "run"])
    >>> found.top1, found.mean_class
    (0.5, 0.5)
    """
    known = [name for name in shares if labels.get(name, -1) >= 0]
    given = np.array([labels[name] for name in known], np.int64)
    if not known or (ours and theirs and not used_names(theirs, given) & set(ours)):
        return None
    numbers = numbers_by_name(ours, theirs)
    classes = given if numbers is None else numbers[given]
    order = np.stack([np.argsort(-shares[name], kind="stable")[:5] for name in known])
    right = order == classes[:, None]
    first = right[:, 0]
    recalls = [first[classes == each].mean() for each in np.unique(classes)]
    return Accuracy(
        videos=len(known),
        top1=float(first.mean()),
        top5=float(right.any(1).mean()),
        mean_class=float(np.mean(recalls)),
        strange=int((classes >= len(ours)).sum()),
    )
