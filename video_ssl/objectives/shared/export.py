"""What the encoder that leaves an objective expects of a clip."""

from __future__ import annotations

from video_ssl.clips.config import ClipConfig
from video_ssl.models.config import Normalization
from video_ssl.models.preprocess_config import Preprocess, VideoPreprocess


def preprocess_of(clip: ClipConfig, size: int, normalization: Normalization) -> Preprocess:
    """Returns the preprocessing of an encoder trained on such clips, of `size` x `size` pixels."""
    return VideoPreprocess(
        num_frames=clip.num_frames,
        frame_stride=clip.frame_stride,
        fps=clip.fps,
        size=size,
        sampling=clip.sampling,
        shuffle_frames=clip.shuffle_frames,
        mean=normalization.mean,
        std=normalization.std,
    )
