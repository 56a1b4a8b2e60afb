"""Regions of frames: random boxes, segments, the boxes of the table.

One interface: a `RegionGenerator` takes frames and a generator of random numbers and gives `Regions`, boxes and a mask
of those that are there.  Boxes are [x_min, y_min, x_max, y_max] as shares of width and height.

Source: papers/const_cl.md section 2 (arXiv:2112.05181).
"""

from __future__ import annotations

import importlib.util
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from video_ssl.clips.box_transforms import Geometry, has_area
from video_ssl.clips.crops import Frames
from video_ssl.clips.decoders.reader import Reader
from video_ssl.clips.reading import origin_of
from video_ssl.clips.regions_config import RegionsConfig, SegmentConfig
from video_ssl.datasets.table import Record

#: Below 1, as in the reference, whose boxes never touch the far border.
MOST = 0.999


class Regions(NamedTuple):
    """Regions of T frames.

    Attributes:
        boxes: float32 (T, K, 4), never NaN.
        mask: bool (T, K), True = a region, False = padding.
    """

    boxes: NDArray[np.float32]
    mask: NDArray[np.bool_]


class RegionGenerator(Protocol):
    """Finds regions.

    Attributes:
        of_the_frame: it looks at whole frames of the video, and its boxes follow their crop; else at views.
    """

    of_the_frame: bool

    def __call__(self, frames: Frames, rng: np.random.Generator) -> Regions:
        """Returns the regions of frames, uint8 (T, H, W, 3), the most wanted ones first."""


# Random -------------------------------------------------------------------------------------------


def random_boxes(
    uniforms: ArrayLike,
    *,
    width: tuple[float, float] = (0.1, 0.5),
    aspect: tuple[float, float] = (0.5, 2.0),
) -> NDArray[np.float32]:
    """Returns boxes made of draws, float32 (..., 4).

    Corner and width are uniform, the height is the width times an aspect; what reaches out of the frame is cut at
    0.999.  A corner beyond that makes an inverted box, as in the reference: see `has_area`.

    Args:
        uniforms: in [0, 1), (4, ...): of x_min, y_min, width and aspect.
        width, aspect: bounds.
    """
    x, y, side, ratio = np.asarray(uniforms, np.float32)
    w = side * np.float32(width[1] - width[0]) + np.float32(width[0])
    h = w * (ratio * np.float32(aspect[1] - aspect[0]) + np.float32(aspect[0]))
    far = [np.minimum(low + size, np.float32(MOST)) for low, size in ((x, w), (y, h))]
    return np.stack([x, y, *far], -1)


class RandomRegions:
    """N boxes a frame, whatever it shows; an inverted one, 0.12 % of them, is no region."""

    of_the_frame = False

    def __init__(self, config: RegionsConfig) -> None:
        self.config = config

    def __call__(self, frames: Frames, rng: np.random.Generator) -> Regions:
        config = self.config
        shape = (len(frames), config.count)
        draws = rng.random((1 if config.correlated else 4, *shape))
        boxes = random_boxes(
            np.broadcast_to(draws, (4, *shape)), width=config.width, aspect=config.aspect
        )
        return Regions(boxes, has_area(boxes))


# Segments -----------------------------------------------------------------------------------------


class SegmentRegions:
    """The bounding boxes of what SLIC takes for one piece, in random order.

    Raises:
        ImportError: scikit-image is not installed.
    """

    of_the_frame = True

    def __init__(self, config: SegmentConfig) -> None:
        if importlib.util.find_spec("skimage") is None:
            raise ImportError(
                "regions.kind=segments needs scikit-image: pip install 'video_ssl[segments]', or take random regions."
            )
        self.config = config

    def __call__(self, frames: Frames, rng: np.random.Generator) -> Regions:
        found = [rng.permutation(segment_boxes(frame, self.config)) for frame in frames]
        return padded(found)


def segment_boxes(frame: NDArray[np.uint8], config: SegmentConfig) -> NDArray[np.float32]:
    """Returns the boxes of the segments of a frame, uint8 (H, W, 3), largest segment first: float32 (K, 4).

    A frame without any structure gives squares, or the whole frame.
    """
    from skimage.segmentation import slic

    labels = slic(
        frame,
        n_segments=config.num_segments,
        compactness=config.compactness,
        start_label=0,
        channel_axis=-1,
    )
    height, width = labels.shape
    found = []
    for label in np.unique(labels):
        rows, columns = np.nonzero(labels == label)
        if len(rows) >= config.min_area * labels.size:
            corners = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
            found.append((len(rows), corners))
    found.sort(key=lambda entry: -entry[0])
    boxes = np.array([corners for _, corners in found], np.float64).reshape(-1, 4)
    boxes /= [width, height, width, height]
    return boxes[without_overlaps(boxes, config.max_overlap)].astype(np.float32)


# The table's --------------------------------------------------------------------------------------


class TableRegions:
    """The boxes of a record at given frames; the best scores first, in random order where there are none.

    Boxes that are NaN, empty, inverted or outside the frame are no regions.
    """

    of_the_frame = True

    def __init__(
        self, config: RegionsConfig, record: Record, reader: Reader, indices: ArrayLike
    ) -> None:
        self.boxes, self.scores = boxes_at(
            record, reader, np.asarray(indices), max_distance_sec=config.max_distance_sec
        )
        self.min_score = config.min_score

    def __call__(self, frames: Frames, rng: np.random.Generator) -> Regions:
        kept = []
        for boxes, scores in zip(self.boxes, self.scores, strict=True):
            order = rng.permutation(len(boxes))
            known = np.nan_to_num(scores[order], nan=-np.inf)
            order = order[np.argsort(-known, kind="stable")]
            there = np.isfinite(boxes[order]).all(-1)
            there &= np.isnan(scores[order]) | (scores[order] >= self.min_score)
            order = order[there]
            cut = np.clip(boxes[order], 0.0, 1.0)
            kept.append(cut[has_area(cut)])
        return padded(kept)


def boxes_at(
    record: Record, reader: Reader, indices: NDArray[np.integer], *, max_distance_sec: float
) -> tuple[list[NDArray[np.float32]], list[NDArray[np.float32]]]:
    """Returns for each frame its boxes (K, 4) and their scores (K,), NaN where there are none.

    A record without boxes, or without any near that frame, gives K = 0.
    """
    if record.boxes is None:
        moments = np.full(len(indices), -1)
    elif record.box_times_sec is None:
        moments = np.where(indices < len(record.boxes), indices, -1)
    else:
        times = reader.times(indices) + origin_of(reader, record)
        moments = nearest_moments(record.box_times_sec, times, max_distance_sec)
    boxes, scores = [], []
    for moment in moments:
        none = record.boxes is None or moment < 0
        here = np.zeros((0, 4), np.float32) if none else record.boxes[moment]  # type: ignore[index]
        known = None if none else record.box_scores
        boxes.append(here)
        scores.append(np.full(len(here), np.nan, np.float32) if known is None else known[moment])
    return boxes, scores


def nearest_moments(
    moments: NDArray[np.float64], times: NDArray[np.float64], max_distance_sec: float
) -> NDArray[np.intp]:
    """Returns for each time the index of the nearest moment, -1 where none is within the distance.

    >>> nearest_moments(np.array([1.0, 2.0]), np.array([0.0, 1.4, 1.6]), 0.5).tolist()
    [-1, 0, 1]
    """
    if not len(moments):
        return np.full(len(times), -1)
    distance = np.abs(moments[None] - times[:, None])
    best = distance.argmin(1)
    near = distance[np.arange(len(times)), best] <= max_distance_sec
    return np.where(near, best, -1)


# What becomes of them -----------------------------------------------------------------------------


def padded(boxes: list[NDArray[np.float32]]) -> Regions:
    """Returns lists of boxes (K_t, 4) as one array, padded with zeros.

    >>> padded([np.ones((1, 4)), np.zeros((0, 4))]).mask.tolist()
    [[True], [False]]
    """
    most = max((len(b) for b in boxes), default=0)
    out = np.zeros((len(boxes), most, 4), np.float32)
    mask = np.zeros((len(boxes), most), bool)
    for row, (there, own) in enumerate(zip(mask, boxes, strict=True)):
        out[row, : len(own)] = own
        there[: len(own)] = True
    return Regions(out, mask)


def carried(regions: Regions, geometry: Geometry, *, flip: bool) -> Regions:
    """Returns regions of frames as those of a view; those that it does not show are padding."""
    return Regions(*geometry.boxes(regions.boxes, regions.mask, flip=flip))


def fitted(
    regions: Regions,
    config: RegionsConfig,
    rng: np.random.Generator,
) -> Regions:
    """Returns the first N regions of every frame; where there are fewer, made up as `config.fill` says."""
    boxes = np.zeros((len(regions.mask), config.count, 4), np.float32)
    mask = np.zeros(boxes.shape[:2], bool)
    for row, (own, there) in enumerate(zip(*regions, strict=True)):
        chosen = own[there][: config.count]
        boxes[row, : len(chosen)], mask[row, : len(chosen)] = chosen, True
    if config.fill == "random" and not mask.all():
        more = RandomRegions(config)(np.empty((len(mask), 0, 0, 3), np.uint8), rng)
        boxes = np.where(mask[..., None], boxes, more.boxes)
        mask = mask | more.mask
    return Regions(boxes, mask)


def overlaps(one: ArrayLike, other: ArrayLike) -> NDArray[np.float64]:
    """Returns the intersections over unions of boxes (A, 4) and (B, 4), float64 (A, B); 0 where both have no area.

    >>> overlaps([[0, 0, 2, 1]], [[1, 0, 2, 1], [5, 5, 6, 6]]).tolist()
    [[0.5, 0.0]]
    """
    a = np.asarray(one, np.float64).reshape(-1, 1, 4)
    b = np.asarray(other, np.float64).reshape(1, -1, 4)
    shared = np.maximum(np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2]), 0)
    inside = shared.prod(-1)
    areas = [np.maximum(box[..., 2:] - box[..., :2], 0).prod(-1) for box in (a, b)]
    union = areas[0] + areas[1] - inside
    return np.divide(inside, union, out=np.zeros_like(inside), where=union > 0)


def without_overlaps(boxes: NDArray[np.floating], most: float) -> NDArray[np.intp]:
    """Returns the indices of boxes (K, 4) that overlap with no earlier kept one by more than `most`.

    >>> without_overlaps(np.array([[0, 0, 1, 1], [0, 0, 1, 0.9], [0, 0, 0.2, 1]]), 0.5).tolist()
    [0, 2]
    """
    kept: list[int] = []
    between = overlaps(boxes, boxes)
    for i in range(len(boxes)):
        if not (between[i, kept] > most).any():
            kept.append(i)
    return np.array(kept, np.intp)
