"""RandAugment of a clip: a few operations of Pillow on whole frames, drawn once and applied to all frames alike.

Of 15 operations `num_ops` are chosen, the same one maybe twice; each happens with `probability` and has a magnitude of
its own, m ~ N(magnitude, magnitude_std) cut to [0, 10]; where a sign is, both are equally likely:

    autocontrast, equalize, invert                    of each frame by itself
    rotate                                            +-3 m degrees about the middle
    posterize                                         to 4 - int(0.4 m) bits a color
    solarize                                          inverted where >= 256 - int(25.6 m)
    solarize_add                                      + int(11 m) where < 128, at most 255
    color, contrast, brightness, sharpness            by the factor 1 +- 0.09 m
    shear_x, shear_y                                  by +-0.03 m
    translate_x, translate_y                          by +-0.045 m of the width or height

What comes in from outside is grey, (128, 128, 128); geometry is bicubic.

Source: papers/videomae.md section 6 (`rand-m7-n4-mstd0.5-inc1` of timm; arXiv:1909.13719), the fine-tuning of VideoMAE
and MVD and the attentive probes of V-JEPA 2.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageEnhance, ImageOps

Frames = NDArray[np.uint8]
Operation = Callable[[Image.Image, float, int], Image.Image]

_STRONGEST = 10.0
_GREY = (128, 128, 128)
_BICUBIC = Image.Resampling.BICUBIC
_HALF = 128


@dataclass(frozen=True, kw_only=True)
class RandAugmentConfig:
    """How whole frames change before the crop; the defaults are those of every published fine-tuning with it.

    Attributes:
        num_ops: operations of a view.
        magnitude: of each, on average; from 0 (hardly anything, but see posterize: 4 bits) to 10.
        magnitude_std: of the normal distribution around it; 0 = always `magnitude`.
        probability: of a chosen operation to happen.
    """

    num_ops: int = 4
    magnitude: float = 7.0
    magnitude_std: float = 0.5
    probability: float = 0.5

    def __post_init__(self) -> None:
        if self.num_ops < 1:
            raise ValueError(
                f"num_ops={self.num_ops} must be at least 1. To change nothing, leave the whole setting out."
            )
        if not 0 <= self.magnitude <= _STRONGEST:
            raise ValueError(f"magnitude={self.magnitude} must lie in [0, 10].")
        if not 0 <= self.magnitude_std < float("inf"):
            raise ValueError(f"magnitude_std={self.magnitude_std} must be 0 or a positive number.")
        if not 0 <= self.probability <= 1:
            raise ValueError(f"probability={self.probability} must lie in [0, 1].")


class Change(NamedTuple):
    """One operation.

    Attributes:
        name: of `OPERATIONS`.
        magnitude: 0 .. 10.
        sign: -1 or 1; only some operations have one.
    """

    name: str
    magnitude: float
    sign: int = 1


def sample_changes(config: RandAugmentConfig, rng: np.random.Generator) -> tuple[Change, ...]:
    """Returns what happens to a view, in order; as many numbers are drawn whatever comes out."""
    names = list(OPERATIONS)
    chosen = rng.integers(0, len(names), config.num_ops)
    happens = rng.random(config.num_ops) < config.probability
    drawn = config.magnitude + config.magnitude_std * rng.standard_normal(config.num_ops)
    signs = rng.integers(0, 2, config.num_ops) * 2 - 1
    magnitudes = np.clip(drawn, 0.0, _STRONGEST)
    return tuple(
        Change(names[place], float(magnitude), int(sign))
        for place, magnitude, sign, kept in zip(chosen, magnitudes, signs, happens, strict=True)
        if kept
    )


def apply_changes(frames: Frames, changes: Sequence[Change]) -> Frames:
    """Returns uint8 (T, H, W, 3) after all changes, every frame alike; the input is left alone.

    Raises:
        ValueError: an operation that there is not.
    """
    for change in changes:
        if change.name not in OPERATIONS:
            raise ValueError(
                f"there is no operation {change.name!r}: use one of {list(OPERATIONS)}."
            )
    if not changes:
        return frames
    out = np.empty_like(frames)
    for target, frame in zip(out, frames, strict=True):
        image = Image.fromarray(np.ascontiguousarray(frame))
        for change in changes:
            image = OPERATIONS[change.name](image, change.magnitude, change.sign)
        target[:] = np.asarray(image)
    return out


# Operations ---------------------------------------------------------------------------------------


def _posterize(image: Image.Image, magnitude: float, sign: int) -> Image.Image:
    return ImageOps.posterize(image, 4 - int(magnitude / 10 * 4))


def _solarize(image: Image.Image, magnitude: float, sign: int) -> Image.Image:
    return ImageOps.solarize(image, 256 - int(magnitude / 10 * 256))


def _solarize_add(image: Image.Image, magnitude: float, sign: int) -> Image.Image:
    added = int(magnitude / 10 * 110)
    table = [min(255, value + added) if value < _HALF else value for value in range(256)]
    return image.point(table * 3)


def _rotate(image: Image.Image, magnitude: float, sign: int) -> Image.Image:
    return image.rotate(sign * 3 * magnitude, resample=_BICUBIC, fillcolor=_GREY)


def _moved(image: Image.Image, *rows: float) -> Image.Image:
    """What lies at (a x + b y + c, d x + e y + f) comes to (x, y)."""
    return image.transform(
        image.size, Image.Transform.AFFINE, rows, resample=_BICUBIC, fillcolor=_GREY
    )


def _enhanced(kind: Callable[[Image.Image], ImageEnhance._Enhance]) -> Operation:
    return lambda image, magnitude, sign: kind(image).enhance(1 + sign * 0.09 * magnitude)


OPERATIONS: dict[str, Operation] = {
    "autocontrast": lambda image, magnitude, sign: ImageOps.autocontrast(image),
    "equalize": lambda image, magnitude, sign: ImageOps.equalize(image),
    "invert": lambda image, magnitude, sign: ImageOps.invert(image),
    "rotate": _rotate,
    "posterize": _posterize,
    "solarize": _solarize,
    "solarize_add": _solarize_add,
    "color": _enhanced(ImageEnhance.Color),
    "contrast": _enhanced(ImageEnhance.Contrast),
    "brightness": _enhanced(ImageEnhance.Brightness),
    "sharpness": _enhanced(ImageEnhance.Sharpness),
    "shear_x": lambda image, m, sign: _moved(image, 1, sign * 0.03 * m, 0, 0, 1, 0),
    "shear_y": lambda image, m, sign: _moved(image, 1, 0, 0, sign * 0.03 * m, 1, 0),
    "translate_x": lambda image, m, sign: _moved(
        image, 1, 0, sign * 0.045 * m * image.width, 0, 1, 0
    ),
    "translate_y": lambda image, m, sign: _moved(
        image, 1, 0, 0, 0, 1, sign * 0.045 * m * image.height
    ),
}
