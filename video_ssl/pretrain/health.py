"""Is a training well?  A verdict from the rows of metrics.jsonl alone, so that it costs no step anything.

It is conservative: what it names is seldom wrong, and "fine" means only that none of these was seen.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

Kind = Literal["early", "fine", "diverging", "collapsed", "stuck", "loader-bound"]
Row = Mapping[str, Any]

#: Rows, and share of the training, before anything is said of the loss.
_ROWS, _SHARE = 5, 0.1
#: Parts of losses come before sums whose weights change on the way.
_LOSSES = ("loss_hidden", "loss_image", "loss_scl", "loss_visual", "loss")


@dataclass(frozen=True)
class Verdict:
    """What is to be seen, and what to do about it.

    Attributes:
        kind: "early" = too few rows to tell.
        why: the figures it rests on.
        advice: what helps; "" where nothing is needed.
    """

    kind: Kind
    why: str = ""
    advice: str = ""

    @property
    def is_bad(self) -> bool:
        return self.kind not in ("early", "fine")

    def __str__(self) -> str:
        return ". ".join(part for part in (f"{self.kind}: {self.why}", self.advice) if part)


def verdict_of(rows: Sequence[Row]) -> Verdict:
    """Returns the verdict on a training so far.

    Args:
        rows: of metrics.jsonl, from its first step on.
    """
    for look in (_diverging, _collapsed, _stuck, _loader_bound):
        found = look(rows)
        if found is not None:
            return found
    if len(rows) < _ROWS:
        return Verdict("early", f"{len(rows)} rows of metrics are too few to tell")
    return Verdict("fine", "the loss falls, features differ, and the loader keeps up")


def _diverging(rows: Sequence[Row]) -> Verdict | None:
    losses = _losses(rows)
    if len(rows) < _ROWS or len(losses) < _ROWS:
        return None
    medians = np.median(np.lib.stride_tricks.sliding_window_view(losses, 3), axis=1)
    first, best, now = losses[0], medians.min(), medians[-1]
    rise, fallen = now - best, max(first - best, 0.0)
    norms = _values(rows, "grad_norm")
    steep = len(norms) >= _ROWS and np.median(norms[-3:]) > 3 * np.median(norms)
    above = now - first > abs(first) / 4 and rise > abs(best)  # worse than untrained
    if above or rise > 3 * abs(best) + fallen or (steep and rise > max(abs(best), fallen) / 2):
        return Verdict(
            "diverging",
            f"the loss has risen from {best:.3g} to {now:.3g}, gradients to {norms[-1]:.3g}"
            if len(norms)
            else f"the loss has risen from {best:.3g} to {now:.3g}",
            "Start again with a third of optimizer.base_lr, a longer optimizer.warmup, or training.grad_clip=1",
        )
    return None


def _collapsed(rows: Sequence[Row]) -> Verdict | None:
    spread = _values(rows, "feature_std")
    if len(spread) < 3 or spread[0] == 0:  # of one sample there is no spread
        return None
    now = float(np.median(spread[-3:]))
    if now > max(0.05 * spread.max(), 1e-4):
        return None
    return Verdict(
        "collapsed",
        f"features of all clips are nearly one: their spread is {now:.1e}, it was {spread.max():.1e}",
        "Start again with a smaller optimizer.base_lr or more weight decay; contrastive objectives want more videos in "
        "a batch, or stronger crops and colors",
    )


def _stuck(rows: Sequence[Row]) -> Verdict | None:
    losses = _losses(rows)
    if len(losses) < _ROWS or rows[-1].get("progress", 0.0) < _SHARE:
        return None
    first, now = losses[0], float(np.median(losses[-3:]))
    noise = float(np.std(losses)) / math.sqrt(len(losses))
    if abs(first - now) > max(0.01 * abs(first), noise):  # higher is another illness
        return None
    return Verdict(
        "stuck",
        f"the loss is where it began, {first:.4g} then and {now:.4g} now: the network gives the mean of all targets",
        "Raise optimizer.base_lr (3 times) and look at lr in the metrics; if that does not help, look at the clips in "
        "the report: they may be black, or all alike",
    )


def _loader_bound(rows: Sequence[Row]) -> Verdict | None:
    waits = _values(rows, "data_wait_share")[1:]  # before the first row the loader starts
    if len(waits) < 2 or float(np.median(waits[-3:])) <= 0.5:
        return None
    return Verdict(
        "loader-bound",
        f"{100 * np.median(waits[-3:]):.0f} % of the time is spent waiting for videos",
        "Raise loader.num_workers up to the CPU cores, or make the files fast to read (video-ssl transcode); "
        "video-ssl bench loader says which part is slow",
    )


def _losses(rows: Sequence[Row]) -> np.ndarray:
    """Of the first kind of loss that the rows have."""
    for name in _LOSSES:
        found = _values(rows, name)
        if len(found):
            return found
    return np.empty(0)


def _values(rows: Sequence[Row], name: str) -> np.ndarray:
    """The finite values of a figure."""
    values = np.array([row[name] for row in rows if name in row], np.float64)
    return values[np.isfinite(values)]
