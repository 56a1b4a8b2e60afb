"""A track as people look at it: the video with the true boxes, and beside it with those that were found."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from video_ssl.evaluate.beside_video import Draw, write_beside

_TRUE, _FOUND = (60, 220, 60), (240, 80, 60)


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
    write_beside(path, pictures, (_boxes(truth, _TRUE), _boxes(found, _FOUND)), fps)


def _boxes(boxes: NDArray[np.float64], color: tuple[int, int, int]) -> Draw:
    def draw(image: Image.Image, t: int, scale: tuple[float, float]) -> Image.Image:
        if np.isfinite(boxes[t]).all():
            left, top, width, height = boxes[t]
            across, down = scale
            corners = (left * across, top * down, (left + width) * across, (top + height) * down)
            ImageDraw.Draw(image).rectangle(corners, outline=color, width=2)
        return image

    return draw
