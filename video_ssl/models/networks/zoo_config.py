"""Settings of the video networks of pytorchvideo, free of torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

ZooName = Literal[
    "slow_r50",
    "c2d_r50",
    "i3d_r50",
    "slowfast_r50",
    "slowfast_r101",
    "r2plus1d_r50",
    "csn_r101",
    "x3d_xs",
    "x3d_s",
    "x3d_m",
    "x3d_l",
]


@dataclass(frozen=True)
class ZooModel:
    """What is known of a network.

    Attributes:
        width: of the features.
        num_frames, frame_stride, size: clips of the published weights (the names of the files, and the builder's crop);
            the number of frames and their distance in frames of a 30 fps video.
        time_stride: frames of a clip per moment of the features.
        time_offset: mean position of the frames of the first moment.
    """

    width: int
    num_frames: int
    frame_stride: int
    size: int
    time_stride: int = 1
    time_offset: float = 0.0


#: Mean and deviation of pixels, of all published weights.
ZOO_MEAN, ZOO_STD = (0.45,) * 3, (0.225,) * 3
#: Frames of the fast pathway per frame of the slow one.
SLOWFAST_ALPHA = 4

ZOO: dict[str, ZooModel] = {
    "slow_r50": ZooModel(2048, 8, 8, 224),
    "c2d_r50": ZooModel(2048, 8, 8, 224, 2, 0.5),  # a pool over pairs of frames
    "i3d_r50": ZooModel(2048, 8, 8, 224, 2, 0.5),
    "slowfast_r50": ZooModel(2048 + 256, 32, 2, 224, SLOWFAST_ALPHA),
    "slowfast_r101": ZooModel(2048 + 256, 32, 2, 224, SLOWFAST_ALPHA),
    "r2plus1d_r50": ZooModel(2048, 16, 4, 224, 4),
    "csn_r101": ZooModel(2048, 32, 2, 224, 8),
    "x3d_xs": ZooModel(192, 4, 12, 160),
    "x3d_s": ZooModel(192, 13, 6, 160),
    "x3d_m": ZooModel(192, 16, 5, 224),
    "x3d_l": ZooModel(192, 16, 5, 312),
}
assert set(ZOO) == set(get_args(ZooName))


@dataclass(frozen=True, kw_only=True)
class ZooConfig:
    """A network of pytorchvideo's model zoo without its head; needs `video_ssl[zoo]`.

    Attributes:
        model: its name there. x3d_xs, x3d_s and x3d_m are the same network for other clips.
        num_frames: of the clips that it is made for; empty = the clip of the objective.
    """

    architecture: Literal["zoo"] = "zoo"
    model: ZooName = "slow_r50"
    num_frames: int | None = None

    def __post_init__(self) -> None:
        if self.model not in ZOO:
            raise ValueError(f"model={self.model!r} must be one of {', '.join(ZOO)}.")
        least = ZOO[self.model].time_stride
        if self.num_frames is None:
            return
        if self.num_frames < least:
            raise ValueError(
                f"num_frames={self.num_frames} must be at least {least} for {self.model}."
            )
        if self.model.startswith("slowfast") and self.num_frames % SLOWFAST_ALPHA:
            raise ValueError(
                f"num_frames={self.num_frames} must be a multiple of {SLOWFAST_ALPHA}: {self.model} shows every "
                f"{SLOWFAST_ALPHA}th frame to its slow pathway."
            )

    @property
    def width(self) -> int:
        """Width of the features."""
        return ZOO[self.model].width
