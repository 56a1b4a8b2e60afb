"""A track as people look at it: the video with the true boxes, and beside it with those that were found."""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from video_ssl.clips.picture_video import write_pictures
from video_ssl.files import written_aside

_TRUE, _FOUND = (60, 220, 60), (240, 80, 60)
#: Smaller videos are enlarged to it.
_LEAST_HEIGHT = 160


def write_track_video(
    path: Path,
    pictures: Iterable[NDArray[np.uint8]],
    truth: NDArray[np.float64],
    found: NDArray[np.float64],
    fps: float,
) -> None:
    """Writes an H.264 mp4 without sound.

    Args:
        path: where to.
        pictures: uint8 (H, W, 3), one for each box.
        truth, found: (T, 4), left, top, width, height in pixels; NaN = no box.
        fps: of the video.
    """
    rate = Fraction(fps or 25).limit_denominator(1001)
    both = (
        np.concatenate([_drawn(picture, true, _TRUE), _drawn(picture, own, _FOUND)], 1)
        for picture, true, own in zip(pictures, truth, found, strict=True)
    )
    with written_aside(path) as aside:
        write_pictures(aside, both, rate)


def _drawn(
    picture: NDArray[np.uint8], box: NDArray[np.float64], color: tuple[int, int, int]
) -> NDArray[np.uint8]:
    height, width = picture.shape[:2]
    scale = max(1.0, _LEAST_HEIGHT / height)
    # yuv420p has pairs of pixels.
    size = [2 * max(1, round(side * scale / 2)) for side in (width, height)]
    image = Image.fromarray(picture).resize((size[0], size[1]), Image.Resampling.BILINEAR)
    if np.isfinite(box).all():
        left, top, w, h = box
        across, down = size[0] / width, size[1] / height
        corners = (left * across, top * down, (left + w) * across, (top + h) * down)
        ImageDraw.Draw(image).rectangle(corners, outline=color, width=2)
    return np.asarray(image)
