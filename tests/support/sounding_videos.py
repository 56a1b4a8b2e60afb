"""Small videos with sound: every one of another color and another tone."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from video_ssl.datasets.table import Table

RATE = 8000


def write_sounding_video(
    path: Path, *, seed: int, num_frames: int = 12, sound: bool = True
) -> None:
    """10 frames a second of 32 x 32 pixels, one color, and a tone, PCM in a Matroska file."""
    rng = np.random.default_rng(seed)
    color, tone = rng.integers(0, 256, 3), rng.uniform(100, 350)
    with av.open(str(path), "w", format="matroska") as out:
        video = out.add_stream("libx264", rate=10)
        video.width = video.height = 32
        video.pix_fmt = "yuv420p"
        audio = out.add_stream("pcm_s16le", rate=RATE, layout="mono") if sound else None
        for _ in range(num_frames):
            picture = (color + rng.normal(0, 8, (32, 32, 3))).clip(0, 255).astype(np.uint8)
            out.mux(video.encode(av.VideoFrame.from_ndarray(picture, "rgb24")))
        out.mux(video.encode())
        if audio is None:
            return
        wave = np.sin(2 * np.pi * tone * np.arange(RATE * num_frames // 10) / RATE)
        frame = av.AudioFrame.from_ndarray((8000 * wave).astype(np.int16)[None], "s16", "mono")
        frame.sample_rate, frame.pts, frame.time_base = RATE, 0, Fraction(1, RATE)
        out.mux(audio.encode(frame))
        out.mux(audio.encode())


def sounding_table(folder: Path, count: int = 8, *, first: int = 0) -> Path:
    """A table of videos of two classes; the last one has no sound.  `first` is the seed of the first video."""
    rows = []
    for i in range(count):
        path = folder / f"{i}.mkv"
        write_sounding_video(path, seed=first + i, sound=i < count - 1)
        rows.append({"id": f"v{first + i}", "source": str(path), "label": i % 2})
    table = Table.from_rows(rows, class_names=["even", "odd"])
    return Path(table.save(folder / "sounding.arrow").path)
