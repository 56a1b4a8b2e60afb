"""Heads that say what is done at boxes of a feature map, in torch.

Feature maps are channels last, (B, T', h, w, D), boxes [x_min, y_min, x_max, y_max] as shares of width and height.
Source: papers/const_cl.md section 6.1 (VideoGLUE's ActionTransformerHead).
"""

from __future__ import annotations

import itertools

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from video_ssl.models.networks.region_config import POSITION_OUT, DecoderConfig
from video_ssl.models.networks.regions import PositionChannels, RegionDecoder, glorot, roi_align

#: Probabilities are kept so far from 0 and 1, as in the reference.
CLIPPED = 1e-7


class ActionTransformerHead(nn.Module):
    """Boxes attend to the whole clip, and one dense layer tells the classes.

    The feature of a box is the largest of the samples of the mean over time; queries and memory have position channels.

    Args:
        width: D.
        num_classes: K.
        decoder: its settings.
        crop_size: samples of a box along each side.
        num_hidden_layers: of dense without bias, batch norm and ReLU before the last one.
        hidden_dim: their width; None = that of the decoder.
        dropout: before the classifier.
    """

    def __init__(
        self,
        width: int,
        num_classes: int,
        *,
        decoder: DecoderConfig | None = None,
        crop_size: int = 4,
        num_hidden_layers: int = 0,
        hidden_dim: int | None = None,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        config = decoder or DecoderConfig()
        inner = width + 2 * POSITION_OUT
        self.crop_size = crop_size
        self.positions = PositionChannels()
        self.decoder = RegionDecoder(config, inner, inner)
        self.dropout = nn.Dropout(dropout)
        widths = [config.width] + [hidden_dim or config.width] * num_hidden_layers
        pairs = itertools.pairwise(widths)
        self.hidden = nn.Sequential(*(_Hidden(*pair) for pair in pairs))
        self.classifier = glorot(nn.Linear(widths[-1], num_classes))

    def forward(self, features: Tensor, boxes: Tensor) -> Tensor:
        """Returns logits (B, N, K) of boxes (B, N, 4)."""
        x = self.positions(features)
        query = roi_align(x.mean(1), boxes, self.crop_size).amax((2, 3))
        decoded, _ = self.decoder(query, x.flatten(1, 3))
        out: Tensor = self.classifier(self.hidden(self.dropout(decoded)))
        return out


class _Hidden(nn.Module):
    """Dense, batch norm over all boxes, ReLU."""

    def __init__(self, width_in: int, width: int) -> None:
        super().__init__()
        self.dense = nn.Linear(width_in, width, bias=False)
        nn.init.xavier_uniform_(self.dense.weight)
        self.norm = nn.BatchNorm1d(width, eps=1e-5)

    def forward(self, x: Tensor) -> Tensor:
        flat = self.norm(self.dense(x).flatten(0, -2))
        return F.relu(flat.unflatten(0, x.shape[:-1]))


class RoIPoolHead(nn.Module):
    """One dense layer on the largest samples of a box, of the mean over time: what a box itself shows."""

    def __init__(self, width: int, num_classes: int, *, crop_size: int = 4) -> None:
        super().__init__()
        self.crop_size = crop_size
        self.classifier = glorot(nn.Linear(width, num_classes))

    def forward(self, features: Tensor, boxes: Tensor) -> Tensor:
        """Returns logits (B, N, K) of boxes (B, N, 4)."""
        query = roi_align(features.mean(1), boxes, self.crop_size).amax((2, 3))
        out: Tensor = self.classifier(query)
        return out


def action_loss(logits: Tensor, targets: Tensor, mask: Tensor) -> Tensor:
    """Returns the sum over classes of binary cross-entropies, averaged over the valid boxes; 0 where there is none.

    Args:
        logits: (B, N, K).
        targets: 0 or 1 of every class, (B, N, K).
        mask: bool (B, N), boxes that are there.
    """
    # The reference clips probabilities, which bounds the loss of a class by 16.1.
    p = torch.sigmoid(logits.float()).clamp(CLIPPED, 1 - CLIPPED)
    wanted = targets.float()
    terms = -(wanted * torch.log(p) + (1 - wanted) * torch.log1p(-p)).sum(-1)
    return (terms * mask).sum() / (mask.sum() + 1e-6)
