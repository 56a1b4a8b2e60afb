"""The linear classifier of frames for FineGym: one softmax layer, trained by SGD on whole videos.

Batches are whole videos, all their labelled frames together, mean cross-entropy; SGD with momentum and
a decay in the gradient, a cosine for every epoch, the last incomplete batch dropped.  The result is
the share of labelled test frames that are right, after the last epoch.  In 0..1.

Source: CARL's `evaluate_finegym` on one process (lr 50 for features of length 1, 100 epochs, batches of
10 videos).  In float64 here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from video_ssl.evaluate.frames.frame_evaluator import FrameConfig, FrameEvaluator, check_fractions
from video_ssl.evaluate.frames.frame_sequences import Sequences, pooled_frames, usable_frames


@dataclass(frozen=True, kw_only=True)
class ProbeSchedule:
    """How the layer is trained; see `FrameProbeConfig`."""

    epochs: int = 100
    lr: float = 50.0
    momentum: float = 0.9
    weight_decay: float = 1e-6
    videos_per_batch: int = 10
    shuffle: bool = True


@dataclass(frozen=True, kw_only=True, eq=False)
class ProbeFit:
    """A trained layer: weight (K, D), bias (K,), and the loss of every step."""

    weight: np.ndarray
    bias: np.ndarray
    losses: np.ndarray


def train_frame_probe(
    embs: Sequence[np.ndarray],
    labels: Sequence[np.ndarray],
    *,
    start: tuple[np.ndarray, np.ndarray],
    schedule: ProbeSchedule,
    rng: np.random.Generator | None = None,
) -> ProbeFit:
    """Returns the layer after training.

    Args:
        embs: frame features (L_i, D); `labels` (L_i,) classes 0..K-1, -1 where unknown.
        start: weight (K, D) and bias (K,) at the beginning.
        schedule: with `shuffle` the order of the videos is drawn from `rng` in every epoch.

    Fewer videos than a batch are one batch.  A batch without a labelled frame is no step.
    """
    videos = [usable_frames(e, p) for e, p in zip(embs, labels, strict=True)]
    values = [np.array(part, np.float64) for part in start]
    speed = [np.zeros_like(part) for part in values]
    size = min(schedule.videos_per_batch, len(videos))
    losses: list[float] = []
    for epoch in range(schedule.epochs):
        lr = schedule.lr * (1 + math.cos(math.pi * epoch / schedule.epochs)) / 2
        order = np.arange(len(videos))
        if schedule.shuffle:
            assert rng is not None, "shuffle needs a generator"
            order = rng.permutation(len(videos))
        for begin in range(0, len(videos) - size + 1 if size else 0, max(1, size)):
            chosen = [videos[v] for v in order[begin : begin + size]]
            x, y = (np.concatenate([video[k] for video in chosen]) for k in range(2))
            if not len(y):
                continue
            loss, gradients = _cross_entropy(np.asarray(x, np.float64), y, *values)
            losses.append(loss)
            for value, gradient, momentum in zip(values, gradients, speed, strict=True):
                momentum *= schedule.momentum
                momentum += gradient + schedule.weight_decay * value
                value -= lr * momentum
    return ProbeFit(weight=values[0], bias=values[1], losses=np.array(losses))


def _cross_entropy(
    x: np.ndarray, y: np.ndarray, weight: np.ndarray, bias: np.ndarray
) -> tuple[float, tuple[np.ndarray, np.ndarray]]:
    """The mean cross-entropy of softmax(x W' + b), and its gradients."""
    logits = x @ weight.T + bias
    logits -= logits.max(axis=1, keepdims=True)
    log_sum = np.log(np.exp(logits).sum(axis=1))
    loss = float((log_sum - logits[np.arange(len(y)), y]).mean())
    error = np.exp(logits - log_sum[:, None])
    error[np.arange(len(y)), y] -= 1
    error /= len(y)
    return loss, (error.T @ x, error.sum(axis=0))


def frame_accuracy(
    fit: ProbeFit, embs: Sequence[np.ndarray], labels: Sequence[np.ndarray]
) -> float:
    """Returns the share of labelled frames that the layer names; NaN without labelled frames."""
    x, y = pooled_frames(embs, labels)
    if not len(y):
        return float("nan")
    return float(((x @ fit.weight.T + fit.bias).argmax(axis=1) == y).mean())


@dataclass(frozen=True, kw_only=True)
class FrameProbeConfig(FrameConfig):
    """Settings of the frame probe.

    Attributes:
        fractions: of the training videos, the first in file order, at least one batch of them.
        epochs, lr, momentum, weight_decay, videos_per_batch: of SGD; lr 50 goes with features of
            length 1.
    """

    classes: str = "together"  # type: ignore[assignment]
    fractions: tuple[float, ...] = (1.0,)
    epochs: int = 100
    lr: float = 50.0
    momentum: float = 0.9
    weight_decay: float = 1e-6
    videos_per_batch: int = 10

    def __post_init__(self) -> None:
        super().__post_init__()
        check_fractions(self.fractions)
        if self.epochs < 1 or self.videos_per_batch < 1 or self.lr <= 0:
            raise ValueError(
                f"epochs={self.epochs} and videos_per_batch={self.videos_per_batch} must be at least "
                f"1, and lr={self.lr} positive."
            )


class FrameProbe(FrameEvaluator):
    """The evaluator `frame_probe`."""

    Config = FrameProbeConfig
    title = "linear layer on frames"
    config: FrameProbeConfig

    def measure(self, train: Sequences, test: Sequences, *, seed: int) -> dict[str, float]:
        config = self.config
        schedule = ProbeSchedule(
            epochs=config.epochs,
            lr=config.lr,
            momentum=config.momentum,
            weight_decay=config.weight_decay,
            videos_per_batch=config.videos_per_batch,
        )
        num_classes = 1 + max(int(p.max()) for p in train.labels + test.labels)
        width = train.embs[0].shape[1]
        found = {}
        for fraction in config.fractions:
            rng = np.random.default_rng((seed, 0xF9A3E))
            edge = 1 / math.sqrt(width)
            start = (
                rng.uniform(-edge, edge, (num_classes, width)),
                rng.uniform(-edge, edge, num_classes),
            )
            used = min(len(train), max(config.videos_per_batch, int(fraction * len(train))))
            fit = train_frame_probe(
                train.embs[:used], train.labels[:used], start=start, schedule=schedule, rng=rng
            )
            name = f"top1@{100 * fraction:g}%"
            found[name] = frame_accuracy(fit, test.embs, test.labels)
            found[f"train_{name}"] = frame_accuracy(fit, train.embs[:used], train.labels[:used])
        return found

    def shown(self) -> list[str]:
        return [f"top1@{100 * fraction:g}%" for fraction in self.config.fractions]

    def say(self, found: dict[str, float]) -> str:
        return f"names the element of {self.headline(found)} of the labelled frames"

    def lead(self) -> str:
        return self.shown()[-1]
