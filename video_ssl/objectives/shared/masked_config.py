"""Settings that masked objectives share.  Free of torch."""

from __future__ import annotations

import math
from dataclasses import dataclass

from video_ssl.limits import check_sizes


@dataclass(frozen=True, kw_only=True)
class HogConfig:
    """Histograms of oriented gradients as targets (MaskFeat, arXiv:2112.09133).

    The defaults are those of every published run.

    Attributes:
        bins: of the angle, over half a turn.
        cell_px: side of a cell in pixels; a token's side must be a multiple of it.
        gaussian_window: gradients are weighted by a Gaussian over windows of this side in pixels, of which the frame's
            side must be a multiple; 0 = all weigh the same.
    """

    bins: int = 9
    cell_px: int = 8
    gaussian_window: int = 0

    def __post_init__(self) -> None:
        check_sizes(self, "hog")
        for name, least in (("bins", 2), ("cell_px", 1), ("gaussian_window", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"hog.{name}={getattr(self, name)} must be at least {least}.")
        if self.gaussian_window == 1:
            raise ValueError("hog.gaussian_window=1 has no width: use 0 (off) or at least 2.")

    def values_per_token(self, *, patch_size: int, frame_size: int) -> int:
        """Returns how many values the target of a token has: colors x bins x cells.

        >>> HogConfig().values_per_token(patch_size=16, frame_size=224)
        108

        Raises:
            ValueError: tokens do not divide into cells, or frames into windows.
        """
        if patch_size % self.cell_px:
            raise ValueError(
                f"target='hog' needs tokens that divide into cells, but encoder.patch_size={patch_size} is no "
                f"multiple of hog.cell_px={self.cell_px}: use "
                f"hog.cell_px={math.gcd(patch_size, self.cell_px)}, or other patches."
            )
        if self.gaussian_window and frame_size % self.gaussian_window:
            raise ValueError(
                f"hog.gaussian_window={self.gaussian_window} does not divide frames of crop.size={frame_size} pixels: "
                "use a divisor, or 0 for no window."
            )
        return 3 * self.bins * (patch_size // self.cell_px) ** 2


@dataclass(frozen=True, kw_only=True)
class VisibleLossConfig:
    """A loss at the visible tokens beside that at the hidden ones; see `VisibleLoss` for what is averaged over what.

    Attributes:
        visible_weight: factor of the loss at visible tokens; 0 = there is none, as in the papers of MAE, VideoMAE and
            MVD.
        visible_by_distance: a visible token counts by 1 / sqrt(its distance to the nearest hidden token) (V-JEPA 2.1).
        visible_warmup: shares of the training at which the factor begins to rise from 0, and at which it is
            `visible_weight`, linear between them (V-JEPA 2.1: steps 15,000 and 30,000); null = the whole factor from
            the first step.
    """

    visible_weight: float = 0.0
    visible_by_distance: bool = False
    visible_warmup: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.visible_weight < math.inf:
            raise ValueError(
                f"visible_weight={self.visible_weight} must be a number of at least 0; 0 = no loss at visible tokens."
            )
        if self.visible_warmup is not None and not (
            0 <= self.visible_warmup[0] < self.visible_warmup[1] <= 1
        ):
            raise ValueError(
                f"visible_warmup={list(self.visible_warmup)} must be two rising shares of the training in [0, 1], such "
                "as [0.1, 0.2], or null."
            )
        if not self.visible_weight and (self.visible_by_distance or self.visible_warmup):
            raise ValueError(
                "visible_by_distance and visible_warmup shape the loss at visible tokens, but visible_weight=0 leaves "
                "it out: set visible_weight, or leave them alone."
            )
