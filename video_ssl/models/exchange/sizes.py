"""The clips that an imported encoder is for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from video_ssl.models.preprocess_config import VideoPreprocess


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """What clips an imported encoder is for, and what its positions were made for.

    Attributes:
        image_size: side of a clip in pixels; by default as trained.
        num_frames: of a clip; by default as trained.
        trained_size: side that the positions were made for; by default what the file shows, else 224.
        trained_frames: that the positions were made for; by default what the file shows, else 16.
        table: of positions at another size: "interpolate" keeps the trained ones and interpolates them, "recompute"
            evaluates the formula on the new grid, "reference" does what the model's own code does.  That of VideoMAE
            and MVD recomputes, MAE's interpolates, and so do encoders of ours that see other clips.  A learned table
            is always interpolated.
    """

    image_size: int | None = None
    num_frames: int | None = None
    trained_size: int | None = None
    trained_frames: int | None = None
    table: Literal["reference", "interpolate", "recompute"] = "reference"

    def keeps(self, positions: str) -> bool:
        """Returns whether a table of that kind is interpolated to other clips, not computed anew."""
        if positions == "learned" or self.table == "interpolate":
            return True
        return self.table == "reference" and positions == "sincos_2d"


def fitted(encoder: Any, preprocess: VideoPreprocess, sizes: Sizes) -> VideoPreprocess:
    """Returns the preprocessing for other clips.

    Raises:
        WeightsError: the network takes none of that size.
    """
    # Brings torch, and the command line reads this module for its help.
    from video_ssl.models.weights import WeightsError

    wanted = preprocess.with_sizes(sizes.image_size, sizes.num_frames)
    try:
        encoder.token_grid((wanted.num_frames, wanted.size, wanted.size, 3))
    except ValueError as err:
        raise WeightsError(str(err)) from err
    return wanted
