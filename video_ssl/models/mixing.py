"""Mixup and CutMix on the device: what `video_ssl.clips.mixing` has drawn for a batch, applied in torch."""

from __future__ import annotations

import torch
from torch import Tensor

from video_ssl.clips.mixing import Mix


def mix_videos(video: Tensor, mix: Mix) -> Tensor:
    """Returns clips (N, C, T, H, W) mixed with those at the other end of the batch; the input is left alone.

    Args:
        video: float; N must be even, or the clip in the middle would be mixed with itself.
        mix: of the batch.

    Raises:
        ValueError: an odd batch.
    """
    if len(video) % 2:
        raise ValueError(
            f"a batch of {len(video)} clips cannot be mixed in pairs: choose an even batch size."
        )
    other = video.flip(0)
    if mix.box is None:
        return video * mix.lam + other * (1 - mix.lam)
    top, bottom, left, right = mix.box
    first, second = slice(top, bottom), slice(left, right)
    place = (
        (..., first, second) if mix.cut == "space" else (slice(None), slice(None), first, second)
    )
    mixed = video.clone()
    mixed[place] = other[place]
    return mixed


def mix_labels(
    label: Tensor, num_classes: int, mix: Mix, *, label_smoothing: float = 0.0
) -> Tensor:
    """Returns the targets float32 (N, K) of a mixed batch with labels int64 (N,); rows sum to 1.

    Smoothing gives every class label_smoothing / K and the rest to the own one, before the two are mixed.
    """
    low = label_smoothing / num_classes
    own = torch.full((len(label), num_classes), low, device=label.device)
    own.scatter_(1, label[:, None], 1 - label_smoothing + low)
    return own * mix.lam + own.flip(0) * (1 - mix.lam)
