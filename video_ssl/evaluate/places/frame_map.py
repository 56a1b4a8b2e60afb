"""Mean average precision of actions at boxes of key frames, as AVA measures it; numpy only.

Boxes are [x_min, y_min, x_max, y_max] in any unit.  A detection is a box with a score for every class.  For each class,
detections of all key frames are taken in order of their score; one is right where the true box of that class that it
overlaps with most (of its own frame) does so by an intersection over union of at least 0.5 and was not found before.

Two rules differ in which key frames count:

    "reference"   those with at least one true box: false detections elsewhere cost nothing.  So does the code that
                  published the numbers of ConST-CL's group (VideoGLUE).
    "official"    all that are evaluated, also those with nobody in them, as AVA's own tool has it.

Source: papers/const_cl.md section 6.1, whose numbers come from the reference code.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from video_ssl.clips.box_transforms import has_area
from video_ssl.clips.regions import overlaps

Rule = Literal["reference", "official"]


class KeyFrame(NamedTuple):
    """What was found in a key frame and what is there.

    Attributes:
        boxes: (N, 4) found; those without area are left out.
        scores: (N, K) of every class, larger is surer.
        truth_boxes: (M, 4); those without area are left out.
        truth_labels: int (M,) in 0..K-1; a box that does several things is there several times.
    """

    boxes: NDArray[np.floating]
    scores: NDArray[np.floating]
    truth_boxes: NDArray[np.floating]
    truth_labels: NDArray[np.integer]


def average_precisions(
    frames: Sequence[KeyFrame],
    num_classes: int,
    *,
    iou: float = 0.5,
    rule: Rule = "official",
) -> NDArray[np.float64]:
    """Returns the average precision of every class, float64 (K,); NaN for a class that is nowhere in the truth.

    Args:
        frames: all key frames.
        num_classes: K.
        iou: that makes a detection right.
        rule: which key frames count, see above.

    Raises:
        ValueError: scores of another number of classes, labels that are none, NaN scores.

    >>> box, far = [0, 0, 4, 4], [8, 8, 9, 9]
    >>> seen = KeyFrame(np.array([box, far]), np.array([[0.9], [0.3]]), np.array([box]), np.array([0]))
    >>> nobody = KeyFrame(np.array([far]), np.array([[0.95]]), np.zeros((0, 4)), np.zeros(0, int))
    >>> [float(average_precisions([seen, nobody], 1, rule=r)[0]) for r in ("reference", "official")]
    [1.0, 0.5]
    """
    if rule not in get_args(Rule):
        raise ValueError(f"rule={rule!r} must be one of {', '.join(get_args(Rule))}.")
    scores: list[list[NDArray[np.float64]]] = [[] for _ in range(num_classes)]
    right: list[list[NDArray[np.bool_]]] = [[] for _ in range(num_classes)]
    counts = np.zeros(num_classes, np.int64)
    for frame in frames:
        boxes, own, truth, labels = _checked(frame, num_classes)
        if rule == "reference" and not len(truth):
            continue
        between = overlaps(boxes, truth)
        for k in range(num_classes):
            of_class = labels == k
            counts[k] += of_class.sum()
            scores[k].append(own[:, k])
            right[k].append(_found(own[:, k], between[:, of_class], iou))
    return np.array(
        [
            average_precision(np.concatenate(s), np.concatenate(r), int(n)) if n else np.nan
            for s, r, n in zip(scores, right, counts, strict=True)
        ]
    )


def _checked(
    frame: KeyFrame, num_classes: int
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]:
    boxes, truth = (
        np.asarray(x, np.float64).reshape(-1, 4) for x in (frame.boxes, frame.truth_boxes)
    )
    scores = np.asarray(frame.scores, np.float64).reshape(len(boxes), -1)
    labels = np.asarray(frame.truth_labels, np.int64)
    if len(boxes) and scores.shape[1] != num_classes:
        raise ValueError(f"scores are of {scores.shape[1]} classes, but there are {num_classes}.")
    if len(labels) != len(truth):
        raise ValueError(f"there are {len(truth)} true boxes, but {len(labels)} labels of them.")
    if len(labels) and not (labels.min() >= 0 and labels.max() < num_classes):
        raise ValueError(
            f"labels from {labels.min()} to {labels.max()}, but classes are 0 to {num_classes - 1}."
        )
    there, known = has_area(boxes), has_area(truth)
    if np.isnan(scores[there]).any():
        raise ValueError("a score is NaN: a detection without a score has no place in the order.")
    scores = scores.reshape(len(boxes), num_classes)
    return boxes[there], scores[there], truth[known], labels[known]


def _found(
    scores: NDArray[np.float64], between: NDArray[np.float64], iou: float
) -> NDArray[np.bool_]:
    """Which detections of a frame are right, of their overlaps with the true boxes of the class (N, M)."""
    right = np.zeros(len(scores), bool)
    if not between.shape[1]:
        return right
    taken = np.zeros(between.shape[1], bool)
    for i in np.argsort(-scores, kind="stable"):
        best = int(between[i].argmax())
        if between[i, best] >= iou and not taken[best]:
            right[i] = taken[best] = True
    return right


def average_precision(
    scores: NDArray[np.float64], right: NDArray[np.bool_], num_true: int
) -> float:
    """Returns the area below the precision over the recall, each precision being the best at that recall or beyond.

    Args:
        scores: (N,) of all detections.
        right: bool (N,), see above.
        num_true: things to be found, at least 1.

    >>> average_precision(np.array([0.9, 0.8, 0.7]), np.array([True, False, True]), 2)
    0.8333333333333333
    """
    order = np.argsort(-scores, kind="stable")
    hits = np.cumsum(right[order])
    precision = hits / np.arange(1, len(hits) + 1)
    best = np.maximum.accumulate(precision[::-1])[::-1]
    return float((best * right[order]).sum() / num_true)


def mean_average_precision(values: NDArray[np.float64]) -> float:
    """Returns the mean over the classes that are in the truth; NaN where none is."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else float("nan")
