"""Frame and clip features of encoders that give tokens on a grid."""

from __future__ import annotations

from torch import Tensor

from video_ssl.models.layers import spatial_cells


class TokenFeatures:
    """What an evaluator asks of an encoder, made of its `tokens` (B, L, D) and their `grid`.

    All features are means after the final norm; the class token takes no part.
    """

    embed_dim: int

    def tokens(self, video: Tensor, *, keep: Tensor | None = None) -> Tensor:
        """Returns (B, L, D), or (B, K, D) for the tokens in `keep` (int64 (B, K))."""
        raise NotImplementedError

    def grid(self, video: Tensor) -> tuple[int, int, int]:
        """Returns (T', h, w) of the tokens of a video (B, C, T, H, W)."""
        raise NotImplementedError

    def frame_features(self, video: Tensor) -> Tensor:
        """Returns (B, T', D): the mean over the tokens of each moment."""
        return self.features(video)[1]

    def clip_features(self, video: Tensor) -> Tensor:
        """Returns (B, D): the mean over all tokens."""
        return self.tokens(video).mean(1)

    def features(self, video: Tensor, cells: int = 1) -> tuple[Tensor, Tensor]:
        """Returns clip features (B, D') and frame features (B, T', D') of one forward pass.

        D' = `feature_dim(cells)`: the means of cells x cells parts of the frame, side by side.
        """
        frames = spatial_cells(self.tokens(video).unflatten(1, self.grid(video)), cells)
        return frames.mean(1), frames

    def feature_dim(self, cells: int = 1) -> int:
        """Returns the width of what `features` gives."""
        return cells * cells * self.embed_dim
