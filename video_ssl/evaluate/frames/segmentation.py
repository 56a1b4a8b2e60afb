"""Temporal segmentation of untrimmed videos: which action every frame shows, idle frames among them.

A head in time is trained on frozen frame features (`temporal_head`); measured are the share of right frames, the order
of the segments (edit score), F1 at overlaps of 10, 25 and 50 %, and the segments as detections, whose score is the mean
probability of their frames: average mAP over tIoU 0.5 to 0.95, and at 0.5.  All in 0..1.

Frames with the label -1 are the background: they count in the share of right frames, and are no segments.  Videos
without annotation, whose frames may show anything, are left out.
Source of the metrics: `segment_metrics`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from video_ssl.embed.features import FeatureError
from video_ssl.evaluate.contract import Figure
from video_ssl.evaluate.frames.frame_evaluator import FrameConfig, FrameEvaluator
from video_ssl.evaluate.frames.frame_sequences import Sequences
from video_ssl.evaluate.frames.segment_metrics import (
    OVERLAPS,
    TIOUS,
    average_precisions,
    edit_score,
    f1_of_counts,
    hits_and_misses,
    segments_of,
)

_BACKGROUND = 0


@dataclass(frozen=True, kw_only=True)
class SegmentationConfig(FrameConfig):
    """Settings of temporal segmentation.

    Attributes:
        classes: all videos as one by default; the actions of a video are its frame labels.
        layers: dilated layers of the head, which sees 2^(layers + 1) - 1 frames; 0 is one linear layer.
        width: its channels.
        dropout: in every layer.
        epochs: over the training videos, one video a step.
        lr: of Adam.
    """

    classes: str = "together"  # type: ignore[assignment]
    layers: int = 8
    width: int = 64
    dropout: float = 0.5
    epochs: int = 40
    lr: float = 1e-3

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.layers <= 12:
            raise ValueError(f"layers={self.layers} must be from 0 (one linear layer) to 12.")
        if self.width < 1 or self.epochs < 1 or self.lr <= 0:
            raise ValueError(
                f"width={self.width} and epochs={self.epochs} must be at least 1, and lr={self.lr} positive."
            )
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout={self.dropout} must be at least 0 and below 1.")


class Segmentation(FrameEvaluator):
    """The evaluator `segmentation`."""

    Config = SegmentationConfig
    title = "temporal segmentation"
    figures: ClassVar[Mapping[str, Figure]] = {
        "accuracy": Figure(title="frames"),
        "f1@10": Figure(title="F1@10"),
        "f1@25": Figure(title="F1@25"),
        "f1@50": Figure(title="F1@50"),
        "map": Figure(title="mAP"),
        "map@50": Figure(title="mAP@50"),
    }
    keeps_unlabelled = True
    config: SegmentationConfig

    def check(self, train: Sequences, test: Sequences) -> None:
        if not _has_action(train):
            raise FeatureError(
                "no frame of train has an action, all of them are idle (-1): nothing can be learned. Give a table "
                "whose frame_labels are 0 or more where something happens."
            )

    def measure(self, train: Sequences, test: Sequences, *, seed: int) -> dict[str, float]:
        if not _has_action(train):  # one class of several
            return dict.fromkeys(self.shown(), float("nan"))
        from video_ssl.evaluate.frames.temporal_head import (
            TemporalSchedule,
            probabilities,
            train_temporal_head,
        )

        config = self.config
        num_classes = 2 + max(int(p.max()) for p in train.labels + test.labels)
        head = train_temporal_head(
            train.embs,
            [labels + 1 for labels in train.labels],
            num_classes=num_classes,
            schedule=TemporalSchedule(
                layers=config.layers,
                width=config.width,
                dropout=config.dropout,
                epochs=config.epochs,
                lr=config.lr,
            ),
            seed=seed,
        )
        found = [probabilities(head, embs) for embs in test.embs]
        return segmentation_scores(found, [labels + 1 for labels in test.labels])

    def shown(self) -> list[str]:
        return ["accuracy", "edit", *(f"f1@{100 * o:g}" for o in OVERLAPS), "map", "map@50"]

    def say(self, found: dict[str, float]) -> str:
        return f"finds the segments of untrimmed videos with an F1 at half overlap of {self.headline(found)}"

    def lead(self) -> str:
        return "f1@50"


def _has_action(videos: Sequences) -> bool:
    return any((labels >= 0).any() for labels in videos.labels)


def segmentation_scores(
    probabilities: list[np.ndarray], labels: list[np.ndarray]
) -> dict[str, float]:
    """Returns the numbers of `Segmentation` for videos whose frames have class 0 (background) to K - 1.

    Args:
        probabilities: (L_i, K) of every video.
        labels: (L_i,) of every video.
    """
    guesses = [p.argmax(axis=1) for p in probabilities]
    pairs = [
        tuple(segments_of(frames, background=[_BACKGROUND]) for frames in both)
        for both in zip(guesses, labels, strict=True)
    ]
    right = np.concatenate([g == p for g, p in zip(guesses, labels, strict=True)])
    result = {
        "accuracy": float(right.mean()),
        "edit": float(np.mean([edit_score(found, true) for found, true in pairs])),
    }
    for overlap in OVERLAPS:
        counts = np.sum([hits_and_misses(found, true, overlap) for found, true in pairs], axis=0)
        result[f"f1@{100 * overlap:g}"] = f1_of_counts(counts)
    truth, detections = [], []
    for video, (found, true) in enumerate(pairs):
        truth += [(video, *segment) for segment in zip(*true, strict=True)]
        for label, start, end in zip(*found, strict=True):
            score = float(probabilities[video][start:end, label].mean())
            detections.append((video, label, start, end, score))
    precisions = average_precisions(
        np.array(truth, np.float64).reshape(-1, 4),
        np.array(detections, np.float64).reshape(-1, 5),
        num_classes=probabilities[0].shape[1],
    )
    known = precisions[:, ~np.isnan(precisions).all(axis=0)]
    assert TIOUS[0] == 0.5
    result["map"] = float(known.mean()) if known.size else float("nan")
    result["map@50"] = float(known[0].mean()) if known.size else float("nan")
    return result
