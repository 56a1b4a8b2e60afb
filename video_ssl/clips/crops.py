"""Which region of the frames a view shows, and at which size; boxes follow.

A region is chosen once per clip and applied to all its frames, so motion stays motion.  Frames are
uint8 (T, H, W, 3) before and after; scaling is Pillow's bilinear filter, which averages when it
shrinks.  The crop comes before the resize, and the filter never looks outside the region.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from video_ssl.clips.config import CropConfig
from video_ssl.clips.rand_augment import Change

Frames = NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class Region:
    """A rectangle of source pixels, shown mirrored if `flip`.

    Attributes:
        left, top: the first column and row.
        width, height: in pixels, at least 1.
        flip: mirror left and right after the crop.
    """

    left: int
    top: int
    width: int
    height: int
    flip: bool = False

    def __post_init__(self) -> None:
        if self.left < 0 or self.top < 0 or self.width < 1 or self.height < 1:
            raise ValueError(f"{self} must begin inside the frame and hold at least one pixel.")


@dataclass(frozen=True, kw_only=True, eq=False)
class ViewRequest:
    """One view of a clip, for a reader that decodes, crops and scales in one go.

    Attributes:
        indices: frames of the video, int (T,), any order, duplicates allowed.
        region: what is shown of every frame.
        out: uint8 (T, h, w, 3), where the view goes, scaled to (h, w).
        changes: of the whole frames, before the region is cut out; `read_views` sees to them.
    """

    indices: NDArray[np.int64]
    region: Region
    out: Frames
    changes: tuple[Change, ...] = ()


# Choosing a region ------------------------------------------------------------------------------


def sample_region(
    height: int,
    width: int,
    config: CropConfig,
    rng: np.random.Generator,
    *,
    may_flip: bool = True,
) -> Region:
    """Returns a region of frames of `height` x `width` as the settings say, mirrored by chance.

    With `flip_probability=0` nothing is drawn for the mirror and no region is ever mirrored: left
    and right mean something in some data sets (Something-Something, texts, pairs of hands).  Where
    the data forbid it (`may_flip=False`) the mirror is drawn and not used.
    """
    if config.kind == "multi_scale":
        regions = multi_scale_regions(
            height, width, size=config.size, scales=config.scales, max_distort=config.max_distort
        )
        pair = regions[int(rng.integers(len(regions)))]
        region = pair[int(rng.integers(len(pair)))]
    elif config.kind == "random_resized":
        region = sample_random_resized(height, width, rng, area=config.area, aspect=config.aspect)
    elif config.kind == "height_first":
        region = sample_height_first(height, width, rng, area=config.area, aspect=config.aspect)
    elif config.kind == "short_side":
        low, high = (round(config.size / share) for share in reversed(config.scales))
        side = round(min(height, width) * config.size / int(rng.integers(low, high + 1)))
        top, left = (int(rng.integers(0, length - side + 1)) for length in (height, width))
        region = Region(top=top, left=left, height=side, width=side)
    elif config.kind == "vgg":
        region = sample_vgg(height, width, rng)
    elif config.kind == "whole":
        region = Region(top=0, left=0, height=height, width=width)
    else:
        region = center_region(height, width)
    flip = config.flip_probability > 0 and bool(rng.random() < config.flip_probability)
    return replace(region, flip=flip and may_flip)


def multi_scale_regions(
    height: int,
    width: int,
    *,
    size: int,
    scales: Sequence[float] = (1.0, 0.875, 0.75, 0.66),
    max_distort: int = 1,
) -> list[list[Region]]:
    """Returns the regions of the multi-scale corner crop: per pair of sides, 13 positions.

    Sides are shares of the short side of the frame; a side within 2 pixels of `size` becomes
    `size`, so that nothing is resampled for so little (never more than the frame has, where the
    reference would pad with black).  Width and height are at most `max_distort` scales apart.
    Positions are multiples of a quarter of the room that is left: corners, centre, edge middles
    and quarters.  The draw is uniform over pairs, then over positions; equal ones count again.

    Source: papers/videomae.md section 2 (the corner crop of Temporal Segment Networks).
    """
    base = min(height, width)
    sides = [int(base * scale) for scale in scales]
    sides = [min(size, base) if abs(side - size) < 3 else side for side in sides]
    if min(sides) < 1:
        raise ValueError(
            f"scales={tuple(scales)} leave no pixel of a frame of {width}x{height}: use larger scales."
        )
    pairs = [
        (w, h)
        for i, h in enumerate(sides)
        for j, w in enumerate(sides)
        if abs(i - j) <= max_distort
    ]
    return [_thirteen_positions(height, width, w, h) for w, h in pairs]


#: (column, row) in quarters of the room left, in the order of the reference.
_QUARTERS = (
    *((0, 0), (4, 0), (0, 4), (4, 4), (2, 2)),
    *((0, 2), (4, 2), (2, 4), (2, 0)),
    *((1, 1), (3, 1), (1, 3), (3, 3)),
)


def _thirteen_positions(height: int, width: int, w: int, h: int) -> list[Region]:
    step_x, step_y = (width - w) // 4, (height - h) // 4
    return [Region(left=x * step_x, top=y * step_y, width=w, height=h) for x, y in _QUARTERS]


def sample_random_resized(
    height: int,
    width: int,
    rng: np.random.Generator,
    *,
    area: tuple[float, float],
    aspect: tuple[float, float],
) -> Region:
    """Returns a region with a uniform share of the area and a log-uniform aspect width / height.

    Ten tries; if none fits, the largest central region whose aspect is within bounds.
    """
    for _ in range(10):
        wanted = height * width * rng.uniform(*area)
        ratio = math.exp(rng.uniform(math.log(aspect[0]), math.log(aspect[1])))
        w, h = round(math.sqrt(wanted * ratio)), round(math.sqrt(wanted / ratio))
        if 0 < w <= width and 0 < h <= height:
            left = int(rng.integers(width - w + 1))
            return Region(left=left, top=int(rng.integers(height - h + 1)), width=w, height=h)
    ratio = min(max(width / height, aspect[0]), aspect[1])
    w = min(width, max(1, round(height * ratio)))
    h = min(height, max(1, round(width / ratio)))
    return Region(left=(width - w) // 2, top=(height - h) // 2, width=w, height=h)


def sample_height_first(
    height: int,
    width: int,
    rng: np.random.Generator,
    *,
    area: tuple[float, float],
    aspect: tuple[float, float],
) -> Region:
    """Returns a region by the law of TensorFlow's `sample_distorted_bounding_box` (CVRL, TeG, VATT).

    The aspect width / height is uniform, then the height is a uniform integer of those that the area and the frame
    allow: small areas are likelier than under `sample_random_resized`.  A hundred tries; if none fits, the whole frame.

    Source: papers/cvrl.md section 2.2.
    """
    for _ in range(100):
        ratio = float(rng.uniform(*aspect))
        low = max(1, round(math.sqrt(area[0] * height * width / ratio)))
        high = min(
            height, int((width + 0.5) / ratio), int(math.sqrt(area[1] * height * width / ratio))
        )
        if low > high:
            continue
        h = int(rng.integers(low, high + 1))
        w = round(h * ratio)
        if 0 < w <= width and area[0] * height * width <= w * h <= area[1] * height * width:
            left = int(rng.integers(width - w + 1))
            return Region(left=left, top=int(rng.integers(height - h + 1)), width=w, height=h)
    return whole_region(height, width)


def sample_vgg(height: int, width: int, rng: np.random.Generator) -> Region:
    """Returns the largest square of a stretched frame, at a random place: a rectangle of the frame as it is.

    In four of five views height and width are stretched by factors of their own, uniform in 0.8 to 1.2; then the
    short side of the stretched frame is the side of the square.

    Source: papers/vatt.md section 2 (code only), in the order in which it names the steps.
    """
    happens, (tall, wide) = rng.random() < 0.8, rng.uniform(0.8, 1.2, 2)
    if not happens:
        tall = wide = 1.0
    side = min(height * tall, width * wide)
    h, w = max(1, min(height, round(side / tall))), max(1, min(width, round(side / wide)))
    left = int(rng.integers(width - w + 1))
    return Region(left=left, top=int(rng.integers(height - h + 1)), width=w, height=h)


def whole_region(height: int, width: int) -> Region:
    """Returns the whole frame as a region."""
    return Region(left=0, top=0, width=width, height=height)


def center_region(height: int, width: int, size: int | None = None) -> Region:
    """Returns the central square of the short side, or of `size` pixels.

    >>> center_region(240, 320)
    Region(left=40, top=0, width=240, height=240, flip=False)
    >>> center_region(9, 16, size=7).left
    4

    Raises:
        ValueError: `size` is more than the short side.
    """
    side = min(height, width) if size is None else size
    if not 0 < side <= min(height, width):
        raise ValueError(
            f"size={size} must be between 1 and the short side of frames of {width}x{height}: resize them first."
        )
    return Region(left=(width - side) // 2, top=(height - side) // 2, width=side, height=side)


def inner_square(
    height: int, width: int, share: float, place: Literal["center", "left", "right"] = "center"
) -> Region:
    """Returns a square of `share` of the short side in the middle of the frame, or at one end of its width.

    HiCo's test crop (share 224 / 256), which halves frame and side before it subtracts them.

    >>> inner_square(40, 53, 0.875)
    Region(left=9, top=3, width=35, height=35, flip=False)
    """
    side = max(1, int(min(height, width) * share))
    left = {"center": width // 2 - side // 2, "left": 0, "right": width - side}[place]
    return Region(left=left, top=height // 2 - side // 2, width=side, height=side)


def short_side_size(height: int, width: int, short_side: int) -> tuple[int, int]:
    """Returns (height, width) with the short side at `short_side` and the aspect kept, cut to integers.

    >>> short_side_size(240, 426, 224)
    (224, 397)
    """
    if height <= width:
        return short_side, int(short_side * width / height)
    return int(short_side * height / width), short_side


def spread_crop_region(height: int, width: int, *, size: int, crop: int, num_crops: int) -> Region:
    """Returns one of `num_crops` squares spread along the long side of frames resized to `size`.

    The spatial test views of VideoMAE and MVD: crop k begins at int(k * room / (num_crops - 1));
    one crop lies in the middle.

    Args:
        height, width: of the resized frames; the short side is `size`.
        size: side of the squares.
        crop: 0 <= crop < num_crops.
        num_crops: squares along the long side.
    """
    if min(height, width) < size or not 0 <= crop < num_crops:
        raise ValueError(
            f"crop={crop} of num_crops={num_crops} with size={size} does not exist in frames of "
            f"{width}x{height}: resize the short side to {size} first, and count crops from 0."
        )
    room = max(height, width) - size
    start = int(crop * (room / (num_crops - 1))) if num_crops > 1 else room // 2
    top, left = (start, 0) if height >= width else (0, start)
    return Region(left=left, top=top, width=size, height=size)


def even_crop_region(height: int, width: int, *, size: int, crop: int, num_crops: int) -> Region:
    """Returns one of `num_crops` squares along the long side of frames resized to `size`, in equal steps of pixels.

    The spatial test views of V-JEPA: crop k begins at k * (room // (num_crops - 1)), so that the last may end before
    the frame does; one crop lies in the middle.

    Args:
        height, width, size, crop, num_crops: as `spread_crop_region`.

    >>> [even_crop_region(32, 57, size=32, crop=k, num_crops=5).left for k in range(5)]
    [0, 6, 12, 18, 24]

    Source: papers/frozen_protocols.md section 1, views.
    """
    spread = spread_crop_region(height, width, size=size, crop=crop, num_crops=num_crops)
    if num_crops == 1:
        return spread
    start = crop * ((max(height, width) - size) // (num_crops - 1))
    top, left = (start, 0) if height >= width else (0, start)
    return replace(spread, top=top, left=left)


def three_crop_region(height: int, width: int, *, size: int, crop: int) -> Region:
    """Returns one of CVRL's three test crops of frames resized to a short side of at least `size`.

    Crop 0, 1, 2 along the longer side begins at 0, round(side / 2 - size / 2), side - size (halves to even); along the
    other, which is meant to be `size` long, it begins at 0.

    >>> [three_crop_region(9, 15, size=7, crop=c).left for c in range(3)]
    [0, 4, 8]

    Source: papers/cvrl.md section 2.3.
    """
    if min(height, width) < size or crop not in (0, 1, 2):
        raise ValueError(
            f"crop={crop} with size={size} does not exist in frames of {width}x{height}: resize the short side to at "
            f"least {size} first, and count crops 0, 1, 2."
        )
    room = max(height, width) - size
    start = (0, round(room / 2), room)[crop]
    top, left = (start, 0) if height > width else (0, start)
    return Region(left=left, top=top, width=size, height=size)


# Applying a region ------------------------------------------------------------------------------


def crop_frames(frames: Frames, region: Region) -> Frames:
    """Returns the pixels of a region, uint8 (T, height, width, 3), mirrored if the region is."""
    _check_frames(frames)
    check_region(region, *frames.shape[1:3])
    bottom, right = region.top + region.height, region.left + region.width
    cut = frames[:, region.top : bottom, region.left : right]
    return cut[:, :, ::-1] if region.flip else cut


#: Pillow's filters by name; all but the last average when they shrink.
Kernel = Literal["bilinear", "bicubic", "lanczos", "box", "hamming", "nearest"]


def resize_frames(frames: Frames, size: tuple[int, int], kernel: Kernel = "bilinear") -> Frames:
    """Returns the frames at `size` (height, width), uint8, by a filter of Pillow."""
    _check_frames(frames)
    height, width = size
    if frames.shape[1:3] == (height, width):
        return np.ascontiguousarray(frames)
    out = np.empty((len(frames), height, width, 3), np.uint8)
    for target, frame in zip(out, frames, strict=True):
        image = Image.fromarray(np.ascontiguousarray(frame))
        target[:] = np.asarray(image.resize((width, height), Image.Resampling[kernel.upper()]))
    return out


def resize_sampled(frames: Frames, size: tuple[int, int]) -> Frames:
    """Returns the frames at `size` (height, width) as TensorFlow resizes them: uint8, no averaging when it shrinks.

    Bilinear between the four nearest pixels at half-pixel centres, values cut (not rounded) to integers.

    Source: papers/cvrl.md section 2.2.
    """
    _check_frames(frames)
    if frames.shape[1:3] == tuple(size):
        return np.ascontiguousarray(frames)
    (top, bottom, down), (left, right, across) = (
        _taps(n, wanted) for n, wanted in zip(frames.shape[1:3], size, strict=True)
    )
    down, across = down[:, None, None], across[:, None]
    out = np.empty((len(frames), *size, 3), np.uint8)
    for target, frame in zip(out, frames, strict=True):
        x = frame.astype(np.float32)
        rows = [x[i][:, left] + (x[i][:, right] - x[i][:, left]) * across for i in (top, bottom)]
        target[:] = rows[0] + (rows[1] - rows[0]) * down
    return out


def resize_opencv(
    frames: Frames, size: tuple[int, int], *, kernel: Literal["cubic", "lanczos4"]
) -> Frames:
    """Returns the frames at `size` (height, width) as OpenCV resizes them: uint8, no averaging when it shrinks.

    "cubic" has 4 taps with a = -0.75, "lanczos4" 8; pixels beyond the border are those of the border.  Within a grey
    level of OpenCV itself, which rounds its weights.

    Source: papers/bevt.md section 2: the tokenizer's view of a picture is half its size by "lanczos4".
    """
    _check_frames(frames)
    if frames.shape[1:3] == tuple(size):
        return np.ascontiguousarray(frames)
    down, across = (
        _opencv_weights(n, wanted, kernel)
        for n, wanted in zip(frames.shape[1:3], size, strict=True)
    )
    out = np.empty((len(frames), *size, 3), np.uint8)
    for target, frame in zip(out, frames, strict=True):
        rows = np.tensordot(down, frame.astype(np.float32), axes=(1, 0))
        target[:] = np.rint(np.einsum("wx,hxc->hwc", across, rows)).clip(0, 255)
    return out


@functools.lru_cache(maxsize=32)
def _opencv_weights(n: int, wanted: int, kernel: str) -> NDArray[np.float32]:
    """The share of each of n pixels in each of `wanted` ones, (wanted, n)."""
    taps = 4 if kernel == "cubic" else 8
    place = (np.arange(wanted) + 0.5) * (n / wanted) - 0.5
    low = np.floor(place)
    distance = np.abs((place - low)[:, None] - np.arange(taps) + taps // 2 - 1)
    if kernel == "cubic":
        a, x = -0.75, distance
        near = ((a + 2) * x - (a + 3)) * x * x + 1
        far = ((a * x - 5 * a) * x + 8 * a) * x - 4 * a
        share = np.where(x <= 1, near, np.where(x < 2, far, 0))
    else:
        share = np.sinc(distance) * np.sinc(distance / 4) * (distance < 4)
        share /= share.sum(1, keepdims=True)
    weights = np.zeros((wanted, n), np.float32)
    columns = (low[:, None] + np.arange(taps) - taps // 2 + 1).clip(0, n - 1).astype(np.int64)
    np.add.at(weights, (np.arange(wanted)[:, None], columns), share)
    return weights


def _taps(n: int, wanted: int) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float32]]:
    """The two pixels that each of `wanted` pixels lies between, and the weight of the second."""
    place = (np.arange(wanted, dtype=np.float32) + np.float32(0.5)) * np.float32(n / wanted)
    place -= np.float32(0.5)
    low = np.floor(place)
    first, second = np.maximum(low, 0), np.minimum(np.ceil(place), n - 1)
    return first.astype(np.intp), second.astype(np.intp), place - low


def view_frames(
    frames: Frames,
    region: Region,
    size: int | tuple[int, int],
    resize: Literal["decoder", "pillow", "tensorflow"] = "pillow",
) -> Frames:
    """Returns a region of the frames at `size`, an int for a square or (height, width); `resize` as in `CropConfig`."""
    scale = resize_sampled if resize == "tensorflow" else resize_frames
    return scale(crop_frames(frames, region), (size, size) if isinstance(size, int) else size)


def view_boxes(
    boxes: ArrayLike, region: Region, height: int, width: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Returns boxes as the view shows them, and which share of each it still shows.

    Args:
        boxes: (..., 4) as [x_min, y_min, x_max, y_max] in 0..1 of the frame's width and height.
        region: what the view shows of the frame.
        height, width: of the frame in pixels.

    Returns:
        boxes float32 (..., 4) in 0..1 of the view, cut at its border (a box outside has no area);
        share float32 (...) in 0..1 of the area of each box inside the region.  A NaN box (an absent
        object) stays NaN with share 0.
    """
    given = np.asarray(boxes, np.float64)
    if given.shape[-1:] != (4,):
        raise ValueError(
            f"boxes must be (..., 4) as x_min, y_min, x_max, y_max, got {given.shape}."
        )
    offset = np.array([region.left, region.top] * 2)
    scale = np.array([region.width, region.height] * 2)
    full = (given * [width, height, width, height] - offset) / scale
    if region.flip:
        full = np.stack([1 - full[..., 2], full[..., 1], 1 - full[..., 0], full[..., 3]], -1)
    cut = np.clip(full, 0.0, 1.0)
    before, after = _area(full), _area(cut)
    share = np.divide(after, before, out=np.zeros_like(before), where=before > 0)
    return cut.astype(np.float32), share.astype(np.float32)


def check_region(region: Region, height: int, width: int) -> None:
    """Raises ValueError if the region reaches out of frames of `height` x `width`."""
    if region.top + region.height > height or region.left + region.width > width:
        raise ValueError(f"{region} reaches out of frames of {width}x{height}.")


def _area(boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    area: NDArray[np.float64] = (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])
    return area


def _check_frames(frames: Frames) -> None:
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3:
        raise ValueError(
            f"frames must be uint8 (T, H, W, 3), got {frames.dtype} {frames.shape}: convert before cropping."
        )
