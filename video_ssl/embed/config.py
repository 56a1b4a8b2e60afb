"""How videos become features: the settings of `video-ssl embed` and of the `embed` part of an evaluation recipe."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from video_ssl.clips.config import Sampling
from video_ssl.clips.windows import WindowConfig
from video_ssl.models.contract import CLIP, COMMON, MOMENTS
from video_ssl.recipes import to_plain


@dataclass(frozen=True, kw_only=True)
class EmbedConfig:
    """How videos become features.

    Attributes:
        num_clips: windows spread evenly over a video.
        hop: source frames between windows that cover all of a video; replaces num_clips.
        stride_sec: seconds between windows that cover all of a video; replaces num_clips.
        per_frame: a feature for every sampled frame of a video; replaces num_clips.
        overlap: of the windows of per_frame, a share from 0 to below 1.  By default 0.5, or 0 for encoders whose
            frame features do not depend on the other frames of the clip.
        num_frames: of a clip; by default what the encoder was made for.  Encoders of whole videos get windows with
            per_frame only where num_frames or overlap is given.
        frame_stride: source frames from one sampled frame to the next; by default the encoder's own.
        fps: sampled frames per second, chosen by time (with frame_stride: source frames per second); by default the
            encoder's own sampling.
        sampling: which test views num_clips means, see docs/sampling.md; by default those of the encoder's training.
        crop: the center, or num_crops squares along the longer side: spread from end to end, or even, in equal steps of
            whole pixels, as V-JEPA tests.
        center_share: side of the center crop as a share of the short side of the video.
        num_crops: of every window; each is a row of its own.
        layer: block whose output is taken, without the final norm, counted from 0, or from -1 = the last one; by
            default the encoder's output.
        pooling: what the clip feature is made of: the mean or maximum over all tokens, or the class token.
        cells: features are the means of cells x cells parts of the frame, side by side; 1 = of the whole frame, as
            usual for frozen ViTs; 2 keeps a trace of where things are.
        outputs: what is kept of what the encoder gives, with commas between: clip and vectors in spaces shared with
            sound and text (in any case), moments (the frame features), and where the encoder has them tokens (of
            patches, or cells of a feature map), which make files large.
        frames: keep the frame features; without them moments is taken out of outputs.
        tokens_dtype: in which tokens are stored.
        tokens_side: the means of so many parts of the frame in height and in width replace its tokens; by default all
            tokens are kept.
        tokens_every: of the moments of the tokens every so many-th is kept.
        precision: of the encoder's products; features are always stored as float32.
        batch_size: clips in one forward pass.
        num_workers: decoding processes; 0 decodes in this one.
        backend: decoder of the videos, or auto, see docs/decoding.md.
        video_timeout_sec: a video that takes longer to open, or for one frame, counts as unreadable; null
            in a recipe waits forever.
        strict: one unreadable video is an error.
        check: read videos in full to note what they hold, and compare it where their features are there already;
            otherwise sizes, times, beginnings and ends are compared.
    """

    num_clips: int = 2
    hop: int | None = None
    stride_sec: float | None = None
    per_frame: bool = False
    overlap: float | None = None
    num_frames: int | None = None
    frame_stride: int | None = None
    fps: float | None = None
    sampling: Sampling | None = None
    crop: Literal["center", "spread", "even"] = "center"
    center_share: float = 1.0
    num_crops: int = 1
    layer: int | None = None
    pooling: Literal["mean", "max", "cls"] = "mean"
    cells: int = 1
    outputs: tuple[str, ...] = (CLIP, MOMENTS)
    frames: bool = True
    tokens_dtype: Literal["float16", "float32"] = "float16"
    tokens_side: int | None = None
    tokens_every: int = 1
    precision: Literal["float32", "bfloat16"] = "float32"
    batch_size: int = 16
    num_workers: int = 2
    backend: str = "pyav"
    video_timeout_sec: float | None = 120.0
    strict: bool = False
    check: bool = False

    def __post_init__(self) -> None:
        if self.batch_size < 1 or self.cells < 1 or self.num_workers < 0:
            raise ValueError(
                f"batch_size={self.batch_size} and cells={self.cells} must be at least 1 and "
                f"num_workers={self.num_workers} at least 0."
            )
        if self.cells > 1 and self.pooling != "mean":
            raise ValueError(
                f"cells={self.cells} are means of parts of the frame: use pooling='mean', not "
                f"{self.pooling!r}, or cells=1."
            )
        if self.per_frame and self.names == (CLIP,):
            raise ValueError("per_frame asks for frame features, frames=false leaves them out.")
        if self.tokens_every < 1 or (self.tokens_side is not None and self.tokens_side < 1):
            raise ValueError(
                f"tokens_every={self.tokens_every} and tokens_side={self.tokens_side} must be at least 1."
            )
        if self.per_frame and self.tokens_every > 1:
            raise ValueError(
                f"tokens_every={self.tokens_every} leaves out moments, and per_frame asks for every frame: set "
                "frame_stride or fps instead."
            )
        if self.overlap is not None and not self.per_frame:
            raise ValueError(
                f"overlap={self.overlap} belongs to per_frame; windows are laid out by num_clips, "
                "hop or stride_sec otherwise."
            )
        if self.per_frame and self.num_crops > 1:
            raise ValueError(
                f"num_crops={self.num_crops} would give every frame several features: per_frame "
                "takes one crop."
            )
        self.windows()

    @property
    def names(self) -> tuple[str, ...]:
        """The outputs that are kept: the clip feature, then the others as they are given."""
        left_out = (CLIP,) if self.frames else (CLIP, MOMENTS)
        return (CLIP, *(name for name in dict.fromkeys(self.outputs) if name not in left_out))

    @property
    def grids(self) -> tuple[str, ...]:
        """The outputs on a grid that are kept beside vectors of clips and moments."""
        return tuple(name for name in self.names if name not in (CLIP, MOMENTS, *COMMON))

    @property
    def content(self) -> dict[str, Any]:
        """The settings that change the features, and not only how fast they come."""
        speed = ("batch_size", "num_workers", "video_timeout_sec", "strict", "check")
        of_grids = ("tokens_dtype", "tokens_side", "tokens_every")
        # Without outputs on a grid it is what it was before there were any: older files stay complete.
        without = {*speed, "outputs", *(() if self.grids else of_grids)}
        plain = {name: value for name, value in to_plain(self).items() if name not in without}
        plain["frames"] = MOMENTS in self.names
        return plain | ({"outputs": sorted(self.grids)} if self.grids else {})

    @property
    def without_frames(self) -> EmbedConfig:
        """The settings of a sense that has no frames: how it is read and computed, one vector of each kind a clip."""
        return EmbedConfig(
            outputs=(CLIP,),
            frames=False,
            precision=self.precision,
            batch_size=self.batch_size,
            num_workers=self.num_workers,
            backend=self.backend,
            video_timeout_sec=self.video_timeout_sec,
            check=self.check,
        )

    def windows(self, **clip: Any) -> WindowConfig:
        """Returns the windows of these settings; `clip` has what `WindowConfig` needs beside them."""
        covering = self.hop is not None or self.stride_sec is not None or self.per_frame
        for name in ("num_frames", "frame_stride", "fps"):
            if getattr(self, name) is not None:
                clip[name] = getattr(self, name)
        if self.fps is not None and self.frame_stride is None:
            clip["frame_stride"] = 1
        if self.sampling is not None:
            clip["sampling"] = self.sampling
        elif covering:
            clip["sampling"] = "constant"
        return WindowConfig(
            num_clips=1 if covering else self.num_clips,
            hop=self.hop,
            stride_sec=self.stride_sec,
            per_frame=self.per_frame,
            overlap=0.5 if self.overlap is None else self.overlap,
            crop=self.crop,
            center_share=self.center_share,
            num_crops=self.num_crops,
            **clip,
        )
