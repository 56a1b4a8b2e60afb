"""Key frames of videos: what is at their boxes, and the clip around each as an encoder takes it; numpy only."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from video_ssl.clips.box_transforms import Geometry, has_area, of_padding, of_scaling
from video_ssl.clips.crops import ViewRequest, whole_region
from video_ssl.clips.decoders.reader import Reader
from video_ssl.clips.reading import origin_of
from video_ssl.clips.sampling.two_clips import keyframe_clip
from video_ssl.clips.views import read_views
from video_ssl.datasets.table import Record, Table
from video_ssl.embed.features import FeatureError
from video_ssl.models.preprocess_config import VideoPreprocess

Floats = NDArray[np.float32]


class KeyFrameError(ValueError):
    """A key frame that cannot be used; the text says which and why."""


@dataclass(frozen=True, kw_only=True, eq=False)
class KeyFrame:
    """What the table says of one moment of a video.  Boxes are as in tables.

    Attributes:
        row: of the table.
        moment: index into the record's boxes.
        boxes: float32 (M, 4), true ones.
        targets: bool (M, K), what is done there, nothing for some.
        detections: float32 (N, 4), those of a detector.
        scores: float32 (N,), how sure it is.
    """

    row: int
    moment: int
    boxes: Floats
    targets: NDArray[np.bool_]
    detections: Floats
    scores: Floats

    @property
    def truth(self) -> tuple[Floats, NDArray[np.int64]]:
        """Every action at every box: boxes (A, 4) and classes (A,)."""
        box, label = np.nonzero(self.targets)
        return self.boxes[box], label.astype(np.int64)


def has_box_labels(table: Table) -> bool:
    """Whether boxes of this table say themselves what is done there; else the labels of videos do."""
    if "box_labels" not in table.column_names:
        return False
    column = table.arrow["box_labels"]
    return bool(column.null_count < len(column))


def num_classes_of(*tables: Table) -> int:
    """Returns the number of classes that boxes of these tables may have.

    Those that have names; where a table has none, those of `box_labels` if it has them, else of the labels of videos.
    """
    found = [0]
    for table in tables:
        if table.class_names:
            found.append(len(table.class_names))  # nobody needs to look at every row
        elif has_box_labels(table):
            for row in range(len(table)):
                labels = table.record(row).box_labels or ()
                found += [1 + label for moment in labels for box in moment for label in box]
        elif "label" in table.column_names and len(table):
            found.append(1 + int(table.column("label").max()))
    return max(found)


def key_frames(
    table: Table,
    num_classes: int,
    per_video: int | None,
    numbers: NDArray[np.int64] | None = None,
) -> Iterator[KeyFrame]:
    """Yields the key frames of a table.

    A box with labels, or without a score, is a true one; a box with a score and without labels is a detection.  Where
    the table has no `box_labels`, the first box of a moment does what the label of its video says and the others do
    nothing, as on the generated videos.  In a table with them nothing is done in a video that has none.

    Args:
        table: with boxes.
        num_classes: K.
        per_video: so many moments of each video, evenly spread; None = all of them.
        numbers: of the classes, where they are other ones than those of the table; see `numbers_by_name`.

    Raises:
        FeatureError: a label of a key frame without a name, where classes have names.
    """
    of_boxes = has_box_labels(table)
    named = len(table.class_names) or num_classes
    for row in range(len(table)):
        record = table.record(row)
        if record.boxes is None:
            continue
        count = len(record.boxes)
        if record.box_times_sec is None:
            # Boxes of every frame: the first and the last are seldom what a video is about.
            wanted = min(per_video or count, count)
            moments = ((np.arange(wanted) + 0.5) * count / wanted).astype(int)
        else:
            wanted = min(per_video or count, count)
            moments = np.linspace(0, count - 1, wanted).round().astype(int)
        for moment in moments:
            actions = _actions(record, int(moment), of_boxes=of_boxes)
            targets = np.zeros((record.boxes.shape[1], num_classes), bool)
            for target, labels in zip(targets, actions, strict=False):
                target[_numbered(labels, record, named, numbers)] = True
            yield _key_frame(record, row, int(moment), targets)


def _actions(record: Record, moment: int, *, of_boxes: bool) -> Sequence[Sequence[int]]:
    """The labels of each box of a moment; boxes behind the last one have none."""
    if of_boxes:
        return () if record.box_labels is None else record.box_labels[moment]
    return () if record.label is None else ((record.label,),)


def _numbered(
    labels: Sequence[int], record: Record, named: int, numbers: NDArray[np.int64] | None
) -> list[int]:
    known = [label for label in labels if label >= 0]
    if known and max(known) >= named:
        raise FeatureError(
            f"{record.id} has the label {max(known)} at a key frame, but there are {named} classes: 0 to {named - 1}."
        )
    return known if numbers is None else numbers[known].tolist()


def _key_frame(record: Record, row: int, moment: int, targets: NDArray[np.bool_]) -> KeyFrame:
    assert record.boxes is not None
    boxes = np.asarray(record.boxes[moment], np.float32)
    cut = np.clip(boxes, 0.0, 1.0)
    there = np.isfinite(boxes).all(-1) & has_area(cut)
    scores = np.full(len(boxes), np.nan, np.float32)
    if record.box_scores is not None:
        scores = np.asarray(record.box_scores[moment], np.float32)
    detected = there & np.isfinite(scores) & ~targets.any(1)
    true = there & ~detected
    merged, together = merge_equal(cut[true], targets[true])
    return KeyFrame(
        row=row,
        moment=moment,
        boxes=merged,
        targets=together,
        detections=cut[detected],
        scores=scores[detected],
    )


def merge_equal(boxes: Floats, targets: NDArray[np.bool_]) -> tuple[Floats, NDArray[np.bool_]]:
    """Returns boxes without those that are there again (up to a ten-thousandth), each with the targets of all of them.

    >>> boxes, targets = merge_equal(np.float32([[0, 0, 1, 1]] * 2), np.eye(2, dtype=bool))
    >>> len(boxes), targets.tolist()
    (1, [[True, True]])
    """
    if not len(boxes):
        return boxes, targets
    _, first, inverse = np.unique(
        np.round(boxes * 1e4).astype(np.int64), axis=0, return_index=True, return_inverse=True
    )
    joined = np.zeros((len(first), targets.shape[1]), bool)
    np.logical_or.at(joined, inverse.reshape(-1), targets)
    order = np.argsort(first)
    return boxes[first[order]], joined[order]


def frame_of(record: Record, moment: int, reader: Reader) -> int:
    """Returns the frame of a moment.

    Raises:
        KeyFrameError: the video does not reach so far.
    """
    count = reader.info.num_frames
    if record.box_times_sec is None:
        if moment >= count:
            raise KeyFrameError(
                f"{record.id}: boxes of frame {moment}, but the video has {count} frames."
            )
        return moment
    time = float(record.box_times_sec[moment]) - origin_of(reader, record)
    times = reader.times(np.arange(count))
    step = 1.0 / reader.info.fps if reader.info.fps > 0 else 0.1
    if not -step <= time - times[0] or time > times[-1] + step:
        raise KeyFrameError(
            f"{record.id}: a key frame at {time:.3f} s, but the video goes from {times[0]:.3f} to {times[-1]:.3f} s."
        )
    return int(np.abs(times - time).argmin())


def read_key_clip(
    reader: Reader, frame: int, preprocess: VideoPreprocess
) -> tuple[NDArray[np.uint8], Geometry]:
    """Returns the clip around a frame, uint8 (T, S, S, 3), and where boxes of the frame lie in it.

    The longer side of the frame is scaled to S, the rest is the mean colour of the clip, on both sides.

    Source: papers/const_cl.md section 6.1 (the test view "ava").
    """
    info, size = reader.info, preprocess.size
    stride = preprocess.frame_stride
    if preprocess.fps is not None:
        stride = max(1, round(stride * info.fps / preprocess.fps))
    clip = keyframe_clip(
        info.num_frames, frame, num_frames=preprocess.num_frames, frame_stride=stride
    )
    longer = max(info.height, info.width)
    height, width = (max(1, round(side * size / longer)) for side in (info.height, info.width))
    inner = np.empty((len(clip.indices), height, width, 3), np.uint8)
    region = whole_region(info.height, info.width)
    read_views(reader, [ViewRequest(indices=clip.indices, region=region, out=inner)])
    top, left = (size - height) // 2, (size - width) // 2
    out = np.empty((len(inner), size, size, 3), np.uint8)
    out[:] = inner.mean((0, 1, 2)).round().astype(np.uint8)
    out[:, top : top + height, left : left + width] = inner
    geometry = of_scaling(info.height, info.width, (height, width)).then(
        of_padding(height, width, top=top, left=left, size=(size, size))
    )
    return out, geometry


def jittered(boxes: Floats, amount: float, false_boxes: int, rng: np.random.Generator) -> Floats:
    """Returns boxes as a careless detector would give them, float32 (M + false_boxes, 4), with area.

    Centres move and sides grow or shrink by up to `amount` of the sides; then come boxes of anywhere, whose sides are a
    tenth to a half of the frame.
    """
    sides = boxes[:, 2:] - boxes[:, :2]
    centres = (boxes[:, 2:] + boxes[:, :2]) / 2 + rng.uniform(-amount, amount, sides.shape) * sides
    sides = sides * (1 + rng.uniform(-amount, amount, sides.shape))
    near = np.concatenate([centres - sides / 2, centres + sides / 2], 1)
    size = rng.uniform(0.1, 0.5, (false_boxes, 2))
    corner = rng.uniform(0, 1, (false_boxes, 2)) * (1 - size)
    every = np.concatenate([near, np.concatenate([corner, corner + size], 1)])
    cut = np.clip(every, 0.0, 1.0).astype(np.float32)
    return cut[has_area(cut)]
