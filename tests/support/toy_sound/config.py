"""Settings of the toy."""

from __future__ import annotations

from dataclasses import dataclass, field

from toy_network.config import ToyConfig

from video_ssl.objectives.shared.sources import EncoderSource


@dataclass(frozen=True, kw_only=True)
class Config:
    """Clips are told by their sound, and the brightness of pictures by their features.

    A batch holds `video` uint8 (B, T, S, S, 3) and `sound` float32 (B, N) of the clips, and `stills/picture` uint8
    (B', S, S, 3) of the second stream.

    Attributes:
        num_frames: T.
        size: S.
        rate: samples of sound a second.
        seconds: length of the sound; N = rate * seconds.
    """

    num_frames: int = 2
    size: int = 16
    rate: int = 800
    seconds: float = 0.5
    encoder: ToyConfig = field(default_factory=ToyConfig)

    @property
    def num_samples(self) -> int:
        return round(self.rate * self.seconds)

    @property
    def clips_per_record(self) -> int:
        return 1

    def stages(self) -> dict[str, EncoderSource]:
        return {}
