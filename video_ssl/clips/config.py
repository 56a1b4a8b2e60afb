"""Settings of the clips room that objectives share: which frames, which crop, which tokens are hidden.

Free of torch and jax: plans in data workers read these.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

Sampling = Literal[
    "constant",
    "reference",
    "dense",
    "segments",
    "segments_videomae",
    "seconds",
    "looped",
    "dmvr",
    "parts",
]


@dataclass(frozen=True)
class ClipLength:
    """How much of a video a clip spans, from its first frame to its last.

    Attributes:
        frames: as many source frames, where `seconds` is None.
        seconds: or this long, at any rate.
    """

    frames: int = 1
    seconds: float | None = None

    def fits(self, num_frames: int, fps: float) -> bool:
        """Returns whether a video of so many frames at this rate is long enough."""
        needed = self.frames if self.seconds is None else math.floor(self.seconds * fps)
        return num_frames >= needed

    def __str__(self) -> str:
        return f"{self.frames} frames" if self.seconds is None else f"{self.seconds:.3g} s"


@dataclass(frozen=True, kw_only=True)
class ClipConfig:
    """Which frames of a video make one clip.

    Attributes:
        num_frames: frames per clip.
        frame_stride: source frames between two sampled ones.
        fps: target rate; when given, frames are chosen by time at `fps / frame_stride` frames a second, so that
            videos of different rates show the same duration. None counts frames, as the references do.
        sampling: "constant" keeps the stride exact; "reference" is VideoMAE's pre-training rule with its treatment
            of short videos, "dense" its rule for fine-tuning; "segments" shows the whole video, one frame from each of
            `num_frames` parts (MVD's rule on Something-Something), "segments_videomae" is VideoMAE's version of it,
            which never sees the end; "seconds" is HiCo's rule: num_frames * frame_stride / fps seconds (fps 30 unless
            set), spread over the frames of the file; "looped" is mmaction's (BEVT, Video Swin) and "dmvr" VATT's:
            exact stride, a short video begins again; "parts" is the rule of V-JEPA's probes, each of `num_clips` from
            its own part of the video.  docs/sampling.md compares them.
        short_video: "constant": what fills a clip that a video is too short for. "repeat_last" repeats the last frame
            reached, "wrap" starts the clip again, "error" refuses the video.
        num_clips: clips per record and visit (`num_sample` of MVD's pre-training): each from its own part of the video
            with "constant", "reference" and "parts", else each from the whole.
        views_per_clip: views of each clip with their own region, mirror and color (repeated augmentation, `num_sample`
            of VideoMAE's fine-tuning): decoded once.  The V axis of a batch has num_clips * views_per_clip views, those
            of a clip side by side.
        shuffle_frames: the frames of every view come in an order of their own, drawn at random: what is learned then
            owes nothing to their order.  A control (does time matter?), not a method; the exported encoder is given
            shuffled clips too.
    """

    num_frames: int = 16
    frame_stride: int = 4
    fps: float | None = None
    sampling: Sampling = "constant"
    short_video: Literal["repeat_last", "wrap", "error"] = "repeat_last"
    num_clips: int = 1
    views_per_clip: int = 1
    shuffle_frames: bool = False

    def __post_init__(self) -> None:
        for name in ("num_frames", "frame_stride", "num_clips", "views_per_clip"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1.")
        if self.fps is not None and self.fps <= 0:
            raise ValueError(f"fps={self.fps} must be positive, or null to count frames.")
        if self.sampling != "constant" and self.short_video != "repeat_last":
            raise ValueError(
                f"short_video={self.short_video!r} goes with sampling='constant': the rule of sampling="
                f"{self.sampling!r} has its own way with short videos."
            )

    @property
    def num_views(self) -> int:
        """V: views that a record gives."""
        return self.num_clips * self.views_per_clip

    @property
    def length(self) -> ClipLength | None:
        """What a clip spans; None where it is spread over the whole of any video."""
        if self.sampling in ("segments", "segments_videomae"):
            return None
        span = (self.num_frames - 1) * self.frame_stride + 1  # from the first frame to the last
        if self.fps is None and self.sampling != "seconds":
            return ClipLength(span)
        return ClipLength(seconds=span / (self.fps or 30.0))


@dataclass(frozen=True, kw_only=True)
class CropConfig:
    """Which region of the frames is shown, and at which size.  One region per clip, all frames alike.

    Attributes:
        kind: "multi_scale" is the multi-scale corner crop of VideoMAE and MVD, "random_resized" draws area and
            aspect ratio, "height_first" aspect ratio and height (TensorFlow's law: CVRL, TeG, VATT), "center" is the
            central square of the short side, "whole" all of the frame, squeezed into a square (TCC, TCN), "short_side"
            a square at a random place, as large as `size` pixels are in a frame whose short side has a random whole
            number of pixels (BEVT: 256 to 320, `scales` of 0.7 and 0.875), "vgg" the largest square of a frame that is
            stretched in height and width, each by 0.8 to 1.2, in four of five views (the default of VATT's code).
        size: side of the square output in pixels.
        scales: "multi_scale": shares of the short side from which width and height are drawn; "short_side": bounds of
            the share that the square has of it.
        max_distort: "multi_scale": width and height are at most this many scales apart.
        area: "random_resized", "height_first": bounds of the share of the area.
        aspect: the same: bounds of width / height, drawn log-uniformly ("height_first": uniformly).
        flip_probability: horizontal mirror; 0 for the references of VideoMAE and MVD.  A table whose metadata say
            `no_flip` wins.
        resize: "decoder" crops, scales and converts while decoding (libswscale, bilinear with averaging): on average
            within 3 grey levels of "pillow", which converts whole frames and scales with Pillow as the references do,
            and takes 4 times as long or more.  "tensorflow" converts whole frames too and scales them without
            averaging, as CVRL, TeG, ConST-CL and VATT do.
    """

    kind: Literal[
        "multi_scale", "random_resized", "height_first", "center", "whole", "short_side", "vgg"
    ] = "multi_scale"
    size: int = 224
    scales: tuple[float, ...] = (1.0, 0.875, 0.75, 0.66)
    max_distort: int = 1
    area: tuple[float, float] = (0.2, 1.0)
    aspect: tuple[float, float] = (3 / 4, 4 / 3)
    flip_probability: float = 0.0
    resize: Literal["decoder", "pillow", "tensorflow"] = "decoder"

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"size={self.size} must be at least 1 pixel.")
        if not self.scales or not all(0 < scale <= 1 for scale in self.scales):
            raise ValueError(f"scales={self.scales} must be one or more shares in (0, 1].")
        for name, (low, high) in {"area": self.area, "aspect": self.aspect}.items():
            if not 0 < low <= high:
                raise ValueError(f"{name}={(low, high)} must be (low, high) with 0 < low <= high.")
        if self.kind == "short_side" and (len(self.scales) != 2 or self.scales[0] > self.scales[1]):
            raise ValueError(
                f"scales={self.scales} of kind='short_side' must be (low, high): shares of the short side."
            )
        if self.area[1] > 1:
            raise ValueError(f"area={self.area} must not exceed 1, the whole frame.")
        if not 0 <= self.flip_probability <= 1:
            raise ValueError(f"flip_probability={self.flip_probability} must lie in [0, 1].")


#: law -> settings that it fills; those that are not named are 0.
_JITTER = {"probability": 0.8, "brightness": 0.8, "contrast": 0.8, "saturation": 0.8, "hue": 0.2}
COLOR_PRESETS: dict[str, dict[str, Any]] = {
    "hico": {**_JITTER, "grey_probability": 0.2},
    "hico_finetune": {
        "probability": 1.0,
        "brightness": 0.5,
        "contrast": 0.5,
        "saturation": 0.5,
        "hue": 0.25,
        "grey_first_probability": 0.3,
    },
    "simclr": {**_JITTER, "grey_probability": 0.2, "blur_probability": 0.5},
    "carl": {**_JITTER, "grey_probability": 0.2, "blur_each_probability": 0.5},
    "tcc": {"probability": 1.0, "brightness": 32 / 255, "contrast": 0.5, "order": (0, 1, 2, 3)},
    "cvrl": {**_JITTER, "grey_probability": 0.2, "blur_probability": 1.0},
    "cvrl_second": {
        **_JITTER,
        "grey_probability": 0.2,
        "blur_probability": 0.1,
        "solarize_probability": 0.2,
    },
    "bevt": {"probability": 1.0, "brightness": 0.4, "contrast": 0.4, "saturation": 0.4},
    "vatt": {
        "probability": 0.8,
        "contrast": 0.4,
        "saturation": 0.4,
        "hue": 0.2,
        "offset": 32 / 255,
        "order": (0, 2, 1, 3),
    },
}
_COLOR_SETTINGS = (
    *("probability", "brightness", "contrast", "saturation", "hue", "offset"),
    *("grey_probability", "grey_first_probability"),
    *("blur_probability", "blur_each_probability", "solarize_probability"),
)


@dataclass(frozen=True, kw_only=True)
class ColorConfig:
    """How the colors of a view change, the same for all its frames.  Empty settings are those of the law.

    Attributes:
        law: whose operations and defaults: "hico" and "hico_finetune", "simclr", "carl" (a blur after each jitter),
            "tcc" (some brightness, then contrast), "cvrl" and "cvrl_second" (first and second view), "vatt", "bevt";
            see `video_ssl.clips.color_changes`.
        probability: of the jitter as a whole.
        brightness, contrast, saturation: the factor is uniform in [max(0, 1 - value), 1 + value].
        hue: the shift is uniform in [-value, value], in turns, at most 0.5.
        offset: added to all colors, uniform in [-value, value].
        order: of the jitters, 0 brightness, 1 contrast, 2 saturation, 3 hue; empty = the law's, or random.
        grey_probability: the view loses its color, after the jitter.
        grey_first_probability: before it.
        blur_probability: of a Gaussian blur at the end.
        blur_each_probability: of one after each jitter, if there is jitter.
        blur_sigma: bounds of its sigma in pixels.
        solarize_probability: bright pixels are inverted.
    """

    law: Literal[
        "hico", "hico_finetune", "simclr", "carl", "tcc", "cvrl", "cvrl_second", "vatt", "bevt"
    ] = "hico"
    probability: float | None = None
    brightness: float | None = None
    contrast: float | None = None
    saturation: float | None = None
    hue: float | None = None
    offset: float | None = None
    order: tuple[int, int, int, int] | None = None
    grey_probability: float | None = None
    grey_first_probability: float | None = None
    blur_probability: float | None = None
    blur_each_probability: float | None = None
    blur_sigma: tuple[float, float] = (0.1, 2.0)
    solarize_probability: float | None = None

    def __post_init__(self) -> None:
        if self.law not in COLOR_PRESETS:
            raise ValueError(f"law={self.law!r} must be one of {list(COLOR_PRESETS)}.")
        preset = COLOR_PRESETS[self.law]
        for name in _COLOR_SETTINGS:
            if getattr(self, name) is None:
                object.__setattr__(self, name, preset.get(name, 0.0))
            value = getattr(self, name)
            if value < 0 or (name.endswith("probability") and value > 1):
                bound = "lie in [0, 1]" if name.endswith("probability") else "not be negative"
                raise ValueError(f"{name}={value} must {bound}.")
        if self.order is None:
            object.__setattr__(self, "order", preset.get("order"))
        if self.order is not None and sorted(self.order) != [0, 1, 2, 3]:
            raise ValueError(
                f"order={tuple(self.order)} must hold 0 (brightness), 1 (contrast), 2 (saturation) and 3 (hue)."
            )
        if self.hue is not None and self.hue > 0.5:
            raise ValueError(f"hue={self.hue} must be at most 0.5, half a turn.")
        if not 0 < self.blur_sigma[0] <= self.blur_sigma[1]:
            raise ValueError(
                f"blur_sigma={self.blur_sigma} must be (low, high) with 0 < low <= high."
            )

    def setting(self, name: str) -> float:
        """Returns a number by its name; none is empty any more."""
        value = getattr(self, name)
        assert isinstance(value, (int, float))
        return float(value)


@dataclass(frozen=True, kw_only=True)
class MaskConfig:
    """Which tokens are hidden.  Every mask of one setting hides the same number, so batches stay rectangular.

    Attributes:
        kind: "tube" hides the same positions in every tubelet, "random" anywhere in the clip, "running_cell" is the
            decoder mask of VideoMAE V2 (a 2x2 cell whose hidden part moves with time); "cube" (cuboids of a clip) and
            "block" (rectangles, the same in every tubelet; over a picture BEiT's) are those of MaskFeat.
        ratio: share of tokens hidden.
        rounding: which count of "tube" and "random" is rounded down where the ratio does not divide: of the "hidden"
            tokens (VideoMAE, MVD) or of the "visible" ones (MAE). Empty = the objective's own rule.
        cell: side of the squares of tokens that "cube" and "block" hide as one; MaskFeat's clips of 14 x 14 tokens have
            cell 2.
    """

    kind: Literal["tube", "random", "running_cell", "cube", "block"] = "tube"
    ratio: float = 0.9
    rounding: Literal["hidden", "visible"] | None = None
    cell: int = 1

    def __post_init__(self) -> None:
        if not 0 < self.ratio < 1:
            raise ValueError(f"ratio={self.ratio} must lie strictly between 0 and 1.")
        if self.cell < 1 or (self.cell > 1 and self.kind not in ("cube", "block")):
            raise ValueError(
                f"mask.cell={self.cell} with mask.kind={self.kind!r}: use 1, or kind cube or block with 1 or more."
            )

    def cells(self, grid: tuple[int, int, int]) -> tuple[int, int, int]:
        """Returns how many cells a grid of tokens has along time, rows and columns.

        Raises:
            ValueError: it does not divide into cells.
        """
        t, h, w = grid
        if h % self.cell or w % self.cell:
            raise ValueError(
                f"mask.cell={self.cell} does not divide the grid of {h}x{w} tokens: use a divisor of both, or 1."
            )
        return t, h // self.cell, w // self.cell

    def num_masked_cells(self, grid: tuple[int, int, int]) -> int:
        """Returns how many cells of `grid` "cube" hides, or how many of a moment "block".

        >>> MaskConfig(kind="cube", ratio=0.4, cell=2).num_masked_cells((8, 14, 14))
        157
        """
        t, h, w = self.cells(grid)
        return round(self.ratio * (t * h * w if self.kind == "cube" else h * w))

    def num_masked(self, grid: tuple[int, int, int]) -> int:
        """Returns how many of the t * h * w tokens of `grid` are hidden (True in the mask).

        >>> MaskConfig(kind="tube", ratio=0.9).num_masked((8, 14, 14))
        1408
        >>> MaskConfig(kind="random", ratio=0.9).num_masked((8, 14, 14))
        1411
        >>> MaskConfig(kind="random", ratio=0.75, rounding="visible").num_masked((1, 3, 3))
        7

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
        elif self.kind in ("cube", "block"):
            moments = t if self.kind == "block" else 1
            count = moments * self.num_masked_cells(grid) * self.cell**2
        else:
            count = (
                t * self._hidden_of(h * w) if self.kind == "tube" else self._hidden_of(t * h * w)
            )
        if not 0 < count < t * h * w:
            raise ValueError(
                f"mask.ratio={self.ratio} ({self.kind}) hides {count} of {t * h * w} tokens of the grid {t}x{h}x{w}: "
                "some must be hidden and some visible. Change the ratio, or use more tokens."
            )
        return count

    def _hidden_of(self, tokens: int) -> int:
        if self.rounding == "visible":
            return tokens - int(tokens * (1 - self.ratio))
        return int(self.ratio * tokens)
