"""Writes one mp4 file: H.264 with a short group of pictures, AAC mono, the same bytes for the same input."""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from video_ssl.datasets.demo.sound import RATE
from video_ssl.files import written_aside


def write_mp4(
    path: Path,
    frames: Iterable[np.ndarray],
    sound: np.ndarray,
    *,
    fps: int,
    size: int,
    gop: int = 12,
) -> None:
    """Writes frames, uint8 (size, size, 3), and sound, float32 (S,) at RATE, under a temporary name, then renames.

    One thread per stream: with several the encoder's output depends on their number.
    """
    with (
        written_aside(path, suffix=".mp4", sweep=False) as partial,
        av.open(str(partial), "w", format="mp4") as container,
    ):
        options = {"preset": "veryfast", "crf": "22", "threads": "1", "bf": "0"}
        video = container.add_stream("libx264", rate=fps, options=options)
        video.width = video.height = size
        video.pix_fmt = "yuv420p"
        video.codec_context.gop_size = gop
        video.codec_context.time_base = Fraction(1, fps)
        audio = container.add_stream("aac", rate=RATE, layout="mono", options={"aac_coder": "fast"})
        audio.codec_context.bit_rate = 48_000
        for number, image in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, fps)
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        wave = av.AudioFrame.from_ndarray(
            sound[None].astype(np.float32), format="fltp", layout="mono"
        )
        wave.sample_rate, wave.pts, wave.time_base = RATE, 0, Fraction(1, RATE)
        container.mux(audio.encode(wave))
        container.mux(audio.encode(None))
