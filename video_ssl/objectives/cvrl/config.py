"""Settings of CVRL, free of torch and jax; TeG has most of them too."""

from __future__ import annotations

from dataclasses import dataclass

from video_ssl.clips.config import ClipLength
from video_ssl.clips.sampling.one_clip import clip_span
from video_ssl.objectives.shared.pair_config import PairConfig
from video_ssl.objectives.shared.wiring import fit_encoder


@dataclass(frozen=True, kw_only=True)
class Config(PairConfig):
    """Settings of CVRL.

    A batch holds `video` uint8 (B, 2, T, S, S, 3) with T = num_frames, S = crop.size, and where `color` is set `color`
    float32 (B, 2, NUM_PARAMETERS).

    Attributes:
        num_frames, frame_stride: of both clips; in short videos they loop.
        hidden_dims, out_dim: of the projection head.
        temperature: of the loss.

    Source: papers/cvrl.md (arXiv:2008.03800).
    """

    num_frames: int = 16
    frame_stride: int = 2
    hidden_dims: tuple[int, ...] = (2048, 2048, 2048)
    out_dim: int = 128
    temperature: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("num_frames", "frame_stride", "out_dim"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1.")
        if self.temperature <= 0:
            raise ValueError(f"temperature={self.temperature} must be positive.")
        encoder = fit_encoder(self.encoder, size=self.crop.size, num_frames=self.num_frames)
        object.__setattr__(self, "encoder", encoder)

    @property
    def clip_length(self) -> ClipLength:
        return ClipLength(clip_span(self.num_frames, self.frame_stride))
