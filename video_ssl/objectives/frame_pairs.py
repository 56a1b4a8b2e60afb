"""Pairs of views of a batch of frame sets: of one video, or of different videos with one label."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Views:
    """All views of a batch with their valid frames in front.

    Attributes:
        z: (B*V, T, D).
        steps: int64 (B*V, T).
        valid: bool (B*V, T), True at the first `count` places.
        count: int64 (B*V,).
        num_source: int64 (B*V,).
        label, video: int64 (B*V,).
    """

    z: Tensor
    steps: Tensor
    valid: Tensor
    count: Tensor
    num_source: Tensor
    label: Tensor
    video: Tensor

    @staticmethod
    def of(z: Tensor, steps: Tensor, num_source: Tensor, valid: Tensor, label: Tensor) -> Views:
        """Returns the views of a batch z (B, V, T, D), steps and valid (B, V, T), num_source and label (B,)."""
        num_views = z.shape[1]
        z, steps, valid = z.flatten(0, 1), steps.flatten(0, 1), valid.flatten(0, 1)
        order = torch.argsort((~valid).to(torch.uint8), dim=1, stable=True)
        return Views(
            z=z.gather(1, order[..., None].expand_as(z)),
            steps=steps.gather(1, order),
            valid=valid.gather(1, order),
            count=valid.sum(1),
            num_source=num_source.repeat_interleave(num_views),
            label=label.repeat_interleave(num_views),
            video=torch.arange(len(label), device=z.device).repeat_interleave(num_views),
        )

    def pairs_of_label(self) -> tuple[Tensor, Tensor]:
        """Returns the ordered pairs (u, v) of views of different videos with one label, int64 (K,) each.

        Label -1 means "none" and pairs with nothing; so does a view without a valid frame.
        """
        usable = (self.label >= 0) & (self.count > 0)
        pair = (self.label[:, None] == self.label) & (self.video[:, None] != self.video)
        u, v = (pair & usable[:, None] & usable).nonzero(as_tuple=True)
        return u, v

    def pairs_of_video(self) -> tuple[Tensor, Tensor]:
        """Returns the ordered pairs of different views of one video, int64 (K,) each."""
        usable = self.count > 0
        pair = (self.video[:, None] == self.video) & usable[:, None] & usable
        u, v = pair.fill_diagonal_(False).nonzero(as_tuple=True)
        return u, v
