"""Many softmax regressions on the same features, trained together in one pass.

All heads of one pooling lie side by side in one weight matrix (D, H K), so that a step is two matrix
products however many heads there are.  The gradient of a softmax regression is written out
(X^T (p - y) / B), and so are the two optimisers, because each column has its own learning rate.
Every head ends where it would end if it were trained alone.  Several processes may each have some of the
rows: they take their parts of the same batches and add up the gradients.

The classifiers of frames are others, each as its paper has it, and would give other numbers here:
`frames/frame_probe.py` takes batches of whole videos, in float64 and without standardising (CARL on FineGym), and
`frames/phase_classification.py` goes to the optimum of a regularised regression (scikit-learn, CARL on Penn Action).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from video_ssl.evaluate.row_shares import ALONE, Share


@dataclass(frozen=True, kw_only=True)
class Head:
    """Settings of one head: learning rate at the start of the cosine, and weight decay.

    Decay is decoupled for adamw (times the learning rate) and an L2 term of the gradient for sgd;
    biases do not decay.
    """

    lr: float
    weight_decay: float


@dataclass(frozen=True, kw_only=True)
class Fit:
    """How heads are trained: full passes, clips a step, optimiser, and the seed of the order."""

    epochs: int
    batch_size: int
    optimizer: Literal["adamw", "sgd"]
    seed: int


class LinearHeads:
    """H heads over the same standardised features.

    Features are standardised with the mean and standard deviation of what `fit` was given; a
    feature that is constant there becomes 0.
    """

    def __init__(self, heads: Sequence[Head], num_classes: int, device: str = "cpu") -> None:
        self.heads = tuple(heads)
        self.num_classes = num_classes
        self.device = torch.device(device)

    def fit(
        self, features: np.ndarray, labels: np.ndarray, fit: Fit, share: Share | None = None
    ) -> LinearHeads:
        """Trains all heads on `features` (N, D) and `labels` (N,) in 0..K-1, and returns them.

        Weights start at zero; the order of clips depends on `fit.seed` and N only.

        Args:
            features, labels, fit: see above.
            share: which rows of all these are, where other processes have others; the heads are the same in all.
        """
        share = share or Share(np.arange(len(features)), len(features), ALONE)
        x = torch.from_numpy(np.require(features, np.float32, ["C", "W"]))
        y = torch.from_numpy(np.asarray(labels, np.int64))
        std, self.mean = share.moments(x)
        constant = std <= 1e-6 * (1e-12 + self.mean.abs())
        self.scale = torch.where(constant, 0.0, 1.0 / std)
        columns = len(self.heads) * self.num_classes
        self.weight = torch.zeros(x.shape[1], columns, device=self.device)
        self.bias = torch.zeros(columns, device=self.device)
        state = _Optimizer(self, fit.optimizer)
        generator = torch.Generator().manual_seed(fit.seed)
        num_batches = math.ceil(share.total / fit.batch_size)
        for epoch in range(fit.epochs):
            order = torch.randperm(share.total, generator=generator)
            for number, rows in enumerate(order.split(fit.batch_size)):
                done = (epoch * num_batches + number) / (fit.epochs * num_batches)
                mine = share.local(rows)
                # index_select picks rows several times as fast as x[mine]
                batch = self._standardise(x.index_select(0, mine))
                error = self._probabilities(batch)
                picked = y[mine].to(self.device)[:, None, None].expand(-1, len(self.heads), 1)
                error.scatter_add_(2, picked, torch.full_like(error[:, :, :1], -1.0))
                error = error.flatten(1) / len(rows)
                weight_grad, bias_grad = share.summed(batch.T @ error, error.sum(0))
                state.step(weight_grad, bias_grad, 0.5 * (1 + math.cos(math.pi * done)))
        return self

    def predict(self, features: np.ndarray, chunk: int = 4096) -> np.ndarray:
        """Returns float32 (N, H, K): the probabilities of every head for `features` (N, D)."""
        parts = []
        for start in range(0, len(features), chunk):
            piece = np.require(features[start : start + chunk], np.float32, ["C", "W"])
            batch = self._standardise(torch.from_numpy(piece))
            parts.append(self._probabilities(batch).cpu().numpy())
        shape = (0, len(self.heads), self.num_classes)
        return np.concatenate(parts) if parts else np.zeros(shape, np.float32)

    def arrays(self, column: int) -> dict[str, np.ndarray]:
        """Returns one of the heads as float32 arrays: mean and scale (D,) of the features, weight (D, K), bias (K,)."""
        own = slice(column * self.num_classes, (column + 1) * self.num_classes)
        parts = {
            "mean": self.mean,
            "scale": self.scale,
            "weight": self.weight[:, own],
            "bias": self.bias[own],
        }
        return {name: part.cpu().numpy().copy() for name, part in parts.items()}

    @classmethod
    def of_arrays(cls, arrays: Mapping[str, np.ndarray], device: str = "cpu") -> LinearHeads:
        """Returns one fitted head, as `arrays` has given it, to predict with.

        Raises:
            ValueError: arrays that are missing or do not fit together.
        """
        mean, scale, weight, bias = (
            torch.tensor(arrays[name]) for name in ("mean", "scale", "weight", "bias")
        )
        fitting = weight.ndim == 2 and mean.shape == scale.shape == weight.shape[:1]
        if not fitting or bias.shape != weight.shape[1:]:
            shapes = {name: list(array.shape) for name, array in arrays.items()}
            raise ValueError(f"arrays of a linear head do not fit together: {shapes}.")
        made = cls([Head(lr=0.0, weight_decay=0.0)], len(bias), device)
        made.mean, made.scale = mean, scale
        made.weight, made.bias = weight.to(made.device), bias.to(made.device)
        return made

    def _standardise(self, rows: Tensor) -> Tensor:
        return ((rows - self.mean) * self.scale).to(self.device)

    def _probabilities(self, batch: Tensor) -> Tensor:
        logits = torch.addmm(self.bias, batch, self.weight)
        return logits.view(len(batch), len(self.heads), self.num_classes).softmax(dim=2)


class _Optimizer:
    """AdamW (.9, .999) or SGD with momentum .9, with a learning rate and a decay for every column."""

    def __init__(self, model: LinearHeads, kind: str) -> None:
        columns = [h for h in model.heads for _ in range(model.num_classes)]
        self.lr = torch.tensor([h.lr for h in columns], device=model.device)
        self.decay = torch.tensor([h.weight_decay for h in columns], device=model.device)
        self.kind = kind
        self.values = (model.weight, model.bias)
        self.first = [torch.zeros_like(v) for v in self.values]
        self.second = [torch.zeros_like(v) for v in self.values]
        self.steps = 0

    def step(self, weight_grad: Tensor, bias_grad: Tensor, factor: float) -> None:
        self.steps += 1
        lr = self.lr * factor
        for place, grad in enumerate((weight_grad, bias_grad)):
            decay = self.decay if place == 0 else torch.zeros_like(self.decay)
            value, first, second = self.values[place], self.first[place], self.second[place]
            if self.kind == "sgd":
                first.mul_(0.9).add_(grad + decay * value)
                value.sub_(lr * first)
                continue
            value.mul_(1 - lr * decay)
            first.lerp_(grad, 0.1)
            second.mul_(0.999).addcmul_(grad, grad, value=0.001)
            scale = math.sqrt(1 - 0.999**self.steps) / (1 - 0.9**self.steps)
            eps = 1e-8 * math.sqrt(1 - 0.999**self.steps)
            value.sub_(lr * scale * first / (second.sqrt() + eps))
