"""Pictures as frames: any mode that says what black and white are becomes 8-bit RGB, everything else is refused.

Pillow's own `convert("RGB")` cuts 16-bit and float pictures at 255, so that they come out white.
"""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from PIL import Image, ImageOps

# Formats that hold moving pictures.  JPEG may hold several too (MPO), but those are other views of one picture.
MOVING_FORMATS = ("WEBP", "PNG", "GIF")
# Formats whose 32-bit integers are 16-bit ones in disguise.
_SIXTEEN_BITS = ("PNG", "PPM")
_READ_ERRORS = (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError)


class PictureProblem(ValueError):
    """A picture that cannot be a frame; the text is the rest of a sentence that begins with its name."""


def open_picture(path: str, byte_range: tuple[int, int] | None = None) -> Image.Image:
    """Returns the picture at `path`, not decoded yet, with its first frame in front.

    Raises:
        PictureProblem: no picture.
    """
    try:
        if byte_range is None:
            return Image.open(path)
        offset, size = byte_range
        with open(path, "rb") as file:
            file.seek(offset)
            return Image.open(io.BytesIO(file.read(size)))
    except _READ_ERRORS as err:
        raise PictureProblem(f"cannot be read as a picture ({_text(err)}).") from err


def is_moving(image: Image.Image) -> bool:
    """Returns whether the picture is an animation."""
    return image.format in MOVING_FORMATS and getattr(image, "n_frames", 1) > 1


def single_picture(image: Image.Image) -> Image.Image:
    """Returns the upright RGB picture of a file that holds one.

    Raises:
        PictureProblem: an animation, several pages, a picture of numbers without a scale, or a damaged one.
    """
    try:
        count = getattr(image, "n_frames", 1)
        if count > 1 and image.format in MOVING_FORMATS:
            raise PictureProblem(
                f"is an animated picture of {count} frames, where one is expected: save its frames as files."
            )
        pages = _pages(image) if count > 1 and image.format == "TIFF" else 1
        if pages > 1:
            raise PictureProblem(f"holds {pages} pages, where one picture is expected: split it.")
        kind = image.format
        upright = ImageOps.exif_transpose(image)
        upright.load()
        return to_rgb(upright, kind)
    except _READ_ERRORS as err:
        if isinstance(err, PictureProblem):
            raise
        raise PictureProblem(f"cannot be read as a picture ({_text(err)}).") from err


def to_rgb(image: Image.Image, kind: str | None) -> Image.Image:
    """Returns the picture in mode RGB: 16-bit grey scaled to 8 bits, transparency dropped as by other readers.

    Args:
        image: any mode.
        kind: the file format, on which the meaning of numbers in some modes depends.

    Raises:
        PictureProblem: a mode whose white is not known (float, 32-bit integers), or that Pillow cannot convert.
    """
    mode = image.mode
    if mode.startswith("I;16") or (mode == "I" and kind in _SIXTEEN_BITS):
        grey = np.asarray(image).astype(np.float64)
        return Image.fromarray(np.round(grey / 257).clip(0, 255).astype(np.uint8)).convert("RGB")
    if mode in ("I", "F"):
        what = "32-bit integers" if mode == "I" else "floating-point numbers"
        raise PictureProblem(
            f"holds {what}, and does not say which is white: save it with 8 or 16 bits per sample."
        )
    try:
        return image.convert("RGB")
    except ValueError as err:
        raise PictureProblem(f"is in mode {mode}, which has no way to RGB ({err}).") from err


def _pages(image: Any) -> int:
    """Pages of a TIFF but smaller copies of others."""
    pages = 0
    for number in range(image.n_frames):
        image.seek(number)
        pages += not image.tag_v2.get(254, 0) & 1
    image.seek(0)
    return pages


def _text(err: BaseException) -> str:
    return str(err) or type(err).__name__
