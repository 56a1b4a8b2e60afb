"""Settings of `video-ssl predict`.  Free of torch and jax."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

from video_ssl.embed.config import EmbedConfig

Each = Literal["video", "clip"]


@dataclass(frozen=True, kw_only=True)
class PredictConfig:
    """How labels are written, and where clips lie.

    Attributes:
        top_k: classes of every answer, the surest first.
        each: what a row of CSV and Parquet is; a head that names frames always gives segments.
        num_clips: windows spread evenly over a video; by default as the head was made.
        stride_sec: seconds between windows that cover all of a video; replaces num_clips.
        batch_size: clips in one forward pass.
        num_workers: decoding processes; 0 decodes in this one.
        backend: decoder of the videos, or auto, see docs/decoding.md.
        video_timeout_sec: a video that takes longer to open, or for one frame, counts as unreadable.
        strict: one unreadable video is an error.
    """

    top_k: int = 5
    each: Each = "video"
    num_clips: int | None = None
    stride_sec: float | None = None
    batch_size: int = 16
    num_workers: int = 2
    backend: str = "pyav"
    video_timeout_sec: float | None = 120.0
    strict: bool = False

    def __post_init__(self) -> None:
        if self.top_k < 1:
            raise ValueError(f"top_k={self.top_k} must be at least 1.")
        if self.num_clips is not None and self.num_clips < 1:
            raise ValueError(f"num_clips={self.num_clips} must be at least 1.")
        if self.num_clips is not None and self.stride_sec is not None:
            raise ValueError("num_clips and stride_sec both say where clips lie: give one of them.")

    def embed(self, made: EmbedConfig, *, may_move: bool) -> EmbedConfig:
        """Returns how videos become features, given how those did that the head has learned from.

        Args:
            made: as the head was made.
            may_move: clips may lie elsewhere.

        Raises:
            ValueError: clips that lie elsewhere, where they may not.
        """
        speed = {
            name: getattr(self, name)
            for name in ("batch_size", "num_workers", "backend", "video_timeout_sec", "strict")
        }
        if self.num_clips is None and self.stride_sec is None:
            return replace(made, **speed)
        if not may_move:
            raise ValueError(
                "num_clips and stride_sec are for heads that judge every clip for itself; this one reads frames, or "
                "all clips of a video together, as in its training: leave them out."
            )
        own: dict[str, Any] = {"hop": None, "per_frame": False, "overlap": None}
        if self.stride_sec is not None:
            own |= {"stride_sec": self.stride_sec, "sampling": None}
        else:
            own |= {"stride_sec": None, "num_clips": self.num_clips}
        return replace(made, **own, **speed)
