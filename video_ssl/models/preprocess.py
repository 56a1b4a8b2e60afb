"""From decoded pixels to what a model reads, on the device of the pixels."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from torch import Tensor

from video_ssl.models.config import Normalization
from video_ssl.models.preprocess_config import Preprocess, VideoPreprocess


def tensor_of(array: np.ndarray) -> Tensor:
    """Returns a CPU tensor of an array; integers share its memory, numbers with a point are copied.

    A matrix product adds in an order that depends on where in memory its inputs begin, and numpy puts an array here or
    there: sound that went straight into a product gave other bits in every process.  Memory of torch begins alike.
    """
    tensor = torch.from_numpy(np.ascontiguousarray(array))
    return tensor.clone() if tensor.is_floating_point() else tensor


def to_pixels(video: Tensor) -> Tensor:
    """Returns float32 (N, C, T, H, W) in [0, 1] of uint8 (B, T, H, W, 3) or (B, V, T, H, W, 3).

    Views are folded into the batch, N = B or B * V, the views of a record side by side.

    Raises:
        ValueError: other dtypes or shapes.
    """
    return _clips(video).to(torch.float32).div_(255)


def _clips(video: Tensor) -> Tensor:
    """uint8 (N, C, T, H, W), a view."""
    if video.dtype != torch.uint8 or video.dim() not in (5, 6) or video.shape[-1] != 3:
        raise ValueError(
            f"video is {video.dtype} {tuple(video.shape)}, but must be uint8 (B, T, H, W, 3) or "
            "(B, V, T, H, W, 3)."
        )
    if video.dim() == 6:
        video = video.flatten(0, 1)
    return video.permute(0, 4, 1, 2, 3)


def normalize(pixels: Tensor, normalization: Normalization) -> Tensor:
    """Returns (pixels - mean) / std per color, for pixels (N, C, T, H, W) in [0, 1]."""
    if _in_place(pixels):
        return _written(pixels, normalization, divisor=None)
    # With python numbers, so that no constants travel to the device.
    parts = [
        (channel - mean) / std
        for channel, mean, std in zip(
            pixels.unbind(1), normalization.mean, normalization.std, strict=True
        )
    ]
    return torch.stack(parts, dim=1)


def to_model_input(video: Tensor, normalization: Normalization) -> Tensor:
    """Returns float32 (N, C, T, H, W), normalised, of uint8 (B, T, H, W, 3) or (B, V, T, H, W, 3)."""
    if _in_place(video):
        return _written(_clips(video), normalization, divisor=255)
    return normalize(to_pixels(video), normalization)


def _in_place(given: Tensor) -> bool:
    """Whether `_written` may be used: a GPU would run many small kernels, and a compiler makes one pass by itself."""
    return (
        given.device.type == "cpu" and not given.requires_grad and not torch.compiler.is_compiling()
    )


def _written(clips: Tensor, normalization: Normalization, *, divisor: int | None) -> Tensor:
    """Colors of clips (N, C, T, H, W), divided and normalised one by one where they will lie, while they are in the
    cache: a third of the time of passes over the whole batch, and the same bits."""
    dtype = torch.float32 if clips.dtype == torch.uint8 else clips.dtype
    found = torch.empty(clips.shape, dtype=dtype, device=clips.device)
    for own, given in zip(found, clips, strict=True):
        for channel, (mean, std) in enumerate(
            zip(normalization.mean, normalization.std, strict=True)
        ):
            part = own[channel].copy_(given[channel])
            if divisor is not None:
                part.div_(divisor)
            part.sub_(mean).div_(std)
    return found


def model_input(clips: Tensor, preprocess: Preprocess) -> Tensor:
    """Returns what an encoder takes of a batch of clips as they are read.

    Args:
        clips: video uint8 (B, T, H, W, 3), which becomes float32 (B, C, T, H, W), normalised; sound float32 (B, N) or
            text int64 (B, L), which stay as they are.
        preprocess: of the encoder.

    Raises:
        ValueError: another dtype or shape.
    """
    if isinstance(preprocess, VideoPreprocess):
        return to_model_input(clips, Normalization(mean=preprocess.mean, std=preprocess.std))
    dtype = torch.float32 if preprocess.modality == "sound" else torch.int64
    if clips.dtype != dtype or clips.dim() != 2:
        raise ValueError(
            f"{preprocess.modality} is {clips.dtype} {tuple(clips.shape)}, but must be {dtype} with two axes, a clip "
            "in each row."
        )
    return clips


def without_rectangles(
    video: Tensor, rectangles: Tensor, *, fill: Literal["mean", "noise"] = "mean"
) -> Tensor:
    """Returns clips (N, C, T, H, W) that show nothing within a rectangle of each.

    Args:
        video: normalised.
        rectangles: int64 (N, 4): first row, first column, rows, columns; without rows nothing is changed.
        fill: "mean" leaves 0 there, "noise" N(0, 1) of torch's generator, as dropout draws.
    """
    top, left, height, width = (x[:, None] for x in rectangles.unbind(1))
    rows = torch.arange(video.shape[3], device=video.device)[None]
    columns = torch.arange(video.shape[4], device=video.device)[None]
    inside_rows = (rows >= top) & (rows < top + height)
    inside_columns = (columns >= left) & (columns < left + width)
    inside = inside_rows[:, :, None] & inside_columns[:, None]
    gone = inside[:, None, None]
    return (
        video.masked_fill(gone, 0.0)
        if fill == "mean"
        else video.where(~gone, torch.randn_like(video))
    )
