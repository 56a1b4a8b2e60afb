"""What the `Plan` of every objective is to the rest of the library.  Free of torch and jax."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from video_ssl.clips.samples import Plan


@dataclass(frozen=True, kw_only=True)
class ShownClip:
    """One clip of a sample as people look at it, in the report of a run.

    Attributes:
        name: what the clip is, in a word or two: "clip", "view 2".
        frames: uint8 (T, H, W, 3), as the plan made them, before changes of color on the device.
        hidden: bool (t, h, w), True = the encoder does not see that part of the clip, whose T, H and W are divided into
            t, h and w equal parts; None = it sees all of it.
        boxes: float (T, K, 4), in each frame left, top, right and bottom of K things as shares of width and height, NaN
            where one is not there; None = the objective has no boxes.
    """

    name: str
    frames: NDArray[np.uint8]
    hidden: NDArray[np.bool_] | None = None
    boxes: NDArray[np.floating] | None = None


class ObjectivePlan(Plan, Protocol):
    """The plan of an objective: it makes samples, and tells what is to be seen in one."""

    def shown(self, sample: Mapping[str, np.ndarray]) -> list[ShownClip]:
        """Returns the clips of a sample that this plan has made, the most telling first."""


def shown_views(
    views: Iterable[NDArray[np.uint8]], masks: Iterable[NDArray[np.bool_]] | None = None
) -> list[ShownClip]:
    """Returns views (T, H, W, 3) as "view 1", "view 2", ..., a lone one as "clip".

    Args:
        views: of a sample.
        masks: for every view what is hidden of it, (t, h, w).
    """
    views = list(views)
    hidden = [None] * len(views) if masks is None else list(masks)
    return [
        ShownClip(name="clip" if len(views) == 1 else f"view {i + 1}", frames=view, hidden=mask)
        for i, (view, mask) in enumerate(zip(views, hidden, strict=True))
    ]
