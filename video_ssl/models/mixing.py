"""Mixup and CutMix on the device: what `video_ssl.clips.mixing` has drawn for a batch, applied in torch.

What was drawn comes as a row of numbers on the device (`Mix.row`), so that nothing waits for them.
"""

from __future__ import annotations

import torch
from torch import Tensor

from video_ssl.clips.mixing import Cut


def mix_videos(video: Tensor, mix: Tensor, *, cut: Cut = "space") -> Tensor:
    """Returns clips (N, C, T, H, W) mixed with those at the other end of the batch; the input is left alone.

    Args:
        video: float; N must be even, or the clip in the middle would be mixed with itself.
        mix: float64 (6,), the row of a `Mix`.
        cut: see `MixConfig`.

    Raises:
        ValueError: an odd batch.
    """
    if len(video) % 2:
        raise ValueError(
            f"a batch of {len(video)} clips cannot be mixed in pairs: choose an even batch size."
        )
    other = video.flip(0)
    blended = video * mix[0].to(video.dtype) + other * (1 - mix[0]).to(video.dtype)
    boxed = torch.where(_inside(mix, video.shape[2:], cut), other, video)
    return torch.where(mix[1] > 0, boxed, blended)


def _inside(mix: Tensor, shape: torch.Size, cut: Cut) -> Tensor:
    """What of a clip (T, H, W) the box holds: bool (H, W), or (T, H, 1) where it is cut out of time and height."""
    sides = shape[1:] if cut == "space" else shape[:2]
    first, second = (torch.arange(side, device=mix.device) for side in sides)
    rows = (first >= mix[2]) & (first < mix[3])
    inside = rows[:, None] & (second >= mix[4]) & (second < mix[5])
    return inside if cut == "space" else inside[..., None]


def mix_labels(
    label: Tensor, num_classes: int, mix: Tensor, *, label_smoothing: float = 0.0
) -> Tensor:
    """Returns the targets float32 (N, K) of a mixed batch with labels int64 (N,); rows sum to 1.

    Smoothing gives every class label_smoothing / K and the rest to the own one, before the two are mixed.

    Args:
        mix: float64 (6,), the row of a `Mix`.
    """
    low = label_smoothing / num_classes
    own = torch.full((len(label), num_classes), low, device=label.device)
    own.scatter_(1, label[:, None], 1 - label_smoothing + low)
    return own * mix[0].float() + own.flip(0) * (1 - mix[0]).float()


def mix_partners(values: Tensor, mix: Tensor) -> Tensor:
    """Returns samples (N, ...), each mixed with its partner by its own share; the input is left alone.

    The partner of sample i is the one with the i-th smallest place, so some may be their own.

    Args:
        values: float (N, ...), sounds or the shares of their classes.
        mix: float64 (N, 2), what `clips.pair_mixing.sample_pair_mix` has drawn for each sample.

    >>> mix_partners(torch.tensor([[0.0], [8.0]]), torch.tensor([[0.75, 0.9], [0.5, 0.1]])).tolist()
    [[2.0], [4.0]]
    """
    share = mix[:, 0].to(values.dtype).reshape(-1, *[1] * (values.dim() - 1))
    return values * share + values[mix[:, 1].argsort()] * (1 - share)
