"""Outputs of video encoders that give tokens on a grid."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from video_ssl.models.contract import CLIP, MOMENTS, TOKENS
from video_ssl.models.networks.layers import spatial_cells
from video_ssl.models.torch_encoder import TorchEncoder


class TokenFeatures(TorchEncoder):
    """All outputs are made of the `tokens` (B, L, D) and their `grid`: "moments" are the means of the tokens of each,
    "clip" is the mean of the moments.  They are taken after the final norm; the class token takes no part.
    """

    output_names = (CLIP, MOMENTS, TOKENS)
    #: Class tokens.
    num_prefix = 0

    def tokens(self, video: Tensor, *, keep: Tensor | None = None) -> Tensor:
        """Returns (B, L, D), or (B, K, D) for the tokens in `keep` (int64 (B, K))."""
        raise NotImplementedError

    def grid(self, video: Tensor) -> tuple[int, int, int]:
        """Returns (T', h, w) of the tokens of a video (B, C, T, H, W)."""
        raise NotImplementedError

    def clip_features(self, video: Tensor) -> Tensor:
        """Returns (B, D): the mean over all tokens."""
        self.check_input(video)
        return self.tokens(video).mean(1)

    def layer_outputs(self, video: Tensor, layer: int | None = None) -> tuple[Tensor, Tensor]:
        """Returns class tokens (B, P, D) and all other tokens (B, L, D) behind block `layer` without the final norm, or
        as the encoder gives them where `layer` is None.

        P is 0 without a class token, 1 for a clip, T where every frame has one.
        """
        assert layer is None, "encoders with blocks know more"
        tokens = self.tokens(video)
        return tokens[:, :0], tokens

    @property
    def poolings(self) -> tuple[str, ...]:
        """What the clip feature may be made of."""
        return ("mean", "max", "cls") if self.num_prefix else ("mean", "max")

    def outputs(
        self,
        inputs: Tensor,
        names: Sequence[str],
        *,
        cells: int = 1,
        layer: int | None = None,
        pooling: str = "mean",
    ) -> dict[str, Tensor]:
        """Returns the outputs of these names of one forward pass.

        Args:
            inputs: a video, normalised, (B, C, T, H, W).
            names: of "clip" (B, D'), "moments" (B, T', D') and "tokens" (B, L, D).
            cells: D' = cells * cells * D: the means of cells x cells parts of the frame, side by side.
            layer: block whose output is taken, without the final norm; None = the encoder's output.
            pooling: of the clip feature: "mean" or "max" over the tokens, or "cls", the class token (of image encoders
                the mean of those of the frames, which then are the moments too).
        """
        self.check_outputs(names, layer=layer, pooling=pooling)
        self.check_input(inputs)
        prefix, tokens = self.layer_outputs(inputs, layer)
        return self.outputs_of_tokens(
            prefix, tokens, self.grid(inputs), names, cells=cells, pooling=pooling
        )

    def outputs_of_tokens(
        self,
        prefix: Tensor,
        tokens: Tensor,
        grid: tuple[int, int, int],
        names: Sequence[str],
        *,
        cells: int,
        pooling: str,
    ) -> dict[str, Tensor]:
        """Returns the outputs of class tokens (B, P, D) and tokens (B, L, D) on a grid; names and settings as in
        `outputs`."""
        found = {TOKENS: tokens}
        if CLIP in names or MOMENTS in names:
            moments = spatial_cells(tokens.unflatten(1, grid), cells)
            if pooling == "cls" and self.frames_stand_alone:
                moments = prefix
            found[MOMENTS] = moments
            if pooling == "max":
                found[CLIP] = tokens.amax(1)
            else:
                found[CLIP] = prefix.mean(1) if pooling == "cls" else moments.mean(1)
        return {name: found[name] for name in names}

    def output_dim(self, name: str, *, cells: int = 1, layer: int | None = None) -> int:
        """Returns the width of an output."""
        return super().output_dim(name, layer=layer) * (1 if name == TOKENS else cells * cells)

    def token_grid(self, shape: Sequence[int], *, layer: int | None = None) -> tuple[int, int, int]:
        """Returns the (t, h, w) of the tokens of a clip of shape (T, H, W, 3)."""
        return self.grid(empty_video(shape))


def empty_video(shape: Sequence[int]) -> Tensor:
    """Returns a tensor without content for a clip of shape (T, H, W, C), as networks take it: (1, C, T, H, W)."""
    t, h, w, c = shape
    return torch.empty(1, c, t, h, w, device="meta")


class MapFeatures(TokenFeatures):
    """The same of a convolutional encoder: the tokens are the cells of its feature map, (B, D, T', h, w)."""

    config: Any

    @property
    def num_frames(self) -> int:
        """Frames of the clips that it is made for."""
        assert self.config.num_frames is not None
        return int(self.config.num_frames)

    def tokens(self, video: Tensor, *, keep: Tensor | None = None) -> Tensor:
        """Returns (B, T'*h*w, D).

        Raises:
            ValueError: `keep`, as a convolution cannot leave out parts of its input.
        """
        if keep is not None:
            raise ValueError(
                "a convolutional encoder sees all of a clip: it cannot keep only some tokens."
            )
        cells: Tensor = self(video)
        return cells.flatten(2).transpose(1, 2)


def tubelet_middles(num_frames: int, tubelet_size: int) -> np.ndarray:
    """Returns float64 (T',): the middle of every tubelet, in frames of the clip.

    Raises:
        ValueError: the frames are no multiple of it.

    >>> tubelet_middles(4, 2).tolist()
    [0.5, 2.5]
    """
    if num_frames % tubelet_size:
        raise ValueError(
            f"num_frames={num_frames} is not a multiple of tubelet_size={tubelet_size}."
        )
    return (
        np.arange(num_frames // tubelet_size, dtype=np.float64) * tubelet_size
        + (tubelet_size - 1) / 2
    )
