"""The loss at the tokens that the encoder sees, beside that at the hidden ones."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from video_ssl.models.networks.positions import Grid
from video_ssl.objectives.shared.masked_config import VisibleLossConfig


class VisibleLoss(nn.Module):
    """The mean error at visible tokens, and its factor in the loss.

    Loss of an objective = loss at hidden tokens + factor * V.  V = sum over the visible tokens of all clips of
    s * e / (number of visible tokens of all clips), where e is the mean error of a token over the elements of its
    target, and s = 1, or with `visible_by_distance` s = 1 / sqrt(d): d >= 1 is the Euclidean distance, in tokens along
    time, rows and columns alike, to the nearest token of the same clip that is predicted (hidden and decoded).  V is
    divided by the number of tokens and not by the sum of s, so far tokens make it smaller.  In a clip where nothing is
    predicted, s = 0.

    factor = `visible_weight`, times the share of `visible_warmup` that the training is through.

    Source: V-JEPA 2.1's code as described in papers/maskfeat.md section 7.  Its warm-up counts steps; it divides d by
    grid // 16 for pictures of more than 16 x 16 tokens where told, which is not offered here.
    """

    progress: Tensor
    squared_distances: Tensor

    def __init__(self, config: VisibleLossConfig, grid: Grid) -> None:
        super().__init__()
        self.config = config
        if config.visible_warmup is not None:
            # In the checkpoint, so that a resumed run goes on where it was.
            self.register_buffer("progress", torch.zeros(()))
        if config.visible_by_distance:
            table = torch.from_numpy(_squared_distances(grid))
            self.register_buffer("squared_distances", table, persistent=False)

    def forward(self, errors: Tensor, visible: Tensor, predicted: Tensor) -> Tensor:
        """Returns V, 0-d.

        Args:
            errors: at least float32 (N, K), of the visible tokens.
            visible: int64 (N, K), their indices.
            predicted: bool (N, L), True = hidden from the encoder, and decoded.
        """
        if not self.config.visible_by_distance:
            return errors.mean()
        squared = self.squared_distances[visible]  # (N, K, L)
        nearest = squared.masked_fill(~predicted[:, None], torch.inf).amin(-1)
        return (errors * nearest.pow(-0.25)).mean()

    def add(self, hidden_loss: Tensor, visible_loss: Tensor) -> Tensor:
        """Returns hidden_loss + factor * visible_loss."""
        return hidden_loss + self._factor() * visible_loss

    def after_step(self, progress: float) -> None:
        """Takes note of the share of the training that is done."""
        if self.config.visible_warmup is not None:
            self.progress.fill_(progress)

    def _factor(self) -> Tensor | float:
        if self.config.visible_warmup is None:
            return self.config.visible_weight
        start, end = self.config.visible_warmup
        return self.config.visible_weight * ((self.progress - start) / (end - start)).clamp(0, 1)


def make_visible_loss(config: VisibleLossConfig, grid: Grid) -> VisibleLoss | None:
    """Returns None where the weight is 0: then nothing is computed."""
    return VisibleLoss(config, grid) if config.visible_weight else None


def _squared_distances(grid: Grid) -> np.ndarray:
    """float32 (L, L), of all pairs of tokens."""
    places = np.stack(np.unravel_index(np.arange(np.prod(grid)), grid), axis=1)
    return np.square(places[:, None] - places).sum(-1).astype(np.float32)
