"""The attentive probe: how much of the class a small attention reads from all tokens of a frozen encoder.

Heads of a grid of learning rates and weight decays are trained in one pass on a part of train; the best on the rest of
train (whole groups, stratified by class) is chosen and trained again on all of train.  The clips of a crop are one
sequence (V-JEPA) or views of their own (VideoGLUE); the softmax of the views of a video is averaged.

Source: papers/frozen_protocols.md sections 1 and 2.  There the best head on the test videos is reported: that number
stands beside ours.  There every epoch shows other crops and the tokens are computed again; here an epoch shows the same
clips again, whose tokens are kept where they fit.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from video_ssl.embed.features import FeatureError, FeatureFile
from video_ssl.evaluate import metrics
from video_ssl.evaluate.attentive.grid import HeadGrid, HeadRates, Wave
from video_ssl.evaluate.attentive.one_layer import VideoGLUEPooler, VideoPrismPooler
from video_ssl.evaluate.attentive.poolers import AttentiveClassifier, usual_heads
from video_ssl.evaluate.attentive.tokens import (
    ClipTokens,
    Layout,
    LiveTokens,
    StoredTokens,
    VideoTokens,
)
from video_ssl.evaluate.context import Context, device_of
from video_ssl.evaluate.contract import RECOGNITION, Given, Needs, Result, recognition_result
from video_ssl.evaluate.heads import ChosenHead, names_of
from video_ssl.evaluate.videos import classes_of, shared_notes, split_train, train_and_test

logger = logging.getLogger(__name__)

Pooler = Literal["vjepa2", "vjepa", "videoglue", "videoprism"]
#: Pooler -> depth and heads as published; depth 0 = one attention and no block.
_USUAL: dict[str, tuple[int, int]] = {
    "vjepa2": (4, 16),
    "vjepa": (1, 16),
    "videoglue": (0, 12),
    "videoprism": (0, 16),
}


@dataclass(frozen=True, kw_only=True)
class AttentiveConfig:
    """Settings of the attentive probe; the defaults are those of V-JEPA 2's video probes.

    Attributes:
        pooler: "vjepa2", "vjepa" (see `poolers`), "videoglue" or "videoprism" (see `one_layer`).
        depth: blocks of the first two, the cross block included; null = 4 and 1.
        num_heads: of every attention; null = 16 (videoglue 12), or the largest number below it that divides the width.
        clips: the clips of a crop "together" in one sequence, or "apart"; null = together for V-JEPA's.
        frame_positions: add to every token a code of the frame that its moment begins with; off in every published
            config.
        learning_rates, weight_decays: of the grid, every pair of them a head.
        final_weight_decay: that a cosine goes to; null = it stays.
        decay_all: biases and norms decay too; null = with "vjepa2" only.
        grad_clip: largest norm of a gradient; null = as it is.
        warmup_epochs: passes until the learning rate is reached.
        label_smoothing: of the targets.
        epochs: passes over the training videos.
        batch_size: sequences in a step; a batch holds whole videos.
        held_out_share: part of the training videos that decides the choice.
        refit: train the chosen head again on all training videos before the test.
        memory_gib: tokens of a split beyond that are made again whenever they are needed.
        device: where the heads are trained; auto = that of the evaluation.
    """

    pooler: Pooler = "vjepa2"
    depth: int | None = None
    num_heads: int | None = None
    clips: Layout | None = None
    frame_positions: bool = False
    learning_rates: tuple[float, ...] = (5e-3, 3e-3, 1e-3, 3e-4, 1e-4)
    weight_decays: tuple[float, ...] = (0.01, 0.1, 0.4, 0.8)
    final_weight_decay: float | None = None
    decay_all: bool | None = None
    grad_clip: float | None = None
    warmup_epochs: float = 0.0
    label_smoothing: float = 0.0
    epochs: int = 20
    batch_size: int = 256
    held_out_share: float = 0.2
    refit: bool = True
    memory_gib: float = 4.0
    device: str = "auto"

    def __post_init__(self) -> None:
        if not self.learning_rates or min(self.learning_rates) <= 0:
            raise ValueError(f"learning_rates={self.learning_rates} must be positive numbers.")
        if not self.weight_decays or min(self.weight_decays) < 0:
            raise ValueError(f"weight_decays={self.weight_decays} must be numbers of at least 0.")
        for name in ("epochs", "batch_size", "depth", "num_heads"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name}={value} must be at least 1.")
        if self.depth is not None and not _USUAL[self.pooler][0]:
            raise ValueError(
                f"depth={self.depth}, but pooler={self.pooler!r} is one attention: leave it out, or take 'vjepa2'."
            )
        if not 0 < self.held_out_share < 1:
            raise ValueError(f"held_out_share={self.held_out_share} must lie between 0 and 1.")
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(f"label_smoothing={self.label_smoothing} must lie in [0, 1).")
        if self.grad_clip is not None and not self.grad_clip > 0:
            raise ValueError(f"grad_clip={self.grad_clip} must be positive, or null.")
        if not 0 <= self.warmup_epochs < self.epochs or not self.memory_gib >= 0:
            raise ValueError(
                f"warmup_epochs={self.warmup_epochs} must lie in [0, epochs={self.epochs}), memory_gib="
                f"{self.memory_gib} must not be negative."
            )

    @property
    def grid(self) -> list[tuple[float, float]]:
        """Learning rate and weight decay of every head, the rates of one decay side by side."""
        return [(lr, wd) for wd, lr in product(self.weight_decays, self.learning_rates)]

    @property
    def layout(self) -> Layout:
        """`clips`, filled in."""
        return self.clips or ("together" if _USUAL[self.pooler][0] else "apart")


class AttentiveProbe:
    """The evaluator `attentive`."""

    Config = AttentiveConfig
    title = "attentive probe"
    figures = RECOGNITION

    def __init__(self, config: AttentiveConfig) -> None:
        self.config = config

    @property
    def needs(self) -> Needs:
        return Needs(several_classes=True, tokens=True)

    def evaluate(self, given: Given) -> Result:
        """Returns accuracy on `test` of the head that was chosen and fitted on `train`.

        Raises:
            FeatureError: labels or tokens are missing, train has one class only, or videos differ in their clips.
        """
        config, seed = replace(self.config, device=device_of(self.config.device, given)), given.seed
        train_videos, test_videos, matched = train_and_test(given.train, given.test)
        classes, train_labels, test_labels = classes_of(train_videos, test_videos)
        held, notes = split_train(train_videos, config.held_out_share, seed)
        train, test = (self._tokens(given, s) for s in ("train", "test"))
        for split, tokens in (("train", train), ("test", test)):
            logger.info("attentive probe: %s: %s", split, tokens.told)
        logger.info("attentive probe: %d heads are trained on %s", len(config.grid), config.device)
        learned, judged = np.flatnonzero(~held), np.flatnonzero(held)
        fit = _Fit(config, train, train_labels, len(classes), seed)
        heads = fit.run(learned, config.grid)
        grid = _judged(
            heads, fit.shares(heads, train, judged.tolist()), train_labels[judged], config
        )
        best = max(range(len(grid)), key=lambda i: _merit(grid[i]))
        on_test = fit.shares(heads, test, range(len(test_videos)))
        theirs = max(metrics.top_k_accuracy(own, test_labels) for own in on_test)
        scores, model = on_test[best], heads.heads[best]
        if config.refit:
            chosen = fit.run(np.arange(len(train_videos)), [config.grid[best]])
            (scores,) = fit.shares(chosen, test, range(len(test_videos)))
            (model,) = chosen.heads
        notes += matched + shared_notes(train_videos, test_videos)
        result = recognition_result(
            scores,
            train_labels,
            test_labels,
            classes,
            notes,
            ids=test_videos.ids if given.keep_predictions else None,
        )
        result.chosen.update(grid[best])
        result.heads["attentive"] = ChosenHead(
            kind="attentive",
            class_names=names_of(given.train.metadata.get("class_names"), classes),
            weights={
                name: t.detach().cpu().numpy().copy() for name, t in model.state_dict().items()
            },
            settings={
                "pooler": config.pooler,
                "depth": config.depth,
                "num_heads": config.num_heads,
                "clips": config.layout,
                "frame_positions": config.frame_positions,
                "num_crops": train.num_crops,
                "tokens": "stored" if isinstance(train.source, StoredTokens) else "live",
            },
        )
        result.details.update(
            grid=grid,
            best_of_grid_on_test_top1=theirs,
            tokens={"train": train.told, "test": test.told},
            device=config.device,
            held_out_videos=int(held.sum()),
            train_videos=len(train_videos),
        )
        return result

    def _tokens(self, given: Given, split: str) -> VideoTokens:
        file: FeatureFile = getattr(given, split)
        return VideoTokens(
            _source_of(given, split, file, frame_positions=self.config.frame_positions),
            num_crops=_crops_of(file),
            layout=self.config.layout,
            room=int(self.config.memory_gib * 2**30),
        )


@dataclass(frozen=True, eq=False)
class _Fit:
    """How heads are trained, on which videos whatever."""

    config: AttentiveConfig
    train: VideoTokens
    labels: np.ndarray
    num_classes: int
    seed: int

    def run(self, videos: np.ndarray, rates: Sequence[tuple[float, float]]) -> HeadGrid:
        """Returns heads trained on some of the training videos."""
        config, rng = self.config, np.random.default_rng((self.seed, 0xA77E))
        (_, first), *_ = self.train.batches(videos[:1].tolist(), 1)
        views = first.shape[1]
        per_epoch = -(-len(videos) // -(-config.batch_size // views))
        steps = config.epochs * per_epoch
        warmup = int(config.warmup_epochs * per_epoch)
        with torch.random.fork_rng():
            torch.manual_seed(self.seed)
            make = head_maker(config, first.shape[-1], self.num_classes)
            heads = [make().to(config.device) for _ in rates]
            grid = HeadGrid(
                heads,
                [_rates(config, lr, wd, steps, warmup) for lr, wd in rates],
                decay_all=config.pooler == "vjepa2"
                if config.decay_all is None
                else config.decay_all,
                grad_clip=config.grad_clip,
                label_smoothing=config.label_smoothing,
            )
            for _ in range(config.epochs):
                order = rng.permutation(videos).tolist()
                for chosen, tokens in self.train.batches(order, config.batch_size):
                    x = torch.from_numpy(tokens).to(config.device).float().flatten(0, 1)
                    label = torch.from_numpy(self.labels[chosen]).repeat_interleave(views)
                    grid.step(x, label.to(config.device))
        return grid

    def shares(self, grid: HeadGrid, tokens: VideoTokens, videos: Sequence[int]) -> np.ndarray:
        """Returns float32 (H, V, K): the mean softmax over the views of every video, of every head."""
        found = []
        for _, batch in tokens.batches(list(videos), self.config.batch_size):
            x = torch.from_numpy(batch).to(self.config.device).float()
            views = [grid.probabilities(view) for view in x.unbind(1)]
            found.append(torch.stack(views).mean(0).cpu().numpy())
        return np.concatenate(found, axis=1)


def head_maker(config: AttentiveConfig, width: int, num_classes: int) -> Callable[[], nn.Module]:
    """Returns what makes a fresh head, each with other random weights.

    Raises:
        ValueError: heads that do not divide the width.
    """
    depth, usual = _USUAL[config.pooler]
    num_heads = config.num_heads or usual_heads(width, usual)
    if config.pooler == "videoglue":
        return lambda: VideoGLUEPooler(width, num_classes, num_heads=num_heads)
    if config.pooler == "videoprism":
        return lambda: VideoPrismPooler(width, num_classes, num_heads=num_heads)
    return lambda: AttentiveClassifier(
        width,
        num_classes,
        num_heads=num_heads,
        depth=config.depth or depth,
        version=2 if config.pooler == "vjepa2" else 1,
    )


def _rates(config: AttentiveConfig, lr: float, wd: float, steps: int, warmup: int) -> HeadRates:
    last = wd if config.final_weight_decay is None else config.final_weight_decay
    return HeadRates(
        lr=Wave(first=0.0, peak=lr, last=0.0, steps=steps, warmup=warmup),
        weight_decay=Wave(first=wd, peak=wd, last=last, steps=steps),
    )


def _judged(
    grid: HeadGrid, shares: np.ndarray, labels: np.ndarray, config: AttentiveConfig
) -> list[dict[str, Any]]:
    """What every head is worth on the held-out videos."""
    found = []
    for (lr, wd), own in zip(config.grid, shares, strict=True):
        truth = own[np.arange(len(own)), labels]
        found.append(
            {
                "learning_rate": lr,
                "weight_decay": wd,
                "held_out_top1": metrics.top_k_accuracy(own, labels),
                "held_out_loss": float(-np.log(np.maximum(truth, 1e-12)).mean()),
            }
        )
    return found


def _merit(entry: dict[str, Any]) -> tuple[float, float]:
    """More videos right is better; among equals the lower loss; among equals the first."""
    return entry["held_out_top1"], -entry["held_out_loss"]


def _source_of(given: Given, split: str, file: FeatureFile, *, frame_positions: bool) -> ClipTokens:
    """The encoder where there is one, otherwise the feature file."""
    if isinstance(given, Context) and given.encoder is not None:
        return LiveTokens(given, split, file, frame_positions=frame_positions)
    if frame_positions:
        raise FeatureError(
            f"frame_positions needs the numbers of frames, which {file.path or 'a feature file'} does not hold: name a "
            "run in its place, or leave it out."
        )
    return StoredTokens(file)


def _crops_of(file: FeatureFile) -> int:
    """Crops of every window of a feature file, as it says itself; 1 where it says nothing."""
    settings = file.metadata.get("settings") or {}
    return int(settings.get("num_crops", 1))
