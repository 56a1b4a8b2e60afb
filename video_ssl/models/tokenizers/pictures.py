"""What tokenizers of pictures share as encoders of video: they see frames one by one."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from torch import Tensor

from video_ssl.models.contract import CLIP, MOMENTS, TOKENS
from video_ssl.models.networks.layers import spatial_cells
from video_ssl.models.networks.token_features import TokenFeatures
from video_ssl.models.tokenizers.contract import Tokenizer


class Trial(NamedTuple):
    """What a tokenizer that learns makes of pictures.

    Attributes:
        pictures: float (N, 3, S, S), not bounded: the pictures again, from their words.
        distance: 0-d, a further loss whose gradient moves the vectors: their mean squared distance to their words, or
            what the tokenizer has in its place.
        words: int64 (N, h, w).
        rows: (N * h * w, d), the vectors, without a graph.
    """

    pictures: Tensor
    distance: Tensor
    words: Tensor
    rows: Tensor


class PictureTokenizer(Tokenizer, TokenFeatures):
    """As an encoder its tokens are the vectors before they are told by words, (B, T * h * w, d)."""

    frames_stand_alone = True
    vocab_size: int

    def after_step(self, progress: float) -> None:
        """Is told after every step of its training what share of it is over; most have nothing to do then."""

    @abstractmethod
    def latents(self, pictures: Tensor) -> Tensor:
        """Returns vectors, (N, d, S / stride, S / stride), for pictures in [0, 1]."""

    def outputs(
        self,
        inputs: Tensor,
        names: Sequence[str],
        *,
        cells: int = 1,
        layer: int | None = None,
        pooling: str = "mean",
    ) -> dict[str, Tensor]:
        """Returns the outputs of these names, see `TokenFeatures`, of a video in [0, 1]."""
        self.check_outputs(names, layer=layer, pooling=pooling)
        frames = inputs.transpose(1, 2)
        vectors = self.latents(frames.flatten(0, 1)).movedim(1, -1)
        grid = vectors.unflatten(0, frames.shape[:2])
        tokens, moments = grid.flatten(1, 3), spatial_cells(grid, cells)
        clip = tokens.amax(1) if pooling == "max" else moments.mean(1)
        found = {TOKENS: tokens, MOMENTS: moments, CLIP: clip}
        return {name: found[name] for name in names}

    def tokens(self, video: Tensor, *, keep: Tensor | None = None) -> Tensor:
        if keep is not None:
            raise ValueError("a tokenizer sees all of a frame: it keeps all tokens.")
        return self.outputs(video, (TOKENS,))[TOKENS]

    def grid(self, video: Tensor) -> tuple[int, int, int]:
        t, h, w = video.shape[2:]
        return t, h // self.stride, w // self.stride

    def frame_positions(self, num_frames: int) -> np.ndarray:
        """Returns float64 (T,): every frame stands for itself."""
        return np.arange(num_frames, dtype=np.float64)
