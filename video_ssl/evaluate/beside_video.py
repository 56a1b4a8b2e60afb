"""What is true and what was found as people look at it: one video, the truth on the left, the other on the right."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from fractions import Fraction
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from video_ssl.clips.picture_video import write_pictures
from video_ssl.files import written_aside

#: Draws on a picture of moment t: (picture, t, (pixels of it for one of the video, across and down)).
Draw = Callable[[Image.Image, int, tuple[float, float]], Image.Image]

#: Smaller videos are enlarged to it.
_LEAST_HEIGHT = 160


def write_beside(
    path: Path, pictures: Iterable[NDArray[np.uint8]], draw: tuple[Draw, Draw], fps: float
) -> None:
    """Writes an H.264 mp4 without sound.

    Args:
        path: where to.
        pictures: uint8 (H, W, 3), one for each moment.
        draw: what is drawn on the left and on the right.
        fps: of the video; 25 where nobody knows.
    """
    both = (
        np.concatenate([_drawn(picture, t, side) for side in draw], 1)
        for t, picture in enumerate(pictures)
    )
    with written_aside(path) as aside:
        write_pictures(aside, both, Fraction(fps or 25).limit_denominator(1001))


def _drawn(picture: NDArray[np.uint8], t: int, draw: Draw) -> NDArray[np.uint8]:
    height, width = picture.shape[:2]
    scale = max(1.0, _LEAST_HEIGHT / height)
    # yuv420p has pairs of pixels.
    size = [2 * max(1, round(side * scale / 2)) for side in (width, height)]
    image = Image.fromarray(picture).resize((size[0], size[1]), Image.Resampling.BILINEAR)
    return np.asarray(draw(image, t, (size[0] / width, size[1] / height)))
