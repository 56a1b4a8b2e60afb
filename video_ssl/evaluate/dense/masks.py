"""The true masks of a video: pictures beside its frames, its boxes, painted, or those of a generated figure."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from video_ssl.datasets.demo.truth import figure_masks
from video_ssl.datasets.paths import natural_key
from video_ssl.datasets.table import Record, Table, TableError

Masks = NDArray[np.int64]


class MaskError(ValueError):
    """Masks that are not there or do not fit their video."""


def masks_beside(source: str, places: Mapping[str, str], num_frames: int) -> Masks:
    """Returns int64 (T, H, W), the numbers in the pictures (of PNGs with a palette, the entries) of a folder of frames.

    Args:
        source: the folder of frames.
        places: part of its path -> what stands there in the path of its masks (JPEGImages -> Annotations).
        num_frames: of the video.

    Raises:
        MaskError: no such folder, another number of pictures than frames, one that cannot be read or is in colors, or
            pictures of different sizes.
    """
    parts = Path(source).parts
    folder = Path(*(places.get(part, part) for part in parts))
    if folder == Path(source) or not folder.is_dir():
        raise MaskError(
            f"{source}: there is no folder of masks {folder}. evaluators.propagation.masks={dict(places)} says which "
            "part of the path stands for what."
        )
    files = sorted(folder.glob("*.png"), key=lambda file: natural_key(file.name))
    if len(files) != num_frames:
        raise MaskError(
            f"{folder} has {len(files)} masks (*.png), but {source} {num_frames} frames: copy what is missing."
        )
    found = [_read(file) for file in files]
    sizes = {mask.shape for mask in found}
    if len(sizes) > 1:
        raise MaskError(f"the masks of {folder} have different sizes: {sorted(sizes)}.")
    return np.stack(found)


def _read(file: Path) -> Masks:
    try:
        with Image.open(file) as picture:
            mask = np.asarray(picture)
    except (OSError, UnidentifiedImageError, ValueError) as err:
        raise MaskError(f"{file} cannot be read: {err}.") from err
    if mask.ndim != 2:
        raise MaskError(
            f"{file} is a picture in colors: a mask has one number a pixel (grey, or with a palette)."
        )
    return mask.astype(np.int64)


def masks_of_boxes(record: Record, num_frames: int, height: int, width: int) -> Masks:
    """Returns int64 (T, H, W): box k of a frame is painted as k + 1, later ones over earlier ones; 0 elsewhere.

    Raises:
        MaskError: no boxes, or not as many as frames.
    """
    boxes = record.boxes
    if boxes is None or record.box_times_sec is not None or len(boxes) != num_frames:
        there = "none" if boxes is None else f"those of {len(boxes)} moments"
        raise MaskError(
            f"{record.id} has {num_frames} frames, but of boxes {there}: propagation is judged on boxes of every "
            "frame, or on masks (evaluators.propagation.masks)."
        )
    out = np.zeros((num_frames, height, width), np.int64)
    for t, k in np.ndindex(*boxes.shape[:2]):
        box = boxes[t, k]
        if np.isfinite(box).all():
            left, top, right, bottom = np.round(box * [width, height, width, height]).astype(int)
            out[t, max(top, 0) : max(bottom, 0), max(left, 0) : max(right, 0)] = k + 1
    return out


def masks_of_figure(table: Table, row: int, num_frames: int, height: int, width: int) -> Masks:
    """Returns int64 (T, H, W): 1 where a frame of a generated video shows the figure, 0 elsewhere.

    Pixels that the other object hides are 0, as in DAVIS.

    Raises:
        MaskError: the video cannot be generated again, or is not as it was generated, in frames or in size.
    """
    record = table.record(row)
    try:
        masks = figure_masks(table, row, visible=True)
    except TableError as err:
        raise MaskError(str(err)) from err
    if masks.shape != (num_frames, height, width):
        made = " x ".join(map(str, masks.shape[::-1]))
        raise MaskError(
            f"{record.id} is {width} x {height} px x {num_frames} frames in {record.source}, but {made} were "
            "generated: masks are known of what `video-ssl data demo` makes, as it is."
        )
    return masks.astype(np.int64)
