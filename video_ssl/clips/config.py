"""Settings of the clips room that objectives share: which frames, which crop, which tokens are hidden.

Free of torch and jax: plans in data workers read these.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class ClipConfig:
    """Which frames of a video make one clip.

    Attributes:
        num_frames: frames per clip.
        frame_stride: source frames between two sampled ones.
        fps: target rate; when given, frames are chosen by time at `fps / frame_stride` frames a second, so that
            videos of different rates show the same duration. None counts frames, as the references do.
        sampling: "constant" keeps the stride exact; "reference" is VideoMAE's pre-training rule with its treatment
            of short videos.
        short_video: "constant": what fills a clip that a video is too short for. "repeat_last" repeats the last frame
            reached, "wrap" starts the clip again, "error" refuses the video.
        num_clips: clips per record and visit (`num_sample` of VideoMAE and MVD); they become the V axis of a batch.
    """

    num_frames: int = 16
    frame_stride: int = 4
    fps: float | None = None
    sampling: Literal["constant", "reference"] = "constant"
    short_video: Literal["repeat_last", "wrap", "error"] = "repeat_last"
    num_clips: int = 1

    def __post_init__(self) -> None:
        for name in ("num_frames", "frame_stride", "num_clips"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1.")
        if self.fps is not None and self.fps <= 0:
            raise ValueError(f"fps={self.fps} must be positive, or null to count frames.")
        if self.sampling == "reference" and self.short_video != "repeat_last":
            raise ValueError(
                f"short_video={self.short_video!r} goes with sampling='constant': the rule of sampling='reference' "
                "always repeats the last frame reached."
            )


@dataclass(frozen=True, kw_only=True)
class CropConfig:
    """Which region of the frames is shown, and at which size.  One region per clip, all frames alike.

    Attributes:
        kind: "multi_scale" is the multi-scale corner crop of VideoMAE and MVD, "random_resized" draws area and
            aspect ratio, "center" is the central square of the short side.
        size: side of the square output in pixels.
        scales: "multi_scale": shares of the short side from which width and height are drawn.
        max_distort: "multi_scale": width and height are at most this many scales apart.
        area: "random_resized": bounds of the share of the area.
        aspect: "random_resized": bounds of width / height, drawn log-uniformly.
        flip_probability: horizontal mirror; 0 for the references of VideoMAE and MVD.
    """

    kind: Literal["multi_scale", "random_resized", "center"] = "multi_scale"
    size: int = 224
    scales: tuple[float, ...] = (1.0, 0.875, 0.75, 0.66)
    max_distort: int = 1
    area: tuple[float, float] = (0.2, 1.0)
    aspect: tuple[float, float] = (3 / 4, 4 / 3)
    flip_probability: float = 0.0

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"size={self.size} must be at least 1 pixel.")
        if not self.scales or not all(0 < scale <= 1 for scale in self.scales):
            raise ValueError(f"scales={self.scales} must be one or more shares in (0, 1].")
        for name, (low, high) in {"area": self.area, "aspect": self.aspect}.items():
            if not 0 < low <= high:
                raise ValueError(f"{name}={(low, high)} must be (low, high) with 0 < low <= high.")
        if self.area[1] > 1:
            raise ValueError(f"area={self.area} must not exceed 1, the whole frame.")
        if not 0 <= self.flip_probability <= 1:
            raise ValueError(f"flip_probability={self.flip_probability} must lie in [0, 1].")


@dataclass(frozen=True, kw_only=True)
class MaskConfig:
    """Which tokens are hidden.  Every mask of one setting hides the same number, so batches stay rectangular.

    Attributes:
        kind: "tube" hides the same positions in every tubelet, "random" anywhere in the clip, "running_cell" is the
            decoder mask of VideoMAE V2 (a 2x2 cell whose hidden part moves with time).
        ratio: share of tokens hidden.
    """

    kind: Literal["tube", "random", "running_cell"] = "tube"
    ratio: float = 0.9

    def __post_init__(self) -> None:
        if not 0 < self.ratio < 1:
            raise ValueError(f"ratio={self.ratio} must lie strictly between 0 and 1.")

    def num_masked(self, grid: tuple[int, int, int]) -> int:
        """Returns how many of the t * h * w tokens of `grid` are hidden (True in the mask).

        >>> MaskConfig(kind="tube", ratio=0.9).num_masked((8, 14, 14))
        1408
        >>> MaskConfig(kind="random", ratio=0.9).num_masked((8, 14, 14))
        1411

        Raises:
            ValueError: nothing or everything would be hidden; a running cell on an odd grid.
        """
        t, h, w = grid
        if self.kind == "running_cell":
            if h % 2 or w % 2:
                raise ValueError(
                    f"a running-cell mask tiles 2x2 cells, but the grid is {h}x{w}: choose a frame size and a patch "
                    "size whose grid is even."
                )
            count = t * (h * w // 4) * int(4 * self.ratio)
        else:
            count = (
                t * int(self.ratio * h * w) if self.kind == "tube" else int(self.ratio * t * h * w)
            )
        if not 0 < count < t * h * w:
            raise ValueError(
                f"mask.ratio={self.ratio} ({self.kind}) hides {count} of {t * h * w} tokens of the grid {t}x{h}x{w}: "
                "some must be hidden and some visible. Change the ratio, or use more tokens."
            )
        return count
