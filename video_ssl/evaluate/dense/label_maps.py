"""Between masks at the size of a video and label maps on the grid of an encoder, as the published protocols have it.

Source: papers/frozen_protocols.md sections 3.1 and 3.2.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike, NDArray
from PIL import Image

Floats = NDArray[np.float32]

#: How DINO's protocol normalises pixels (its deviations are not quite ImageNet's).
DINO_MEAN = (0.485, 0.456, 0.406)
DINO_STD = (0.228, 0.224, 0.225)


def map_of_mask(
    mask: ArrayLike, size: tuple[int, int], grid: tuple[int, int]
) -> tuple[Floats, NDArray[np.int64]]:
    """Returns the label map of a mask, float32 (h, w, K), and the K labels that are in it, int64 (K,), in order.

    Nearest (index floor(i n / m)) to the `size` (H, W) that the encoder sees, one channel a label, then bilinear
    without averaging to the `grid` (h, w).

    Args:
        mask: int (H0, W0).
    """
    given = np.asarray(mask)
    rows, columns = (np.arange(m) * n // m for n, m in zip(given.shape, size, strict=True))
    seen = given[rows][:, columns]
    labels = np.unique(given).astype(np.int64)
    planes = torch.from_numpy((seen[None] == labels[:, None, None]).astype(np.float32))
    small = F.interpolate(planes[None], size=grid, mode="bilinear", align_corners=False)[0]
    return small.permute(1, 2, 0).numpy(), labels


def masks_of_maps(
    soft: ArrayLike, labels: ArrayLike, size: tuple[int, int], original: tuple[int, int]
) -> NDArray[np.int64]:
    """Returns the masks of label maps, int64 (T, H0, W0): bilinear to `size`, the largest, nearest to `original`.

    Args:
        soft: float (T, h, w, K).
        labels: int (K,) that the channels stand for.
        size: (H, W) that the encoder has seen.
        original: (H0, W0) of the masks.
    """
    rows, columns = (_nearest_exact(n, m) for n, m in zip(size, original, strict=True))
    names, found = np.asarray(labels, np.int64), []
    for own in torch.from_numpy(np.asarray(soft, np.float32)):
        planes = own.permute(2, 0, 1)[None]
        large = F.interpolate(planes, size=size, mode="bilinear", align_corners=False)[0]
        found.append(names[large.argmax(0).numpy()][rows][:, columns])
    return np.stack(found)


def _nearest_exact(n: int, m: int) -> NDArray[np.int64]:
    """Which of n pixels each of m shows, in OpenCV 4's whole numbers."""
    factor = ((n << 16) + m // 2) // m
    return (factor * np.arange(m, dtype=np.int64) + factor // 2 - n % 2) >> 16


# DINO ---------------------------------------------------------------------------------------------


def dino_size(height: int, width: int) -> tuple[int, int]:
    """Returns the size (height, width) that DINO shows a frame at: short side 480, the other in proportion, cut to a
    multiple of 64 (of a square frame the width is).

    >>> dino_size(480, 854), dino_size(480, 480)
    ((480, 832), (480, 448))
    """
    short, unit = 480, 64
    if height > width:
        return int(short * (height / width) // unit * unit), short
    return short, int(short * (width / height) // unit * unit)


def dino_map_of_mask(mask: ArrayLike, grid: tuple[int, int]) -> Floats:
    """Returns float32 (h, w, K): Pillow's nearest to the grid, a channel for each id up to the largest left there.

    An object with the highest id that vanishes on the grid is lost, as in the reference.
    """
    image = Image.fromarray(np.asarray(mask, np.uint8))
    small = np.asarray(image.resize(grid[::-1], Image.Resampling.NEAREST))
    return (small[..., None] == np.arange(small.max() + 1)).astype(np.float32)


def dino_masks_of_maps(
    soft: ArrayLike, patch_size: int, original: tuple[int, int]
) -> NDArray[np.int64]:
    """Returns int64 (T, H0, W0): bilinear by `patch_size`, each channel stretched to 0..1 over the frame unless it is
    nowhere above 0, the largest, Pillow's nearest to `original`."""
    found = []
    for own in torch.from_numpy(np.asarray(soft, np.float32)):
        planes = own.permute(2, 0, 1)[None]
        large = F.interpolate(
            planes, scale_factor=patch_size, mode="bilinear", align_corners=False
        )[0]
        top, low = large.amax((1, 2), keepdim=True), large.amin((1, 2), keepdim=True)
        stretched = (large - low) / (top - low).clamp_min(1e-30)
        best = torch.where(top > 0, stretched, large).argmax(0).numpy().astype(np.uint8)
        image = Image.fromarray(best)
        found.append(np.asarray(image.resize(original[::-1], Image.Resampling.NEAREST)))
    return np.stack(found).astype(np.int64)


# Tubelets -----------------------------------------------------------------------------------------


def frames_of_tubelets(
    tokens: ArrayLike, num_frames: int, window: int, *, cubic: bool = False
) -> NDArray[np.floating]:
    """Returns a feature map for every frame, (num_frames, h, w, C), of encoders whose tokens span several frames.

    Args:
        tokens: float (windows, n, h, w, C): windows of `window` frames, one after the other.
        num_frames: of the video; the last window may be longer than what is left.
        window: frames of a window.
        cubic: weights of a cubic (a = -0.5) in place of linear ones; beyond a window there is nothing.
    """
    given = np.asarray(tokens)
    weights = _resizing(given.shape[1], window, cubic=cubic).astype(given.dtype)
    frames = np.einsum("fn,wnhxc->wfhxc", weights, given)
    found: NDArray[np.floating] = frames.reshape(-1, *given.shape[2:])[:num_frames]
    return found


def _resizing(n: int, wanted: int, *, cubic: bool) -> NDArray[np.float64]:
    """The share of each of n moments in each of `wanted` frames, (wanted, n); rows sum to 1."""
    place = (np.arange(wanted) + 0.5) * n / wanted - 0.5
    x = np.abs(place[:, None] - np.arange(n))
    if cubic:
        near, far = (1.5 * x - 2.5) * x * x + 1, ((-0.5 * x + 2.5) * x - 4) * x + 2
        share = np.where(x <= 1, near, np.where(x < 2, far, 0.0))
    else:
        share = np.maximum(1 - x, 0)
    weights: NDArray[np.float64] = share / share.sum(1, keepdims=True)
    return weights
