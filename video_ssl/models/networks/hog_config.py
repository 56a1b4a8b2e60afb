"""Settings of histograms of oriented gradients as features, free of torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

Shows = Literal["frame", "bag", "order", "differences", "each", "window"]
SHOWS: tuple[str, ...] = get_args(Shows)


@dataclass(frozen=True, kw_only=True)
class HogConfig:
    """Settings of `HogEncoder`.

    Attributes:
        shows: what of the clip's frames is kept.  Of a clip as a whole: "frame" = the middle one; "bag" = the mean of
            all, their order lost; "order" = all side by side, in order; "differences" = the gradients of what changes
            from each frame to the next, in order.  For every frame: "each" = itself alone; "window" = the frames
            before and behind it with it, in order.
        num_frames: frames of a clip.
        size: larger frames are averaged down to `size` x `size` pixels first.
        grid: cells in height and in width, squares of size // grid pixels.
        orientations: bins of a cell's histogram, over half a turn.
        reach: frames before and behind that a "window" has.
    """

    shows: Shows = "order"
    num_frames: int = 16
    size: int = 64
    grid: int = 4
    orientations: int = 9
    reach: int = 2

    def __post_init__(self) -> None:
        if self.shows not in SHOWS:
            raise ValueError(f"shows={self.shows!r} must be one of {', '.join(SHOWS)}.")
        least = 2 if self.shows == "differences" else 1
        if self.num_frames < least:
            raise ValueError(
                f"num_frames={self.num_frames} must be at least {least} for shows={self.shows!r}."
            )
        if self.orientations < 1 or self.reach < 0:
            raise ValueError(
                f"orientations={self.orientations} must be at least 1 and reach={self.reach} at least 0."
            )
        if not 2 <= self.grid <= self.size:
            raise ValueError(
                f"grid={self.grid} must be at least 2, and at most size={self.size}: a cell has a pixel or more."
            )
