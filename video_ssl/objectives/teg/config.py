"""Settings of TeG, free of torch and jax."""

from __future__ import annotations

from dataclasses import dataclass, field

from video_ssl.clips.config import ClipLength
from video_ssl.clips.sampling.one_clip import clip_span
from video_ssl.objectives.shared.pair_config import PairConfig
from video_ssl.objectives.shared.wiring import fit_encoder
from video_ssl.objectives.teg.loss_config import TegHeadsConfig, TegLossConfig


@dataclass(frozen=True, kw_only=True)
class Config(PairConfig):
    """Settings of TeG: clips, network, heads, loss.

    A batch holds `short` and `long`, uint8 (B, T, S, S, 3) with T = short_frames and long_frames, S = crop.size;
    `position` float32 (B, Ts), where each dense feature of the short clip lies among those of the long one; and where
    `color` is set `color` float32 (B, 2, NUM_PARAMETERS), of the short clip first.

    Attributes:
        long_frames, long_stride: of the long clip.
        short_frames, short_stride: of the short clip, which lies inside the long one.
        heads: see `TegHeadsConfig`.
        loss: see `TegLossConfig`.

    Source: papers/teg.md (arXiv:2112.04480).  That a short clip lies inside a long one, and the two kinds of objective,
    are the paper's; the numbers and formulas are our specification, since its text was not available.
    """

    long_frames: int = 16
    long_stride: int = 4
    short_frames: int = 16
    short_stride: int = 2
    heads: TegHeadsConfig = field(default_factory=TegHeadsConfig)
    loss: TegLossConfig = field(default_factory=TegLossConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("long_frames", "long_stride", "short_frames", "short_stride"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1.")
        long, short = (
            clip_span(self.long_frames, self.long_stride),
            clip_span(self.short_frames, self.short_stride),
        )
        if short > long:
            raise ValueError(
                f"the short clip covers {short} source frames (short_frames={self.short_frames}, "
                f"short_stride={self.short_stride}), the long one only {long} (long_frames={self.long_frames}, "
                f"long_stride={self.long_stride}): it must lie inside. Lower short_stride or short_frames."
            )
        encoder = fit_encoder(self.encoder, size=self.crop.size, num_frames=self.long_frames)
        object.__setattr__(self, "encoder", encoder)

    @property
    def clip_length(self) -> ClipLength:
        return ClipLength(clip_span(self.long_frames, self.long_stride))

    @property
    def positions(self) -> tuple[int, int]:
        """(Ts, Tl): dense features of a short and of a long clip."""
        size = self.crop.size
        short, long = (
            self.encoder.grid(frames, size, size)[0]
            for frames in (self.short_frames, self.long_frames)
        )
        return short, long
