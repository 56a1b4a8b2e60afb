"""Frame and clip features of encoders that give tokens on a grid."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from video_ssl.models.networks.layers import spatial_cells


class TokenFeatures:
    """What an evaluator asks of an encoder, made of its `tokens` (B, L, D) and their `grid`.

    All features are means after the final norm; the class token takes no part.
    """

    embed_dim: int
    #: Class tokens.
    num_prefix = 0
    #: Whether the features of a frame depend on that frame alone.
    frames_stand_alone = False

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

    def layer_outputs(self, video: Tensor, layer: int | None = None) -> tuple[Tensor, Tensor]:
        """Returns class tokens (B, P, D) and all other tokens (B, L, D) behind block `layer` without the final norm, or
        as the encoder gives them where `layer` is None.

        P is 0 without a class token, 1 for a clip, T where every frame has one.
        """
        assert layer is None, "encoders with blocks know more"
        tokens = self.tokens(video)
        return tokens[:, :0], tokens

    def check_features(self, *, layer: int | None = None, pooling: str = "mean") -> None:
        """Raises ValueError for a block or a pooling that the encoder does not have."""
        depth = len(getattr(self, "blocks", ()))
        if layer is not None and not depth:
            raise ValueError(
                f"layer={layer}, but the encoder offers only its output: leave out layer."
            )
        if layer is not None and not -depth <= layer < depth:
            raise ValueError(
                f"layer={layer} of {depth} blocks: give 0 to {depth - 1}, or -1 for the last."
            )
        if pooling == "cls" and not self.num_prefix:
            raise ValueError("pooling='cls', but the encoder has no class token: use mean or max.")

    def features(
        self,
        video: Tensor,
        cells: int = 1,
        *,
        layer: int | None = None,
        pooling: str = "mean",
    ) -> tuple[Tensor, Tensor]:
        """Returns clip features (B, D') and frame features (B, T', D') of one forward pass.

        D' = `feature_dim(cells)`: the means of cells x cells parts of the frame, side by side.

        Args:
            video: normalised, (B, C, T, H, W).
            cells: see above.
            layer: block whose output is taken, without the final norm; None = the encoder's output.
            pooling: of the clip feature: "mean" or "max" over the tokens, or "cls", the class token (of image encoders
                the mean of those of the frames, which then are the frame features too).
        """
        self.check_features(layer=layer, pooling=pooling)
        prefix, tokens = self.layer_outputs(video, layer)
        frames = spatial_cells(tokens.unflatten(1, self.grid(video)), cells)
        if pooling == "max":
            return tokens.amax(1), frames
        if pooling == "cls":
            return prefix.mean(1), prefix if self.frames_stand_alone else frames
        return frames.mean(1), frames

    def feature_dim(self, cells: int = 1) -> int:
        """Returns the width of what `features` gives."""
        return cells * cells * self.embed_dim


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
        cells: Tensor = self(video)  # type: ignore[operator]
        return cells.flatten(2).transpose(1, 2)

    def check_features(self, *, layer: int | None = None, pooling: str = "mean") -> None:
        """Raises ValueError for any block, and for a pooling that the encoder does not have."""
        if layer is not None:
            raise ValueError(
                f"layer={layer}, but the encoder offers only its output: leave out layer."
            )
        super().check_features(pooling=pooling)
