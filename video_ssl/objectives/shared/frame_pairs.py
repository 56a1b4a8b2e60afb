"""Pairs of views of a batch of frame sets: any two, of one video, or of different videos with one label."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


def per_view(num_source: Tensor, steps: Tensor) -> Tensor:
    """Returns int64 (B, V): the length of what each view shows, given by video (B,) or by view; steps (B, V, T)."""
    lengths = num_source if num_source.dim() == 2 else num_source[:, None]
    return lengths.expand(steps.shape[:2])


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
        """Returns the views of a batch z (B, V, T, D), steps and valid (B, V, T), label (B,), num_source (B,) or
        (B, V)."""
        num_views, num_source = z.shape[1], per_view(num_source, steps)
        z, steps, valid = z.flatten(0, 1), steps.flatten(0, 1), valid.flatten(0, 1)
        order = torch.argsort((~valid).to(torch.uint8), dim=1, stable=True)
        return Views(
            z=z.gather(1, order[..., None].expand_as(z)),
            steps=steps.gather(1, order),
            valid=valid.gather(1, order),
            count=valid.sum(1),
            num_source=num_source.flatten(),
            label=label.repeat_interleave(num_views),
            video=torch.arange(len(label), device=z.device).repeat_interleave(num_views),
        )

    def same_label(self) -> Tensor:
        """Returns which ordered pairs are views of different videos with one label, bool (N, N).

        Label -1 means "none" and pairs with nothing; so does a view without a valid frame.
        """
        pair = (self.label[:, None] == self.label) & (self.video[:, None] != self.video)
        return pair & self._usable(self.label >= 0)

    def same_video(self) -> Tensor:
        """Returns which ordered pairs are different views of one video, bool (N, N)."""
        pair = self.video[:, None] == self.video
        itself = torch.eye(len(pair), dtype=torch.bool, device=pair.device)
        return pair & ~itself & self._usable()

    def different(self) -> Tensor:
        """Returns which ordered pairs are two different views, whatever they show, bool (N, N)."""
        itself = torch.eye(len(self.label), dtype=torch.bool, device=self.label.device)
        return ~itself & self._usable()

    def pairs_of_label(self) -> tuple[Tensor, Tensor]:
        """Returns the pairs of `same_label` as places (u, v), int64 (K,) each; waits for the device."""
        u, v = self.same_label().nonzero(as_tuple=True)
        return u, v

    def _usable(self, extra: Tensor | None = None) -> Tensor:
        usable = self.count > 0 if extra is None else (self.count > 0) & extra
        return usable[:, None] & usable
