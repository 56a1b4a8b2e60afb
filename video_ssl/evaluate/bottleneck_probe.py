"""The linear probe of VATT ("LRC"): two linear layers with a narrow middle that is nearly all dropped.

    softmax(W2 dropout(W1 x + b1) + b2),  loss = cross-entropy + penalty * sum(W2^2)

There is nothing between the layers, so that what is learned is linear.  Nothing is chosen: all settings are given.

Source: papers/vatt.md section 6, arXiv:2104.11178 (code: 128 wide, dropout 0.9, L2 0.1, Adam 5e-4, batches of 64, 1000
passes; the paper says 50,000 steps).  Keras' beginnings: Glorot uniform weights, zero biases, Adam with eps 1e-7.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from video_ssl.evaluate.context import device_of
from video_ssl.evaluate.contract import RECOGNITION, Given, Needs, Result, recognition_result
from video_ssl.evaluate.videos import classes_of, shared_notes, train_and_test


@dataclass(frozen=True, kw_only=True)
class BottleneckProbeConfig:
    """Settings of the probe.

    Attributes:
        width: of the middle.
        dropout: share of the middle that is dropped in training.
        penalty: times the sum of the squared weights of the last layer.
        learning_rate: of Adam, constant.
        epochs: passes over the training clips.
        batch_size: clips in a step.
        device: where it is trained; auto = that of the evaluation.
    """

    width: int = 128
    dropout: float = 0.9
    penalty: float = 0.1
    learning_rate: float = 5e-4
    epochs: int = 1000
    batch_size: int = 64
    device: str = "auto"

    def __post_init__(self) -> None:
        for name in ("width", "epochs", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1.")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout={self.dropout} must be at least 0 and below 1.")
        if self.penalty < 0 or self.learning_rate <= 0:
            raise ValueError(
                f"penalty={self.penalty} must be at least 0 and learning_rate={self.learning_rate} above 0."
            )


class BottleneckProbe:
    """The evaluator `bottleneck_probe`."""

    Config = BottleneckProbeConfig
    title = "linear probe with a bottleneck"
    figures = RECOGNITION

    def __init__(self, config: BottleneckProbeConfig) -> None:
        self.config = config

    @property
    def needs(self) -> Needs:
        return Needs(several_classes=True)

    def evaluate(self, given: Given) -> Result:
        """Returns accuracy on `test`, probabilities averaged over the clips of a video.

        Raises:
            FeatureError: labels are missing, or train has one class only.
        """
        train, test, notes = train_and_test(given.train, given.test)
        classes, train_labels, test_labels = classes_of(train, test)
        generator = torch.Generator().manual_seed(given.seed)
        device = device_of(self.config.device, given)
        layers = fit_bottleneck(
            given.train.features,
            train_labels[train.index],
            len(classes),
            self.config,
            generator,
            device=device,
        )
        with torch.no_grad():
            rows = torch.from_numpy(np.array(given.test.features, np.float32))
            scores = layers.logits(rows.to(device)).softmax(1).cpu().numpy()
        return recognition_result(
            test.mean(scores),
            train_labels,
            test_labels,
            classes,
            notes + shared_notes(train, test),
            ids=test.ids if given.keep_predictions else None,
        )


@dataclass
class Layers:
    """The weights: w1 (D, M), b1 (M,), w2 (M, K), b2 (K,)."""

    w1: Tensor
    b1: Tensor
    w2: Tensor
    b2: Tensor

    def logits(self, rows: Tensor, kept: Tensor | None = None) -> Tensor:
        """Returns (N, K) of features (N, D); `kept` (N, M) is what the middle is multiplied with."""
        middle = rows @ self.w1 + self.b1
        return (middle if kept is None else middle * kept) @ self.w2 + self.b2

    def loss(self, rows: Tensor, labels: Tensor, kept: Tensor, penalty: float) -> Tensor:
        """Returns the mean cross-entropy and the penalty."""
        entropy = torch.nn.functional.cross_entropy(self.logits(rows, kept), labels)
        return entropy + penalty * self.w2.square().sum()


def fit_bottleneck(
    features: np.ndarray,
    labels: np.ndarray,
    num_classes: int,
    config: BottleneckProbeConfig,
    generator: torch.Generator,
    *,
    device: str = "cpu",
) -> Layers:
    """Returns the layers that were trained on `device`, on features (N, D) and labels (N,) in 0..K-1.

    Everything random (beginning, order, dropout) comes from `generator`, on the CPU.
    """
    rows = torch.from_numpy(np.array(features, np.float32))
    classes = torch.from_numpy(np.asarray(labels, np.int64))
    layers = _beginning(rows.shape[1], num_classes, config, generator, device)
    weights = [layers.w1, layers.b1, layers.w2, layers.b2]
    optimizer = torch.optim.Adam(weights, lr=config.learning_rate, eps=1e-7)
    for _ in range(config.epochs):
        for batch in torch.randperm(len(rows), generator=generator).split(config.batch_size):
            draws = torch.rand(len(batch), config.width, generator=generator)
            kept = (draws >= config.dropout) / (1 - config.dropout)
            x, y, kept = (t.to(device) for t in (rows[batch], classes[batch], kept))
            optimizer.zero_grad()
            layers.loss(x, y, kept, config.penalty).backward()
            optimizer.step()
    return layers


def _beginning(
    dim: int,
    num_classes: int,
    config: BottleneckProbeConfig,
    generator: torch.Generator,
    device: str,
) -> Layers:
    def glorot(rows: int, columns: int) -> Tensor:
        bound = math.sqrt(6 / (rows + columns))
        drawn = (2 * torch.rand(rows, columns, generator=generator) - 1) * bound
        return drawn.to(device).requires_grad_()

    def zeros(size: int) -> Tensor:
        return torch.zeros(size, device=device, requires_grad=True)

    return Layers(
        glorot(dim, config.width),
        zeros(config.width),
        glorot(config.width, num_classes),
        zeros(num_classes),
    )
