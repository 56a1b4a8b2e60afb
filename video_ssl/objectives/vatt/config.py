"""Settings of VATT, free of torch and jax."""

from __future__ import annotations

from dataclasses import dataclass

from video_ssl.objectives.shared.sources import EncoderSource
from video_ssl.objectives.vatt.sample_config import SampleConfig


@dataclass(frozen=True, kw_only=True)
class Config(SampleConfig):
    """Settings of VATT.

    A batch holds `video` uint8 (B, T, S, S, 3) with T = num_frames, S = crop.size; where `color` is set `color` float32
    (B, NUM_PARAMETERS); `sound` float32 (B, N) in -1..1 with N = num_samples, and `has_sound` bool (B,); `words` int32
    (B, L, W), places in the vocabulary, 0 = padding, with L = num_captions, W = num_words, and `has_words` bool (B,).
    Sound and words that are not there are zeros, and False.

    Source: papers/vatt.md (arXiv:2104.11178).
    """

    def stages(self) -> dict[str, EncoderSource]:
        return {}
