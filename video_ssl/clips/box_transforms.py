"""Where boxes lie after frames were cropped, scaled, padded and mirrored: steps that can be put one behind another.

Boxes are [x_min, y_min, x_max, y_max] as shares of width and height, as in tables.  Source: papers/const_cl.md section
2.1, whose numbers come from the reference code (which has them as y, x, y, x).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from video_ssl.clips.crops import Region

Pair = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class Geometry:
    """What was done to the pixels of frames: scaled first, then shifted; all pairs are (vertical, horizontal).

    Attributes:
        original: (height, width) of the frames before.
        target: (height, width) of the frames after.
        scale: pixels after per pixel before.
        offset: pixels, after scaling, that are cut away at the top and at the left; negative = so many are added.
    """

    original: Pair
    target: Pair
    scale: Pair = (1.0, 1.0)
    offset: Pair = (0.0, 0.0)

    def then(self, second: Geometry) -> Geometry:
        """Returns both steps as one.

        Raises:
            ValueError: the second one is not of frames as the first one leaves them.
        """
        if not np.allclose(self.target, second.original):
            raise ValueError(
                f"the second step is of frames of {second.original} (height, width), but the first one leaves "
                f"{self.target}."
            )
        (ay, ax), (by, bx) = self.scale, second.scale
        (oy, ox), (py, px) = self.offset, second.offset
        return Geometry(
            original=self.original,
            target=second.target,
            scale=(ay * by, ax * bx),
            offset=(oy * by + py, ox * bx + px),
        )

    def boxes(
        self, boxes: ArrayLike, valid: ArrayLike | None = None, *, flip: bool = False
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Returns boxes as the frames after show them, and which of them have any area there.

        Args:
            boxes: (..., 4); inverted, empty, outside and NaN ones are allowed.
            valid: bool (...), boxes that are there at all; None = all.
            flip: the frames were mirrored left to right at the end.

        Returns:
            float32 (..., 4) in [0, 1], cut at the border, and bool (...).  A box that is not valid has some coordinates
            or other, never NaN.
        """
        given = np.asarray(boxes, np.float64)
        if given.shape[-1:] != (4,):
            raise ValueError(
                f"boxes must be (..., 4) as x_min, y_min, x_max, y_max, got {given.shape}."
            )
        here = np.asarray(np.isfinite(given).all(-1))
        (h, w), (th, tw), (sy, sx), (oy, ox) = self.original, self.target, self.scale, self.offset
        place = np.where(here[..., None], given, 0.0) * (np.array([w, h, w, h]) * [sx, sy, sx, sy])
        size = np.array([tw, th, tw, th])
        cut = np.clip(place - [ox, oy, ox, oy], 0.0, size) / size
        if flip:
            cut = np.stack([1 - cut[..., 2], cut[..., 1], 1 - cut[..., 0], cut[..., 3]], -1)
        found = here & has_area(cut)
        if valid is not None:
            found = found & np.asarray(valid, bool)
        return cut.astype(np.float32), found


def has_area(boxes: ArrayLike) -> NDArray[np.bool_]:
    """Returns bool (...): which boxes (..., 4) are wider and higher than nothing; NaN ones are not.

    >>> has_area([[0, 0, 1, 1], [0.5, 0, 0.5, 1], [0.7, 0, 0.3, 1], [float("nan")] * 4]).tolist()
    [True, False, False, False]
    """
    given = np.asarray(boxes)
    return np.asarray((given[..., 2:] > given[..., :2]).all(-1))


def of_region(region: Region, height: int, width: int, size: tuple[int, int]) -> Geometry:
    """Returns what cutting a region out of frames of `height` x `width` and scaling it to `size` (h, w) does.

    The mirror of the region is told to `Geometry.boxes`.

    >>> of_region(Region(left=10, top=0, width=20, height=40), 40, 40, (80, 80)).boxes([[0.25, 0, 0.5, 1]])[0].tolist()
    [[0.0, 0.0, 0.5, 1.0]]
    """
    scale = (size[0] / region.height, size[1] / region.width)
    offset = (region.top * scale[0], region.left * scale[1])
    return Geometry(original=(height, width), target=size, scale=scale, offset=offset)


def of_scaling(height: int, width: int, size: tuple[int, int]) -> Geometry:
    """Returns what scaling frames of `height` x `width` to `size` (h, w) does."""
    return Geometry(
        original=(height, width), target=size, scale=(size[0] / height, size[1] / width)
    )


def of_padding(height: int, width: int, *, top: int, left: int, size: tuple[int, int]) -> Geometry:
    """Returns what laying frames of `height` x `width` onto a canvas of `size` (h, w) does, at (top, left)."""
    return Geometry(original=(height, width), target=size, offset=(-top, -left))
