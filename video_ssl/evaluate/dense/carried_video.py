"""Labels that travelled as people look at them: a video with the true ones, beside it with those that came along."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from video_ssl.evaluate.beside_video import Draw, write_beside
from video_ssl.evaluate.dense.masks import Masks

#: Colors that people with any kind of color blindness tell apart (Okabe and Ito); object k has the k-th, in turn.
COLORS = np.array(
    [
        (230, 159, 0),
        (86, 180, 233),
        (0, 158, 115),
        (240, 228, 66),
        (0, 114, 178),
        (213, 94, 0),
        (204, 121, 167),
    ],
    np.uint8,
)
#: Parts of 256 that a mask covers.
_COVER = 140
_NOT_KNOWN = 255


def write_masks_video(
    path: Path, pictures: Iterable[NDArray[np.uint8]], truth: Masks, found: Masks, fps: float
) -> None:
    """Writes an H.264 mp4 without sound.

    Args:
        path: where to.
        pictures: uint8 (H, W, 3), one for each mask.
        truth, found: int64 (T, H, W); 0 = ground, 255 = not known: neither is colored.
        fps: of the video.
    """
    write_beside(path, pictures, (_masks(truth), _masks(found)), fps)


def write_joints_video(
    path: Path,
    pictures: Iterable[NDArray[np.uint8]],
    truth: NDArray[np.float64],
    found: NDArray[np.float64],
    fps: float,
) -> None:
    """Writes an H.264 mp4 without sound.

    Args:
        path: where to.
        pictures: uint8 (H, W, 3), one for each pose.
        truth, found: (T, J, 2), x and y in pixels; NaN = not found.
        fps: of the video.
    """
    write_beside(path, pictures, (_joints(truth), _joints(found)), fps)


def _masks(masks: Masks) -> Draw:
    def draw(image: Image.Image, t: int, scale: tuple[float, float]) -> Image.Image:
        # Of int64 only what is a label of a picture: 0 to 255.
        labels = np.asarray(
            Image.fromarray(masks[t].astype(np.uint8)).resize(image.size, Image.Resampling.NEAREST)
        )
        shown = (labels > 0) & (labels != _NOT_KNOWN)
        pixels = np.array(image)
        own = COLORS[(labels[shown].astype(int) - 1) % len(COLORS)].astype(int)
        pixels[shown] = (own * _COVER + pixels[shown].astype(int) * (256 - _COVER)) // 256
        return Image.fromarray(pixels)

    return draw


def _joints(poses: NDArray[np.float64]) -> Draw:
    def draw(image: Image.Image, t: int, scale: tuple[float, float]) -> Image.Image:
        pen = ImageDraw.Draw(image)
        for number, (x, y) in enumerate(poses[t] * scale):
            if np.isfinite(x) and np.isfinite(y):
                color = tuple(COLORS[number % len(COLORS)].tolist())
                pen.ellipse((x - 3, y - 3, x + 3, y + 3), fill=color, outline=(0, 0, 0))
        return image

    return draw
